"""Where a run goes and what it runs on."""

import dataclasses

from crosslayer.data.images import LoaderName
from crosslayer.errors import UsageError
from crosslayer.training.validation import flag


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where a run goes and what it runs on: nothing here changes what is learned, up to the device's rounding."""

    output: str | None = None
    """Run directory to make [default: runs/RECIPE-BACKBONE-MECHANISM-seedN]."""
    overwrite: bool = False
    """Replace the run that the output directory holds."""
    resume: str | None = None
    """Run directory to go on with; of its recipe only --epochs and --max-steps may be changed."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    workers: int = 4
    """Threads that decode images, or processes where crops are resized; 0 decodes between the steps."""
    loader: LoaderName = "auto"
    """Keep decoded images on the device, stream them, or decide by size (2 GiB)."""

    save_steps: int | None = None
    """Save every so many optimizer steps within an epoch too; every epoch's end and a signal save anyway."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 0), ("save_steps", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"{flag(name)} is {value}; it must be at least {least}")
