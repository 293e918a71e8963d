"""A study's tables and pictures, written beside its runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslayer.files import write_json, write_text
from crosslayer.reports.page.contents import STUDY
from crosslayer.reproduce import attention, filters, significance, tables
from crosslayer.reproduce.pictures import draw_all
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.published_data import other_data
from crosslayer.reproduce.results import Line, lines_of, read_finished
from crosslayer.reproduce.study import Study


def reduced_by(runs: Sequence[Planned]) -> str:
    """What the runs change of their recipes, and how their data differ from the published, in words; or nothing."""
    settings = dict.fromkeys(filter(None, (filters.sentence(run.changed) for run in runs)))
    return "; ".join([*settings, *other_data(read_finished(runs))])


def render(study: Study, runs: Sequence[Planned], output: Path, device: str = "auto") -> list[Path]:
    """Writes the study's tables and pictures of all runs that are done, and what the page shows of it.

    Args:
        study: what was asked.
        runs: its runs; those that are not finished count as not run.
        output: the folder to write to.
        device: where attention is computed, in studies that draw it.
    """
    lines, reduced = lines_of(runs), reduced_by(runs)
    pictures = draw_all(study, lines, reduced, output)
    looks = attention.read_attention(lines, device) if study.attention else []
    if looks:
        pictures.append(output / f"{study.name}-attention.png")
        attention.draw_looks(looks, reduced, pictures[-1])
    spread = attention.spread_rows(looks)
    texts = {
        "md": tables.as_markdown(study, lines, reduced, spread),
        "csv": tables.as_csv(lines, reduced),
        "tex": tables.as_latex(study, lines, reduced),
    }
    for kind, text in texts.items():
        write_text(output / f"{study.name}.{kind}", text)
    write_json(output / f"{study.name}.{STUDY}", _for_page(study, lines, reduced, pictures, spread))
    return [*(output / f"{study.name}.{kind}" for kind in texts), *pictures]


def _for_page(
    study: Study, lines: Sequence[Line], reduced: str, pictures: Sequence[Path], spread: Sequence[tuple[str, ...]]
) -> dict[str, Any]:
    """The study as `crosslayer report` shows it."""
    shown = [{"caption": study.title, "headings": tables.HEADINGS, "rows": [tables.texts(x, reduced) for x in lines]}]
    if answered := significance.answer_rows(study, lines):
        caption = significance.caption(study)
        shown.append({"caption": caption, "headings": significance.HEADINGS, "rows": answered})
    if spread:
        shown.append({"caption": attention.CAPTION, "headings": attention.HEADINGS, "rows": spread})
    return {
        "name": study.name,
        "title": study.title,
        "text": study.text,
        "reduced": tables.banner(reduced),
        "note": tables.NOTE,
        "tables": shown,
        "figures": [picture.name for picture in pictures],
    }
