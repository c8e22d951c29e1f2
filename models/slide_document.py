"""What `model.json` says of a slide-level model: one that calls a slide from the features of its tiles."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coverslip.models.document import Familiarity, Name, Sealed, Sha256, Text, TileFit
from coverslip.models.record import Count, Record


class SlideTraining(Record):
    """What it learnt from. `folds`: of the cross-validation its metrics are from; 0 for one test part."""

    data: Text
    slides: Count
    tiles: Count
    groups: Count
    labels_sha256: Sha256
    folds: Count
    seed: int
    epochs: Count


class SlideModelDocument(Sealed):
    """The content of `model.json`. `encoder`: what made the features, as the maker of the model names it;
    `features`: of each tile. `encoder_sha256`: of the encoder's weights; `tile`: what the features are of;
    None where the files of features did not say. `out_of_distribution`: of tiles, by their scaled features.
    """

    schema_name: Literal["coverslip.slide-model"] = "coverslip.slide-model"
    schema_version: Literal[1] = 1
    task: Literal["slide-classification"] = "slide-classification"
    name: Name
    version: Name
    encoder: Text
    encoder_sha256: Sha256 | None = None
    tile: TileFit | None = None
    features: int = Field(ge=1, le=65536)
    aggregator: Literal["abmil", "clam-sb", "dsmil", "transmil"]
    licence: Text
    intended_use: Text
    training: SlideTraining | None
    out_of_distribution: Familiarity | None = None
