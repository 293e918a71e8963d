"""The backward pass of `light_merge_norm`.

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

from typing import NamedTuple

import torch
from torch import Tensor

from crosslayer.ops.fused.light_launch import Inputs, Plan, launch_over, plan, prepared, present
from crosslayer.ops.fused.maps import accumulator, layout_of, new_map


class Norm(NamedTuple):
    """The affine map of a normalisation, its statistics, and each image's keep factor, in the kernels' precision."""

    weight: Tensor
    mean: Tensor
    variance: Tensor
    keep: Tensor | None
    epsilon: float

    @property
    def inverse(self) -> Tensor:
        """1 / √(σ² + ε)."""
        return (self.variance + self.epsilon).rsqrt()

    def kept(self, sums: Tensor) -> Tensor:
        """Every image's sums (batch × channels) times its keep factor."""
        return sums if self.keep is None else self.keep.view(-1, 1) * sums


class Sums(NamedTuple):
    """Sums over the map of dz (or, statistics known beforehand, of dout) for each image and channel."""

    plain: Tensor
    of_value: Tensor
    """Times x shifted by each of the nine taps: batch × taps × channels."""
    of_shortcut: Tensor
    """Likewise of s; the centre tap only where the shortcut has no kernel."""

    @property
    def centre(self) -> Tensor:
        """Σ_hw dz ⊙ s."""
        return self.of_shortcut[:, self.of_shortcut.shape[1] // 2]

    def weighed_value(self, terms: Inputs) -> Tensor:
        """Σ_hw dz ⊙ DW(x; K)."""
        return (taps_of(terms.value_kernel) * self.of_value).sum(1)

    def times(self, factor: Tensor) -> "Sums":
        """All multiplied with batch × channels factors."""
        return Sums(factor * self.plain, factor[:, None] * self.of_value, factor[:, None] * self.of_shortcut)


@torch.library.custom_op("crosslayer::light_merge_normalise_backward", mutates_args=())
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
    epsilon: float,
    batch_statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shortcut, value_kernel, gate, scale, shortcut_kernel (of its centre if absent), weight, bias."""
    inputs = prepared(x, shortcut, value_kernel, gate, scale, shortcut_kernel)
    gradient = gradient.contiguous(memory_format=layout_of(x))
    exact, has_kernel = accumulator(x), shortcut_kernel is not None
    norm = Norm(weight.to(exact), mean.to(exact), variance.to(exact), None if keep is None else keep.to(exact), epsilon)
    merged, affine = recomputed(gradient, inputs, norm, has_kernel) if batch_statistics else (gradient, None)
    dx, ds, sums = merge_gradients(gradient, merged, inputs, norm, affine, has_kernel)
    terms = Inputs(inputs.x, inputs.shortcut, *(term.to(exact) for term in inputs[2:]))
    if affine is None:
        affine = affine_gradients(terms, sums, norm)
        sums = sums.times(norm.kept((norm.weight * norm.inverse).expand(x.shape[:2])))  # so far dout stood for dz
    like = (value_kernel, gate, scale, present(shortcut_kernel, value_kernel), weight, weight)
    small = (*term_gradients(terms, sums), *affine)
    kernel, own, old, carried, slope, shift = (outgoing(one, to.dtype) for one, to in zip(small, like, strict=True))
    return dx, ds, kernel, own, old, carried, slope, shift


@normalise_backward.register_fake
def _(gradient, x, shortcut, value_kernel, gate, scale, shortcut_kernel, weight, *_others):
    kernel = value_kernel.new_empty((x.shape[1], 1, 1, 1)) if shortcut_kernel is None else shortcut_kernel
    ds = torch.empty_like(shortcut, memory_format=layout_of(x))
    small = (value_kernel, gate, scale, kernel, weight, weight)
    return new_map(x), ds, *(torch.empty_like(one, memory_format=torch.contiguous_format) for one in small)


def outgoing(one: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of its own, laid out as announced."""
    return one.to(dtype, copy=True, memory_format=torch.contiguous_format)


def recomputed(gradient: Tensor, inputs: Inputs, norm: Norm, has_kernel: bool) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The first pass: z, and the gradients of weight and bias."""
    from crosslayer.ops.fused.light_backward_kernels import norm_gradient_kernel

    x, launch = inputs.x, plan(inputs.x)
    merged = new_map(x)
    partials = norm.mean.new_empty((launch.programs, 2, x.shape[1]))
    arguments = (gradient, *inputs, norm.mean, merged, partials)
    launch_over(norm_gradient_kernel, launch, x, *arguments, HAS_KERNEL=has_kernel)
    plain, weighted = per_image(partials, launch).unbind(1)
    return merged, (norm.kept(weighted).sum(0) * norm.inverse, norm.kept(plain).sum(0))


def merge_gradients(
    gradient: Tensor,
    merged: Tensor,
    inputs: Inputs,
    norm: Norm,
    affine: tuple[Tensor, Tensor] | None,
    has_kernel: bool,
) -> tuple[Tensor, Tensor, Sums]:
    """The last pass: dx, ds and the sums from which all else follows."""
    from crosslayer.ops.fused.light_backward_kernels import merge_gradient_kernel

    x, launch = inputs.x, plan(inputs.x)
    dx, ds = new_map(x), torch.empty_like(inputs.shortcut, memory_format=layout_of(x))
    rows = 19 if has_kernel else 11
    partials = norm.mean.new_empty((launch.programs, rows, x.shape[1]))
    known = affine or (norm.weight, norm.weight)  # not read where statistics were known beforehand
    vectors = (norm.weight, norm.mean, norm.variance, present(norm.keep, norm.weight), *known)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    arguments = (gradient, merged, *inputs, *vectors, norm.epsilon, count, dx, ds, partials)
    flags = {"HAS_KERNEL": has_kernel, "HAS_KEEP": norm.keep is not None, "BATCH_STATISTICS": affine is not None}
    launch_over(merge_gradient_kernel, launch, x, *arguments, SUMS=rows, **flags)
    sums = per_image(partials, launch)
    return dx, ds, Sums(sums[:, 0], sums[:, 1:10], sums[:, 10:])


def per_image(partials: Tensor, launch: Plan) -> Tensor:
    """What an image's programs have gathered, added."""
    return partials.unflatten(0, (launch.programs // launch.row_chunks, launch.row_chunks)).sum(1)


def affine_gradients(terms: Inputs, sums: Sums, norm: Norm) -> tuple[Tensor, Tensor]:
    """Of weight and bias from the sums of dout: Σ dout z = G Σ K_i P_i + a Q_centre + Σ K_s,i Q_i."""
    of_z = terms.gate * sums.weighed_value(terms) + terms.scale * sums.centre
    if sums.of_shortcut.shape[1] > 1:
        of_z = of_z + (taps_of(terms.shortcut_kernel) * sums.of_shortcut).sum(1)
    return norm.kept(of_z - norm.mean * sums.plain).sum(0) * norm.inverse, norm.kept(sums.plain).sum(0)


def term_gradients(terms: Inputs, sums: Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of K, G, a and K_s from the sums of dz."""
    of_kernel = (terms.gate.unsqueeze(1) * sums.of_value).sum(0)
    return kernel_of(of_kernel), sums.weighed_value(terms), sums.centre, kernel_of(sums.of_shortcut.sum(0))


def taps_of(kernel: Tensor) -> Tensor:
    """A depth-wise kernel as taps × channels."""
    return kernel.flatten(1).T


def kernel_of(taps: Tensor) -> Tensor:
    """The inverse."""
    side = 3 if taps.shape[0] == 9 else 1
    return taps.T.reshape(-1, 1, side, side)
