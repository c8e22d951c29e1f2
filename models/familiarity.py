"""How far a tile lies from those the model learnt from, by what the network makes of it.

Three ways behind one door, `fit_familiarity` and `ruler`. Which is the default was measured: see "When it
doubts" in docs/models.md. None needs a label when it is used.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from coverslip.models.document import Familiarity, OutOfDistribution
from coverslip.models.doubt import Energy, Mahalanobis

Method: TypeAlias = Literal["mahalanobis", "standardised", "energy"]
# Features (n, features) and logits (n, classes) to distances float32 (n,); larger is less familiar.
Ruler: TypeAlias = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.float32]]

QUANTILE = 0.99
# On lung tiles 8 axes let more strange tiles pass, and all 512 caught no more than 32.
AXES = 32
# Numbers of the class means a document holds; of more classes one mean for all is kept.
MOST_NUMBERS = 2**20


def fit_familiarity(
    method: Method,
    train: NDArray[np.floating],
    labels: NDArray[np.integer],
    validation: NDArray[np.floating],
    logits: NDArray[np.floating],
) -> Familiarity:
    """Statistics of the training part, and the distance that 99 % of the validation part keeps.

    `train`: (n, features) with its class numbers `labels` (n,); `validation`: (m, features) with its `logits`
    (m, classes).
    """
    if method == "standardised":
        return fit_distance(train, validation)
    known = Energy(limit=0, quantile=QUANTILE) if method == "energy" else fit_mahalanobis(train, labels)
    limit = float(np.quantile(ruler(known)(validation, logits), QUANTILE))
    return known.model_copy(update={"limit": limit if method == "energy" else max(limit, 1e-6)})


def ruler(known: Familiarity) -> Ruler:
    """What measures the distance, with its arrays made once; safe to share between threads."""
    if isinstance(known, Energy):
        return lambda features, logits: energy(logits)
    if isinstance(known, OutOfDistribution):
        mean, std = np.asarray(known.mean), np.asarray(known.std)
        return lambda features, logits: feature_distance(features, mean, std)
    return _mahalanobis_ruler(known)


def feature_width(known: Familiarity) -> int:
    """How many features it wants of a tile; 0 where it does without."""
    if isinstance(known, Energy):
        return 0
    return len(known.mean) if isinstance(known, OutOfDistribution) else known.features


def fit_distance(train: NDArray[np.floating], validation: NDArray[np.floating]) -> OutOfDistribution:
    """Feature statistics of the training part, and the distance that 99 % of the validation part keeps.

    `train`, `validation`: (n, features). A feature that never varies gets the median spread of the others,
    so that it neither dominates nor divides by 0.
    """
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    alive = std > 1e-6
    std = np.where(alive, std, np.median(std[alive]) if alive.any() else 1.0)
    limit = np.quantile(feature_distance(validation, mean, std), QUANTILE)
    return OutOfDistribution(
        mean=tuple(mean.tolist()), std=tuple(std.tolist()), limit=max(float(limit), 1e-6), quantile=QUANTILE
    )


def feature_distance(
    features: NDArray[np.floating], mean: NDArray[np.floating], std: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Root mean square of the standardised features, (n,): about 1 for tiles like those of training.

    >>> feature_distance(np.array([[3.0, 1.0]]), np.array([1.0, 1.0]), np.array([1.0, 1.0])).round(3).tolist()
    [1.4140000343322754]
    """
    return np.sqrt((((features - mean) / std) ** 2).mean(axis=1)).astype(np.float32)


def fit_mahalanobis(
    features: NDArray[np.floating], labels: NDArray[np.integer], axes: int = AXES
) -> Mahalanobis:
    """Class means and the covariance they share (Lee 2018, NeurIPS, "A simple unified framework").

    The covariance is shrunk (`shrinkage_of`), and kept as its `axes` principal axes and one variance for all
    other directions (Tipping & Bishop 1999, JRSS B 61:611). `limit` is still 1. `features`: (n, features).
    """
    features = np.asarray(features, np.float64)
    names, where = np.unique(labels, return_inverse=True)
    if len(names) * features.shape[1] > MOST_NUMBERS:
        names, where = names[:1], np.zeros_like(where)
    centres = np.stack([features[where == number].mean(axis=0) for number in range(len(names))])
    within, width = features - centres[where], features.shape[1]
    covariance, shrinkage = within.T @ within / len(within), shrinkage_of(within)
    mean = max(float(np.trace(covariance)) / width, 1e-12)
    kept = min(axes, width)
    values, vectors = eigh(covariance, subset_by_index=(width - kept, width - 1))
    rest = (width * mean - values.sum()) / max(width - kept, 1)
    variances, residual = ((1 - shrinkage) * part + shrinkage * mean for part in (values[::-1], rest))
    return Mahalanobis(
        features=width,
        centres=pack(centres),
        axes=pack(vectors.T[::-1]),
        variances=tuple(np.maximum(variances, 1e-9 * mean).tolist()),
        residual=max(float(residual), 1e-9 * mean),
        shrinkage=shrinkage,
        limit=1,
        quantile=QUANTILE,
    )


def shrinkage_of(rows: NDArray[np.float64]) -> float:
    """The share of the covariance of centred `rows` (n, features) to replace by a sphere of the same trace.

    Ledoit & Wolf 2004, J Multivariate Anal 88:365, lemma 3.2 to 3.4: what lowers the expected squared error
    most. 1 where the rows do not vary, or as if they were drawn from a sphere.
    """
    n, width = rows.shape
    covariance = rows.T @ rows / n
    squared = float((covariance**2).sum())
    spread = squared - float(np.trace(covariance)) ** 2 / width
    noise = (float(((rows**2).sum(axis=1) ** 2).sum()) / n - squared) / n
    return float(np.clip(noise / spread, 0, 1)) if spread > 0 else 1.0


def _mahalanobis_ruler(known: Mahalanobis) -> Ruler:
    centres, axes = (unpack(packed, known.features) for packed in (known.centres, known.axes))
    steps = 1 / np.sqrt(np.asarray(known.variances)) - 1 / np.sqrt(known.residual)

    def whiten(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows / np.sqrt(known.residual) + (rows @ axes.T * steps) @ axes

    middle = centres.mean(axis=0)
    targets = whiten(centres - middle)

    def measure(features: NDArray[np.floating], logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Distance to the nearest class mean / √features, so that tiles of training are near 1."""
        found = cdist(whiten(np.asarray(features, np.float64) - middle), targets).min(axis=1)
        return (found / np.sqrt(known.features)).astype(np.float32)

    return measure


def energy(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """−log Σ exp(logits), (n,) (Liu 2020, NeurIPS, "Energy-based out-of-distribution detection", T = 1).

    >>> energy(np.array([[0.0, 0.0], [5.0, 0.0]])).round(2).tolist()
    [-0.6899999976158142, -5.010000228881836]
    """
    return -np.asarray(logsumexp(np.asarray(logits, np.float64), axis=1)).astype(np.float32)


def pack(rows: NDArray[np.floating]) -> str:
    """float32, little-endian, row by row, as base64.

    >>> unpack(pack(np.array([[1.0, 2.5]])), 2).tolist()
    [[1.0, 2.5]]
    """
    return base64.b64encode(np.ascontiguousarray(rows, "<f4").tobytes()).decode("ascii")


def unpack(packed: str, width: int) -> NDArray[np.float64]:
    """The rows again, (n, width)."""
    return np.frombuffer(base64.b64decode(packed), "<f4").reshape(-1, width).astype(np.float64)
