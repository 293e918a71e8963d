"""What mechanisms say of themselves in `crosslayer list --papers` is what they are."""

import pytest
import torch

from crosslayer import create_model, list_mechanisms
from crosslayer.mechanisms import StageShape, lookup
from crosslayer.mechanisms.layers import channel_kernel_size
from crosslayer.mechanisms.registry import Paper
from tests.mechanisms.hosts import RESNET_MECHANISMS

PAPERS: dict[str, Paper] = {name: paper for name in list_mechanisms() if (paper := lookup(name).paper)}


def test_all_but_the_plain_network_have_a_paper():
    assert {"attnres", "dla_l", "eca", "hc", "mrla_b", "se"} <= PAPERS.keys()
    assert "none" not in PAPERS
    assert [name for name, paper in PAPERS.items() if not paper.block] == ["aa"], "it exchanges a convolution"


@pytest.mark.parametrize("name", [name for name, paper in PAPERS.items() if paper.block])
def test_parameters_are_the_formulas(name: str):
    paper, registration = PAPERS[name], lookup(name)
    for depth, c in ((2, 256), (5, 128)):
        shape = StageShape(2, depth, c, (c // 4, c // 4))
        mechanism = registration.mechanism(shape, registration.config())
        letters = {"c": c, "k": channel_kernel_size(c), "T": depth}
        expected = depth * eval(paper.block, letters) + eval(paper.stage, letters)
        assert sum(parameter.numel() for parameter in mechanism.parameters()) == expected


@pytest.mark.parametrize("name", PAPERS)
def test_a_fresh_network_is_the_plain_one_where_it_says_so(name: str):
    torch.manual_seed(0)
    backbone = "cifar_resnet29" if name in RESNET_MECHANISMS else "deit_tiny"
    plain = create_model(backbone, num_classes=3).eval()
    model = create_model(backbone, name, num_classes=3).eval()
    own = model.state_dict()
    same = {key: value for key, value in plain.state_dict().items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(same, strict=False)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x)) == lookup(name).mechanism.starts_as_identity
