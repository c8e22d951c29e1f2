"""How the figures of a tile come from a network: its class token, the mean of its patches, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from coverslip.extras import require

if TYPE_CHECKING:
    import torch

# "own": what timm's network itself gives to its classifier; for all that are no plain vision transformers.
Pooling: TypeAlias = Literal["cls", "mean", "cls+mean", "own"]


def pool(network: torch.nn.Module, batch: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Features (n, features) of a normalised batch (n, 3, h, w).

    Tokens are those after the last norm: the class token first, then registers, which hold nothing of the
    image and are left out of the mean, then the patches.
    """
    tokens = network.forward_features(batch)  # type: ignore[operator]
    if pooling == "own":
        return network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
    first, patches = tokens[:, 0], tokens[:, network.num_prefix_tokens :]  # type: ignore[misc]
    if pooling == "cls":
        return first
    mean = patches.mean(dim=1)
    return mean if pooling == "mean" else require("torch").cat([first, mean], dim=1)
