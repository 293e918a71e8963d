"""DeiT with MRLA, as released: plain DeiT keys, and the mechanism's inside each block."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from crosslayer.models.factory import DEIT_WIDTHS
from crosslayer.models.timm_registry import create_model

_OURS = {
    "normx": "norms.{t}",
    "normo": "shortcut_norms.{t}",
    "mrla.Wq": "projections.{t}.query",
    "mrla.Wk": "projections.{t}.key",
    "mrla.Wv": "projections.{t}.value",
}
_PLAIN = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\..+|norm\..+|head\..+"
    r"|blocks\.\d+\.(?:norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.(?:weight|bias)"
)
_ATTENTION = re.compile(r"blocks\.(?P<t>\d+)\.mrla\.(?P<part>normx|normo|mrla\.W[qkv])\.(?P<what>weight|bias)")
_LAMBDA = re.compile(r"blocks\.(\d+)\.mrla\.lambda_t")


def translate(key: str) -> str | None:
    """A released key in this project's names, or None for one that no released layout has."""
    if _PLAIN.fullmatch(key):
        return key
    if match := _LAMBDA.fullmatch(key):
        return f"blocks.mechanism.lambdas.{match[1]}"
    match = _ATTENTION.fullmatch(key)
    return match and f"blocks.mechanism.{_OURS[match['part']].format(t=match['t'])}.{match['what']}"


def reshaped(_name: str, value: Tensor) -> Tensor:
    """Every tensor has the shape it has here."""
    return value


def build(ours: Mapping[str, Tensor], _context: str) -> nn.Module:
    """The DeiT that translated keys and shapes describe.

    Raises:
        ValueError: no DeiT is so wide, or there is no classifier.
    """
    if "cls_token" not in ours or "head.weight" not in ours:
        raise ValueError("not a released DeiT: there is no 'cls_token' or no 'head.weight'")
    width = ours["cls_token"].shape[-1]
    backbone = next((name for name, other in DEIT_WIDTHS.items() if other == width), None)
    if backbone is None:
        raise ValueError(f"not a released DeiT: 'cls_token' has {width} channels, not 192, 384 or 768")
    parts = {key.split(".")[2] for key in ours if key.startswith("blocks.mechanism.")}
    mechanism = "mrla_l" if "lambdas" in parts else "mrla_b" if "projections" in parts else "none"
    return create_model(backbone, mechanism, num_classes=ours["head.weight"].shape[0])
