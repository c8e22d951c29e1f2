"""Temperature scaling, and how far a tile's features lie from those of training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fminbound
from scipy.special import log_softmax

from coverslip.models.document import Calibration, OutOfDistribution

# From very sure to nearly uniform; a fit that ends at a bound says that the logits carry no information.
TEMPERATURES = (0.05, 20.0)
QUANTILE = 0.99


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    """The temperature of least negative log-likelihood (Guo 2017, ICML, "On calibration").

    `logits`: (n, classes) of the validation part; `labels`: (n,) class numbers.
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean())

    log_t = fminbound(loss, *np.log(TEMPERATURES))
    return Calibration(temperature=float(np.exp(log_t)), n=len(labels))


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
