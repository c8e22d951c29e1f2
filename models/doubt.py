"""What `model.json` says of a model's doubt: how far its probabilities hold, and what it cannot know."""

from __future__ import annotations

import base64
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from coverslip.models.record import Count, Record, Share

SetMethod: TypeAlias = Literal["lac", "aps"]
# float32, little-endian, row by row, as base64: in digits they would be four times as long.
Packed = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=2**23)]


class ReliabilityBin(Record):
    """The `n` tiles whose largest probability lies in one bin: its mean, and the share that is right."""

    n: Count
    confidence: Share | None
    accuracy: Share | None


class Miscalibration(Record):
    """How far probabilities are from what happens; the formulas are in `coverslip.models.reliability`.

    `ece`: expected calibration error over `bins`, of equal width from 0 to 1. `brier`: 0 to 2. The intervals
    are bootstrap, resampling groups; that of `ece` is reflected to undo its bias, so it may lie below it.
    """

    ece: Share
    ece_interval: tuple[Share, Share]
    brier: float = Field(ge=0, le=2)
    brier_interval: tuple[float, float]
    bins: tuple[ReliabilityBin, ...] = Field(min_length=1, max_length=1000)


class Reliability(Record):
    """Calibration measured on the test part, `before` and `after` the temperature.

    `by_chance`: the mean error of a perfectly calibrated model on as few tiles.
    """

    n: Count
    groups: Count
    level: Share
    resamples: Count
    by_chance: Share
    before: Miscalibration
    after: Miscalibration


class SetCoverage(Record):
    """Share of the test tiles whose set holds the true class, with its bootstrap interval over groups.

    `one`, `several`, `none`: shares of the tiles with so many classes in their set.
    """

    n: Count
    groups: Count
    coverage: Share
    interval: tuple[Share, Share]
    level: Share
    resamples: Count
    one: Share
    several: Share
    none: Share


class PredictionSets(Record):
    """Sets of classes that hold the true one on `coverage` of tiles like those of the validation part.

    A class is in a tile's set when its score, of `method` in `coverslip.models.conformal`, is at most its
    entry of `thresholds`; an entry of 1 lets it into every set. `by_class`: each threshold is of the class's
    own tiles. Fitted on `n` tiles of `groups` groups, each of which counts the same.
    """

    method: SetMethod
    coverage: float = Field(gt=0, lt=1)
    by_class: bool
    thresholds: tuple[Share, ...] = Field(min_length=2)
    n: Count
    groups: Count
    measured: SetCoverage | None


class Mahalanobis(Record):
    """Class means of the training part's features, and one covariance around all of them.

    `centres`: packed (classes, features); `axes`: packed (axes, features), orthonormal principal axes of the
    covariance; `variances`: along each; `residual`: in every other direction. `shrinkage`: the share of the
    covariance that was replaced by a sphere. `limit` is the `quantile` of the distance over the validation
    part, as for `OutOfDistribution`.
    """

    method: Literal["mahalanobis"] = "mahalanobis"
    features: int = Field(ge=1, le=65536)
    centres: Packed
    axes: Packed
    variances: tuple[Annotated[float, Field(gt=0)], ...] = Field(max_length=1024)
    residual: float = Field(gt=0)
    shrinkage: Share
    limit: float = Field(gt=0)
    quantile: Share

    @model_validator(mode="after")
    def _packed_fits(self) -> Mahalanobis:
        row = 4 * self.features
        centres, axes = (base64.b64decode(packed, validate=True) for packed in (self.centres, self.axes))
        if not centres or len(centres) % row or len(axes) != row * len(self.variances):
            raise ValueError("centres and axes must hold a row of float32 per class and per variance")
        if not all(np.isfinite(np.frombuffer(packed, "<f4")).all() for packed in (centres, axes)):
            raise ValueError("centres and axes must be finite")
        return self


class Energy(Record):
    """−log Σ exp(logits) as the distance: it needs logits only. `limit` as for `Mahalanobis`."""

    method: Literal["energy"] = "energy"
    limit: float
    quantile: Share
