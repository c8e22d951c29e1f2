"""Changes of a training tile that leave what it shows: how it lay on the glass, how strong its stain is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coverslip.extras import require

if TYPE_CHECKING:
    import torch

# Mild: stains of one laboratory vary by about this much from batch to batch; hues are kept apart.
STAIN_SPREAD = 0.15
BRIGHTNESS_SPREAD = 0.05


def augment(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 (n, size, size, 3) on the CPU to another such tensor; `generator` alone decides how."""
    return vary_colour(turn(tiles, generator), generator)


def turn(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One of the eight turns and mirrors of the square for each tile: glass has no up and no left."""
    torch = require("torch")
    kinds = torch.randint(0, 8, (len(tiles),), generator=generator)
    out = torch.empty_like(tiles)
    for kind in range(8):
        chosen = kinds == kind
        turned = torch.rot90(tiles[chosen], kind % 4, dims=(1, 2))
        out[chosen] = turned.flip(2) if kind >= 4 else turned
    return out


def vary_colour(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Scale each channel's optical density, then the brightness.

    By the law of Beer and Lambert the optical density −log(I / I₀) grows with the amount of stain, so
    I → I₀ (I / I₀)^a is the same tissue with a times the stain; empty glass stays empty.
    """
    torch = require("torch")
    n = len(tiles)
    stain = 1 + STAIN_SPREAD * (2 * torch.rand(n, 1, 3, generator=generator) - 1)
    light = 1 + BRIGHTNESS_SPREAD * (2 * torch.rand(n, 1, 1, generator=generator) - 1)
    # The change is the same for equal values: 256 powers per tile and channel instead of one per pixel.
    table = torch.arange(256.0).div_(255).view(1, 256, 1).pow(stain).mul_(255 * light)
    table = table.round_().clamp_(0, 255).to(torch.uint8)
    flat = tiles.reshape(n, -1, 3).long()
    return torch.gather(table, 1, flat).reshape(tiles.shape)
