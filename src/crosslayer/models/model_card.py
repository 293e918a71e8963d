"""The page that a shared network is shown with: README.md with the hub's front matter."""

import json
from collections.abc import Mapping
from typing import Any

_LIBRARY = "https://pypi.org/project/crosslayer/"


def model_card(config: Mapping[str, Any], summary: Mapping[str, Any] | None = None, name: str = "DIR") -> str:
    """Markdown that says what the network is, how it is loaded, and how well it did.

    Args:
        config: what config.json holds.
        summary: a run's summary.json, if the network is a run's.
        name: what the network is loaded by: OWNER/NAME on the hub.
    """
    classes = config.get("label_names") or ()
    images = config["pretrained_cfg"]
    height, width = images["input_size"][1:]
    parts = [
        _front_matter(summary, name),
        f"# {_title(config)}",
        f"An image classifier of {config['num_classes']:,} classes, for images of {height}×{width} pixels.",
        _loading(name, bool(classes)),
        _figures(summary) if summary else "",
        _table("What it takes", {key: images[key] for key in ("mean", "std", "crop_pct", "interpolation")}),
        f"## Classes\n\n{', '.join(f'`{_inline(label)}`' for label in classes)}" if classes else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(config: Mapping[str, Any]) -> str:
    arguments = config["model_args"]
    if "backbone" in arguments:
        return f"{arguments['backbone']} with {arguments['mechanism']} grafted on"
    return config["architecture"]


def _front_matter(summary: Mapping[str, Any] | None, name: str) -> str:
    """What the hub reads; JSON is YAML."""
    matter: dict[str, Any] = {
        "library_name": "crosslayer",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "crosslayer", "layer-attention", "timm"],
    }
    if scores := _scores(summary):
        matter["model-index"] = [
            {
                "name": name.rpartition("/")[2],
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": (summary or {}).get("recipe", "data"), "type": "image-folder"},
                        "metrics": [{"type": "accuracy", "name": key, "value": value} for key, value in scores.items()],
                    }
                ],
            }
        ]
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in matter.items()) + "---"


def _scores(summary: Mapping[str, Any] | None) -> dict[str, float]:
    """Accuracies on the validation split at the end, in per cent."""
    last = (summary or {}).get("last") or {}
    named = {"top-1": last.get("val/top1"), "top-5": last.get("val/top5")}
    return {key: float(value) for key, value in named.items() if isinstance(value, int | float)}


def _loading(name: str, named: bool) -> str:
    lines = [
        f'classifier = crosslayer.load("{name}")',
        'classifier.predict(["image.jpg"])  # classes and probabilities',
    ]
    return "\n".join(
        [
            f"```python\nimport crosslayer  # [crosslayer]({_LIBRARY})\n",
            f'model = crosslayer.from_pretrained("{name}")',
            *(lines if named else ()),
            "```",
        ]
    )


def _figures(summary: Mapping[str, Any]) -> str:
    """The run, and what it came to."""
    of_run = ("recipe", "backbone", "mechanism", "seed", "epochs", "steps", "parameters", "macs")
    rows = {key: summary[key] for key in of_run if key in summary}
    rows |= {f"{key} on the validation split (%)": f"{value:.2f}" for key, value in _scores(summary).items()}
    versions = summary.get("versions") or {}
    rows |= {key: versions[key] for key in ("crosslayer", "torch", "timm") if key in versions}
    command = f"\n\n```\n{summary['command']}\n```" if summary.get("command") else ""
    return _table("Training", rows) + command


def _table(title: str, rows: Mapping[str, Any]) -> str:
    lines = "".join(f"| {_inline(key)} | {_inline(value)} |\n" for key, value in rows.items())
    return f"## {title}\n\n| | |\n| --- | --- |\n{lines}".rstrip()


def _inline(text: object) -> str:
    """Text that ends neither a cell nor a line nor a code span."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
