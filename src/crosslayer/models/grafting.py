"""A mechanism added to a network built elsewhere: any of timm whose stages repeat a shape."""

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from crosslayer.mechanisms import Mechanism, NetworkMechanism, StageShape
from crosslayer.mechanisms.depth_pass import capture_states
from crosslayer.mechanisms.interface import HOOKS, overrides
from crosslayer.models.blocks import MechanismFactory
from crosslayer.models.factory import mechanism_factory
from crosslayer.models.grafted_stage import GraftedStage, PatchesHook, check_hooks
from crosslayer.models.layouts import Grid
from crosslayer.models.match_stages import StageMatch, first_pass, match_stages
from crosslayer.models.read_layout import StageLayout, Told, read_layout
from crosslayer.models.saved_method import SavePretrained
from crosslayer.models.vit import LayerAttentionViT
from crosslayer.models.walk import Walk

StartName = Literal["identity", "published"]
GRAFT = "crosslayer_graft"
"""What timm knows any graft by; its arguments say of what on what."""
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


def graft(
    model: nn.Module,
    mechanism: str,
    *,
    start: StartName = "identity",
    grid: Grid | None = None,
    prefix_tokens: int | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of a network with a mechanism in every stage whose blocks repeat a shape.

    The stages are found by watching one pass of an image. The copy keeps the original's methods and the names of its
    parameters; each stage has new ones under `mechanism` and `scales`. Its attribute `attachments` lists what was
    attached where, which is also logged.

    Args:
        model: a network that is called with images, or a part of one: of timm, torchvision, Hugging Face, …
        mechanism: one of `list_mechanisms()`.
        start: `identity`: a scale per block and channel, zero at first, weighs what the mechanism changes, so that the
            copy's outputs in evaluation mode equal the original's to the bit (a mechanism that starts as identity by
            itself has none); `published`: no scale, the mechanism acts as in a network of its own.
        grid: height and width, in tokens, of the map that a transformer's tokens make, where it cannot be read.
        prefix_tokens: how many tokens stand before the map's and are no part of it (class token, registers), where the
            network does not say it as `num_prefix_tokens`.
        options: the mechanism's own, as `crosslayer list` prints them.

    Raises:
        ValueError: an unknown mechanism or option; a network where nothing repeats or that has a mechanism already; a
            mechanism that needs more of a block than its input and output and, where it is timm's, its attention;
            tokens that make no map as far as is known.
    """
    told = Told(grid, prefix_tokens)
    told.check()
    build = mechanism_factory(mechanism, options)
    if start not in ("identity", "published"):
        raise ValueError(f"start is {start!r}; it is one of identity, published")
    if any(isinstance(module, Mechanism) for module in model.modules()):
        raise ValueError("the network has a mechanism already; graft onto the plain network")
    grafted = copy.deepcopy(model)
    training = grafted.training
    image, calls = first_pass(grafted.eval())
    matches = match_stages(grafted, calls)
    if not matches:
        raise ValueError(f"nothing repeats in {type(model).__name__}: no two blocks of one shape follow each other")
    _check_mechanism(build, len(matches))
    layouts = [read_layout(grafted, match, calls, told) for match in matches]
    if told != Told() and all(len(match.shape) == 4 for match in matches):
        raise ValueError(f"grid and prefix_tokens are for tokens, and {type(model).__name__} has maps")
    stages = _attach(grafted, matches, layouts, build, identity=start == "identity")
    looking_back = _look_back(grafted, stages, image)
    if start == "identity":
        _check_identity(type(model).__name__, calls[grafted][0].output, looking_back)
    attachments = [
        Attachment(path, len(stage), stage.channels, mechanism)
        for path, stage in stages.items()
        if any(stage.walk.mechanism.acts_on(t) for t in range(len(stage)))
    ]
    vars(grafted)["attachments"] = attachments
    if not attachments and any(overrides(build.kind, hook) for hook in HOOKS):
        log.warning("%s acts on no block of %s: its stages are too short for it", mechanism, type(model).__name__)
    said = {"grid": grid, "prefix_tokens": prefix_tokens}
    said = {name: value for name, value in said.items() if value is not None}
    _describe(grafted, {"mechanism": mechanism, "start": start, **said, "options": options})
    for attachment in attachments:
        log.info("%s", attachment)
    return grafted.train(training)


def _describe(grafted: nn.Module, graft_args: dict[str, Any]) -> None:
    """Gives the copy the method `save_pretrained`, and in timm's way the name and arguments that build it again.

    A network's own `save_pretrained` stays. What timm knew of the plain network would build that one. Where timm did
    not make it, nothing is known.
    """
    if not hasattr(type(grafted), "save_pretrained"):
        vars(grafted)["save_pretrained"] = partial(SavePretrained.save_pretrained, grafted)  # pyright: ignore[reportArgumentType]
    known, arguments = vars(grafted).get("pretrained_cfg"), vars(grafted).get("_model_args")
    if not isinstance(known, Mapping) or "architecture" not in known:
        return
    described = {key: value for key, value in known.items() if key != "architecture"}
    if arguments is not None:
        described["architecture"] = GRAFT
        vars(grafted)["_model_args"] = {**arguments, "backbone": known["architecture"], **graft_args}
    vars(grafted)["pretrained_cfg"] = vars(grafted)["default_cfg"] = described


default_cfgs = generate_default_cfgs({GRAFT: {"num_classes": 1000}})


@register_model
def crosslayer_graft(
    pretrained: bool = False,
    *,
    backbone: str,
    mechanism: str,
    start: StartName = "identity",
    grid: Grid | None = None,
    prefix_tokens: int | None = None,
    options: dict[str, Any] | None = None,
    features_only: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """A network of timm's with a mechanism grafted on, by what saved ones say of themselves."""

    def build(**kwargs: Any) -> nn.Module:
        if features_only:
            kwargs["features_only"] = True
        plain = timm.create_model(backbone, **kwargs)
        chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in (options or {}).items()}
        return graft(plain, mechanism, start=start, grid=grid, prefix_tokens=prefix_tokens, **chosen)

    return build_model_with_cfg(
        build, GRAFT, pretrained, pretrained_cfg, pretrained_cfg_overlay, cache_dir=cache_dir, **kwargs
    )


def _check_mechanism(build: MechanismFactory, stages: int) -> None:
    """Raises ValueError, naming the hook, for a mechanism that a network built elsewhere cannot honour."""
    kind = build.kind
    check_hooks(kind, "a network built elsewhere")
    if issubclass(kind, NetworkMechanism) or (stages > 1 and overrides(kind, "finish") and not kind.stands_alone):
        hook = "lives once in a network" if issubclass(kind, NetworkMechanism) else "hands on between stages (finish)"
        raise ValueError(
            f"{kind.__name__} {hook}, and the stages of a network built elsewhere are not linked; use it in "
            "crosslayer's own networks, or graft it where all blocks are one stage (a ViT)"
        )


def _attach(
    model: nn.Module,
    matches: Sequence[StageMatch],
    layouts: Sequence[StageLayout],
    build: MechanismFactory,
    *,
    identity: bool,
) -> dict[str, GraftedStage]:
    """Puts a grafted stage in the place of every module whose blocks repeat; returns them by path."""
    last = len(matches) - 1
    shapes = [
        StageShape(index, len(match.names), found.channels, last=index == last, layout=found.layout.kind)
        for index, (match, found) in enumerate(zip(matches, layouts, strict=True))
    ]
    mechanism_of = build.of(shapes)
    stages: dict[str, GraftedStage] = {}
    for shape, match, found in zip(shapes, matches, layouts, strict=True):
        mechanism = mechanism_of(shape.index)
        scales = _idle_scales(mechanism, shape) if identity and not _is_identity(mechanism) else None
        if scales is not None and mechanism.starts_as_identity:
            log.warning(
                "%s starts as identity up to rounding; the graft's idle scales make that exact and keep it from "
                "learning: graft it with start='published'",
                type(mechanism).__name__,
            )
        walk = Walk(mechanism, found.layout, match.keeps_shape, scales, told=found.told)
        stages[match.path] = _put(model, match, found, walk)
    return stages


def _put(model: nn.Module, match: StageMatch, found: StageLayout, walk: Walk) -> GraftedStage:
    """Puts a stage with the walk's mechanism in the place of the matched module, on its device and of its type."""
    like = next(model.parameters())
    owner, _, name = match.path.rpartition(".")
    holder = model.get_submodule(owner)
    blocks = {block: model.get_submodule(f"{match.path}.{block}") for block in match.names}
    stage = GraftedStage(blocks, walk, found.channels).to(like.device, like.dtype)
    setattr(holder, name, stage)
    if found.patches is not None:
        found.patches.register_forward_hook(PatchesHook(walk))
    if type(holder) is VisionTransformer:
        holder.__class__ = LayerAttentionViT  # so that its stage is told the size of each image's map
    return stage


def _is_identity(mechanism: Mechanism[Any]) -> bool:
    """Whether it starts as identity to the bit: closed blocks are taken apart and added again for `read` and `join`."""
    return mechanism.starts_as_identity and not any(overrides(mechanism, hook) for hook in ("read", "join"))


def _idle_scales(mechanism: Mechanism[Any], shape: StageShape) -> nn.ParameterDict:
    """A zero per channel for every block that the mechanism acts on."""
    return nn.ParameterDict({str(t): torch.zeros(shape.channels) for t in range(shape.depth) if mechanism.acts_on(t)})


def _look_back(model: nn.Module, stages: dict[str, GraftedStage], image: Tensor) -> Any:
    """What the network makes of an image.

    Raises:
        ValueError: a stage did not look back meanwhile.
    """
    with torch.no_grad(), capture_states() as captured:
        outputs = model(image)
    reached = {mechanism for mechanism, _ in captured}
    missed = [path for path, stage in stages.items() if stage.walk.mechanism not in reached]
    if missed:
        raise ValueError(
            f"{type(model).__name__} reaches into {missed[0]} past its stage; nothing can be grafted there"
        )
    return outputs


def _check_identity(name: str, plain: Any, grafted: Any) -> None:
    """Raises ValueError unless the network's outputs with and without the graft are equal."""
    pairs = zip(pytree.tree_leaves(plain), pytree.tree_leaves(grafted), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor)):
        raise ValueError(f"{name} gives other outputs with a graft that is to change nothing yet; it cannot be grafted")


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
    new = {id(parameter) for module in _new_modules(model) for parameter in module.parameters()}
    ours = [parameter for parameter in model.parameters() if id(parameter) in new]
    theirs = [parameter for parameter in model.parameters() if id(parameter) not in new]
    rate = lr if graft_lr is None else graft_lr
    return [
        {"params": theirs, "lr": lr, "weight_decay": weight_decay, "name": "backbone"},
        {"params": ours, "lr": rate, "weight_decay": weight_decay, "name": "graft"},
    ]


def _new_modules(model: nn.Module) -> list[nn.Module]:
    """Mechanisms, scales and classifier."""
    stages = [module for module in model.modules() if isinstance(module, GraftedStage)]
    parts = [part for stage in stages for part in (stage.walk.mechanism, stage.walk.scales) if part is not None]
    classifier = getattr(model, "get_classifier", nn.Identity)()
    heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]  # one, or with a distillation head
    return [*parts, *(head for head in heads if isinstance(head, nn.Module))]
