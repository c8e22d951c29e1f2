"""Changes of a training tile that leave what it shows: how it lay on the glass, which stain and scanner."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from coverslip.extras import require
from coverslip.wsi.colour import DAB, EOSIN, HAEMATOXYLIN, from_lab, to_lab

if TYPE_CHECKING:
    import torch

# "channels": `vary_channels`; "stains": `vary_stains`; "lab": `vary_lab`; "none": colours stay.
ColourChange: TypeAlias = Literal["channels", "stains", "lab", "none"]
# "turns": `turn`; "moves": `move`.
GeometryChange: TypeAlias = Literal["turns", "moves"]

# Mild: stains of one laboratory vary by about this much from batch to batch; hues are kept apart.
STAIN_SPREAD = 0.15
BRIGHTNESS_SPREAD = 0.05
# In `move`: of the logarithm of the size, and of the place in half tiles; cells differ more, but so do
# classes.
SIZE_SPREAD = 0.08
PLACE_SPREAD = 0.08
# σ of Tellez et al. (2018).
DYE_SPREAD = 0.05
# Theirs is in natural logarithm, as their densities are.
DYE_OFFSET = DYE_SPREAD / math.log(10)
# Half the standard deviation between six H&E fields from different laboratories; L from 0 to 100.
LAB_OFFSET = (5.0, 6.0, 6.0)
LAB_SPREAD = 0.15


def augment(
    tiles: torch.Tensor,
    generator: torch.Generator,
    colour: ColourChange = "channels",
    geometry: GeometryChange = "turns",
) -> torch.Tensor:
    """uint8 (n, size, size, 3) on the CPU to another such tensor; `generator` alone decides how."""
    turned = turn(tiles, generator) if geometry == "turns" else move(tiles, generator)
    if colour == "stains":
        return vary_stains(turned, generator)
    if colour == "lab":
        return vary_lab(turned, generator)
    return vary_channels(turned, generator) if colour == "channels" else turned


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


def move(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turned by any angle or mirrored, a little larger or smaller and off the middle, for cells that were cut
    out one by one; what comes in from outside is mirrored."""
    torch = require("torch")
    n = len(tiles)
    angle = math.pi * _even(generator, n)
    mirror = torch.where(_even(generator, n) > 0, 1.0, -1.0)
    across, down = (torch.exp(SIZE_SPREAD * _even(generator, n)) for _ in range(2))
    off = PLACE_SPREAD * _even(generator, n, 2)
    rows = (
        torch.stack([angle.cos() * across * mirror, -angle.sin() * down, off[:, 0]], dim=1),
        torch.stack([angle.sin() * across * mirror, angle.cos() * down, off[:, 1]], dim=1),
    )
    picture = tiles.permute(0, 3, 1, 2).float()
    grid = torch.nn.functional.affine_grid(torch.stack(rows, dim=1), list(picture.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(
        picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return moved.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def vary_channels(
    tiles: torch.Tensor, generator: torch.Generator, spread: float = STAIN_SPREAD
) -> torch.Tensor:
    """Scale each channel's optical density by up to 1 ± `spread`, then the brightness.

    By the law of Beer and Lambert the optical density −log(I / I₀) grows with the amount of stain, so
    I → I₀ (I / I₀)^a is the same tissue with a times the stain; empty glass stays empty.
    """
    torch = require("torch")
    n = len(tiles)
    stain = 1 + spread * _even(generator, n, 1, 3)
    light = 1 + BRIGHTNESS_SPREAD * _even(generator, n, 1, 1)
    # The change is the same for equal values: 256 powers per tile and channel instead of one per pixel.
    table = torch.arange(256.0).div_(255).view(1, 256, 1).pow(stain).mul_(255 * light)
    table = table.round_().clamp_(0, 255).to(torch.uint8)
    flat = tiles.reshape(n, -1, 3).long()
    return torch.gather(table, 1, flat).reshape(tiles.shape)


def vary_stains(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Take haematoxylin, eosin and DAB apart, scale each by 1 ± σ and add ± σ, and put them together again.

    Tellez et al. (2018), IEEE Trans Med Imaging 37:2126. In optical density that is one matrix and one offset
    per tile. What is added lies on glass too, as a bath that was not rinsed off.
    """
    torch = require("torch")
    n = len(tiles)
    dyes = torch.tensor([HAEMATOXYLIN, EOSIN, DAB])
    dyes = dyes / dyes.norm(dim=1, keepdim=True)
    scale = 1 + DYE_SPREAD * _even(generator, n, 3)
    offset = DYE_OFFSET * _even(generator, n, 3) @ dyes
    matrix = torch.linalg.inv(dyes) @ (scale[:, :, None] * dyes)
    table = torch.arange(256.0).clamp_(min=1).div_(255).log10_().neg_()
    density = torch.baddbmm(offset[:, None, :], table[tiles.reshape(n, -1, 3).long()], matrix)
    rgb = density.mul_(-math.log(10)).exp_().mul_(255).round_().clamp_(0, 255)
    return rgb.to(torch.uint8).reshape(tiles.shape)


def vary_lab(tiles: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move the mean and scale the spread of each tile's L, a and b, as if brought to another picture's.

    The transfer of Reinhard et al. (2001), IEEE Comput Graph Appl 21(5):34, to statistics drawn at random.
    """
    torch = require("torch")
    n, height, width = tiles.shape[:3]
    scale = (1 + LAB_SPREAD * _even(generator, n, 3)).numpy()
    offset = (torch.tensor(LAB_OFFSET) * _even(generator, n, 3)).numpy()
    lab = to_lab(tiles.numpy().reshape(n * height, width, 3)).reshape(n, height * width, 3)
    mean = lab.mean(axis=1, keepdims=True)
    moved = (lab - mean) * scale[:, None] + mean + offset[:, None]
    rgb = np.rint(from_lab(moved.reshape(n * height, width, 3))).astype(np.uint8)
    return torch.from_numpy(rgb).reshape(tiles.shape)


def _even(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Evenly from −1 to 1."""
    return 2 * require("torch").rand(*shape, generator=generator) - 1
