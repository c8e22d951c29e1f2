"""Agreement beyond chance: Cohen's kappa, plain and with quadratic weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cohen_kappa(confusion: NDArray[np.number]) -> float:
    """1 − share that disagrees / share that would by chance (Cohen 1960, Educ Psychol Meas 20:37).

    `confusion`: counts (classes, classes), rows the truth. NaN as `weighted_kappa`.

    >>> round(cohen_kappa(np.array([[20, 5], [10, 15]])), 3)
    0.4
    """
    return weighted_kappa(confusion, 1 - np.eye(len(confusion)))


def quadratic_kappa(confusion: NDArray[np.number]) -> float:
    """Quadratic weighted kappa, QWK (Cohen 1968, Psychol Bull 70:213): a disagreement weighs its distance².

    `confusion`: counts (classes, classes) in their order, classes that do not occur among them: the distance
    is that between places in the order.

    >>> quadratic_kappa(np.eye(6))
    1.0
    """
    places = np.arange(len(confusion))
    return weighted_kappa(confusion, np.subtract.outer(places, places) ** 2)


def weighted_kappa(confusion: NDArray[np.number], weights: NDArray[np.number]) -> float:
    """1 − Σ weights · observed / Σ weights · expected, expected from the margins.

    NaN, not evaluable, where nothing is expected to disagree: no rows, or all of one class in both.
    """
    observed = np.asarray(confusion, np.float64)
    n = observed.sum()
    expected = (weights * np.outer(observed.sum(axis=1), observed.sum(axis=0))).sum()
    return float(1 - n * (weights * observed).sum() / expected) if expected > 0 else float("nan")
