import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from crosslayer.console import console
from crosslayer.errors import FailedError
from crosslayer.options import parse_options
from crosslayer.reproduce.estimate import Estimate, Estimator
from crosslayer.reproduce.filters import chosen_seeds, option_words
from crosslayer.reproduce.local import Failure, run_locally
from crosslayer.reproduce.plan import Planned, Request, plan
from crosslayer.reproduce.ray_engine import run_on_ray
from crosslayer.reproduce.render import reduced_by, render
from crosslayer.reproduce.results import read_finished
from crosslayer.reproduce.studies import STUDIES, find_study
from crosslayer.reproduce.tables import banner
from crosslayer.training.display import clock
from crosslayer.training.launch import choose_device
from crosslayer.training.recipe import check_bounds


@dataclasses.dataclass(frozen=True)
class Options:
    """Train what a table or figure of the paper needs, or one of the questions it leaves open, and render it."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY", help=f"One of {', '.join(STUDIES)}.")]
    seeds: str = "0-4"
    """Seeds of every network: 0-4, or 0,1,2."""
    only: tuple[str, ...] = ()
    """Recipes, backbones, mechanisms and variants to restrict the study to, e.g. cifar100 cifar_resnet20 none dla_l."""
    recipe: str | None = None
    """Train by this recipe instead of the study's own, e.g. cifar100_budget; the paper has no figures for it."""
    epochs: int | None = None
    """Train for so many epochs instead of the recipe's, milestones and warm-up scaled with them: a reduced study."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE …")] = ()
    """Other options of `crosslayer train` to change, e.g. max_steps=100: a reduced study."""
    data: tuple[str, ...] = ()
    """Folder of the data set, or RECIPE=FOLDER for each where the study has several."""
    output: str = "runs/paper"
    """Folder for runs, tables and figures; studies share the runs that are the same."""
    jobs: int | None = None
    """Runs at once [default: 1; with ray, as many as the cluster has room for]."""
    engine: Literal["local", "ray"] = "local"
    """Train on this machine, or on a ray cluster's (docs/reproduce.md)."""
    address: str | None = None
    """Of the ray cluster [default: $RAY_ADDRESS, or a new one on this machine]."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the runs with estimates of time and memory."""
    render: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Render what is finished; train nothing."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int = 4
    """Threads or processes that decode images, for each run."""


def run(words: list[str]) -> None:
    """Crosslayer reproduce STUDY [OPTION …]."""
    options = parse_options(Options, words, "crosslayer reproduce")
    request = _requested(options)
    runs = plan(request)
    if reduced := reduced_by(runs):
        console.print(banner(reduced))
    if options.dry_run:
        return _print_plan(runs, options)
    failures = [] if options.render else _train_all(runs, options)
    for file in render(request.study, runs, request.output, options.device):
        console.print(f"written: {file}")
    return tell_failures(failures, runs)


def _requested(options: Options) -> Request:
    """The options as a request."""
    check_bounds("jobs", options.jobs)
    return Request(
        find_study(options.study),
        chosen_seeds(options.seeds),
        Path(options.output),
        options.only,
        options.recipe,
        options.epochs,
        options.data,
        options.settings,
    )


def _train_all(runs: Sequence[Planned], options: Options) -> list[Failure]:
    """Trains what is not finished."""
    left = [run for run in runs if run.state() != "finished"]
    broken = sum(run.state() == "broken" for run in left)
    console.print(f"{len(runs)} runs, {len(runs) - len(left)} finished, {broken} to be resumed")
    launch = [*option_words("device", options.device), *option_words("workers", options.workers)]
    if options.engine == "ray":
        return run_on_ray(left, options.jobs, launch, options.address, console.print)
    return run_locally(left, options.jobs or 1, launch, console.print)


def tell_failures(failures: Sequence[Failure], runs: Sequence[Planned]) -> None:
    """Raises FailedError if any run failed."""
    if failures:
        first = failures[0]
        raise FailedError(f"{len(failures)} of {len(runs)} runs failed; the first, {first.run.name}: {first.reason}")


def _print_plan(runs: Sequence[Planned], options: Options) -> None:
    """Every run with its state and what it will take."""
    estimator = Estimator(read_finished(runs), choose_device(options.device))
    table = Table(title=f"{len(runs)} runs below {Path(options.output)}")
    for heading in ("run", "state", "estimate by"):
        table.add_column(heading, overflow="fold")
    for heading in ("time", "memory (MB)"):
        table.add_column(heading, justify="right")
    left: list[float | None] = []
    for run in runs:
        state, estimate = run.state(), estimator.estimate(run)
        table.add_row(run.name, state, estimate.source, *cells(estimate))
        left += [] if state == "finished" else [estimate.seconds]
    console.print(table)
    jobs = options.jobs or 1
    console.print(
        f"left: {_clock_of(left, jobs)} with --jobs {jobs}, if runs do not slow each other down; "
        "memory is weights and what a training step keeps; measured steps assume the published data sets' sizes"
    )


def _clock_of(left: Sequence[float | None], jobs: int) -> str:
    """The time that all runs take, where it is known of each."""
    known = [seconds for seconds in left if seconds is not None]
    return clock(sum(known) / jobs) if len(known) == len(left) else "not known"


def cells(estimate: Estimate) -> tuple[str, str]:
    """Time and memory as text."""
    seconds, memory = estimate.seconds, estimate.memory
    return "–" if seconds is None else clock(seconds), "–" if memory is None else f"{memory / 1e6:,.0f}"
