"""What runs of each kind are compared by."""

from typing import NamedTuple

from crosslayer.training.recipe import TaskName


class Score(NamedTuple):
    """A figure of an epoch's row, in %, higher being better, and its name."""

    figure: str
    name: str


SCORES: dict[TaskName, Score] = {
    "classification": Score("val/top1", "top-1"),
    "detection": Score("val/ap", "box AP"),
}
