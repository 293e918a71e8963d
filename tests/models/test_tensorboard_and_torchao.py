"""TensorBoard draws plain networks, and torchao computes them in int8."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from tests.models.test_tools import deprecated, network


@pytest.mark.compiled
@deprecated
@pytest.mark.parametrize("mechanism", ["none", "se", "dla_l", "dla_b", "mrla_l", "mrla_b"])
def test_tensorboard_draws_the_graph(mechanism: str, tmp_path: Path):
    model = network(mechanism).eval()
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(model, torch.randn(1, 3, 16, 16))
    nodes = EventAccumulator(str(tmp_path)).Reload().Graph().node
    for part in ("stages", "fc"):
        assert any(f"[{part}]" in node.name for node in nodes)


@pytest.mark.parametrize("backbone", ["cifar_resnet20", "deit_tiny"])
@pytest.mark.parametrize("mechanism", ["none", "dla_l", "dla_b", "mrla_b"])
@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
@pytest.mark.filterwarnings("ignore:::torchao")
def test_int8_of_torchao_computes_nearly_the_same(backbone: str, mechanism: str, config: str):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao (the extra quantize) is not installed")
    options = {"img_size": 32} if backbone == "deit_tiny" else {}
    model, x = network(mechanism, backbone, **options).eval(), torch.randn(4, 3, 32, 32)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    with torch.no_grad():
        expected = model(x)
        quantization.quantize_(model, getattr(quantization, config)())
        out = model(x)
    changed = {name for name in linear if type(model.get_submodule(name).weight) is not nn.Parameter}
    assert "fc" in changed or "head" in changed
    assert 0 < float((out - expected).abs().max() / expected.abs().max()) < 0.05
