"""Slide-level networks: a bag of tile features in, class logits and the weight of each tile out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from coverslip.models.abmil import Abmil
from coverslip.models.clam import ClamSb
from coverslip.models.dsmil import Dsmil
from coverslip.models.transmil import TransMil

if TYPE_CHECKING:
    import torch

    from coverslip.models.bag_look import BagLook

Kind = Literal["abmil", "clam-sb", "dsmil", "transmil"]


class Aggregator(Protocol):
    """`layers`: everything that is learnt, under the names the weights are kept by."""

    layers: torch.nn.ModuleDict

    def __call__(self, bag: torch.Tensor) -> BagLook:
        """`bag`: float32 (n, features), n at least 1."""
        ...

    def loss(self, look: BagLook, label: int, weight: torch.Tensor) -> torch.Tensor:
        """What training makes smaller. `weight`: of each class, (classes,)."""
        ...


@dataclass(frozen=True, slots=True)
class Description:
    """`source`: where the method is from."""

    make: Callable[[int, int], Aggregator]
    source: str


AGGREGATORS: Mapping[Kind, Description] = {
    "abmil": Description(Abmil, "Ilse 2018, ICML: gated attention"),
    "clam-sb": Description(ClamSb, "Lu 2021, Nature Biomedical Engineering: one attention branch"),
    "dsmil": Description(Dsmil, "Li 2021, CVPR: critical instance and distance to it"),
    "transmil": Description(TransMil, "Shao 2021, NeurIPS: Nyström attention and position"),
}


def build_aggregator(kind: Kind, features: int, classes: int) -> Aggregator:
    """With random weights, on the CPU, in training mode. `features`: of a tile."""
    return AGGREGATORS[kind].make(features, classes)
