"""Where a classifier looks: Grad-CAM (arXiv 1610.02391), and what each earlier layer gives a block."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crosslayer.errors import UsageError
from crosslayer.mechanisms import Mechanism
from crosslayer.mechanisms.depth_pass import DepthPass, capture_states
from crosslayer.mechanisms.layer_attention import BaseLayerAttention, LightLayerAttention
from crosslayer.reports.attention import attention_of, no_attention
from crosslayer.reports.figure import new_figure, write_figure


def attention(model: nn.Module, images: Tensor) -> list[Tensor]:
    """How much block l of every stage attends to block m, of these images.

    Args:
        model: a network of dla_b, dla_l, mrla_b, mrla_l, attnres, delta_attnres or denseformer, built or grafted.
        images: batch × channels × height × width, normalised as the network takes them.

    Returns:
        A matrix per stage, head and image: batch × heads × l × m, rows summing to one; of the light forms the shares
        that their recursion implies. The last three look at the stage's input too, which is the first column, and are
        means over positions; denseformer's weights have signs, and need not sum to one.

    Raises:
        ValueError: the network's mechanism has no attention over layers.
    """
    training = model.training
    try:
        with torch.no_grad(), capture_states() as captured:
            model.eval()(images)
    finally:
        model.train(training)
    return [attention_of(mechanism, state) for mechanism, state in captured] or [no_attention()]


class Explained(NamedTuple):
    """What is seen of one image.

    Args:
        explained: index of the class.
        cam: Grad-CAM of the last stage, height × width in [0, 1].
        stages: of each stage, of each block, of each block up to it: mean magnitude over the channels of what the
            earlier block's value contributes there, height × width.
    """

    explained: int
    cam: Tensor
    stages: list[list[list[Tensor]]]


def explain(model: nn.Module, image: Tensor, index: int | None = None) -> Explained:
    """Explains a class, by default the likeliest, of one normalised image (1 × channels × height × width).

    Raises:
        UsageError: a network whose stages are not maps, or a mechanism without attention over layers.
    """
    stages: list[Any] = [one for one in model.modules() if isinstance(getattr(one, "pass_type", None), type)]
    mechanisms: list[Any] = [stage.own_mechanism for stage in stages]
    if not mechanisms or not all(isinstance(m, LightLayerAttention | BaseLayerAttention) for m in mechanisms):
        no_attention()
    values: dict[nn.Module, list[Tensor]] = {mechanism: [] for mechanism in mechanisms}
    maps: list[Tensor] = []

    def keep(mechanism: Mechanism[Any]) -> Any:
        return lambda _module, _given, value: values[mechanism].append(value.detach())

    hooks = [
        projection.value.register_forward_hook(keep(mechanism))
        for mechanism in mechanisms
        for projection in mechanism.projections
    ]
    hooks.append(stages[-1].register_forward_hook(lambda _module, _given, out: maps.append(out)))
    kinds = [stage.pass_type for stage in stages]
    try:
        for stage in stages:
            stage.pass_type = DepthPass  # values are seen in plain PyTorch
        with torch.enable_grad(), capture_states() as captured:
            scores = model(image)
            if maps[0].ndim != 4:
                raise UsageError("Grad-CAM and the layers' maps are drawn of networks of maps, and this one has tokens")
            chosen = int(scores[0].argmax()) if index is None else index
            gradient = torch.autograd.grad(scores[0, chosen], maps[0])[0]
    finally:
        for hook in hooks:
            hook.remove()
        for stage, kind in zip(stages, kinds, strict=True):
            stage.pass_type = kind
    weighted = F.relu((gradient.mean((2, 3), keepdim=True) * maps[0]).sum(1)[0]).detach()
    shares = [mechanism.attention(state).detach() for mechanism, state in captured]
    contributed = [_contributions(share[0], values[one.mechanism]) for share, one in zip(shares, captured, strict=True)]
    return Explained(chosen, weighted / weighted.max().clamp(min=1e-12), contributed)


def _contributions(share: Tensor, values: list[Tensor]) -> list[list[Tensor]]:
    """The magnitude of every earlier value, weighed by its head's share, mean over the channels."""
    per_channel = share.repeat_interleave(values[0].shape[1] // len(share), dim=0)
    return [
        [(per_channel[:, block, m, None, None] * values[m][0]).abs().mean(0).cpu() for m in range(block + 1)]
        for block in range(len(values))
    ]


def draw_explanation(picture: Tensor, seen: Explained, title: str, path: Path) -> None:
    """The picture (3 × height × width, uint8) beside Grad-CAM; below, a row per block, a column per earlier block."""
    rows = [row for stage in seen.stages for row in stage]
    labels = [f"stage {s + 1}, block {t + 1}" for s, stage in enumerate(seen.stages) for t in range(len(stage))]
    columns = max(2, *(len(row) for row in rows))
    figure = new_figure(1.7 * columns + 1, 1.7 * (len(rows) + 1) + 0.5)
    grid = figure.subplots(len(rows) + 1, columns, squeeze=False)
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(pixels)
    grid[0, 0].set_title("image", fontsize=8)
    grid[0, 1].imshow(overlaid(pixels, seen.cam))
    grid[0, 1].set_title("Grad-CAM", fontsize=8)
    for axes_row, label, row in zip(grid[1:], labels, rows, strict=True):
        highest = max(float(one.max()) for one in row) or 1.0
        for m, (axes, one) in enumerate(zip(axes_row, row, strict=False)):
            axes.imshow(overlaid(pixels, one / highest))
            axes.set_title(f"{label} ← {m + 1}" if m == 0 else f"← {m + 1}", fontsize=7)
    figure.suptitle(title, fontsize=10)
    write_figure(figure, path)


def overlaid(pixels: np.ndarray, heat: Tensor) -> np.ndarray:
    """A map in [0, 1], scaled to a picture, as colour over it: height × width × 3 in [0, 1]."""
    from matplotlib import colormaps

    size = pixels.shape[:2]
    scaled = F.interpolate(heat[None, None].float().cpu(), size=size, mode="bilinear")[0, 0].clamp(0, 1).numpy()
    return 0.5 * pixels / 255 + 0.5 * np.asarray(colormaps["inferno"](scaled))[..., :3]
