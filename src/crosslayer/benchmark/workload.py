"""What a worker repeats: one training step or one inference, on images that stay on the device."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.benchmark.configuration import Configuration
from crosslayer.export.formats import FormatName, find_kind
from crosslayer.export.lean import lean_program

LEARNING_RATE, MOMENTUM = 1e-3, 0.9
FORMATS: dict[str, FormatName] = {"onnxruntime": "onnx", "openvino": "openvino"}
"""What the runtimes beside PyTorch read."""


class Step:
    """A network, its images, and one step of work; compiled if the configuration says so.

    Args:
        model: on any device; it is moved.
        configuration: says how it is run.
    """

    def __init__(self, model: nn.Module, configuration: Configuration) -> None:
        self.device = torch.device(configuration.device)
        layout = torch.channels_last if configuration.channels_last else torch.contiguous_format
        side, batch = configuration.image_size, configuration.batch_size
        self.images = torch.randn(batch, 3, side, side).to(self.device, memory_format=layout)
        self.labels = torch.randint(configuration.num_classes, (batch,)).to(self.device)
        self.plain = model.to(self.device, memory_format=layout)  # pyright: ignore[reportCallIssue]  # torch's stub
        self.model: Any = torch.compile(self.plain) if configuration.compiled == "compiled" else self.plain
        self.mixed = configuration.precision == "bf16"

    def logits(self) -> Tensor:
        """One pass forward."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            return self.model(self.images)

    def __call__(self) -> None:
        """One step."""
        raise NotImplementedError

    def resident(self) -> list[Tensor]:
        """The tensors that live on between steps."""
        return [self.images, self.labels, *self.plain.parameters(), *self.plain.buffers()]


class TrainingStep(Step):
    """Forward, cross-entropy, backward, a fused step of SGD, and no gradient left."""

    def __init__(self, model: nn.Module, configuration: Configuration) -> None:
        super().__init__(model.train(), configuration)
        self.optimizer = torch.optim.SGD(self.plain.parameters(), LEARNING_RATE, MOMENTUM, fused=True)

    def loss(self) -> Tensor:
        """The pass forward, up to the loss."""
        return F.cross_entropy(self.logits().float(), self.labels)

    def __call__(self) -> None:
        """One step."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def resident(self) -> list[Tensor]:
        """With the optimizer's momentum."""
        states = self.optimizer.state.values()
        return super().resident() + [v for state in states for v in state.values() if isinstance(v, Tensor)]


class Inference(Step):
    """The pass forward in evaluation mode, without anything kept for gradients."""

    def __init__(self, model: nn.Module, configuration: Configuration) -> None:
        super().__init__(model.eval(), configuration)

    @torch.no_grad()
    def __call__(self) -> None:
        """One step."""
        self.logits()


class ExportedInference(Inference):
    """The same by the program that `crosslayer export` writes, in its runtime."""

    def __init__(self, model: nn.Module, configuration: Configuration) -> None:
        super().__init__(model, configuration)
        self.images = self.images.contiguous()
        kind = find_kind(FORMATS[configuration.runtime])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"program{kind.suffix}"
            kind.write(lean_program(self.plain, self.images), self.images, {}, path.parent, path.name)
            self.program = kind.load(path, torch.get_num_threads())

    def __call__(self) -> None:
        """One step."""
        self.program(self.images)


def step_of(model: nn.Module, configuration: Configuration) -> Step:
    """What a configuration repeats."""
    if configuration.runtime != "torch":
        return ExportedInference(model, configuration)
    return (TrainingStep if configuration.mode == "train" else Inference)(model, configuration)
