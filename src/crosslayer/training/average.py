"""The moving average of a network's weights and statistics."""

from typing import final

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn


@final
class Average(ModelEmaV3):
    """Timm's average with its warm-up, which looks for the tensors of both networks once and not at every step.

    To look takes milliseconds where there are hundreds of modules. The network that is followed must stay the same.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay, use_warmup=True)
        self.averages: list[Tensor] = []
        self.followed: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.copied: list[Tensor] = []

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Floating-point tensors move by 1 − `decay` of the way, counters are copied."""
        if not self.averages:
            self.find_tensors(model)
        # Torch has no public names for these; timm calls them too.
        torch._foreach_lerp_(self.averages, self.followed, weight=1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_copy_(self.copies, self.copied)  # pyright: ignore[reportPrivateImportUsage]

    def find_tensors(self, model: nn.Module) -> None:
        """Pairs what belongs together."""
        for ours, theirs in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            moves = ours.is_floating_point()
            (self.averages if moves else self.copies).append(ours)
            (self.followed if moves else self.copied).append(theirs)
