"""Runs as training leaves them, made without training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from crosslayer.reproduce.plan import Planned, Request, plan
from crosslayer.reproduce.published_data import SIZES
from crosslayer.reproduce.studies import find_study


def planned(output: Path, study: str = "table1", seeds: tuple[int, ...] = (0, 1), **rest: Any) -> list[Planned]:
    return plan(Request(find_study(study), seeds, output, **rest))


def finish(run: Planned, accuracies: list[float], **summary: Any) -> None:
    run.path.mkdir(parents=True)
    content = {"name": run.cell.recipe, "recipe": dataclasses.asdict(run.recipe)}
    data = SIZES[run.cell.recipe]
    classes = [f"class {i}" for i in range(data.classes)]
    content["data"] = {"classes": classes, "mean": [0, 0, 0], "std": [1, 1, 1]}
    (run.path / "recipe.json").write_text(json.dumps(content))
    (run.path / "environment.json").write_text(json.dumps({"machine": {"cores": 2}, "commit": "abc"}))
    steps = data.train // run.recipe.batch_size
    rows = [
        {"epoch": i, "step": i * steps, "train/loss": 2 / i, "train/top1": 50.0, "val/loss": 3 / i}
        | {"val/top1": value, "val/top5": min(100.0, value + 20)}
        for i, value in enumerate(accuracies, 1)
    ]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"parameters_m": 0.25, "macs_g": 0.04, "images_per_second": 100.0 + run.recipe.seed, "wall_seconds": 60.0}
    facts |= {"steps": steps * len(rows), "epochs": len(rows)}
    (run.path / "summary.json").write_text(json.dumps(facts | summary))
