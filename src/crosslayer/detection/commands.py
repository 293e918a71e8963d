"""What the commands that use a run do with a detector's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from crosslayer.console import console
from crosslayer.data.decode import evenly_spaced
from crosslayer.detection.drawing import draw_detections, likely, load_photo, write_picture
from crosslayer.detection.evaluation import evaluate_detector
from crosslayer.detection.recipe import DetectionRecipe
from crosslayer.detection.reporting import check_categories, report
from crosslayer.detection.source import val_annotations
from crosslayer.errors import UsageError
from crosslayer.training.launch import start_accelerator
from crosslayer.training.recipe import Precision
from crosslayer.training.trained import Trained


def _detector_of(trained: Trained) -> tuple[GeneralizedRCNN, DetectionRecipe]:
    """A run's detector and its recipe."""
    assert isinstance(trained.model, GeneralizedRCNN)
    assert isinstance(trained.recipe, DetectionRecipe)
    return trained.model, trained.recipe


def evaluate_run(
    trained: Trained,
    data: str | None,
    device: str,
    precision: Precision | None,
    workers: int,
    folder: Path,
) -> dict[str, Any] | None:
    """Average precision on the validation split of the run's data, or of another set with the same categories.

    The figures are the main process's only.
    """
    model, recipe = _detector_of(trained)
    data = data or recipe.data
    val = val_annotations(data, masks=recipe.detector == "mask_rcnn")
    check_categories(trained, val, data)
    accelerator = start_accelerator(device, precision or recipe.precision)
    model.to(accelerator.device)
    result = evaluate_detector(model, val, recipe, accelerator, workers)
    return report(trained, result, val, data, folder) if accelerator.is_main_process else None


@torch.no_grad()
def predict_files(trained: Trained, paths: Sequence[str], threshold: float, folder: Path) -> list[dict[str, Any]]:
    """Draws what the detector finds in image files, prints it, and returns it, file by file."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold is {threshold}; it is a score from 0 to 1")
    model, _ = _detector_of(trained)
    results: list[dict[str, Any]] = []
    for path, target in zip(paths, _picture_names(paths, folder), strict=True):
        photo = load_photo(path)
        found = likely(model([photo.to(trained.device).float() / 255])[0], threshold)
        write_picture(draw_detections(photo, found, trained.dataset_info.classes), target)
        console.print(f"{path} → {target}")
        objects: list[dict[str, Any]] = []
        for score, label, box in zip(found["scores"], found["labels"], found["boxes"], strict=True):
            left, top, right, bottom = (round(side) for side in box.tolist())
            name = trained.dataset_info.classes[int(label) - 1]
            console.print(f"  {100 * float(score):6.2f} %  {name}  {left},{top} to {right},{bottom}")
            objects.append({"class": name, "score": float(score), "box": box.tolist()})
        if not len(found["scores"]):
            console.print(f"  nothing with a score of at least {threshold:g}")
        results.append({"file": path, "picture": str(target), "objects": objects})
    return results


def _picture_names(paths: Sequence[str], folder: Path) -> list[Path]:
    """Where the pictures go: under the files' own names, numbered where two files share one."""
    stems = [Path(path).stem for path in paths]
    return [
        folder / (f"{stem}.png" if stems.count(stem) == 1 else f"{stem}-{i}.png") for i, stem in enumerate(stems, 1)
    ]


def attended_images(trained: Trained, files: Sequence[str], data: str | None, count: int) -> Iterator[Tensor]:
    """Images as the detector's backbone takes them, one by one: no padding but to whole strides."""
    model, recipe = _detector_of(trained)
    paths = list(files)
    if not paths:
        listed = val_annotations(data or recipe.data, masks=False).paths
        paths = [listed[i] for i in evenly_spaced(len(listed), count).tolist()]
    for path in paths:
        images, _ = model.transform([load_photo(path).to(trained.device).float() / 255])
        yield images.tensors
