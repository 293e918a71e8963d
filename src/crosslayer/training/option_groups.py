"""The options of `crosslayer train` in the groups that its help shows: a recipe's fields, and those of a launch."""

import ast
import dataclasses
import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import tyro

from crosslayer.options import parse_options

GROUPS = {
    "data": """data val_split image_size max_size multi_scale crop pad crop_scale jitter flip rand_augment
        random_erasing interpolation eval_size eval_crop mixup cutmix keep_empty workers loader""",
    "network": """backbone detector pyramid_channels graft pretrained weights frozen_stages freeze_norm dropout
        stochastic_depth channels_last fused compile""",
    "mechanism": "mechanism options drop_path",
    "optimisation": """epochs max_steps patience batch_size accumulate optimizer lr graft_lr schedule milestones
        decay_epochs decay_rate warmup_epochs warmup_steps momentum nesterov weight_decay decay_vectors label_smoothing
        ema freeze_epochs precision seed""",
    "run": "recipe output overwrite resume device save_steps log_with log_steps",
}
"""Fields of all recipes, of a launch and of the command, in the order of the help."""


def parse_groups(defaults: Sequence[Any], words: list[str], prog: str, description: str) -> list[Any]:
    """Some dataclasses' instances with the values that the words say.

    Raises:
        SystemExit: a word that is no option or no value of one; or help was asked for.
        UsageError: a value that its field cannot have.
    """
    values = {field.name: getattr(part, field.name) for part in defaults for field in dataclasses.fields(part)}
    typed = {field.name: field.type for part in defaults for field in dataclasses.fields(part)}
    said = {name: text for part in defaults for name, text in _texts(type(part)).items()}
    groups: dict[str, Any] = {}
    for group, listed in GROUPS.items():
        names = [name for name in listed.split() if name in values]
        fields = [(name, Annotated[typed[name], tyro.conf.arg(help=said[name])]) for name in names]
        kind = dataclasses.make_dataclass(group, fields, frozen=True, namespace={"__doc__": ""})
        groups[group] = kind(**{name: values[name] for name in names})
    every = dataclasses.make_dataclass("Options", [(group, type(part)) for group, part in groups.items()])
    parsed = parse_options(
        tyro.conf.OmitArgPrefixes[every], words, prog, default=every(**groups), description=description
    )
    for group in groups:
        values |= vars(getattr(parsed, group))
    return [
        dataclasses.replace(part, **{field.name: values[field.name] for field in dataclasses.fields(part)})
        for part in defaults
    ]


def _texts(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass, and of those it comes from."""
    texts: dict[str, str] = {}
    for part in reversed(kind.__mro__[:-1]):  # all but `object`
        (written,) = ast.parse(inspect.getsource(part)).body
        assert isinstance(written, ast.ClassDef)
        for field, below in pairwise(written.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(field.target, ast.Name)
                texts[field.target.id] = str(ast.literal_eval(below.value))
    return texts
