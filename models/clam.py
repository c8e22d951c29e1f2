"""Clustering-constrained attention, single branch: CLAM-SB (Lu 2021, Nature Biomedical Engineering)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coverslip.extras import require
from coverslip.models.abmil import cross_entropy, gate, gated_attention
from coverslip.models.bag_look import BagLook

if TYPE_CHECKING:
    import torch

# Of the paper's "small" network, and its settings for the tiles' own loss.
WIDTH, HIDDEN, DROPOUT = 512, 256, 0.25
EVIDENCE, SHARE = 8, 0.3


class ClamSb:
    """As attention-based learning; beside it, for the bag's class, the tiles weighed most must be told from
    those weighed least, and for each other class the tiles weighed most must not look like it: classes
    exclude each other (the paper's "subtyping").
    """

    def __init__(self, features: int, classes: int):
        nn = require("torch").nn
        self.layers: torch.nn.ModuleDict = nn.ModuleDict(
            {
                "project": nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT)),
                "attention": gate(WIDTH, HIDDEN, DROPOUT),
                "classifier": nn.Linear(WIDTH, classes),
                "evidence": nn.ModuleList([nn.Linear(WIDTH, 2) for _ in range(classes)]),
            }
        )

    def __call__(self, bag: torch.Tensor) -> BagLook:
        tiles = self.layers["project"](bag)
        attention = gated_attention(self.layers["attention"], tiles)
        return BagLook(self.layers["classifier"](attention @ tiles), attention, tiles)

    def loss(self, look: BagLook, label: int, weight: torch.Tensor) -> torch.Tensor:
        own = weight[label] * self._evidence_loss(look, label)
        return (1 - SHARE) * cross_entropy(look.logits, label, weight) + SHARE * own

    def _evidence_loss(self, look: BagLook, label: int) -> torch.Tensor:
        torch = require("torch")
        # A small bag has no eight tiles for each end.
        count = max(1, min(EVIDENCE, len(look.attention) // 2))
        order = look.attention.argsort(descending=True)
        most, least = look.tiles[order[:count]], look.tiles[order[-count:]]
        losses = []
        for number, classify in enumerate(self.layers["evidence"].children()):
            shown = torch.cat([most, least]) if number == label else most
            target = torch.zeros(len(shown), dtype=torch.long, device=shown.device)
            if number == label:
                target[:count] = 1
            losses.append(torch.nn.functional.cross_entropy(classify(shown), target))
        return torch.stack(losses).mean()
