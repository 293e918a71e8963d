"""A mechanism added to a network built elsewhere: any of timm whose stages repeat a shape."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from crosslayer.mechanisms import Mechanism, StageShape
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.finished_states import finished_states
from crosslayer.models.grafted_stage import GraftedStage
from crosslayer.models.layouts import ChannelsFirst, ChannelsLast, Layout, TokenRows
from crosslayer.models.repeats import Repeat, find_repeats, watch
from crosslayer.models.stage import MechanismFactory
from crosslayer.models.vit import LookingBackTransformer

StartName = Literal["identity", "published"]
log = logging.getLogger(__name__)


class Attachment(NamedTuple):
    """What was attached where."""

    path: str
    """The stage's name in the network."""
    blocks: int
    channels: int
    mechanism: str

    def __str__(self) -> str:
        return f"{self.mechanism} on {self.path}: {self.blocks} blocks, {self.channels} channels"


def graft(model: nn.Module, mechanism: str, *, start: StartName = "identity", **options: Any) -> nn.Module:
    """A copy of a network with a mechanism in every stage whose blocks repeat a shape.

    The stages are found by watching one pass of an image. The copy keeps the original's methods and the names of its
    parameters; each stage has new ones under `mechanism` and `scales`. Its attribute `attachments` lists what was
    attached where, which is also logged.

    Args:
        model: a classification network of timm, or one built alike.
        mechanism: one of `list_mechanisms()`.
        start: `identity`: a scale per block and channel, zero at first, weighs what the mechanism changes, so that the
            copy's outputs in evaluation mode equal the original's to the bit; `published`: no scale, the mechanism acts
            as in a network of its own.
        options: the mechanism's own, as `crosslayer list` prints them.

    Raises:
        ValueError: an unknown mechanism or option; a network where nothing repeats or that has a mechanism already; a
            mechanism that needs more of a block than its input and output.
    """
    build = mechanism_factory(mechanism, options)
    if start not in ("identity", "published"):
        raise ValueError(f"start is {start!r}; it is one of identity, published")
    if any(isinstance(module, Mechanism) for module in model.modules()):
        raise ValueError("the network has a mechanism already; graft onto the plain network")
    grafted = copy.deepcopy(model)
    training = grafted.training
    image = example_image(grafted.eval())
    calls = watch(grafted, image)
    repeats = find_repeats(grafted, calls)
    if not repeats:
        raise ValueError(f"nothing repeats in {type(model).__name__}: no two blocks of one shape follow each other")
    stages = attach(grafted, repeats, build, identity=start == "identity")
    looking_back = look_back(grafted, stages, image)
    if start == "identity":
        check_identity(type(model).__name__, calls[grafted][0].returned, looking_back)
    attachments = [
        Attachment(path, len(stage), stage.channels, mechanism)
        for path, stage in stages.items()
        if any(stage.mechanism.acts_on(t) for t in range(len(stage)))
    ]
    vars(grafted)["attachments"] = attachments
    for attachment in attachments:
        log.info("%s", attachment)
    return grafted.train(training)


def attach(
    model: nn.Module, repeats: Sequence[Repeat], build: MechanismFactory, *, identity: bool
) -> dict[str, GraftedStage]:
    """Puts a grafted stage in the place of every module whose blocks repeat; returns them by path."""
    stages: dict[str, GraftedStage] = {}
    like = next(model.parameters())
    for index, repeat in enumerate(repeats):
        owner = model.get_submodule(repeat.path.rpartition(".")[0])
        layout, channels = layout_of(owner, repeat.shape)
        last = index == len(repeats) - 1
        shape = StageShape(index, len(repeat.names), channels, (channels,), last, layout=layout.kind)
        mechanism = build(shape)
        scales = idle_scales(mechanism, shape) if identity else None
        blocks = {block: model.get_submodule(f"{repeat.path}.{block}") for block in repeat.names}
        stage = GraftedStage(blocks, repeat.keeps_shape, mechanism, layout, scales, channels)
        setattr(owner, repeat.path.rpartition(".")[2], stage.to(like.device, like.dtype))
        if type(owner) is VisionTransformer:
            owner.__class__ = LookingBackTransformer  # so that its stage is told the size of each image's map
        stages[repeat.path] = stage
    return stages


def idle_scales(mechanism: Mechanism[Any], shape: StageShape) -> nn.ParameterDict:
    """A zero per channel for every block that the mechanism acts on."""
    return nn.ParameterDict({str(t): torch.zeros(shape.channels) for t in range(shape.depth) if mechanism.acts_on(t)})


def layout_of(owner: nn.Module, shape: tuple[int, ...]) -> tuple[Layout, int]:
    """How activations of this shape (one image's) are laid out, and their channels.

    Raises:
        ValueError: they are neither maps nor tokens that make a map.
    """
    if len(shape) == 4:
        last = shape[1] == shape[2] != shape[3] or (shape[1] == shape[3] and output_format(owner) == "NHWC")
        return (ChannelsLast(), shape[3]) if last else (ChannelsFirst(), shape[1])
    grid: Any = next((child.grid_size for child in owner.children() if hasattr(child, "grid_size")), None)
    prefix = getattr(owner, "num_prefix_tokens", 0)
    if len(shape) != 3 or grid is None or shape[1] != prefix + grid[0] * grid[1]:
        raise ValueError(f"blocks of {type(owner).__name__} give tensors of shape {shape}, which are no maps")
    return TokenRows(prefix, grid), shape[2]


def output_format(owner: nn.Module) -> str:
    """The order of axes that a network of timm says it has."""
    return getattr(owner, "output_fmt", "NCHW")


def look_back(model: nn.Module, stages: dict[str, GraftedStage], image: Tensor) -> Any:
    """What the network makes of an image.

    Raises:
        ValueError: a stage did not look back meanwhile.
    """
    with torch.no_grad(), finished_states(model) as finished:
        outputs = model(image)
    reached = {mechanism for mechanism, _ in finished}
    missed = [path for path, stage in stages.items() if stage.mechanism not in reached]
    if missed:
        raise ValueError(
            f"{type(model).__name__} reaches into {missed[0]} past its stage; nothing can be grafted there"
        )
    return outputs


def check_identity(name: str, plain: Any, grafted: Any) -> None:
    """Raises ValueError unless the network's outputs with and without the graft are equal."""
    pairs = zip(pytree.tree_leaves(plain), pytree.tree_leaves(grafted), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise ValueError(f"{name} gives other outputs with idle scales; this network cannot be grafted")


def example_image(model: nn.Module) -> Tensor:
    """Noise of the size and with the channels that the network is made for."""
    weights = next(model.parameters())
    patches = next((m for m in model.modules() if hasattr(m, "grid_size") and hasattr(m, "img_size")), None)
    side = getattr(patches, "img_size", None) or (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    height, width = side[-2:] if side else (224, 224)
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None:
        raise ValueError(f"nothing repeats in {type(model).__name__} that an image passes through: no convolution")
    noise = torch.rand(1, convolution.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return noise.to(weights.device, weights.dtype)


def param_groups(
    model: nn.Module, lr: float, graft_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer: what was pretrained, and what is new.

    Args:
        model: a grafted network, or a plain one of timm.
        lr: learning rate of the backbone.
        graft_lr: learning rate of mechanisms, their scales and the classifier; absent, the same.
        weight_decay: on every parameter.

    Returns:
        Two groups named `backbone` and `graft`, each with `params`, `lr`, `weight_decay` and `name`.
    """
    new = {id(parameter) for module in new_modules(model) for parameter in module.parameters()}
    ours = [parameter for parameter in model.parameters() if id(parameter) in new]
    theirs = [parameter for parameter in model.parameters() if id(parameter) not in new]
    rate = lr if graft_lr is None else graft_lr
    return [
        {"params": theirs, "lr": lr, "weight_decay": weight_decay, "name": "backbone"},
        {"params": ours, "lr": rate, "weight_decay": weight_decay, "name": "graft"},
    ]


def new_modules(model: nn.Module) -> list[nn.Module]:
    """Mechanisms, scales and classifier."""
    stages = [module for module in model.modules() if isinstance(module, GraftedStage)]
    parts = [part for stage in stages for part in (stage.mechanism, stage.scales) if part is not None]
    classifier = getattr(model, "get_classifier", nn.Identity)()
    heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]  # one, or with a distillation head
    return [*parts, *(head for head in heads if isinstance(head, nn.Module))]
