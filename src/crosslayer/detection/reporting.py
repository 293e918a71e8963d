"""Average precision of a run's detector, as a table and as JSON."""

from pathlib import Path
from typing import Any

from rich.table import Table

from crosslayer.console import console
from crosslayer.detection.average_precision import AveragePrecision
from crosslayer.detection.coco import Annotations
from crosslayer.detection.evaluation import Evaluation
from crosslayer.errors import UsageError
from crosslayer.files import write_json
from crosslayer.training.trained import Trained

NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def check_categories(trained: Trained, val: Annotations, data: str) -> None:
    """Raises UsageError where a data set has other categories than the run was trained on."""
    facts = trained.dataset_info
    if (val.categories.ids, val.categories.names) != (facts.category_ids, facts.classes):
        raise UsageError(
            f"--data {data} has {len(val.categories.ids)} categories ({val.categories.names[0]}, …), the run was "
            f"trained on {len(facts.classes)} ({facts.classes[0]}, …): names and ids must be the same"
        )


def report(trained: Trained, result: Evaluation, val: Annotations, data: str, folder: Path) -> dict[str, Any]:
    """Prints the figures and writes evaluation.json, whose content it returns."""
    kinds = {"boxes": result.boxes} | ({"masks": result.masks} if result.masks else {})
    console.print(_category_table(val, kinds, f"{trained.run.path}, step {trained.step}, on {data}; AP in %"))
    for kind, precision in kinds.items():
        figures = "  ".join(f"{name} {shown(precision.figures[key])}" for key, name in NAMES.items())
        console.print(f"{kind}: {figures} (%), {result.images:,} images")
    content: dict[str, Any] = {
        "run": str(trained.run.path),
        "data": data,
        "step": trained.step,
        "images": result.images,
        "objects": _objects_of(val),
    }
    for kind, precision in kinds.items():
        names = dict(zip(val.categories.ids, val.categories.names, strict=True))
        per_category = {names[category]: value for category, value in precision.categories.items()}
        content[kind] = {**precision.figures, "per_category": per_category}
    write_json(folder / "evaluation.json", content)
    console.print(f"figures: {folder / 'evaluation.json'}")
    return content


def _category_table(val: Annotations, kinds: dict[str, AveragePrecision], title: str) -> Table:
    """One row per category."""
    table = Table("category", title=title)
    for heading in ("objects", *(f"AP of {kind}" for kind in kinds)):
        table.add_column(heading, justify="right")
    counts = _objects_of(val)
    for category, name in zip(val.categories.ids, val.categories.names, strict=True):
        table.add_row(name, str(counts[name]), *(shown(kind.categories[category]) for kind in kinds.values()))
    return table


def _objects_of(val: Annotations) -> dict[str, int]:
    """Objects of each category that are no crowds."""
    names = dict(zip(val.categories.ids, val.categories.names, strict=True))
    counts = dict.fromkeys(val.categories.names, 0)
    for annotation in val.truth["annotations"]:
        counts[names[annotation["category_id"]]] += not annotation["iscrowd"]
    return counts


def shown(value: float | None) -> str:
    """A figure as the table prints it."""
    return "–" if value is None else f"{value:.2f}"
