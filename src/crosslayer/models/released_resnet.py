"""The layouts in which ResNets with layer attention were released, and the models they belong to."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from crosslayer.mechanisms.layers import channel_kernel_size
from crosslayer.models.blocks import BasicBlock, Bottleneck
from crosslayer.models.resnet import ResNetShape, StemName, cifar_resnets, imagenet_resnets
from crosslayer.models.timm_registry import create_model

State = Mapping[str, Tensor]

# Where a block or its attention stands in the layouts that were released, in the order tried.
#   DLA      stages.0.layers.1.conv1   stages.0.attention.1.…   stages.0.lstm.…  stages.0.excite.…  (or layer1.layers…)
#   DIANet   layer1.ModuleList.1.conv1 layer1.lstm.…
#   MRLA-B   stages.0.1.conv1          stages.0.1.mrla.…
#   KCLA     stages.0.1.conv1          stages.0.1.kcla.…        (or layer1.layers.1.conv1  layer1.attention.1.…)
#   RLA      stages.0.1.conv1          conv_outs.0   recurrent_convs.0   stage_bns.0.1.…   bn2.…
#   others   layer1.1.conv1            layer1.1.se.…
_STAGE = re.compile(r"(?:stages\.(?P<zero>\d+)|layer(?P<one>\d+))\.(?P<rest>.+)")
_BLOCK = re.compile(r"(?:layers\.|attention\.|ModuleList\.)?(?P<block>\d+)\.(?P<rest>.+)")
_PROJECTION = r"(?:mrla\.mrla|layer_attention\.(?:layer_attention|mrla))"

_IN_BLOCK = [
    (r"(conv\d|bn\d)\.(.+)", r"blocks.{t}.\1.\2"),
    (r"downsample\.(.+)", r"blocks.{t}.shortcut.\1"),
    (r"se\.fc\.([02])\.weight", r"mechanism.gates.{t}.\1.weight"),
    (r"eca\.conv\.weight", r"mechanism.gates.{t}.weight"),
    (r"ba\.pre_fusions\.(.+)", r"mechanism.gates.{t}.inner.\1"),
    (r"ba\.cur_fusion\.(.+)", r"mechanism.gates.{t}.own.\1"),
    (r"ba\.generation\.1\.weight", r"mechanism.gates.{t}.excite.weight"),
    (r"(?:mrla|layer_attention)\.lambda_t", r"mechanism.lambdas.{t}"),
    (rf"{_PROJECTION}\.Wq\.weight", r"mechanism.projections.{t}.query.weight"),
    (rf"{_PROJECTION}\.Wk\.weight", r"mechanism.projections.{t}.key.weight"),
    (rf"{_PROJECTION}\.Wv\.weight", r"mechanism.projections.{t}.value.weight"),
    (r"(?:kcla\.)?norm_d", r"mechanism.divisors.{t}"),
    (r"(?:kcla\.)?adjust_channel\.weight", r"mechanism.transitions.{t}.projection.weight"),
    (r"(?:kcla\.)?u_bn\.(.+)", r"mechanism.transitions.{t}.norm.\1"),
    (r"(?:kcla\.)?u_Wk\.weight", r"mechanism.transitions.{t}.key.weight"),
    (r"(?:kcla\.)?Wq\.weight", r"mechanism.projections.{t}.query.weight"),
    (r"(?:kcla\.)?Wk\.weight", r"mechanism.projections.{t}.key.weight"),
    (r"(?:kcla\.)?Wv\.weight", r"mechanism.projections.{t}.value.weight"),
    (r"(?:kcla\.)?head_att\.weight", r"mechanism.mixers.{t}"),
    (r"(?:kcla\.)?bn_attention\.(.+)", r"mechanism.branches.{t}.0.\1"),
    (r"bn_(?:mrla|layer_attention)\.(.+)", r"mechanism.branches.{t}.0.\1"),
]
_IN_STAGE = [
    (r"lstm\.w_ih\.0\.seq\.([02]\.(?:weight|bias))", r"mechanism.cell.of_input.\1"),
    (r"lstm\.w_hh\.0\.seq\.([02]\.(?:weight|bias))", r"mechanism.cell.of_hidden.\1"),
    (r"(?:excite|extict)\.weight", r"mechanism.stage_kernel"),
]
_OUTSIDE = [
    (r"((?:conv1|bn1|fc)\..+)", r"\1"),
    (r"conv_outs\.(\d+)\.weight", r"stages.\1.mechanism.from_block.weight"),
    (r"recurrent_convs\.(\d+)\.weight", r"stages.\1.mechanism.recurrent.weight"),
    (r"stage_bns\.(\d+)\.(.+)", r"stages.\1.mechanism.norms.\2"),
    (r"bn2\.(.+)", r"stages.3.mechanism.last_norm.\1"),
]
_CELL_OF_GATES = {3: "released", 4: "dia"}


def translate(key: str) -> str | None:
    """A released key in this project's names, or None for one that no released layout has."""
    stage = _STAGE.fullmatch(key)
    if stage is None:
        return rename(key, _OUTSIDE)
    index = int(stage["zero"]) if stage["zero"] is not None else int(stage["one"]) - 1
    block = _BLOCK.fullmatch(stage["rest"])
    inner = (
        rename(stage["rest"], _IN_STAGE)
        if block is None
        else (name := rename(block["rest"], _IN_BLOCK)) and name.format(t=block["block"])
    )
    return inner and f"stages.{index}.{inner}"


def rename(key: str, rules: list[tuple[str, str]]) -> str | None:
    """The first rule's replacement that fits the whole key."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def reshaped(name: str, value: Tensor) -> Tensor:
    """λ is stored as c×1×1 and temperatures as 1×heads×1×1×1; here they are vectors."""
    return value.flatten() if ".lambdas." in name or ".divisors." in name else value


def build(ours: State, context: str) -> nn.Module:
    """The model that translated keys and shapes describe.

    Raises:
        ValueError: no ResNet of this project is so deep, so wide or has such a stem.
    """
    shape = _shape_of(ours)
    known = cifar_resnets() | imagenet_resnets()
    backbone = next((name for name, other in known.items() if other == shape), None)
    if backbone is None or "fc.weight" not in ours:
        stages = " / ".join(str(depth) for depth in shape.depths) or "none"
        raise ValueError(
            f"not a released ResNet: blocks per stage {stages}, widths {list(shape.widths)}, {shape.stem} stem, "
            f"{'with' if 'fc.weight' in ours else 'without'} 'fc.weight'"
        )
    mechanism, options = mechanism_of(ours, shape, context)
    return create_model(backbone, mechanism, num_classes=ours["fc.weight"].shape[0], **options)


def _shape_of(ours: State) -> ResNetShape:
    """Depths, widths, block and stem, from names and shapes."""
    found = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
    blocks = sorted((int(m[1]), int(m[2])) for key in ours if (m := found.fullmatch(key)))
    stages = sorted({stage for stage, _ in blocks})
    depths = tuple(sum(stage == other for other, _ in blocks) for stage in stages)
    widths = tuple(
        ours[f"stages.{stage}.blocks.{min(t for s, t in blocks if s == stage)}.conv1.weight"].shape[0]
        for stage in stages
    )
    block = Bottleneck if any(".conv3." in key for key in ours) else BasicBlock
    return ResNetShape(block, depths, widths, _stem_of(ours))


def _stem_of(ours: State) -> StemName:
    """The stem that the first convolutions make."""
    if "conv1.0.weight" in ours:
        return "deep"
    return "small" if "conv1.weight" in ours and ours["conv1.weight"].shape[-1] == 3 else "large"


def mechanism_of(ours: State, shape: ResNetShape, context: str) -> tuple[str, dict[str, Any]]:
    """Mechanism and options that the keys of the stages describe."""
    parts = {key.split(".mechanism.")[1].split(".")[0] for key in ours if key.startswith("stages.0.mechanism.")}
    options: dict[str, Any] = {}
    if "cell" in parts:
        options = _cell_options(ours, len(shape.depths))
    if parts == {"cell"}:
        return "dianet", options
    if "cell" in parts and "lambdas" in parts:
        return "dla_l", options | {"context": context, "stage_convolution": "stage_kernel" in parts}
    if "cell" in parts:
        return "dla_b", options | {"context": context}
    if "lambdas" in parts:
        return "mrla_l", {}
    if "divisors" in parts:
        return "kcla", {"released_parameters": True, "head_channels": head_channels(ours)}
    if "projections" in parts:
        return "mrla_b", {"head_channels": 32 if shape.stem == "small" else 16}
    if "recurrent" in parts:
        return "rla_g", {"recurrent_channels": ours["stages.0.mechanism.recurrent.weight"].shape[0]}
    return _gate_of(ours, shape) if "gates" in parts else ("none", {})


def head_channels(ours: State) -> int:
    """Channels of each head, by the number of temperatures of a block.

    Raises:
        ValueError: a first block without normalisation of its attention, or with as many heads as no channels make.
    """
    temperatures, norm = (ours.get(f"stages.0.mechanism.{name}") for name in ("divisors.0", "branches.0.0.weight"))
    if temperatures is None or norm is None or norm.numel() % max(1, temperatures.numel()):
        raise ValueError("the first block's heads do not fit its channels: 'norm_d' and 'bn_attention.weight'")
    return norm.numel() // temperatures.numel()


def _gate_of(ours: State, shape: ResNetShape) -> tuple[str, dict[str, Any]]:
    """BA, ECA or SE, by the shape of the first block's gate."""
    if "stages.0.mechanism.gates.0.excite.weight" in ours:
        channels, squeezed = ours["stages.0.mechanism.gates.0.excite.weight"].shape
        return "ba", {"reduction": channels // squeezed}
    kernels = [ours.get(f"stages.{stage}.mechanism.gates.0.weight") for stage in range(len(shape.depths))]
    if kernels[0] is None:
        squeezed, channels = ours["stages.0.mechanism.gates.0.0.weight"].shape
        return "se", {"reduction": channels // squeezed}
    sizes = tuple(kernel.shape[-1] for kernel in kernels if kernel is not None)
    ruled = tuple(channel_kernel_size(width * shape.block.expansion) for width in shape.widths)
    return "eca", {} if sizes == ruled else {"kernel_sizes": sizes}


def _cell_options(ours: State, stages: int) -> dict[str, Any]:
    """Form and reduction of the cells.

    Raises:
        ValueError: cells that were not released, or squeezes that no one reduction explains.
    """
    squeezes = [ours[f"stages.{stage}.mechanism.cell.of_input.0.weight"].shape for stage in range(stages)]
    channels = squeezes[0][1]
    gates = ours["stages.0.mechanism.cell.of_input.2.weight"].shape[0] // channels
    if gates not in _CELL_OF_GATES:
        raise ValueError(
            f"a cell with {gates} gates is none that was released (3: DSU, 4: DIA): 'lstm.w_ih.0.seq.2.weight'"
        )
    reductions = [r for r in range(1, channels + 1) if all(max(1, c // r) == small for small, c in squeezes)]
    if not reductions:
        sizes = ", ".join(f"{c} to {small}" for small, c in squeezes)
        raise ValueError(f"the cells squeeze {sizes} channels: no one reduction does: 'lstm.w_ih.0.seq.0.weight'")
    return {"cell": _CELL_OF_GATES[gates], "reduction": reductions[0]}
