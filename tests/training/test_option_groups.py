"""The groups that `crosslayer train --help` shows."""

import dataclasses
import re

import pytest

from crosslayer.training.launch import Launch
from crosslayer.training.option_groups import GROUPS
from crosslayer.training.recipe import flag, recipe_types


def test_every_option_is_in_one_group():
    listed = [name for names in GROUPS.values() for name in names.split()]
    fields = {field.name for part in (*recipe_types(), Launch) for field in dataclasses.fields(part)}
    assert len(listed) == len(set(listed))
    assert set(listed) == fields | {"recipe"}


@pytest.mark.parametrize("recipe", ["digits", "coco_mask"])
def test_help_shows_the_groups(crosslayer, recipe: str):
    code, out, _ = crosslayer("train", recipe, "--help")
    assert code == 0
    titles = [(match[1], match.start()) for match in re.finditer(r"^\W+(\w+) options \W+$", out, re.MULTILINE)]
    assert [title for title, _ in titles] == list(GROUPS)
    ends = [start for _, start in titles[1:]] + [len(out)]
    for (group, start), end in zip(titles, ends, strict=True):
        shown = set(re.findall(r"^\W\W(--[a-z][a-z-]*)", out[start:end], re.MULTILINE))
        assert shown <= {flag(name) for name in GROUPS[group].split()}
        assert shown
    assert "Probability of dropping the layer-attention branch" in " ".join(out.split())
