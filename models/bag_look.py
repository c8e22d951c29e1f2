"""What an aggregator makes of a bag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class BagLook:
    """`logits`: (classes,). `attention`: (n,), each tile's weight, at least 0, together 1.

    `tiles`: (n, width), what the tiles became before they were weighed, or (n, classes), their own logits
    where the network gives each its own call.
    """

    logits: torch.Tensor
    attention: torch.Tensor
    tiles: torch.Tensor
