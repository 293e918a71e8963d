"""The page is served, answers, and is drawn by a browser; without gradio one sentence says what to install."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def page(demo_runs: dict[str, Path]) -> Iterator[str]:
    """The address of a page that `crosslayer demo` serves."""
    pytest.importorskip("gradio_client", reason="gradio (the extra demo) is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "crosslayer", "demo", str(demo_runs["dla_l"]), "--no-browser", "--port", str(port)]
    served = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert served.stdout
    line = served.stdout.readline()
    assert f"http://127.0.0.1:{port}/" in line
    yield f"http://127.0.0.1:{port}/"
    served.send_signal(signal.SIGINT)
    served.stdout.close()
    assert served.wait(60) == 130


ASKED = """
import json, sys
from gradio_client import Client, handle_file
client = Client(sys.argv[1], verbose=False, download_files=False)
for picture in sys.argv[2:]:
    try:
        print(json.dumps(client.predict(handle_file(picture), api_name="/look")))
    except Exception as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.exhaustive
def test_the_page_answers(page: str, image_tree: Path, tmp_path: Path):
    (tmp_path / "torn.png").write_text("no picture")
    pictures = [str(image_tree / "val" / "dark" / "0.png"), str(tmp_path / "torn.png")]
    # In a process of its own: the client leaves event loops unclosed.
    asked = subprocess.run([sys.executable, "-c", ASKED, page, *pictures], capture_output=True, text=True, check=True)
    (ranking, overlay, plot), torn = map(json.loads, asked.stdout.splitlines())
    assert {one["label"] for one in ranking["confidences"]} == {"bright", "dark"}
    assert sum(one["confidence"] for one in ranking["confidences"]) == pytest.approx(1)
    assert overlay["path"].endswith(".webp")
    assert plot["plot"].startswith("data:image/")
    assert torn.startswith("cannot decode torn.png")


@pytest.mark.exhaustive
def test_a_browser_draws_the_page(page: str, image_tree: Path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    elsewhere: list[str] = []
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page()
        view.on("request", lambda asked: elsewhere.append(asked.url))
        view.goto(page)
        view.wait_for_selector("input[type=file]", state="attached", timeout=60_000)
        view.set_input_files("input[type=file]", image_tree / "val" / "dark" / "0.png")
        view.wait_for_selector("text=dark", timeout=60_000)
        view.wait_for_selector("img[src^='data:image/']", timeout=60_000)
        shown = view.inner_text("body")
        browser.close()
    assert "cifar_resnet20 with dla_l" in shown
    assert {"bright", "dark"} <= set(shown.split())
    assert [url for url in elsewhere if not url.startswith((page, "data:", "blob:"))] == []


BUILT = """
import json, sys
import crosslayer
from crosslayer.demo.page import build_page
parts = build_page(crosslayer.load(sys.argv[1]), "squeeze").config["components"]
texts = [part["props"].get("value") for part in parts if part["type"] == "markdown"]
print(json.dumps([texts[0], [part["props"]["visible"] for part in parts if part["type"] == "column"]]))
"""


@pytest.mark.exhaustive
def test_a_page_without_what_the_network_has_not(demo_runs: dict[str, Path]):
    pytest.importorskip("gradio_client", reason="gradio (the extra demo) is not installed")
    words = [sys.executable, "-c", BUILT, str(demo_runs["se"])]  # a process of its own: gradio leaves event loops open
    text, shown = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert "no attention over layers" in text
    assert shown == [True, True, False, False]


def test_without_gradio_one_sentence(crosslayer, demo_runs: dict[str, Path], monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("crosslayer.commands.demo.find_spec", lambda name: None if name == "gradio" else found(name))
    code, _, err = crosslayer("demo", demo_runs["se"])
    assert code == 2
    assert "demo needs gradio: pip install 'crosslayer[demo]'" in err
    assert "Traceback" not in err


def test_a_port_that_is_none(crosslayer, demo_runs: dict[str, Path]):
    code, _, err = crosslayer("demo", demo_runs["se"], "--port", 70000)
    assert code == 2
    assert "--port is 70000; it must be from 1 to 65535" in err
