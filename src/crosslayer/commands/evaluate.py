import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from crosslayer.console import console, only_json, print_json
from crosslayer.data.images import LoaderName, load_images
from crosslayer.errors import UsageError
from crosslayer.files import write_json
from crosslayer.options import parse_options
from crosslayer.reports.confusion import draw_confusion
from crosslayer.training.evaluation import Evaluation, evaluate
from crosslayer.training.launch import start_accelerator
from crosslayer.training.recipe import Precision, check_bounds
from crosslayer.training.trained import Trained, Which, load_trained


@dataclasses.dataclass(frozen=True)
class Options:
    """Accuracy of a run's network, or average precision of its detector, on the validation split of its data.

    Another set will do that has the same classes.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""
    data: str | None = None
    """Data set to evaluate on [default: the run's own]; its val/, validation or test split is used."""
    val_split: float | None = None
    """Share of the training images to evaluate on instead; 0 for the validation split [default: the run's own]."""
    checkpoint: Which = "last"
    """Which checkpoint."""
    output: str | None = None
    """Folder for evaluation.json and a classifier's confusion.png [default: the run directory]."""
    batch_size: int = 256
    """Images at once; detectors look at one by one."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Precision | None = None
    """Arithmetic [default: the run's own]."""
    workers: int = 4
    """Threads that decode images; of detectors, processes."""
    loader: LoaderName = "auto"
    """Keep decoded images on the device, stream them, or decide by size."""
    fused: bool = True
    """Run what mechanisms do to whole maps in fused ops, as the run's recipe does."""
    json: bool = False
    """Print evaluation.json's content, and nothing else, on standard output."""


def run(words: list[str]) -> None:
    """Crosslayer evaluate RUN [OPTION …]."""
    options = parse_options(Options, words, "crosslayer evaluate")
    check_bounds("batch_size", options.batch_size)
    if options.val_split is not None and not 0 <= options.val_split < 1:
        raise UsageError(f"--val-split is {options.val_split}; it must be in [0, 1)")
    of_task = {"classification": _evaluate_classifier, "detection": evaluate_detector}
    with only_json(options.json):
        trained = load_trained(options.run, options.checkpoint, options.device, fused=options.fused)
        content = of_task[trained.recipe.task](options, trained)
    if options.json and content is not None:
        print_json(content)


def evaluate_detector(options: Options, trained: Trained) -> dict[str, Any] | None:
    """A detector's run; the figures, in the main process."""
    from crosslayer.detection import commands  # brings torchvision's detectors, which classifiers need not

    folder = Path(options.output or options.run)
    data, device, precision = options.data, options.device, options.precision
    return commands.evaluate_run(trained, data, device, precision, options.workers, folder)


def _evaluate_classifier(options: Options, trained: Trained) -> dict[str, Any]:
    """A classifier's run; the figures."""
    data = options.data or trained.recipe.data
    source = trained.source(options.data, options.val_split)
    if source.classes != trained.dataset_info.classes:
        raise UsageError(
            f"--data {data} has {len(source.classes)} classes ({source.classes[0]}, …), the run was trained on "
            f"{len(trained.dataset_info.classes)} ({trained.dataset_info.classes[0]}, …): they must be the same"
        )
    images = load_images(source.val, trained.view(), trained.device, options.workers, options.loader, "decoding val")
    accelerator = start_accelerator(options.device, options.precision or trained.recipe.precision)
    result = evaluate(trained.model, images, trained.dataset_info, options.batch_size, accelerator)
    return report(trained, result, data, Path(options.output or options.run))


def report(trained: Trained, result: Evaluation, data: str, folder: Path) -> dict[str, Any]:
    """Prints the figures and writes evaluation.json, whose content it returns, and confusion.png."""
    classes, accuracies = trained.dataset_info.classes, result.per_class()
    counts = result.confusion.sum(1).tolist()
    table = Table("class", title=f"{trained.run.path}, step {trained.step}, on {data}")
    table.add_column("images", justify="right")
    table.add_column("accuracy (%)", justify="right")
    for name, count, accuracy in zip(classes, counts, accuracies, strict=True):
        table.add_row(name, str(count), f"{accuracy:.2f}" if count else "–")
    console.print(table)
    console.print(
        f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f}, {result.images:,} images"
    )
    content = {
        "run": str(trained.run.path),
        "data": data,
        "step": trained.step,
        "images": result.images,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "per_class": {
            name: accuracy if count else None for name, count, accuracy in zip(classes, counts, accuracies, strict=True)
        },
        "confusion": result.confusion.tolist(),
    }
    write_json(folder / "evaluation.json", content)
    title = f"{trained.recipe.backbone} + {trained.recipe.mechanism}: top-1 {result.top1:.2f} %"
    draw_confusion(result.confusion, classes, title, folder / "confusion.png")
    console.print(f"figures: {folder / 'evaluation.json'}\npicture: {folder / 'confusion.png'}")
    return content
