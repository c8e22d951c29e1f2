"""How well a score ranks positives above negatives: ROC, the area below it, sensitivity at a specificity.

All figures take a weight per row: how often a bootstrap draw holds it. Ones give the figure itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """`values`: the distinct scores, ascending; `place`: each row's number into them; `positive`: (rows,)."""

    values: NDArray[np.float64]
    place: NDArray[np.intp]
    positive: NDArray[np.bool_]

    @staticmethod
    def of(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Ranking:
        """Of finite scores, or infinite ones for what is called wrong at every threshold."""
        values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
        return Ranking(values, place, np.asarray(positive, bool))

    def counts(self, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positives and negatives at each distinct score."""
        n = len(self.values)
        positives, negatives = (
            np.bincount(self.place, (weights * chosen).astype(np.float64), n)
            for chosen in (self.positive, ~self.positive)
        )
        return np.asarray(positives, np.float64), np.asarray(negatives, np.float64)

    def ones(self) -> NDArray[np.intp]:
        return np.ones(len(self.place), np.intp)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A row is called positive where its score is above `threshold`."""

    threshold: float
    sensitivity: float
    specificity: float


def area(ranking: Ranking, weights: Weights) -> float:
    """Area under the ROC curve: the share of pairs in which the positive scores higher, ties counting half.

    The Mann-Whitney statistic over the number of pairs (Hanley & McNeil 1982, Radiology 143:29). NaN where
    there are no positives or no negatives.

    >>> ranking = Ranking.of(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True]))
    >>> area(ranking, ranking.ones())
    0.875
    """
    positives, negatives = ranking.counts(weights)
    pairs = positives.sum() * negatives.sum()
    won = positives * (np.cumsum(negatives) - negatives / 2)
    return float(won.sum() / pairs) if pairs else float("nan")


def operating_point(ranking: Ranking, weights: Weights, specificity: float) -> OperatingPoint | None:
    """The point of most sensitivity whose specificity is at least that asked for, 0 to 1.

    Of n negatives at least k = ⌈specificity · n⌉ must be called negative. The threshold is the kth smallest
    score of a negative; called positive is what scores *above* it, so that positives tied with it are missed
    and negatives tied with it are called right: `specificity` of the answer may exceed that asked for. With
    k = 0 the threshold is −∞ and all are called positive. No interpolation between points. The threshold is
    chosen on the rows it is measured on, and so is optimistic for others. None where there are no positives
    or no negatives.

    >>> ranking = Ranking.of(np.array([0.1, 0.2, 0.4, 0.4, 0.8]), np.array([0, 0, 0, 1, 1], bool))
    >>> operating_point(ranking, ranking.ones(), 0.7)
    OperatingPoint(threshold=0.4, sensitivity=0.5, specificity=1.0)
    """
    positives, negatives = ranking.counts(weights)
    if not positives.sum() or not negatives.sum():
        return None
    below = np.cumsum(negatives)
    # 0.55 · 100 is 55.00000000000001 in floating point, and would ask for 56.
    least = math.ceil(specificity * below[-1] - 1e-9)
    if least <= 0:
        return OperatingPoint(-math.inf, 1.0, 0.0)
    at = int(np.searchsorted(below, least))
    return OperatingPoint(
        threshold=float(ranking.values[at]),
        sensitivity=float(positives[at + 1 :].sum() / positives.sum()),
        specificity=float(below[at] / below[-1]),
    )


def sensitivity_at(ranking: Ranking, weights: Weights, specificity: float) -> float:
    """The sensitivity of `operating_point`; NaN where there is none."""
    point = operating_point(ranking, weights, specificity)
    return float("nan") if point is None else point.sensitivity


def curve(ranking: Ranking) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, ascending from (0, 0) to (1, 1), a corner for each distinct score."""
    positives, negatives = (
        np.concatenate([[0], np.cumsum(counts[::-1])]) for counts in ranking.counts(ranking.ones())
    )
    return negatives / max(negatives[-1], 1), positives / max(positives[-1], 1)
