"""DLA step by step as its authors' loops have it: every refresh rewrites its map. Slow, and plain to read."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crosslayer.mechanisms.cells import CellState
from crosslayer.mechanisms.dla_b import DLABase
from crosslayer.mechanisms.dla_l import DLALight


def gate(mechanism: DLABase | DLALight, y: Tensor, context: CellState) -> Tensor:
    return torch.sigmoid(mechanism.cell(y, context).memory)


def literal_base(mechanism: DLABase, outputs: list[Tensor]) -> list[Tensor]:
    """DLA-B on given block outputs, one image at a time."""
    return [
        torch.cat(parts)
        for parts in zip(
            *(literal_base_image(mechanism, [x[i : i + 1] for x in outputs]) for i in range(len(outputs[0]))),
            strict=True,
        )
    ]


def literal_base_image(mechanism: DLABase, outputs: list[Tensor]) -> list[Tensor]:
    keys: list[Tensor] = []
    values: list[Tensor] = []
    context = mechanism.cell.start(outputs[0].mean((2, 3)))
    results = []
    for t, x in enumerate(outputs):
        y = x.mean((2, 3))
        context = mechanism.cell(y, context)
        keys = [k * gate(mechanism, k, context) for k in keys]
        values = [v * gate(mechanism, v.mean((2, 3)), context)[..., None, None] for v in values]
        projection = mechanism.projections[t]
        query, key = projection.query(y), projection.key(y)
        keys.append(key)
        values.append(projection.value(x))
        d = mechanism.head_channels
        heads = []
        for h in range(x.shape[1] // d):
            part = slice(h * d, (h + 1) * d)
            scores = torch.stack([(query[:, part] * k[:, part]).sum(1) / d**0.5 for k in keys], 1).softmax(1)
            heads.append(sum(scores[:, m, None, None, None] * v[:, part] for m, v in enumerate(values)))
        results.append(x + mechanism.branches[t](torch.cat(heads, 1)))
    return results


def literal_light(mechanism: DLALight, outputs: list[Tensor], shortcuts: list[Tensor]) -> list[Tensor]:
    """DLA-L on given block outputs and shortcuts."""
    context = mechanism.cell.start(outputs[0].mean((2, 3)))
    results = []
    for t, (x, s) in enumerate(zip(outputs, shortcuts, strict=True)):
        y = x.mean((2, 3))
        context = mechanism.cell(y, context)
        carried = s * gate(mechanism, s.mean((2, 3)), context)[..., None, None]
        if mechanism.stage_kernel is not None:
            carried = carried + F.conv2d(s, mechanism.stage_kernel, padding=1, groups=s.shape[1])
        projection = mechanism.projections[t]
        query, key = projection.query(y), projection.key(y)
        d = mechanism.head_channels
        product = (query * key).reshape(len(x), -1, d).sum(2) / d**0.5
        own = torch.sigmoid(product).repeat_interleave(d, 1)[..., None, None] * projection.value(x)
        z = own + mechanism.lambdas[t][:, None, None] * carried
        results.append(x + mechanism.branches[t](z))
    return results
