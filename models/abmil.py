"""Attention-based multiple instance learning, gated (Ilse 2018, ICML, equations 7 to 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coverslip.extras import require
from coverslip.models.bag_look import BagLook

if TYPE_CHECKING:
    import torch

WIDTH, HIDDEN, DROPOUT = 256, 128, 0.25


class Abmil:
    """Tiles are projected to `WIDTH` features, weighed, averaged, and the average classified."""

    def __init__(self, features: int, classes: int):
        nn = require("torch").nn
        self.layers: torch.nn.ModuleDict = nn.ModuleDict(
            {
                "project": nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT)),
                "attention": gate(WIDTH, HIDDEN, DROPOUT),
                "classifier": nn.Linear(WIDTH, classes),
            }
        )

    def __call__(self, bag: torch.Tensor) -> BagLook:
        tiles = self.layers["project"](bag)
        attention = gated_attention(self.layers["attention"], tiles)
        return BagLook(self.layers["classifier"](attention @ tiles), attention, tiles)

    def loss(self, look: BagLook, label: int, weight: torch.Tensor) -> torch.Tensor:
        return cross_entropy(look.logits, label, weight)


def gate(width: int, hidden: int, dropout: float) -> torch.nn.ModuleDict:
    """The layers of one gated attention: tanh and sigmoid of the same tile, multiplied, to one figure."""
    nn = require("torch").nn
    return nn.ModuleDict(
        {
            "tanh": nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout)),
            "sigmoid": nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout)),
            "score": nn.Linear(hidden, 1),
        }
    )


def gated_attention(layers: torch.nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    """(n,) from (n, width)."""
    gated = layers.get_submodule("tanh")(tiles) * layers.get_submodule("sigmoid")(tiles)
    return layers.get_submodule("score")(gated)[:, 0].softmax(0)


def cross_entropy(logits: torch.Tensor, label: int, weight: torch.Tensor) -> torch.Tensor:
    """Of one bag, times the weight of its class: torch's own mean would divide that out again."""
    torch = require("torch")
    target = torch.tensor([label], device=logits.device)
    return weight[label] * torch.nn.functional.cross_entropy(logits[None], target)
