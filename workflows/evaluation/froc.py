"""Free-response ROC as CAMELYON16 evaluates it: how many lesions are found at how many false alarms.

Behaviour of the official Python script (Ehteshami Bejnordi, 20 January 2016), traps included:

- a lesion has the best score of the points on it; a point outside all lesions, or on a slide without, is a
  false positive; a point on isolated tumour cells is neither, and these are not counted as lesions;
- false positives are averaged over all slides, those with lesions too;
- scores of lesions are kept in single precision, those of false positives in double, so that of equal ones
  the lesion's may count as the higher or the lower (as NumPy 1 orders them, for which it was written);
- thresholds are the distinct scores, among them a 0 for each lesion or isolated cells without one, *less the
  lowest*;
- the score is the mean sensitivity, interpolated linearly, at ¼, ½, 1, 2, 4 and 8 false positives per slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.evaluation.lesions import Lesions
from coverslip.workflows.evaluation.points import Point

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
OFFICIAL = "CAMELYON16, as the official script: the lowest threshold is left out"
WITH_LOWEST = "CAMELYON16 with the lowest threshold, which the official script leaves out"


@dataclass(frozen=True, slots=True)
class Hits:
    """Of one slide. `false`: scores of false positives; `best`: of each label, isolated tumour cells too, the
    best score of the points on it, 0 where there is none; `lesions`: labels that count."""

    false: tuple[float, ...]
    best: tuple[float, ...]
    lesions: int

    @property
    def found(self) -> int:
        return sum(score > 0 for score in self.best)


def match_points(points: Sequence[Point], lesions: Lesions | None, slide: str) -> Hits:
    """Points of one slide against its lesions; None for a slide without.

    Raises RequestError for a point outside the slide.
    """
    if lesions is None:
        return Hits(tuple(point.score for point in points), (), 0)
    false: list[float] = []
    best = [0.0] * lesions.count
    for point in points:
        if not lesions.holds(point.x, point.y):
            raise RequestError(
                slide,
                f"has a detection at {point.x:g}, {point.y:g}, outside the slide",
                "give positions in level-0 pixels",
            )
        label = lesions.at(point.x, point.y)
        if label == 0:
            false.append(point.score)
        elif label not in lesions.small:
            best[label - 1] = max(best[label - 1], point.score)
    return Hits(tuple(false), tuple(best), lesions.count - len(lesions.small))


@dataclass(frozen=True, slots=True, eq=False)
class Froc:
    """All scores of n slides, ascending, and what does not change when slides are drawn again.

    `false_slide`, `best_slide`: the slide of each false positive and of each label; `hit`: labels with a
    score above 0. `thresholds`: distinct scores, ascending; `false_at`, `best_at`: the number into them of
    each score; `false_from`, `best_from`: of each threshold the first score that reaches it. `lesions`: per
    slide; `lowest`: whether the lowest threshold is kept.
    """

    false_slide: NDArray[np.intp]
    best_slide: NDArray[np.intp]
    hit: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    false_at: NDArray[np.intp]
    best_at: NDArray[np.intp]
    false_from: NDArray[np.intp]
    best_from: NDArray[np.intp]
    lesions: NDArray[np.intp]
    lowest: bool

    @staticmethod
    def of(hits: Sequence[Hits], lowest: bool = False) -> Froc:
        """`lowest`: keep the lowest threshold; at 0, too, a lesion that was missed is not found."""
        false, false_slide = _flat([one.false for one in hits])
        best, best_slide = _flat([one.best for one in hits])
        # Rounding keeps the order.
        single = best.astype(np.float32)
        thresholds = np.unique(np.concatenate([false, single.astype(np.float64)]))
        return Froc(
            false_slide=false_slide,
            best_slide=best_slide,
            hit=single > 0,
            thresholds=thresholds,
            false_at=np.searchsorted(thresholds, false),
            best_at=np.searchsorted(thresholds, single.astype(np.float64)),
            false_from=np.searchsorted(false, thresholds),
            best_from=np.searchsorted(single, thresholds.astype(np.float32)),
            lesions=np.array([one.lesions for one in hits], np.intp),
            lowest=lowest,
        )

    def curve(self, weights: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False positives per slide and sensitivity, from the lowest threshold to none found: descending.

        `weights`: how often each slide is there (n,). Sensitivities are NaN where there is no lesion.
        """
        slides, lesions = weights.sum(), (weights * self.lesions).sum()
        false, best = weights[self.false_slide], weights[self.best_slide]
        size = len(self.thresholds)
        there = np.bincount(self.false_at, false, size) + np.bincount(self.best_at, best, size)
        kept = np.flatnonzero(there > 0)[0 if self.lowest else 1 :]
        rates = np.append(_from(false, self.false_from[kept]), 0.0)
        found = np.append(_from(best * self.hit, self.best_from[kept]), 0.0)
        return rates / max(slides, 1), found / lesions if lesions else np.full(len(found), np.nan)

    def sensitivities(self, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """At each of `RATES`; NaN where there is no lesion."""
        rates, found = self.curve(weights)
        return np.interp(RATES, rates[::-1], found[::-1])

    def score(self, weights: NDArray[np.integer]) -> float:
        """Their mean."""
        return float(self.sensitivities(weights).mean())


def _flat(per_slide: Sequence[Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """All scores, ascending, and the slide of each."""
    scores = np.array([score for scores in per_slide for score in scores], np.float64)
    slides = np.repeat(np.arange(len(per_slide)), [len(scores) for scores in per_slide])
    order = np.argsort(scores, kind="stable")
    return scores[order], slides[order]


def _from(weights: NDArray[np.integer], start: NDArray[np.intp]) -> NDArray[np.float64]:
    """The sum of the weights from each start on."""
    below = np.concatenate([[0], np.cumsum(weights)])
    return (below[-1] - below[start]).astype(np.float64)
