"""What a fitted probe is: a few arrays that turn an encoder's features into one figure per class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from coverslip.errors import RequestError
from coverslip.models.calibration import soften

# Rows compared with all that is remembered at one time.
CHUNK = 256
# Of a class that none of the neighbours is of: rare, not impossible, so that its logarithm is finite.
FLOOR = 1e-4

Arrays = Mapping[str, NDArray[Any]]


def check_features(features: NDArray[np.floating], width: int | None = None) -> NDArray[np.floating]:
    """The same as an array (n, features), all finite; `width`: how many features there must be.

    Raises RequestError.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise RequestError(f"features {features.dtype} {features.shape}", "are no table", "give float (n, d)")
    if width is not None and features.shape[1] != width:
        raise RequestError(
            f"features {features.shape}",
            f"are not those learnt from, which were {width} of each",
            "embed with the same encoder",
        )
    if not np.isfinite(features).all():
        raise RequestError("features", "hold NaN or infinity", "leave these rows out")
    return features


@dataclass(frozen=True, slots=True, eq=False)
class Head(ABC):
    """A fitted estimator; the same features give the same figures, and nothing in it changes.

    `classes_`: the labels in ascending order (k,), which all columns follow, as in scikit-learn.
    """

    classes_: NDArray[Any]

    @property
    @abstractmethod
    def n_features_in_(self) -> int:
        """Features of each row it was fitted on."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """All it has learnt but the classes, by name, as a package stores it."""

    @abstractmethod
    def _logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Of checked features (n, d)."""

    def decision_function(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """A figure per class (n, k), larger for what is likelier; with two classes (n, 2), too.

        `features`: float (n, d). Raises RequestError for another shape, or what is not finite.
        """
        checked = check_features(features, self.n_features_in_)
        return np.asarray(self._logits(checked), np.float32)

    def predict_proba(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """softmax of `decision_function` (n, k). Not calibrated: see `coverslip.models.calibration`."""
        return soften(self.decision_function(features), 1.0)

    def predict(self, features: NDArray[np.floating]) -> NDArray[Any]:
        """The likeliest class of each row (n,); of equally likely ones the first of `classes_`."""
        return self.classes_[self.decision_function(features).argmax(axis=1)]


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead(Head):
    """features · weightᵀ + bias; `weight` float32 (k, d), `bias` float32 (k,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def n_features_in_(self) -> int:
        return self.weight.shape[1]

    def arrays(self) -> Arrays:
        return {"weight": self.weight, "bias": self.bias}

    def _logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        # float64: features far from 0 have a bias as large, and what remains is the difference.
        return features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias


@dataclass(frozen=True, slots=True, eq=False)
class CentroidHead(Head):
    """−‖z − centroid‖² / spread for each class's centroid, float32 (k, d).

    z is the features themselves, or with a `centre` (d,) their direction from it: (x − centre) ÷
    ‖x − centre‖. `spread` (1,) is a squared length, by which probabilities do not hang on the encoder's
    scale; which class is nearest does not depend on it.
    """

    centroids: NDArray[np.float32]
    spread: NDArray[np.float32]
    centre: NDArray[np.float32] | None = None

    @property
    def n_features_in_(self) -> int:
        return self.centroids.shape[1]

    def arrays(self) -> Arrays:
        found = {"centroids": self.centroids, "spread": self.spread}
        return found if self.centre is None else found | {"centre": self.centre}

    def _logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        placed = features if self.centre is None else directions(features - self.centre)
        return -cdist(placed, self.centroids, "sqeuclidean") / self.spread


@dataclass(frozen=True, slots=True, eq=False)
class NeighbourHead(Head):
    """Logarithm of each class's share of the votes of the `n_neighbors` nearest rows of `bank`.

    `bank`: directions float32 (n, d) of the rows learnt from; `labels`: which of the classes each is of,
    (n,). A vote weighs exp(cosine / temperature); a share below 1e-4 counts as that. Which of equally
    near rows is the last to vote is not defined, but the same each time.
    """

    bank: NDArray[np.float32]
    labels: NDArray[np.int64]
    n_neighbors: int
    temperature: float

    @property
    def n_features_in_(self) -> int:
        return self.bank.shape[1]

    def arrays(self) -> Arrays:
        return {"bank": self.bank, "labels": self.labels}

    def _logits(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        parts = [self._votes(features[i : i + CHUNK]) for i in range(0, max(len(features), 1), CHUNK)]
        return np.log(np.maximum(np.concatenate(parts), FLOOR))

    def _votes(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        cosine = directions(features).astype(np.float32) @ self.bank.T
        voters = min(self.n_neighbors, len(self.bank))
        nearest = np.argpartition(-cosine, voters - 1, axis=1)[:, :voters]
        near = np.take_along_axis(cosine, nearest, axis=1).astype(np.float64)
        # Against the nearest, since exp(1 / 0.01) is beyond float32 and shares are the same.
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / self.temperature)
        votes = np.zeros((len(features), len(self.classes_)))
        np.add.at(votes, (np.arange(len(features))[:, None], self.labels[nearest]), weight)
        return votes / votes.sum(axis=1, keepdims=True)


def directions(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Each row divided by its length; one of length 0 stays 0.

    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
