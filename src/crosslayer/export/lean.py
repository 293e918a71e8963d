"""A network for inference alone, with what is the same for every image computed beforehand.

With γ and δ the scale and shift of a light form's normalisation, BN(z) = γ ⊙ z + δ, layer attention is

    out = DW3(x ⊙ g; γ ⊙ K_V) + x + (γ ⊙ a) ⊙ s + DW3(s; γ ⊙ K) + δ

in which kernels and δ are constants: per block two products and one sum of maps are left, since runtimes add a map
within a convolution. Where a does not depend on the image (MRLA-L), (γ ⊙ a) ⊙ s + δ is a convolution, too. Of the
small numbers, the cell's answer to a context is computed once for both who ask; a depth-wise 1×1 convolution scales
by constants, and leaves the numbers in the layout that runtimes give to maps. Plain torch operations throughout.
"""

import copy
import math
import operator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_weights

from crosslayer.fused import unfuse
from crosslayer.fused.fused_pass import overridden
from crosslayer.fused.light_pass import FusedLightPass
from crosslayer.mechanisms.cells import ReleasedDSU, dsu_update
from crosslayer.mechanisms.depth_pass import BlockEnd, DepthPass
from crosslayer.mechanisms.dla_b import own_context
from crosslayer.mechanisms.dla_l import DLALight
from crosslayer.mechanisms.layer_attention import LightLayerAttention
from crosslayer.mechanisms.mrla_l import MRLALight
from crosslayer.models.grafted_stage import GraftedStage
from crosslayer.ops.shapes import Map

aten = torch.ops.aten


class LeanLightPass(DepthPass):
    """One pass through a stage with light layer attention on maps; its state is the cell's memory."""

    mechanism: LightLayerAttention[Any]
    memory: Tensor | None = None
    recalled: Tensor | None = None
    """What the cell makes of the context, with both nets' last biases."""

    def end(self, t: int, ending: BlockEnd) -> Map:
        """The block as it is, then the merge."""
        shortcut = ending.shortcut(ending.x)
        return self.merge(t, ending.activation(ending.norm(ending.convolved) + shortcut), shortcut)

    def merge(self, t: int, out: Map, shortcut: Map) -> Map:
        """The module's formula."""
        mechanism, self.next = self.mechanism, t + 1
        scale, shift = _scale_and_shift(cast(nn.Sequential, mechanism.branches[t])[0])
        pooled = F.adaptive_avg_pool2d(out, 1)
        value = _column(scale) * mechanism.projections[t].value.weight
        carried_scale, rest = scale * mechanism.lambdas[t], out
        if isinstance(mechanism, MRLALight):
            gate = self._gate(t, pooled)
            rest = _depthwise(shortcut, _column(carried_scale), shift) + rest
        elif _has_released_cell(mechanism):
            gate = self._gate(t, pooled)
            refreshed = self._refreshed(t, pooled, shortcut)
            rest = rest + shortcut * _depthwise(refreshed, _column(carried_scale))
            rest = self._with_kernel(shortcut, carried_scale, shift) + rest
        else:
            (heads, carried, kernel), self.state = mechanism.coefficients(
                t, pooled.flatten(1), lambda: shortcut.mean((2, 3)), self.state
            )
            gate = heads.repeat_interleave(out.shape[1] // heads.shape[1], dim=1)[..., None, None]
            rest = rest + shortcut * _depthwise(carried[..., None, None], _column(scale))
            added = shift[:, None, None] if kernel is None else _depthwise(shortcut, _column(scale) * kernel, shift)
            rest = added + rest
        return _depthwise(out * gate, value) + rest

    def _gate(self, t: int, pooled: Map) -> Map:
        """σ(q·k / √d) for every channel: a grouped convolution sums over a head and repeats the sum."""
        projection, d, channels = self.mechanism.projections[t], self.mechanism.head_channels, pooled.shape[1]
        row = pooled.flatten(2).transpose(1, 2)
        query, key = (F.conv1d(row, c.weight, padding=c.padding[0]) for c in (projection.query, projection.key))
        sums = torch.full((channels, d, 1, 1), 1 / math.sqrt(d), dtype=pooled.dtype, device=pooled.device)
        product = (query * key).transpose(1, 2).unsqueeze(3)
        return torch.sigmoid(F.conv2d(product, sums, groups=channels // d))

    def _refreshed(self, t: int, pooled: Map, shortcut: Map) -> Map:
        """Steps DLA's context; the gate that it gives the shortcut."""
        cell = cast(ReleasedDSU, cast(DLALight, self.mechanism).cell)
        if self.recalled is None:
            channels = pooled.shape[1]
            self.recalled = _recalled(cell, pooled.new_zeros(1, channels))
            i, _, candidate = _pre_activations(cell, pooled, self.recalled).chunk(3, dim=1)
            self.memory = torch.sigmoid(i) * torch.tanh(candidate)
        else:
            self.memory = dsu_update(_pre_activations(cell, pooled, self.recalled), cast(Tensor, self.memory))
        self.recalled = _recalled(cell, torch.sigmoid(self.memory))
        of_shortcut = _pre_activations(cell, F.adaptive_avg_pool2d(shortcut, 1), self.recalled)
        return torch.sigmoid(dsu_update(of_shortcut, self.memory))[..., None, None]

    def _with_kernel(self, shortcut: Map, scale: Tensor, shift: Tensor) -> Tensor:
        """DW3(s; scale ⊙ K) + δ, or δ where the stage has no kernel."""
        kernel = cast(DLALight, self.mechanism).stage_kernel
        return shift[:, None, None] if kernel is None else _depthwise(shortcut, _column(scale) * kernel, shift)


def _has_released_cell(mechanism: LightLayerAttention[Any]) -> bool:
    """Whether it is DLA-L with the cell as released, of which the formula is known here."""
    if type(mechanism) is not DLALight or mechanism.seen_context is not own_context:
        return False
    return isinstance(mechanism.cell, ReleasedDSU) and mechanism.cell.activation is torch.sigmoid


def lean_copy(model: nn.Module) -> nn.Module:
    """A copy for inference, in plain PyTorch, whose light layer attention runs by the module's formula."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    unfuse(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for stage in list(model.modules()):
        mechanism = getattr(stage, "own_mechanism", None)
        if isinstance(mechanism, LightLayerAttention) and _takes(mechanism, len(mechanism.branches)):
            cast(Any, stage).pass_type = LeanLightPass
            if isinstance(stage, GraftedStage):
                _fold_scales(stage, mechanism)
    return model


def lean_program(model: nn.Module, images: Tensor, *, dynamic: bool = False) -> ExportedProgram:
    """The graph of a network's lean copy, with normalisations and constants computed.

    Args:
        model: takes images and returns a tensor.
        images: batch × channels × height × width, as the network takes them.
        dynamic: any number of images; else as many as there are.
    """
    if dynamic and len(images) < 2:
        images = torch.cat([images, images])  # of one, a graph would be specialised to one
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    graph = torch.export.export(lean_copy(model), (images,), dynamic_shapes=shapes).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    _compute_constants(graph)
    _fold_norms(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return torch.export.export(graph, (images,), dynamic_shapes=shapes)


def _takes(mechanism: LightLayerAttention[Any], depth: int) -> bool:
    """Whether every block of the stage is as the formula has it."""
    obstacles = (FusedLightPass.block_obstacle(mechanism, t) for t in range(depth))
    return not overridden(type(mechanism), LightLayerAttention) and not any(obstacles)


def _fold_scales(stage: GraftedStage, mechanism: LightLayerAttention[Any]) -> None:
    """Out + scale ⊙ BN(z) is a normalisation with another scale and shift."""
    if stage.walk.scales is None:
        return
    for name, scale in stage.walk.scales.items():
        norm = cast(nn.Sequential, mechanism.branches[int(name)])[0]
        norm.weight.data, norm.bias.data = norm.weight.data * scale.data, norm.bias.data * scale.data
    stage.walk.scales = stage._modules["scales"] = None


def _compute_constants(graph: fx.GraphModule) -> None:
    """Replaces what depends on parameters alone by its value."""
    known: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(graph)
        elif node.op == "call_function" and not node.is_impure() and all(n in known for n in node.all_input_nodes):
            arguments = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*arguments[0], **arguments[1])
    for node, value in known.items():
        if node.op == "call_function" and isinstance(value, Tensor) and any(user not in known for user in node.users):
            node.replace_all_uses_with(_constant(graph, node, value))


def _fold_norms(graph: fx.GraphModule) -> None:
    """Folds a batch normalisation into the convolution before it, where nobody else reads that one."""
    for node in list(graph.graph.nodes):
        if node.target is not aten.batch_norm.default or node.args[0].target is not aten.conv2d.default:
            continue
        convolution, scale, shift, mean, variance, training, _, eps, *_ = node.args
        kernel, bias = [*convolution.args[1:3], None][:2]
        read: list[Any] = [
            None if n is None else _value(graph, n) for n in (kernel, bias, mean, variance, scale, shift)
        ]
        if training or len(convolution.users) > 1 or any(read[i] is None for i in (0, 2, 3)):
            continue
        folded = fuse_conv_bn_weights(read[0], read[1], read[2], read[3], eps, read[4], read[5])
        weight, bias = (_constant(graph, convolution, value.detach()) for value in folded)
        convolution.args = (convolution.args[0], weight, bias, *convolution.args[3:])
        node.replace_all_uses_with(convolution)
        graph.graph.erase_node(node)


def _value(graph: fx.GraphModule, node: fx.Node) -> Any:
    """What an attribute holds; of other nodes, None."""
    return operator.attrgetter(str(node.target))(graph) if node.op == "get_attr" else None


def _constant(graph: fx.GraphModule, before: fx.Node, value: Tensor) -> fx.Node:
    """A node that holds a value."""
    name = f"constant_{sum(1 for _ in graph.buffers())}"
    graph.register_buffer(name, value.detach().clone())
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def _pre_activations(cell: ReleasedDSU, pooled: Map, recalled: Tensor) -> Tensor:
    """The cell's z, of a pooled map and what it makes of the context."""
    squeeze, _, excite = cell.of_input
    squeezed = torch.relu(cast(nn.Linear, squeeze)(pooled.flatten(1)))
    return torch.addmm(recalled, squeezed, cast(nn.Linear, excite).weight.t())


def _recalled(cell: ReleasedDSU, hidden: Tensor) -> Tensor:
    """What the cell makes of a hidden vector, with the last bias of its other net."""
    return cell.of_hidden(hidden) + cast(nn.Linear, cell.of_input[2]).bias


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """γ and δ of a batch normalisation in evaluation."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = torch.rsqrt(norm.running_var + norm.eps) * norm.weight
    return scale, norm.bias - norm.running_mean * scale


def _column(numbers: Tensor) -> Tensor:
    """A number per channel as a depth-wise 1×1 kernel."""
    return numbers[:, None, None, None]


def _depthwise(x: Map, kernel: Tensor, bias: Tensor | None = None) -> Map:
    """Depth-wise convolution that keeps the map's size."""
    return F.conv2d(x, kernel, bias, padding=kernel.shape[2] // 2, groups=x.shape[1])
