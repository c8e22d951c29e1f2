"""Dual-stream multiple instance learning (Li 2021, CVPR).

Layers are named as in the authors' code (https://github.com/binli123/dsmil-wsi, MIT), so that weights
published for it load: `layers.load_state_dict(weights)`.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from coverslip.extras import require
from coverslip.models.abmil import cross_entropy
from coverslip.models.bag_look import BagLook

if TYPE_CHECKING:
    import torch

QUERY = 128


class Dsmil:
    """One stream calls each tile; the tile surest of a class is critical for it. The other weighs all tiles
    by how near their query lies to the critical one's, and classifies what comes of it.

    `BagLook.logits` is the mean of both streams' logits, `tiles` the tiles' own (n, classes), `attention`
    that of the class the bag is called.
    """

    def __init__(self, features: int, classes: int):
        nn = require("torch").nn
        query = nn.Sequential(nn.Linear(features, QUERY), nn.ReLU(), nn.Linear(QUERY, QUERY), nn.Tanh())
        self.layers: torch.nn.ModuleDict = nn.ModuleDict(
            {
                "i_classifier": nn.ModuleDict({"fc": nn.Sequential(nn.Linear(features, classes))}),
                "b_classifier": nn.ModuleDict(
                    {"q": query, "fcc": nn.Conv1d(classes, classes, kernel_size=features)}
                ),
            }
        )

    def __call__(self, bag: torch.Tensor) -> BagLook:
        tiles, attention, whole = self.streams(bag)
        logits = (tiles.amax(0) + whole) / 2
        return BagLook(logits, attention[:, logits.argmax()], tiles)

    def streams(self, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The tiles' own logits (n, classes), the attention for each class (n, classes), each column 1 in
        sum, and the bag stream's logits (classes,)."""
        one, other = self.layers["i_classifier"], self.layers["b_classifier"]
        tiles = one.get_submodule("fc")(bag)
        queries = other.get_submodule("q")(bag)
        critical = queries[tiles.argmax(0)]
        attention = (queries @ critical.T / sqrt(QUERY)).softmax(0)
        whole = other.get_submodule("fcc")((attention.T @ bag)[None])
        return tiles, attention, whole.reshape(-1)

    def loss(self, look: BagLook, label: int, weight: torch.Tensor) -> torch.Tensor:
        """Half of each stream's."""
        surest = look.tiles.amax(0)
        whole = 2 * look.logits - surest
        return (cross_entropy(surest, label, weight) + cross_entropy(whole, label, weight)) / 2
