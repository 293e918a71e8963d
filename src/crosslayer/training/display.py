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
            console=console,
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

    def update(self, epoch: int, step: int, loss: float, top1: float, images_per_second: float) -> None:
        """Reports from within an epoch."""
        left = (self.total_steps - step) * self.batch_size / max(images_per_second, 1e-9)
        state = f"loss {loss:.4f}  top-1 {top1:.2f} %  {images_per_second:,.0f} images/s  {clock(left)} left"
        self.bar.update(self.task, completed=step, epoch=epoch, state=state)
        if self.shown and not console.is_terminal and time.monotonic() - self.reported > SILENCE:
            self.reported = time.monotonic()
            console.print(f"epoch {epoch}/{self.epochs}  step {step}/{self.total_steps}  {state}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Reports a finished epoch."""
        if not self.shown:
            return
        self.reported = time.monotonic()
        left = (self.total_steps - row["step"]) * self.batch_size / max(row["images_per_second"], 1e-9)
        console.print(
            f"epoch {row['epoch']:3d}/{self.epochs}  loss {row['train/loss']:.4f}  top-1 {row['train/top1']:6.2f} %"
            f"  |  val loss {row['val/loss']:.4f}  top-1 {row['val/top1']:6.2f} %  top-5 {row['val/top5']:6.2f} %"
            f"  |  {row['images_per_second']:,.0f} images/s  {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
