"""Transformer-based correlated multiple instance learning (Shao 2021, NeurIPS)."""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING

from coverslip.extras import require
from coverslip.models.abmil import cross_entropy
from coverslip.models.bag_look import BagLook
from coverslip.models.nystrom import Nystrom, attend

if TYPE_CHECKING:
    import torch

WIDTH = 512
LANDMARKS = WIDTH // 2


class TransMil:
    """Two layers of attention among tiles, between them position by convolutions over the tiles laid in a
    square in the order given; a class token gathers what the call is made from.

    `attention` is what the class token attends to in the last layer, negative weights left out.
    """

    def __init__(self, features: int, classes: int):
        torch = require("torch")
        nn = torch.nn
        self.layers: torch.nn.ModuleDict = nn.ModuleDict(
            {
                "project": nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU()),
                "token": nn.ParameterDict({"cls": nn.Parameter(torch.randn(1, WIDTH))}),
                "norm1": nn.LayerNorm(WIDTH),
                "layer1": Nystrom(WIDTH).layers,
                "position": nn.ModuleList(
                    [nn.Conv2d(WIDTH, WIDTH, side, padding=side // 2, groups=WIDTH) for side in (7, 5, 3)]
                ),
                "norm2": nn.LayerNorm(WIDTH),
                "layer2": Nystrom(WIDTH).layers,
                "norm": nn.LayerNorm(WIDTH),
                "classifier": nn.Linear(WIDTH, classes),
            }
        )

    def __call__(self, bag: torch.Tensor) -> BagLook:
        torch, layers = require("torch"), self.layers
        tiles = layers["project"](bag)
        side = ceil(sqrt(len(tiles)))
        # A square is filled up with the first tiles again, as the authors do.
        square = torch.cat([tiles, tiles[: side * side - len(tiles)]])
        tokens = torch.cat([layers["token"].get_parameter("cls"), square])
        tokens = tokens + attend(layers["layer1"], layers["norm1"](tokens), LANDMARKS)[0]
        tokens = torch.cat([tokens[:1], self._positioned(tokens[1:], side)])
        mixed, attention = attend(layers["layer2"], layers["norm2"](tokens), LANDMARKS)
        gathered = layers["norm"]((tokens + mixed)[0])
        return BagLook(layers["classifier"](gathered), _shares(attention[1:], len(bag)), tiles)

    def _positioned(self, tiles: torch.Tensor, side: int) -> torch.Tensor:
        picture = tiles.T.reshape(1, WIDTH, side, side)
        moved = sum((convolve(picture) for convolve in self.layers["position"].children()), picture)
        return moved.reshape(WIDTH, -1).T

    def loss(self, look: BagLook, label: int, weight: torch.Tensor) -> torch.Tensor:
        return cross_entropy(look.logits, label, weight)


def _shares(attention: torch.Tensor, count: int) -> torch.Tensor:
    """Of each tile, its copies' added to its own."""
    own, copies = attention[:count], attention[count:]
    own = own.clone()
    own[: len(copies)] += copies
    return own / own.sum().clamp_min(1e-12)
