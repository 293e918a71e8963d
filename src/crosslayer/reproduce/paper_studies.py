"""The paper's tables and figures (arXiv 2406.13392) as studies."""

from typing import Any

from crosslayer.reports import paper
from crosslayer.reports.paper import TABLE_1, TABLE_2, PaperRow, Printed
from crosslayer.reproduce.study import Cell, Metric, Study

CIFAR_NAMES = {10: "CIFAR-10", 100: "CIFAR-100"}
BOXES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
BOXES_AND_MASKS = ("ap", "ap50", "ap75", "mask_ap50", "mask_ap75", "mask_ap")
"""Metrics of detection in the order in which the paper's Table 3 prints them."""
ABOUT_OPTIONS = "Mechanisms have the options of their published CIFAR networks, which are the defaults here."


def table1() -> Study:
    """CIFAR-10 and CIFAR-100."""
    text = f"Top-1 accuracy of ResNets on CIFAR-10 and CIFAR-100. {ABOUT_OPTIONS}"
    return Study("table1", "Table 1: CIFAR", text, tuple(_cifar_cell(row) for row in TABLE_1))


def _cifar_cell(row: PaperRow) -> Cell:
    """A row of Table 1."""
    depth = int(row.backbone.removeprefix("cifar_resnet"))
    of10, of100 = paper.CIFAR[depth, row.mechanism]
    return Cell(
        f"ResNet-{depth}, {CIFAR_NAMES[row.num_classes]}",
        row.mechanism,
        f"cifar{row.num_classes}",
        row.backbone,
        row.mechanism,
        metrics=(Metric(printed=of10 if row.num_classes == 10 else of100),),
        parameters=float(row.parameters),
    )


def table2() -> Study:
    """ImageNet."""
    text = "Top-1 and top-5 accuracy of ResNets on ImageNet, with the options that the table's parameters imply."
    return Study("table2", "Table 2: ImageNet", text, tuple(_imagenet_cell(row) for row in TABLE_2))


def _imagenet_cell(row: PaperRow) -> Cell:
    """A row of Table 2."""
    depth = int(row.backbone.removeprefix("resnet"))
    top1, top5 = paper.IMAGENET[depth, row.mechanism]
    return Cell(
        f"ResNet-{depth}, ImageNet",
        row.mechanism,
        "imagenet",
        row.backbone,
        row.mechanism,
        _as_words(row.options),
        metrics=(Metric(printed=Printed(top1)), Metric("val/top5", "top-5 (%)", Printed(top5) if top5 else None)),
        parameters=float(row.parameters),
        macs=float(row.macs) if row.macs else None,
    )


def _as_words(options: dict[str, Any]) -> tuple[str, ...]:
    """Options as NAME=VALUE."""
    return tuple(f"{name}={value}" for name, value in options.items())


def table3() -> Study:
    """COCO."""
    faster = (_detection_cell("coco_faster", "Faster R-CNN", BOXES, *item) for item in paper.FASTER.items())
    mask = (_detection_cell("coco_mask", "Mask R-CNN", BOXES_AND_MASKS, *item) for item in paper.MASK.items())
    text = (
        "Average precision of Faster and Mask R-CNN on COCO val2017, backbones pretrained on ImageNet; mechanisms have "
        "their default options."
    )
    return Study("table3", "Table 3: COCO", text, (*faster, *mask))


def _detection_cell(
    recipe: str, detector: str, names: tuple[str, ...], which: tuple[int, str], printed: tuple[float, ...]
) -> Cell:
    """A row of Table 3."""
    depth, mechanism = which
    metrics = tuple(
        Metric(f"val/{name}", f"{name} (%)", Printed(value)) for name, value in zip(names, printed[1:], strict=True)
    )
    network = f"{detector}, ResNet-{depth}, COCO"
    return Cell(network, mechanism, recipe, f"resnet{depth}", mechanism, metrics=metrics, parameters=printed[0])


def table4() -> Study:
    """Recurrent cells."""
    cells = tuple(
        cifar100_cell(110, "dla_l", name, top1, (f"cell={name}",), parameters)
        for name, (top1, parameters) in paper.CELLS.items()
    )
    return Study("table4", "Table 4: recurrent cells", "DLA-L with another cell along depth.", cells)


def table5() -> Study:
    """Activations."""
    cells = tuple(
        cifar100_cell(depth, "dla_l", name, top1, (f"activation={name}",))
        for (depth, name), top1 in paper.ACTIVATIONS.items()
    )
    text = "DLA-L with another activation on the context before the next block is fed with it."
    return Study("table5", "Table 5: activation of the context", text, cells)


def table6() -> Study:
    """Layer-wise integration."""
    cells = tuple(_integration_cell(*item) for item in paper.INTEGRATION.items())
    return Study("table6", "Table 6: layer-wise integration", "DIANet's scheme with another cell along depth.", cells)


def _integration_cell(which: tuple[int, str], printed: tuple[Printed, float]) -> Cell:
    """A row of Table 6."""
    (depth, name), (top1, parameters) = which, printed
    mechanism, options = ("none", ()) if name == "none" else ("lii", (f"cell={name}",))
    return cifar100_cell(depth, mechanism, name, top1, options, parameters)


def cifar100_cell(
    depth: int,
    mechanism: str,
    variant: str,
    printed: Printed | None = None,
    options: tuple[str, ...] = (),
    parameters: float | None = None,
) -> Cell:
    """A network on CIFAR-100."""
    metrics = (Metric(printed=printed),)
    network, backbone = f"ResNet-{depth}, CIFAR-100", f"cifar_resnet{depth}"
    return Cell(network, variant, "cifar100", backbone, mechanism, options, metrics=metrics, parameters=parameters)


def figure2() -> Study:
    """Attention."""
    cells = tuple(cifar100_cell(56, mechanism, mechanism) for mechanism in ("mrla_b", "dla_b"))
    text = (
        "How much each block of a stage attends to the blocks before it, static (MRLA-B) and dynamic (DLA-B): "
        "the mean over 256 validation images and all heads, of the first seed."
    )
    return Study("figure2", "Figure 2: attention over layers", text, cells, attention=True)


def figure4() -> Study:
    """Depth."""
    text = "Top-1 accuracy on CIFAR-100 against depth, for every mechanism that Table 1 has at more than one depth."
    deep = {row.mechanism for row in TABLE_1 if row.backbone == "cifar_resnet56"}
    cells = tuple(_cifar_cell(row) for row in TABLE_1 if row.num_classes == 100 and row.mechanism in deep)
    return Study("figure4", "Figure 4: every mechanism on CIFAR-100", text, cells)
