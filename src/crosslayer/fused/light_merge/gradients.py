"""The backward pass of `light_merge`.

With n positions in the batch, r = 1 / √(σ² + ε) and k the images' keep factors, for out = x + k (w r (z - μ) + b):

    db = Σ k dout,   dw = Σ k dout r (z - μ)
    dz = w r (k dout - db / n - dw r (z - μ) / n)       where μ and σ² are z's own
    dz = w r k dout                                     where they were known beforehand
    dx = dout + G ⊙ DWᵀ(dz; K),   ds = a ⊙ dz + DWᵀ(dz; K_s)
    P_i = Σ_hw dz ⊙ (x shifted by tap i),   Q_i likewise of s,   for each image and channel
    dK_i = Σ_b G P_i,   dG = Σ_i K_i P_i,   dK_s = Σ_b Q_i,   da = Q_centre

Two passes in the first case: one for db and dw, which leaves z behind (dz at a position needs z at all its
neighbours), one for all the rest. One pass in the second, where dw follows from P and Q.
"""

import torch
from torch import Tensor

from crosslayer.fused.batch_norm import Incoming, Norm, norm_of
from crosslayer.fused.custom_op import custom_op, depthwise_backward_flops
from crosslayer.fused.layout import accumulator, alike, kernel_of, layout_of, new_map, taps_of
from crosslayer.fused.light_merge import cpu
from crosslayer.fused.light_merge.terms import Ended, Sums, Terms
from crosslayer.fused.support import runs_triton


def passes(x: Tensor):
    """Those over maps like x."""
    if runs_triton(x):
        from crosslayer.fused.light_merge import gpu

        return gpu
    return cpu


def _backward_shapes(gradient, x, shortcut, value_kernel, gate, scale, shortcut_kernel, weight, *others):
    kernel = value_kernel.new_empty((x.shape[1], 1, 1, 1)) if shortcut_kernel is None else shortcut_kernel
    ds = torch.empty_like(shortcut, memory_format=layout_of(x))
    small = (value_kernel, gate, scale, kernel, weight, weight)
    sums = x.new_empty((2, *x.shape[:2]) if others[-3] else 0, dtype=accumulator(x))
    return new_map(x), ds, *(torch.empty_like(one, memory_format=torch.contiguous_format) for one in small), sums


def _backward_flops(gradient, x, shortcut, value_kernel, gate, scale, shortcut_kernel, *others):
    of_shortcut = 0 if shortcut_kernel is None else depthwise_backward_flops(x, shortcut_kernel)
    return depthwise_backward_flops(x, value_kernel) + of_shortcut


@custom_op("light_merge_backward", fake=_backward_shapes, flops=_backward_flops)
def normalise_backward(
    gradient: Tensor,
    x: Tensor,
    shortcut: Tensor,
    value_kernel: Tensor,
    gate: Tensor,
    scale: Tensor,
    shortcut_kernel: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    keep: Tensor | None,
    merged: Tensor | None,
    ending: list[Tensor],
    epsilon: float,
    ending_epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shortcut, value_kernel, gate, scale, shortcut_kernel (of its centre if absent), weight, bias.

    With `ending` (w, b, μ, σ²), the x that is given is what a block's end makes its output of, and the first gradient
    and the sums after the others are the output's, as its `GradientParts` receive them.
    """
    terms = Terms(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    norm = Norm(weight, None, mean, variance, keep, epsilon).exact(x)
    same = norm.mean.new_zeros(x.shape[:2])
    sums = norm.mean.new_empty((2, *x.shape[:2]) if ending else 0)
    ended = Ended(norm_of(ending, ending_epsilon, x), sums) if ending else None
    dx, ds, *small = _map_gradients(Incoming(alike(gradient, x), same), terms, norm, merged, ended)
    like = (value_kernel, gate, scale, value_kernel if shortcut_kernel is None else shortcut_kernel, weight, weight)
    kernel, own, old, carried, slope, shift = (_outgoing(one, to.dtype) for one, to in zip(small, like, strict=True))
    return dx, ds, kernel, own, old, carried, slope, shift, sums


def _outgoing(one: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of its own, laid out as announced."""
    return one.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _map_gradients(
    gradient: Incoming, terms: Terms, norm: Norm, merged: Tensor | None, ended: Ended | None
) -> tuple[Tensor, ...]:
    """Of x and shortcut, of K, G, a and K_s, of w and b."""
    over_maps = passes(terms.x)
    exact = terms.changed(terms.x, terms.shortcut, lambda term: term.to(norm.mean.dtype))
    if merged is not None:
        merged, plain, weighted = over_maps.norm_sums(gradient, terms, norm, merged, ended)
        affine = norm.affine_gradients(plain, weighted)
        dx, ds, sums = over_maps.merge_gradients(gradient, merged, terms, norm, affine, ended)
    else:
        dx, ds, sums = over_maps.merge_gradients(gradient, None, terms, norm, None, ended)
        affine = _affine_gradients(exact, sums, norm)
        sums = sums.times(norm.kept((norm.weight * norm.inverse).expand(terms.x.shape[:2])))  # dout stood for dz
    return dx, ds, *_term_gradients(exact, sums), *affine


def _affine_gradients(terms: Terms, sums: Sums, norm: Norm) -> tuple[Tensor, Tensor]:
    """Of weight and bias from the sums of dout: Σ dout z = G Σ K_i P_i + a Q_centre + Σ K_s,i Q_i."""
    of_z = terms.gate * sums.weighed_value(terms) + terms.scale * sums.centre
    if terms.shortcut_kernel is not None:
        of_z = of_z + (taps_of(terms.shortcut_kernel) * sums.of_shortcut).sum(1)
    return norm.affine_gradients(sums.plain, of_z - norm.mean * sums.plain)


def _term_gradients(terms: Terms, sums: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of K, G, a and K_s from the sums of dz."""
    of_kernel = (terms.gate.unsqueeze(1) * sums.of_value).sum(0)
    return kernel_of(of_kernel), sums.weighed_value(terms), sums.centre, kernel_of(sums.of_shortcut.sum(0))
