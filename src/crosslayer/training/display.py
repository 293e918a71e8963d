"""A live line on a terminal, plain lines elsewhere."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from crosslayer.console import console

SILENCE = 30.0
"""Seconds after which a plain line reports from within an epoch."""


class Display:
    """Shows how a training goes; does nothing in any process but the main one."""

    def __init__(self, epochs: int, steps_per_epoch: int, total_steps: int, batch_size: int, *, shown: bool) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.total_steps, self.batch_size, self.shown = total_steps, batch_size, shown
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            console=console.rich,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self.task = self.bar.add_task("train", total=total_steps, epoch=0, epochs=epochs, state="")
        self.reported = time.monotonic()

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def update(self, epoch: int, step: int, measured: str, images_per_second: float) -> None:
        """Reports from within an epoch."""
        state = f"{measured}  {self.pace(step, images_per_second)}"
        self.bar.update(self.task, completed=step, epoch=epoch, state=state)
        if self.shown and not console.is_terminal and time.monotonic() - self.reported > SILENCE:
            self.reported = time.monotonic()
            console.print(f"epoch {epoch}/{self.epochs}  step {step}/{self.total_steps}  {state}")

    def epoch(self, row: dict[str, Any], trained: str, validated: str) -> None:
        """Reports a finished epoch."""
        if not self.shown:
            return
        self.reported = time.monotonic()
        pace = self.pace(row["step"], row["images_per_second"])
        console.print(f"epoch {row['epoch']:3d}/{self.epochs}  {trained}  |  {validated}  |  {pace}")

    def pace(self, step: int, images_per_second: float) -> str:
        """Images per second, and the time that is left at this rate."""
        left = (self.total_steps - step) * self.batch_size / max(images_per_second, 1e-9)
        digits = 0 if images_per_second >= 10 else 2
        return f"{images_per_second:,.{digits}f} images/s  {clock(left)} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
