"""From measurements to rows: medians, spread, ratios to the plain network, distance from the limit."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from crosslayer.benchmark.configuration import PLAIN
from crosslayer.benchmark.limits import Limits
from crosslayer.benchmark.measure import Measurement

Row = dict[str, Any]
MEGA = 1e6


def rows_of(number: int, measured: list[Measurement], limits: dict[str, Limits]) -> list[Row]:
    """One row for each measurement of a group, whose first ones are the plain network's.

    Args:
        number: the group's.
        measured: its measurements.
        limits: what the device can do, by precision.
    """
    first = measured[0].configuration.backbone
    plain = [
        m
        for m in measured
        if m.error is None and m.configuration.mechanism == PLAIN and m.configuration.backbone == first
    ]
    best = min(plain, key=lambda m: statistics.median(m.step_seconds), default=None)
    return [{"group": number} | row(m, plain, best, limits[m.configuration.precision]) for m in measured]


def row(measurement: Measurement, plain: list[Measurement], best: Measurement | None, limits: Limits) -> Row:
    """What is told of one configuration; numbers are absent where it failed."""
    known = dataclasses.asdict(measurement.configuration)
    if measurement.error is not None:
        return known | dict.fromkeys(NUMBERS) | {"error": measurement.error}
    alike = next((m for m in plain if m.configuration.compiled == measurement.configuration.compiled), None)
    return (
        known
        | speed(measurement)
        | {"relative_to_plain": relative(measurement, best), "relative_to_plain_same": relative(measurement, alike)}
        | memory(measurement.facts)
        | distance(measurement, limits)
        | {key: measurement.facts[key] for key in ("compile_seconds", "threads")}
        | {"rounds": len(measurement.step_seconds), "steps": measurement.steps, "error": None}
    )


NUMBERS = (
    *("images_per_second", "ms_per_image", "spread", "relative_to_plain", "relative_to_plain_same"),
    *("peak_memory_mb", "tensor_mb", "saved_mb", "gflop_per_image", "mb_per_image"),
    *("limit_ms", "limit", "of_limit", "compile_seconds", "threads", "rounds", "steps"),
)
"""The columns that a failed configuration has nothing to say about."""


def speed(measurement: Measurement) -> Row:
    """Medians over the rounds, and the interquartile range as a share of the median."""
    times, batch = measurement.step_seconds, measurement.configuration.batch_size
    median = statistics.median(times)
    return {
        "images_per_second": batch / median,
        "ms_per_image": 1e3 * median / batch,
        "spread": relative_spread(times),
    }


def relative_spread(times: Sequence[float]) -> float | None:
    """The interquartile range of the rounds' times as a share of their median; one round has none."""
    if len(times) < 2:
        return None
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / statistics.median(times)


def relative(measurement: Measurement, plain: Measurement | None) -> float | None:
    """Images per second relative to the plain network's: the median of the rounds' own ratios."""
    if plain is None:
        return None
    return statistics.median(a / b for a, b in zip(plain.step_seconds, measurement.step_seconds, strict=True))


def memory(facts: dict[str, Any]) -> Row:
    """Megabytes (10⁶)."""
    names = {"peak_memory_mb": "peak", "tensor_mb": "tensors", "saved_mb": "saved"}
    return {column: None if facts[key] is None else facts[key] / MEGA for column, key in names.items()}


def distance(measurement: Measurement, limits: Limits) -> Row:
    """The shortest time that operations and bytes leave an image, and what share of the time taken it is."""
    batch = measurement.configuration.batch_size
    operations, moved = measurement.facts["operations"] / batch, measurement.facts["bytes"] / batch
    computing, moving = operations / limits.operations_per_second, moved / limits.bytes_per_second
    limit = max(computing, moving)
    return {
        "gflop_per_image": operations / 1e9,
        "mb_per_image": moved / MEGA,
        "limit_ms": 1e3 * limit,
        "limit": "operations" if computing >= moving else "bytes",
        "of_limit": limit * batch / statistics.median(measurement.step_seconds),
    }
