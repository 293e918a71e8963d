"""Sizes and costs that the paper prints (arXiv 2406.13392, Tables 1 and 2), and which of our variants each row is.

Some figures of Table 2 are not what their mechanisms' own papers print, but that times 1.048576: figures in 10⁶ were
taken for figures in 2²⁰ and converted once more. `original` is what those papers print.
"""

import dataclasses
from typing import Any

UNIT = 2**20 / 10**6
"""What the figures with an `original` were multiplied by."""


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One row of a table.

    Args:
        backbone: network, as `create_model` knows it.
        mechanism: likewise.
        num_classes: outputs of the classifier.
        parameters: in 10⁶, to the printed digits.
        macs: in 10⁹ (the paper's "FLOPs"), to the printed digits; empty where none are printed.
        options: the mechanism's options that make it the paper's variant.
        original: parameters in the mechanism's own paper, where the table's figure is that times 1.048576.
        note: what else there is to say about the row.
    """

    backbone: str
    mechanism: str
    num_classes: int
    parameters: str
    macs: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    original: str = ""
    note: str = ""

    @property
    def variant(self) -> str:
        """The mechanism with its options."""
        return " ".join([self.mechanism, *(f"{name}={value}" for name, value in self.options.items())])


CIFAR = {
    (20, "none"): ("0.22", "0.24"),
    (20, "se"): ("0.24", "0.27"),
    (20, "eca"): ("0.22", "0.24"),
    (20, "dianet"): ("0.44", "0.46"),
    (20, "mrla_b"): ("0.23", "0.25"),
    (20, "dla_b"): ("0.41", "0.43"),
    (20, "mrla_l"): ("0.23", "0.25"),
    (20, "dla_l"): ("0.41", "0.43"),
    (56, "none"): ("0.59", "0.61"),
    (56, "se"): ("0.66", "0.68"),
    (56, "eca"): ("0.59", "0.61"),
    (56, "dianet"): ("0.81", "0.83"),
    (56, "mrla_l"): ("0.62", "0.65"),
    (56, "dla_l"): ("0.80", "0.82"),
    (110, "none"): ("1.15", "1.17"),
    (110, "se"): ("1.28", "1.30"),
    (110, "eca"): ("1.15", "1.17"),
    (110, "dianet"): ("1.37", "1.39"),
    (110, "mrla_l"): ("1.21", "1.24"),
    (110, "dla_l"): ("1.39", "1.41"),
}
"""Table 1: depth and mechanism → parameters with 10 and with 100 classes."""

CIFAR_OPTIONS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 16},
    "dianet": {"reduction": 4},
    "mrla_b": {"head_channels": 32},
    "mrla_l": {"head_channels": 32},
    "dla_b": {"cell": "released", "reduction": 4},
    "dla_l": {"cell": "released", "reduction": 4},
}
CIFAR_NOTES = {(56, "dla_l", 100): "0.80271 M with 10 classes and 23,130 weights for 90 more make 0.82584 M"}


def cifar_row(depth: int, mechanism: str, num_classes: int, parameters: str) -> PaperRow:
    """One figure of Table 1."""
    note = CIFAR_NOTES.get((depth, mechanism, num_classes), "")
    options = CIFAR_OPTIONS.get(mechanism, {})
    return PaperRow(f"cifar_resnet{depth}", mechanism, num_classes, parameters, options=options, note=note)


def imagenet_row(depth: int, mechanism: str, parameters: str, macs: str, **rest: Any) -> PaperRow:
    """One row of Table 2."""
    return PaperRow(f"resnet{depth}", mechanism, 1000, parameters, macs, **rest)


TABLE_1 = tuple(
    cifar_row(depth, mechanism, num_classes, parameters)
    for (depth, mechanism), printed in CIFAR.items()
    for num_classes, parameters in zip((10, 100), printed, strict=True)
)
TABLE_2 = (
    imagenet_row(50, "none", "25.6", "4.1"),
    imagenet_row(50, "se", "28.1", "4.1", options={"reduction": 16}),
    imagenet_row(50, "cbam", "28.1", "4.2", options={"reduction": 16}),
    imagenet_row(50, "a2", "34.6", "7.0", original="33.0", note="with BN's running statistics ours is 33.0"),
    imagenet_row(50, "aa", "27.1", "4.5", original="25.8"),
    imagenet_row(50, "gc", "29.4", "4.2", options={"reduction": 16}, original="28.08"),
    imagenet_row(50, "eca", "25.6", "4.1"),
    imagenet_row(50, "dianet", "28.4", "", options={"reduction": 20}),
    imagenet_row(50, "rla_g", "25.9", "4.5", options={"recurrent_channels": 32}),
    imagenet_row(50, "mrla_l", "25.7", "4.2", options={"head_channels": 32}),
    imagenet_row(50, "dla_l", "27.2", "4.3", options={"cell": "paper", "reduction": 20}),
    imagenet_row(101, "none", "44.5", "7.8"),
    imagenet_row(101, "se", "49.3", "7.8", options={"reduction": 16}),
    imagenet_row(101, "cbam", "49.3", "7.9", options={"reduction": 16}),
    imagenet_row(101, "aa", "47.6", "8.6", original="45.4"),
    imagenet_row(101, "eca", "44.5", "7.8"),
    imagenet_row(101, "rla_g", "45.0", "8.4", options={"recurrent_channels": 32}),
    imagenet_row(101, "mrla_l", "44.9", "7.9", options={"head_channels": 32}),
    imagenet_row(101, "dla_l", "47.8", "8.1", options={"cell": "released", "reduction": 16}),
)
TABLES = {1: TABLE_1, 2: TABLE_2}
