"""The page of a folder of runs, in a browser without network."""

import json
import shutil
from pathlib import Path

import pytest
from scipy import stats

from crosslayer.reports.page.contents import read_contents
from crosslayer.reports.page.data import script_data
from crosslayer.reproduce.render import render
from crosslayer.reproduce.studies import find_study
from tests.reproduce.made import finish, planned

VALUES = {"none": (60.0, 60.4), "dla_l": (65.0, 65.6), "se": (9.5, 9.9), "eca": ()}
ONLY = ("cifar100", "cifar_resnet20", *VALUES)


@pytest.fixture
def report(crosslayer, tmp_path: Path) -> Path:
    """Three networks with two seeds each, and one that was not run."""
    folder = tmp_path / "study <b>"
    runs = planned(folder, only=ONLY, epochs=3)
    for run in runs:
        if VALUES[run.cell.mechanism]:
            finish(run, [5.0, 8.0, VALUES[run.cell.mechanism][run.recipe.seed]])
    render(find_study("table1"), runs, folder, "cpu")
    code, out, err = crosslayer("report", folder)
    assert code == 0, err
    assert "6 runs, 1 studies" in out
    return folder / "report.html"


def chromium() -> str:
    """The browser's executable; the test that asks for it is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on the path")
    return found


@pytest.fixture
def open_page(report: Path):
    """Opens the report without network, so many pixels wide; whatever the console says fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable, said = chromium(), []
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=executable, args=["--no-sandbox"])

        def opened(width: int = 1200):
            context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
            page = context.new_page()
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("requestfailed", lambda request: said.append(request.url))
            page.goto(report.as_uri())
            return page

        yield opened
        browser.close()
    assert not said


def test_needs_no_other_file(report: Path):
    text = report.read_text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "study <b>" not in text.replace(json.dumps("study <b>"), "")
    assert text.count("data:image/png;base64,") == 2


@pytest.mark.slow
def test_content(open_page):
    page = open_page()
    assert page.title() == "crosslayer: study <b>"
    assert "REDUCED" in page.locator("#table1 .reduced").inner_text()
    rows = page.locator("#table1 tbody tr")
    assert rows.count() == 4
    assert "65.30 ± 0.42" in page.locator("#table1 tbody").inner_text()
    assert page.locator("#runs > .scroll tbody tr").count() == 6
    assert page.locator("#table1 img").evaluate_all("images => images.every(i => i.naturalWidth > 400)")
    details = page.locator("details[data-run]").first
    details.locator("summary").click()
    assert details.locator("svg").count() == 2
    assert "learning" not in details.inner_text()
    for word in ("batch_size", "128", "machine.cores", "commit"):
        assert word in details.inner_text()


@pytest.mark.slow
def test_sorting(open_page):
    page = open_page()
    table = page.locator("#table1 table")

    def column(index: int) -> list[str]:
        return table.locator(f"tbody td:nth-child({index + 1})").all_inner_texts()

    button = table.locator("th button", has_text="ours, last epoch")
    button.click()
    assert column(1) == ["se", "none", "dla_l", "eca"]  # 9.7 before 60: numbers, not words; what has none is last
    assert table.locator("th").nth(3).get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert column(1) == ["dla_l", "none", "se", "eca"]
    table.locator("th button", has_text="variant").click()
    assert column(1) == ["dla_l", "eca", "none", "se"]


@pytest.mark.slow
def test_filtering(open_page):
    page = open_page()
    page.locator("#filter").fill("dla_l SEED1")
    assert page.locator("#runs > .scroll tbody tr:visible").count() == 1
    assert page.locator("details[data-run]:visible").count() == 1
    assert "of 16" in page.locator("#shown").inner_text()
    page.locator("#filter").fill("")
    assert page.locator("#runs > .scroll tbody tr:visible").count() == 6


@pytest.mark.slow
def test_two_runs_compared(open_page):
    page = open_page()
    names = page.locator("#first option").all_inner_texts()
    choose = {name.split("-")[2] + name[-1]: name for name in names}

    def compare(first: str, second: str):
        page.locator("#first").select_option(label=choose[first])
        page.locator("#second").select_option(label=choose[second])
        return page.locator("#comparison")

    shown = compare("none0", "dla_l1")
    assert shown.locator("tbody tr").all_inner_texts() == ["mechanism\tnone\tdla_l", "seed\t0\t1"]
    assert shown.locator("svg polyline").count() == 4
    order = shown.evaluate("element => [...element.children].map(child => child.className || child.id)")
    assert order == ["scroll", "charts", "significance"]
    sentence = page.locator("#significance").inner_text()
    # Welch, of (65.0, 65.6) and (60.0, 60.4): t = 5.1 / √(0.09 + 0.04) = 14.145 with 1.74 degrees of freedom
    assert "All seeds of B's settings less all seeds of A's" in sentence
    assert "+5.10 points" in sentence
    assert f"p = {2 * stats.t.sf(5.1 / 0.13**0.5, 0.13**2 / (0.09**2 + 0.04**2)):.2g};" in sentence
    assert "2 and 2 seeds" in sentence
    compare("dla_l0", "dla_l1")
    assert "differ by nothing but the seed" in page.locator("#significance").inner_text()


@pytest.mark.slow
def test_narrow_screen(open_page):
    page = open_page(360)
    page.locator("details[data-run]").first.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#filter").is_visible()
    assert page.locator("#table1 .scroll").evaluate("element => element.scrollWidth > element.clientWidth")


def test_a_folder_without_runs_is_told(crosslayer, tmp_path: Path):
    code, _, err = crosslayer("report", tmp_path)
    assert code == 2
    assert "holds no run and no study" in err
    assert "does not exist" in crosslayer("report", tmp_path / "absent")[2]


def test_a_missing_picture_is_told(crosslayer, report: Path):
    next(report.parent.glob("*.png")).unlink()
    code, _, err = crosslayer("report", report.parent)
    assert code == 1
    assert "render it again" in err


def test_a_damaged_run_is_told(crosslayer, report: Path):
    run = next((report.parent / "runs").iterdir())
    (run / "metrics.jsonl").write_text("{")
    code, _, err = crosslayer("report", report.parent)
    assert code == 1
    assert "metrics.jsonl is damaged" in err


def test_copies_are_no_samples_and_other_classes_are_not_compared(report: Path):
    def tested() -> dict[str, str]:
        return script_data(read_contents(report.parent))["differences"]

    assert len(tested()) == 3  # three networks have two seeds
    runs = sorted((report.parent / "runs").iterdir())
    shutil.rmtree(runs[1])
    shutil.copytree(runs[0], report.parent / "copy")
    assert len(tested()) == 1  # of the first network one seed is left
    for run in runs[2:4]:
        recipe = json.loads((run / "recipe.json").read_text())
        recipe["data"]["classes"] = ["cat", "dog"]
        (run / "recipe.json").write_text(json.dumps(recipe))
    assert not tested()
