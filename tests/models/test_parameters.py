"""Parameter counts of the paper's Tables 1 and 2, to its printed digits."""

import pytest
import torch

from crosslayer import create_model
from crosslayer.models.profile import profile_model
from crosslayer.reports.paper import TABLE_1, TABLE_2, UNIT, PaperRow
from crosslayer.reports.paper_sizes import measure, prints_as
from tests.mechanisms.hosts import RESNET_MECHANISMS

pytestmark = pytest.mark.sampled(3)

# Why these differ: docs/parameters.md
DIFFERENT = {
    ("cifar_resnet56", "dla_l", 100),
    ("resnet50", "a2", 1000),
    ("resnet50", "aa", 1000),
    ("resnet50", "gc", 1000),
    ("resnet101", "aa", 1000),
}
OTHER_MACS = {
    (50, "cbam"),
    (50, "a2"),
    (50, "aa"),
    (50, "gc"),
    (50, "mrla_l"),
    (50, "dla_l"),
    (101, "cbam"),
    (101, "aa"),
    (101, "rla_g"),
    (101, "dla_l"),
}


def name_of(row: PaperRow) -> str:
    return f"{row.backbone}-{row.mechanism}-{row.num_classes}"


def test_the_tables_are_whole():
    assert len(TABLE_1) == 40
    assert len(TABLE_2) == 19


@pytest.mark.parametrize("row", [*TABLE_1, *TABLE_2], ids=name_of)
def test_sizes_of_the_paper(row: PaperRow):
    with torch.device("meta"):
        model = create_model(row.backbone, row.mechanism, num_classes=row.num_classes, **row.options)
    count = sum(p.numel() for p in model.parameters())
    agrees = (row.backbone, row.mechanism, row.num_classes) not in DIFFERENT
    assert prints_as(count / 1e6, row.parameters) == agrees, f"{count} parameters, the paper prints {row.parameters}"
    if not row.original:
        return
    assert prints_as(float(row.original) * UNIT, row.parameters)
    if row.mechanism == "a2":  # counted with running statistics
        buffers = model.named_buffers()
        count += sum(b.numel() for name, b in buffers if not name.endswith("num_batches_tracked"))
    assert prints_as(count / 1e6, row.original), f"{count} parameters, its own paper prints {row.original}"


@pytest.mark.parametrize(
    ("backbone", "classes", "published"),
    [
        ("cifar_resnet20", 100, 258637),
        ("cifar_resnet29", 100, 356691),
        ("cifar_resnet56", 100, 650853),
        ("cifar_resnet110", 100, 1239177),
        ("resnet50", 1000, 25859078),
        ("resnet101", 1000, 45082309),
    ],
)
def test_sizes_of_kcla(backbone: str, classes: int, published: int):
    """As released; without what the released models store in vain, only the frozen parameters are missing."""
    with torch.device("meta"):
        plain = create_model(backbone, "kcla", num_classes=classes)
        released = create_model(backbone, "kcla", num_classes=classes, released_parameters=True)
    assert sum(p.numel() for p in released.parameters()) == published
    learned = {name: p.shape for name, p in released.named_parameters() if p.requires_grad}
    assert learned == {name: p.shape for name, p in plain.named_parameters()}


@pytest.mark.parametrize("row", [row for row in TABLE_2 if row.macs], ids=name_of)
def test_multiply_accumulates_of_the_paper(row: PaperRow):
    depth = int(row.backbone.removeprefix("resnet"))
    assert measure(row).macs_agree == ((depth, row.mechanism) not in OTHER_MACS)


def test_profile_adds_up():
    profile = profile_model(create_model("cifar_resnet20", "dla_l", num_classes=10))
    assert profile.total.parameters == sum(part.parameters for part in profile.parts) == 410158
    assert profile.total.macs == sum(part.macs for part in profile.parts)
    stem, *_, classifier = profile.parts
    assert stem.macs == 3 * 16 * 9 * 32 * 32
    assert classifier.macs == 256 * 10


@pytest.mark.parametrize("mechanism", RESNET_MECHANISMS)
def test_every_mechanism_is_profiled_and_left_as_it_was(mechanism: str):
    model = create_model("cifar_resnet20", mechanism, num_classes=10)
    model.fc.bias.requires_grad_(False)
    profile = profile_model(model, 16)
    assert profile.total.parameters == sum(p.numel() for p in model.parameters())
    assert profile.total.macs == sum(part.macs for part in profile.parts) > 0
    assert model.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["fc.bias"]
