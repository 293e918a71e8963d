"""Our sizes and costs beside the paper's."""

from typing import Any, NamedTuple

import torch
from rich.table import Table

from crosslayer.models import create_model
from crosslayer.models.factory import image_size_of
from crosslayer.models.profile import Part, total_of
from crosslayer.reports.paper import TABLES, UNIT, PaperRow


class Measured(NamedTuple):
    """A row of the paper and what our network of that variant has."""

    paper: PaperRow
    image_size: int
    ours: Part

    @property
    def parameters_agree(self) -> bool:
        """To the digits that the paper prints."""
        return prints_as(self.ours.parameters / 1e6, self.paper.parameters)

    @property
    def macs_agree(self) -> bool | None:
        """To the digits that the paper prints, if it does."""
        return prints_as(self.ours.macs / 1e9, self.paper.macs) if self.paper.macs else None

    @property
    def note(self) -> str:
        """The row's note, and how ours compares with the mechanism's own paper."""
        if not self.paper.original:
            return self.paper.note
        agrees = "agrees" if prints_as(self.ours.parameters / 1e6, self.paper.original) else "does not agree"
        paper = self.paper
        its_own = f"its own paper has {paper.original}, which {agrees}; × {UNIT} that is {paper.parameters}"
        return "; ".join(filter(None, [its_own, self.paper.note]))


def measure(row: PaperRow) -> Measured:
    """Builds the row's network without memory for its weights, and counts."""
    with torch.device("meta"):
        model = create_model(row.backbone, row.mechanism, num_classes=row.num_classes, **row.options)
    size = image_size_of(row.backbone)
    return Measured(row, size, total_of(model, size))


def measure_table(number: int) -> list[Measured]:
    """Every row of Table 1 or 2."""
    return [measure(row) for row in TABLES[number]]


def prints_as(value: float, printed: str) -> bool:
    """Whether a number, rounded to a printed one's digits, is it."""
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def as_table(number: int, rows: list[Measured]) -> Table:
    """For a terminal."""
    table = Table(title=f"Table {number} of arXiv 2406.13392; parameters in 10⁶, multiply-accumulates in 10⁹")
    for heading in ("network", "variant", "classes"):
        table.add_column(heading, overflow="fold")
    for heading in ("params", "paper", "agrees", "MACs", "paper", "agrees"):
        table.add_column(heading, justify="right")
    table.add_column("note", overflow="fold")
    for row in rows:
        parameters, macs = f"{row.ours.parameters / 1e6:.3f}", f"{row.ours.macs / 1e9:.3f}"
        paper, marks = row.paper, {True: "yes", False: "no", None: ""}
        sizes = (parameters, paper.parameters, marks[row.parameters_agree])
        costs = (macs, paper.macs, marks[row.macs_agree])
        table.add_row(paper.backbone, paper.variant, str(paper.num_classes), *sizes, *costs, row.note)
    return table


def as_dict(number: int, rows: list[Measured]) -> dict[str, Any]:
    """Plain values, with units in the names."""
    return {"table": number, "paper": "arXiv 2406.13392", "rows": [row_as_dict(row) for row in rows]}


def row_as_dict(row: Measured) -> dict[str, Any]:
    """One row as plain values."""
    return {
        "backbone": row.paper.backbone,
        "mechanism": row.paper.mechanism,
        "options": row.paper.options,
        "num_classes": row.paper.num_classes,
        "image_size": row.image_size,
        "parameters": row.ours.parameters,
        "parameters_m": row.ours.parameters / 1e6,
        "paper_parameters_m": float(row.paper.parameters),
        "parameters_agree": row.parameters_agree,
        "macs": row.ours.macs,
        "macs_g": row.ours.macs / 1e9,
        "paper_macs_g": float(row.paper.macs) if row.paper.macs else None,
        "macs_agree": row.macs_agree,
        "note": row.note,
    }
