"""A study's tables, written beside its runs."""

from collections.abc import Sequence
from pathlib import Path

from crosslayer.files import write_text
from crosslayer.reproduce import reduction, tables
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.results import lines_of
from crosslayer.reproduce.study import Study


def reduced_by(runs: Sequence[Planned]) -> str:
    """What the runs change of their recipes, in words; empty for nothing."""
    return "; ".join(dict.fromkeys(filter(None, (reduction.sentence(run.changed) for run in runs))))


def render(study: Study, runs: Sequence[Planned], output: Path) -> list[Path]:
    """Writes the study's tables of all runs that are done; returns the files."""
    lines, reduced = lines_of(runs), reduced_by(runs)
    texts = {
        "md": tables.as_markdown(study, lines, reduced),
        "csv": tables.as_csv(lines, reduced),
        "tex": tables.as_latex(study, lines, reduced),
    }
    files = [output / f"{study.name}.{kind}" for kind in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_text(file, text)
    return files
