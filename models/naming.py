"""Weights of vision transformers under the names of Hugging Face's transformers, given those of timm.

The pairs are those of transformers' own converters, `convert_vit_timm_to_pytorch.py` and
`convert_dinov2_to_hf.py`, read backwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from coverslip.extras import require

if TYPE_CHECKING:
    import torch

PAIRS = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
FOREIGN = ("embeddings.", "vit.", "dinov2.")
# Of the task the network was trained by; features do not pass through them.
LEFT_OUT = re.compile(r"^(mask_token$|pooler\.|classifier\.)")


def to_timm(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same numbers under timm's names; a file that has these already is left as it is."""
    if not any(name.startswith(FOREIGN) for name in weights):
        return dict(weights)
    renamed = {_rename(name): value for name, value in weights.items()}
    kept = {name: value for name, value in renamed.items() if not LEFT_OUT.match(name)}
    return _without_class_position(_with_joined_heads(kept))


def _rename(name: str) -> str:
    for pattern, replacement in PAIRS:
        name = re.sub(pattern, replacement, name)
    return name


def _with_joined_heads(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value, in this order, are one matrix in timm."""
    joined = {}
    for name, value in weights.items():
        place = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(weight|bias)", name)
        if place is None:
            joined[name] = value
        elif place[2] == "query":
            parts = [weights[f"{place[1]}.{part}.{place[3]}"] for part in ("query", "key", "value")]
            joined[f"{place[1]}.qkv.{place[3]}"] = require("torch").cat(parts)
    return joined


def _without_class_position(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's networks with registers add positions to patches only: that of the class token goes into it."""
    if "reg_token" in weights:
        position = weights["pos_embed"]
        weights["cls_token"] = weights["cls_token"] + position[:, :1]
        weights["pos_embed"] = position[:, 1:]
    return weights
