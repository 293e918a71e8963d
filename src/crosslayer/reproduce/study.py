"""What a study is: networks that are trained alike and compared, as plain data."""

import dataclasses
from typing import Any

from crosslayer.reports.paper import Printed


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that a run is judged by; more is better.

    Args:
        key: its name in a run's metrics.
        name: what tables call it, with its unit.
        printed: what the paper prints for it, if it does.
    """

    key: str = "val/top1"
    name: str = "top-1 (%)"
    printed: Printed | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network of a study; every seed of it is a run.

    Args:
        network: the backbone and data, as tables name them.
        variant: what distinguishes it from the study's other cells of this network.
        recipe: a recipe by name (`crosslayer list`).
        backbone: as the recipe takes it.
        mechanism: likewise.
        options: the mechanism's own options as NAME=VALUE.
        settings: what else this cell changes of the recipe, as NAME=VALUE.
        metrics: what it is judged by; the first is drawn.
        parameters: in 10⁶, as the paper prints it, if it does.
        macs: in 10⁹, likewise.
    """

    network: str
    variant: str
    recipe: str
    backbone: str
    mechanism: str
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = (Metric(),)
    parameters: float | None = None
    macs: float | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the recipe that make it this cell."""
        return {"backbone": self.backbone, "mechanism": self.mechanism, "options": self.options}


@dataclasses.dataclass(frozen=True)
class Study:
    """Networks that are compared.

    Args:
        name: what the command line calls it.
        title: a line.
        text: what is compared and how to read it, as paragraphs.
        cells: the networks.
        baseline: the variant that the others of its network are tested against, in a study that asks a question.
        pairwise: every two variants of a network are tested against each other.
        attention: whether the cells' attention over layers is drawn.
    """

    name: str
    title: str
    text: str
    cells: tuple[Cell, ...]
    baseline: str | None = None
    pairwise: bool = False
    attention: bool = False
