"""What the paper prints (arXiv 2406.13392): accuracies of Tables 1 to 6 in %, sizes and costs of Tables 1 and 2.

And which of our variants each row is. Some figures of Table 2 are not what their mechanisms' own papers print, but that
times 1.048576: figures in 10⁶ were taken for figures in 2²⁰ and converted once more. `original` is what those papers
print.
"""

import dataclasses
from typing import Any, NamedTuple


class Printed(NamedTuple):
    """A figure of the paper; the standard deviation over seeds where it prints one."""

    mean: float
    std: float | None = None


CIFAR: dict[tuple[int, str], tuple[Printed, Printed]] = {
    (20, "none"): (Printed(91.64, 0.18), Printed(67.30, 0.28)),
    (20, "se"): (Printed(91.29, 0.24), Printed(68.93, 0.35)),
    (20, "eca"): (Printed(91.63, 0.16), Printed(67.23, 0.24)),
    (20, "dianet"): (Printed(91.43, 0.14), Printed(67.67, 0.22)),
    (20, "mrla_b"): (Printed(92.15, 0.23), Printed(71.44, 0.49)),
    (20, "dla_b"): (Printed(92.47, 0.10), Printed(72.01, 0.37)),
    (20, "mrla_l"): (Printed(92.65, 0.08), Printed(71.46, 0.27)),
    (20, "dla_l"): (Printed(92.96, 0.18), Printed(72.26, 0.29)),
    (56, "none"): (Printed(92.95, 0.18), Printed(72.32, 0.36)),
    (56, "se"): (Printed(93.60, 0.18), Printed(73.51, 0.28)),
    (56, "eca"): (Printed(93.72, 0.14), Printed(72.63, 0.35)),
    (56, "dianet"): (Printed(93.88, 0.21), Printed(73.87, 0.27)),
    (56, "mrla_l"): (Printed(94.28, 0.26), Printed(74.18, 0.17)),
    (56, "dla_l"): (Printed(94.55, 0.13), Printed(75.46, 0.26)),
    (110, "none"): (Printed(93.04, 0.33), Printed(73.00, 0.36)),
    (110, "se"): (Printed(94.09, 0.11), Printed(75.01, 0.20)),
    (110, "eca"): (Printed(93.76, 0.31), Printed(73.97, 0.36)),
    (110, "dianet"): (Printed(94.48, 0.08), Printed(75.31, 0.16)),
    (110, "mrla_l"): (Printed(94.49, 0.31), Printed(75.16, 0.24)),
    (110, "dla_l"): (Printed(94.66, 0.23), Printed(76.41, 0.36)),
}
"""Table 1: depth and mechanism → CIFAR-10 and CIFAR-100."""

IMAGENET: dict[tuple[int, str], tuple[float, float | None]] = {
    (50, "none"): (76.1, 92.9),
    (50, "se"): (76.7, 93.4),
    (50, "cbam"): (77.3, 93.7),
    (50, "a2"): (77.0, 93.5),
    (50, "aa"): (77.7, 93.8),
    (50, "gc"): (77.7, 93.7),
    (50, "eca"): (77.5, 93.7),
    (50, "dianet"): (77.2, None),
    (50, "rla_g"): (77.2, 93.4),
    (50, "mrla_l"): (77.7, 93.8),
    (50, "dla_l"): (78.0, 94.0),
    (101, "none"): (77.4, 93.5),
    (101, "se"): (77.6, 93.9),
    (101, "cbam"): (78.5, 94.3),
    (101, "aa"): (78.7, 94.4),
    (101, "eca"): (78.7, 94.3),
    (101, "rla_g"): (78.5, 94.2),
    (101, "mrla_l"): (78.7, 94.4),
    (101, "dla_l"): (78.9, 94.5),
}
"""Table 2, ImageNet: depth and mechanism → top-1 and top-5."""

FASTER: dict[tuple[int, str], tuple[float, ...]] = {
    (50, "none"): (41.5, 36.4, 58.2, 39.2, 21.8, 40.0, 46.2),
    (50, "se"): (44.0, 37.7, 60.1, 40.9, 22.9, 41.9, 48.2),
    (50, "eca"): (41.5, 38.0, 60.6, 40.9, 23.4, 42.1, 48.0),
    (50, "rla_g"): (41.8, 38.8, 59.6, 42.0, 22.5, 42.9, 49.5),
    (50, "ba"): (44.7, 39.5, 61.3, 43.0, 24.5, 43.2, 50.6),
    (50, "mrla_l"): (41.7, 40.4, 61.5, 44.0, 24.2, 44.1, 52.7),
    (50, "dla_l"): (44.2, 40.6, 61.6, 44.2, 24.5, 44.2, 52.9),
    (101, "none"): (60.5, 38.7, 60.6, 41.9, 22.7, 43.2, 50.4),
    (101, "se"): (65.2, 39.6, 62.0, 43.1, 23.7, 44.0, 51.4),
    (101, "eca"): (60.5, 40.3, 62.9, 44.0, 24.5, 44.7, 51.3),
    (101, "rla_g"): (60.9, 41.2, 61.8, 44.9, 23.7, 45.7, 53.8),
    (101, "mrla_l"): (60.9, 42.0, 63.1, 45.7, 25.0, 45.8, 55.4),
    (101, "dla_l"): (63.4, 42.3, 63.3, 45.8, 25.2, 46.0, 55.5),
}
"""Table 3, COCO val2017: depth and mechanism → parameters in 10⁶, then AP, AP50, AP75, AP of small, medium, large."""

MASK: dict[tuple[int, str], tuple[float, ...]] = {
    (50, "none"): (44.2, 37.2, 58.9, 40.3, 34.1, 55.5, 36.2),
    (50, "se"): (46.7, 38.7, 60.9, 42.1, 35.4, 57.4, 37.8),
    (50, "eca"): (44.2, 39.0, 61.3, 42.1, 35.6, 58.1, 37.7),
    (50, "nl"): (46.5, 38.0, 59.8, 41.0, 34.7, 56.7, 36.6),
    (50, "gc"): (54.4, 39.9, 62.2, 42.9, 36.2, 58.7, 38.3),
    (50, "rla_g"): (44.4, 39.5, 60.1, 43.4, 35.6, 56.9, 38.0),
    (50, "ba"): (47.3, 40.5, 61.7, 44.2, 36.6, 58.7, 38.6),
    (50, "mrla_l"): (44.3, 41.2, 62.3, 45.1, 37.1, 59.1, 39.6),
    (50, "dla_l"): (46.9, 41.4, 62.5, 45.3, 37.2, 59.3, 39.7),
    (101, "none"): (63.2, 39.4, 60.9, 43.3, 35.9, 57.7, 38.4),
    (101, "se"): (67.9, 40.7, 62.5, 44.3, 36.8, 59.3, 39.2),
    (101, "eca"): (63.2, 41.3, 63.1, 44.8, 37.4, 59.9, 39.8),
    (101, "nl"): (65.5, 40.8, 63.1, 44.5, 37.1, 59.9, 39.2),
    (101, "gc"): (82.2, 41.7, 63.7, 45.5, 37.6, 60.5, 39.8),
    (101, "rla_g"): (63.6, 41.8, 62.3, 46.2, 37.3, 59.2, 40.1),
    (101, "mrla_l"): (63.5, 42.8, 63.6, 46.5, 38.4, 60.6, 41.0),
    (101, "dla_l"): (66.1, 42.9, 63.8, 46.7, 38.6, 60.9, 41.2),
}
"""Table 3: depth and mechanism → parameters in 10⁶, AP, AP50, AP75 of boxes, then AP50, AP75 and AP of masks."""

CELLS = {
    "rnn": (Printed(73.65, 0.23), 1.41),
    "lstm": (Printed(75.32, 0.34), 1.93),
    "dia": (Printed(75.60, 0.36), 1.46),
    "dsu": (Printed(76.41, 0.36), 1.39),
}
"""Table 4, ResNet-110 with DLA-L on CIFAR-100: recurrent cell → top-1, parameters in 10⁶."""

ACTIVATIONS = {
    (56, "identity"): Printed(74.63, 0.14),
    (56, "tanh"): Printed(74.88, 0.21),
    (56, "relu"): Printed(74.95, 0.40),
    (56, "sigmoid"): Printed(75.46, 0.26),
    (110, "identity"): Printed(75.37, 0.38),
    (110, "tanh"): Printed(75.67, 0.20),
    (110, "relu"): Printed(75.99, 0.29),
    (110, "sigmoid"): Printed(76.41, 0.36),
}
"""Table 5, DLA-L on CIFAR-100: depth and activation on the context → top-1."""

INTEGRATION = {
    (56, "none"): (Printed(72.32, 0.36), 0.61),
    (56, "lstm"): (Printed(69.28, 0.44), 1.31),
    (56, "dia"): (Printed(73.87, 0.27), 0.83),
    (56, "dsu"): (Printed(74.23, 0.22), 0.79),
    (110, "none"): (Printed(73.00, 0.36), 1.17),
    (110, "lstm"): (Printed(71.31, 0.33), 1.86),
    (110, "dia"): (Printed(75.31, 0.16), 1.39),
    (110, "dsu"): (Printed(75.14, 0.21), 1.35),
}
"""Table 6, layer-wise information integration on CIFAR-100: depth and cell → top-1, parameters in 10⁶."""


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


_CIFAR_SIZES = {
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

_CIFAR_OPTIONS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 16},
    "dianet": {"reduction": 4},
    "mrla_b": {"head_channels": 32},
    "mrla_l": {"head_channels": 32},
    "dla_b": {"cell": "released", "reduction": 4},
    "dla_l": {"cell": "released", "reduction": 4},
}
_CIFAR_NOTES = {(56, "dla_l", 100): "0.80271 M with 10 classes and 23,130 weights for 90 more make 0.82584 M"}


def _cifar_row(depth: int, mechanism: str, num_classes: int, parameters: str) -> PaperRow:
    """One figure of Table 1."""
    note = _CIFAR_NOTES.get((depth, mechanism, num_classes), "")
    options = _CIFAR_OPTIONS.get(mechanism, {})
    return PaperRow(f"cifar_resnet{depth}", mechanism, num_classes, parameters, options=options, note=note)


def _imagenet_row(depth: int, mechanism: str, parameters: str, macs: str, **rest: Any) -> PaperRow:
    """One row of Table 2."""
    return PaperRow(f"resnet{depth}", mechanism, 1000, parameters, macs, **rest)


TABLE_1 = tuple(
    _cifar_row(depth, mechanism, num_classes, parameters)
    for (depth, mechanism), printed in _CIFAR_SIZES.items()
    for num_classes, parameters in zip((10, 100), printed, strict=True)
)
TABLE_2 = (
    _imagenet_row(50, "none", "25.6", "4.1"),
    _imagenet_row(50, "se", "28.1", "4.1", options={"reduction": 16}),
    _imagenet_row(50, "cbam", "28.1", "4.2", options={"reduction": 16}),
    _imagenet_row(50, "a2", "34.6", "7.0", original="33.0", note="with BN's running statistics ours is 33.0"),
    _imagenet_row(50, "aa", "27.1", "4.5", original="25.8"),
    _imagenet_row(50, "gc", "29.4", "4.2", options={"reduction": 16}, original="28.08"),
    _imagenet_row(50, "eca", "25.6", "4.1"),
    _imagenet_row(50, "dianet", "28.4", "", options={"reduction": 20}),
    _imagenet_row(50, "rla_g", "25.9", "4.5", options={"recurrent_channels": 32}),
    _imagenet_row(50, "mrla_l", "25.7", "4.2", options={"head_channels": 32}),
    _imagenet_row(50, "dla_l", "27.2", "4.3", options={"cell": "paper", "reduction": 20}),
    _imagenet_row(101, "none", "44.5", "7.8"),
    _imagenet_row(101, "se", "49.3", "7.8", options={"reduction": 16}),
    _imagenet_row(101, "cbam", "49.3", "7.9", options={"reduction": 16}),
    _imagenet_row(101, "aa", "47.6", "8.6", original="45.4"),
    _imagenet_row(101, "eca", "44.5", "7.8"),
    _imagenet_row(101, "rla_g", "45.0", "8.4", options={"recurrent_channels": 32}),
    _imagenet_row(101, "mrla_l", "44.9", "7.9", options={"head_channels": 32}),
    _imagenet_row(101, "dla_l", "47.8", "8.1", options={"cell": "released", "reduction": 16}),
)
TABLES = {1: TABLE_1, 2: TABLE_2}
