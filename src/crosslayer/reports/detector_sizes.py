"""Our detectors' sizes beside those of the paper's Table 3 (arXiv 2406.13392).

Its rows count in two ways. mmdetection counts what learns, which leaves the frozen stem and first stage out; the rows
of NL and GC are those of GCNet's paper, which counts everything, and the rows of DLA-L fit everything only.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import torch
from rich.table import Table

from crosslayer.detection.detector import DetectorName, create_detector
from crosslayer.reports.paper_sizes import prints_as

CountName = Literal["learning", "all"]
FASTER: DetectorName = "faster_rcnn"
MASK: DetectorName = "mask_rcnn"


class DetectorRow(NamedTuple):
    """One row of the table: parameters in 10⁶ to the printed digit, and what the paper counted."""

    detector: DetectorName
    backbone: str
    mechanism: str
    parameters: str
    counted: CountName = "learning"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def variant(self) -> str:
        """The mechanism with its options."""
        return " ".join([self.mechanism, *(f"{name}={value}" for name, value in self.options)])


PRINTED: dict[tuple[DetectorName, int], dict[str, str]] = {
    (FASTER, 50): {
        "none": "41.5",
        "se": "44.0",
        "eca": "41.5",
        "rla_g": "41.8",
        "ba": "44.7",
        "mrla_l": "41.7",
        "dla_l": "44.2",
    },
    (FASTER, 101): {"none": "60.5", "se": "65.2", "eca": "60.5", "rla_g": "60.9", "mrla_l": "60.9", "dla_l": "63.4"},
    (MASK, 50): {
        "none": "44.2",
        "se": "46.7",
        "eca": "44.2",
        "nl": "46.5",
        "gc": "54.4",
        "rla_g": "44.4",
        "ba": "47.3",
        "mrla_l": "44.3",
        "dla_l": "46.9",
    },
    (MASK, 101): {
        "none": "63.2",
        "se": "67.9",
        "eca": "63.2",
        "nl": "65.5",
        "gc": "82.2",
        "rla_g": "63.6",
        "mrla_l": "63.5",
        "dla_l": "66.1",
    },
}
"""Detector and depth → mechanism → parameters."""
OPTIONS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 16},
    "gc": {"reduction": 4},
    "rla_g": {"recurrent_channels": 32},
    "mrla_l": {"head_channels": 32},
    "dla_l": {"cell": "released", "reduction": 20},
}
COUNTED_ALL = ("nl", "gc", "dla_l")
TABLE_3 = tuple(
    DetectorRow(
        detector,
        f"resnet{depth}",
        mechanism,
        parameters,
        "all" if mechanism in COUNTED_ALL else "learning",
        tuple(OPTIONS.get(mechanism, {}).items()),
    )
    for (detector, depth), printed in PRINTED.items()
    for mechanism, parameters in printed.items()
)


@dataclasses.dataclass(frozen=True)
class MeasuredDetector:
    """A row of the paper, and the parameters of our detector: all, and those that learn."""

    paper: DetectorRow
    all: int
    learning: int

    @property
    def agrees(self) -> bool:
        """Whether what the paper counted prints as the paper has it."""
        return prints_as(getattr(self, self.paper.counted) / 1e6, self.paper.parameters)


def measure_detector(row: DetectorRow) -> MeasuredDetector:
    """Builds the row's detector without memory for its weights, and counts."""
    with torch.device("meta"):
        model = create_detector(row.detector, row.backbone, row.mechanism, **dict(row.options))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return MeasuredDetector(row, sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns))


def measure_detectors() -> list[MeasuredDetector]:
    """Every row of Table 3."""
    return [measure_detector(row) for row in TABLE_3]


def as_table(rows: list[MeasuredDetector]) -> Table:
    """For a terminal."""
    table = Table(title="Table 3 of arXiv 2406.13392; parameters in 10⁶, 80 classes")
    for heading in ("detector", "network", "variant"):
        table.add_column(heading, overflow="fold")
    for heading in ("all", "learning", "paper", "counts", "agrees"):
        table.add_column(heading, justify="right")
    for row in rows:
        paper, sizes = row.paper, (f"{row.all / 1e6:.3f}", f"{row.learning / 1e6:.3f}")
        names = (paper.detector, paper.backbone, paper.variant)
        table.add_row(*names, *sizes, paper.parameters, paper.counted, "yes" if row.agrees else "no")
    return table


def as_dict(rows: list[MeasuredDetector]) -> dict[str, Any]:
    """Plain values, with units in the names."""
    return {"table": 3, "paper": "arXiv 2406.13392", "rows": [row_as_dict(row) for row in rows]}


def row_as_dict(row: MeasuredDetector) -> dict[str, Any]:
    """One row as plain values."""
    return {
        "detector": row.paper.detector,
        "backbone": row.paper.backbone,
        "mechanism": row.paper.mechanism,
        "options": dict(row.paper.options),
        "parameters": row.all,
        "parameters_m": row.all / 1e6,
        "learning_parameters": row.learning,
        "learning_parameters_m": row.learning / 1e6,
        "paper_parameters_m": float(row.paper.parameters),
        "paper_counts": row.paper.counted,
        "parameters_agree": row.agrees,
    }
