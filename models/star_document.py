"""What `model.json` says of a model that finds objects: nuclei by their outlines, or cells by boxes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coverslip.models.document import ChangedFigure, Name, Normalisation, Packed, Parts, Sha256, Text
from coverslip.models.record import Count, Record, Share
from coverslip.models.star_network import StarArchitecture


class FinderTraining(Record):
    """What it learnt from. `parts` counts pictures."""

    data: Text
    pictures: Count
    objects: Count
    groups: Count
    parts: Parts
    labels_sha256: Sha256
    seed: int
    steps: Count


class FoundClass(Record):
    """How objects of one class were found in pictures kept out of every choice.

    An object counts as found where one of its class shares at least `iou` with it. `interval`: of F1, 95 %
    bootstrap over groups of pictures. `count_error`: sum over pictures of |found − there| over all there;
    `total_error`: (all found − all there) over all there.
    """

    name: Text
    there: Count
    found: Count
    matched: Count
    f1: Share | None
    interval: tuple[Share, Share] | None
    precision: Share | None
    recall: Share | None
    count_error: float | None
    total_error: float | None


class FinderMetrics(Record):
    """`iou`: intersection over union at which an object is found."""

    data: Text
    pictures: Count
    groups: Count
    iou: Share
    classes: tuple[FoundClass, ...] = Field(min_length=1)


class FinderDocument(Packed):
    """The content of `model.json`.

    `shape`: "star" for outlines, "box" for upright boxes. `mpp`: µm/px it works at, and up to `tolerance` ×
    that off either way. `thresholds`: least score of each class; `overlap`: most an object may share with a
    surer one: of its area for stars, intersection over union for boxes.
    """

    schema_name: Literal["coverslip.finder"] = "coverslip.finder"
    schema_version: Literal[1] = 1
    task: Literal["object-detection"] = "object-detection"
    name: Name
    version: Name
    shape: Literal["star", "box"]
    mpp: float = Field(gt=0, le=100)
    tolerance: Share
    stain: Text | None
    classes: tuple[Text, ...] = Field(min_length=1, max_length=1000)
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    overlap: Share
    normalisation: Normalisation
    architecture: StarArchitecture
    licence: Text
    intended_use: Text
    training: FinderTraining | None
    metrics: FinderMetrics | None
    stain_change: tuple[ChangedFigure, ...] = ()

    @model_validator(mode="after")
    def _one_threshold_each(self) -> FinderDocument:
        if len(self.thresholds) != len(self.classes) or len(set(self.classes)) != len(self.classes):
            raise ValueError("thresholds must be one for each class, and classes differ")
        if (self.shape == "box") != (self.architecture.rays == 4):
            raise ValueError("boxes have four rays, and outlines more")
        return self
