import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from crosslayer.benchmark.checks import check
from crosslayer.benchmark.configuration import Plan, groups
from crosslayer.benchmark.limits import Limits
from crosslayer.benchmark.measure import limits_of, measure_group
from crosslayer.benchmark.rows import Row, rows_of
from crosslayer.console import console, errors
from crosslayer.errors import FailedError, UsageError
from crosslayer.files import write_json, write_text
from crosslayer.options import parse_options
from crosslayer.reports.throughput import draw_throughput, throughput_table
from crosslayer.training.environment import describe_environment
from crosslayer.training.launch import choose_device

ROWS, ENVIRONMENT = "rows.jsonl", "environment.json"


@dataclasses.dataclass(frozen=True)
class Options:
    """Images per second, memory, and distance from the device's limit (docs/benchmarks.md)."""

    plan: Annotated[Plan, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Plan)
    json: bool = False
    """Print one JSON object per row, as soon as its group is measured."""
    plot: str | None = None
    """Draw images per second into this PNG file."""
    output: str | None = None
    """New folder for rows.jsonl and environment.json."""


def run(words: list[str]) -> None:
    """Crosslayer bench [OPTION …]."""
    options = parse_options(Options, words, "crosslayer bench")
    plan = options.plan
    _check_files(options)
    device = choose_device(plan.device)
    check(plan)
    limits = limits_of(plan, str(device))
    environment = describe_environment(device, 1)
    if options.output:
        write_json(Path(options.output) / ENVIRONMENT, environment | _bench_facts(plan, limits))
    rows: list[Row] = []
    for number, group in enumerate(groups(plan, str(device))):
        measured = rows_of(number, measure_group(group, plan, errors.print), limits)
        rows += measured
        report(options, rows, measured)
    if not options.json:
        console.print(throughput_table(rows))
    if options.plot:
        draw_throughput(rows, environment["machine"]["gpu"] or environment["machine"]["processor"], Path(options.plot))
    tell_failures(rows)


def _check_files(options: Options) -> None:
    """Raises UsageError for a picture or folder that cannot be written."""
    if options.plot and not options.plot.endswith(".png"):
        raise UsageError(f"--plot {options.plot}: the picture is a PNG; name a file that ends with .png")
    folder = Path(options.output) if options.output else None
    if folder and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"--output {folder} exists already; name a new folder")


def _bench_facts(plan: Plan, limits: dict[str, Limits]) -> dict[str, Any]:
    """What was asked for, and what the device can do."""
    return {
        "plan": dataclasses.asdict(plan),
        "limits": {precision: limit._asdict() for precision, limit in limits.items()},
    }


def report(options: Options, rows: list[Row], measured: list[Row]) -> None:
    """Prints a group's rows and keeps all there are."""
    if options.json:
        for row in measured:
            print(json.dumps(row), flush=True)
    if options.output:
        write_text(Path(options.output) / ROWS, "".join(json.dumps(row) + "\n" for row in rows))


def tell_failures(rows: list[Row]) -> None:
    """Raises FailedError if any configuration could not be measured."""
    failed = [row for row in rows if row["error"] is not None]
    if failed:
        worst = failed[0]
        what = ", ".join(
            str(worst[key]) for key in ("backbone", "mechanism", "mode", "precision", "compiled", "impl", "runtime")
        )
        raise FailedError(f"{len(failed)} of {len(rows)} configurations failed; the first ({what}): {worst['error']}")
