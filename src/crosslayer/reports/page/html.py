"""The page's HTML."""

import base64
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from crosslayer.errors import FailedError
from crosslayer.reports.page.contents import Contents, RunFacts, Study
from crosslayer.reports.page.data import script_data

RUN_HEADINGS = (
    *("run", "recipe", "backbone", "mechanism", "options", "seed", "epochs", "last (%)", "best (%)"),
    *("params (10⁶)", "MACs (10⁹)", "images/s", "seconds", "changed from the recipe"),
)


def page(contents: Contents, title: str) -> str:
    """A whole page that needs no other file."""
    part = files("crosslayer.reports.page").joinpath
    data = json.dumps(script_data(contents)).replace("</", "<\\/")
    return Template(part("page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        style=part("page.css").read_text("utf-8"),
        script=part("page.js").read_text("utf-8"),
        data=data,
        studies="".join(_study_section(study) for study in contents.studies),
        runs=table("Runs", RUN_HEADINGS, [_run_texts(run) for run in contents.runs]),
        details="".join(_run_details(index, run) for index, run in enumerate(contents.runs)),
    )


def _study_section(study: Study) -> str:
    """Tables and figures of a study."""
    folder, told = study
    text = "".join(f"<p>{html.escape(part)}</p>" for part in told.text.split("\n\n"))
    warning = f'<p class="reduced" role="note">{html.escape(told.reduced)}</p>' if told.reduced else ""
    tables = "".join(table(each.caption, each.headings, each.rows) for each in told.tables)
    figures = "".join(figure(folder / name) for name in told.figures)
    head = f'<section id="{html.escape(told.name)}"><h2>{html.escape(told.title)}</h2>'
    return f'{head}{warning}{text}{tables}<p class="note">{html.escape(told.note)}</p>{figures}</section>'


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that the script makes sortable and filterable."""
    head = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(file: Path) -> str:
    """A picture within the page.

    Raises:
        FailedError: it is not there.
    """
    if not file.is_file():
        raise FailedError(f"picture {file} of a study is missing; render it again with crosslayer reproduce --render")
    encoded = base64.b64encode(file.read_bytes()).decode()
    name = html.escape(file.stem)
    return f'<figure><img alt="{name}" src="data:image/png;base64,{encoded}"><figcaption>{name}</figcaption></figure>'


def _run_texts(run: RunFacts) -> tuple[str, ...]:
    """A run's cells under `RUN_HEADINGS`."""
    recipe, summary, metric = run.recipe, run.summary or {}, run.metric
    names = (recipe.get("backbone", ""), recipe.get("mechanism", ""), " ".join(recipe.get("options", ())))
    best = max((row[metric] for row in run.rows if row.get(metric) is not None), default=None)
    numbers = (
        *((run.last, ".2f"), (best, ".2f"), (summary.get("parameters_m"), ".3f"), (summary.get("macs_g"), ".4f")),
        *((summary.get("images_per_second"), ".0f"), (summary.get("wall_seconds"), ".0f")),
    )
    epochs = f"{len(run.rows)} of {recipe.get('epochs', '?')}" + ("" if run.summary else ", unfinished")
    changed = ", ".join(f"{name} {ours} (recipe: {theirs})" for name, (theirs, ours) in run.changed.items())
    texts = ("–" if value is None else format(value, form) for value, form in numbers)
    return (run.path, run.recipe_name, *names, str(recipe.get("seed", "")), epochs, *texts, changed)


def _run_details(index: int, run: RunFacts) -> str:
    """A place that the script fills when it is opened."""
    warning = ' <span class="badge">changed</span>' if run.changed else ""
    return f'<details data-run="{index}"><summary>{html.escape(run.path)}{warning}</summary></details>'
