"""Rules that turn the density of each nucleus into the numbers a pathologist reads. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from coverslip.errors import RequestError


@dataclass(frozen=True, slots=True)
class IhcScoreSettings:
    """How nuclei are counted as stained.

    `thresholds`: least mean DAB density (log10) of 1+, 2+ and 3+ nuclei, each reached at equality.
    QuPath's defaults, 0.2, 0.4 and 0.6; they depend on antibody, laboratory and scanner.
    `enough_nuclei`: below it a score is flagged, not withheld. 500 is the least that the International
    Ki67 in Breast Cancer Working Group asks for (Nielsen et al. 2021, JNCI 113:808).
    `confidence`: of the interval around the positive fraction.
    """

    thresholds: tuple[float, float, float] = (0.2, 0.4, 0.6)
    enough_nuclei: int = 500
    confidence: float = 0.95

    def __post_init__(self) -> None:
        one, two, three = self.thresholds
        if not 0 < one < two < three < math.inf:
            raise RequestError(f"thresholds {self.thresholds}", "do not rise", "give three densities above 0")
        if self.enough_nuclei < 0 or not 0 < self.confidence < 1:
            raise RequestError("IHC settings", "are out of range", "confidence lies between 0 and 1")


@dataclass(frozen=True, slots=True)
class Fraction:
    """A share, 0 to 1, with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class IhcScore:
    """Nuclei per intensity and what follows from them.

    `counts`: nuclei that are negative, 1+, 2+, 3+. `positive_fraction`: 1+ and more of all; `h_score`: 0
    to 300. Both are None where there is no nucleus: not evaluable, which is not zero. `sufficient`: at
    least `enough_nuclei` were counted.
    """

    counts: tuple[int, int, int, int]
    positive_fraction: Fraction | None
    h_score: float | None
    sufficient: bool

    @property
    def total(self) -> int:
        return sum(self.counts)

    @property
    def positive(self) -> int:
        return sum(self.counts[1:])


def score_ihc(dab_od_mean: ArrayLike, settings: IhcScoreSettings) -> IhcScore:
    """Score nuclei by the mean DAB density of each: a flat array, log10 optical density.

    Raises RequestError when it is not flat or holds a value that is not finite.

    >>> score_ihc([0.1, 0.2, 0.5, 0.7], IhcScoreSettings()).h_score
    150.0
    """
    dab = np.asarray(dab_od_mean, np.float64)
    if dab.ndim != 1 or not np.isfinite(dab).all():
        raise RequestError("DAB densities", "are not a list of finite numbers", "measure nuclei first")
    bins = np.searchsorted(np.asarray(settings.thresholds), dab, side="right")
    negative, weak, moderate, strong = (int(count) for count in np.bincount(bins, minlength=4))
    return score_counts((negative, weak, moderate, strong), settings)


def score_counts(counts: tuple[int, int, int, int], settings: IhcScoreSettings) -> IhcScore:
    """Score from nuclei already counted as negative, 1+, 2+, 3+; how tiles or fields are added up."""
    total = sum(counts)
    share = wilson(total - counts[0], total, settings.confidence) if total else None
    return IhcScore(counts, share, h_score(counts), total >= settings.enough_nuclei)


def h_score(counts: tuple[int, int, int, int]) -> float | None:
    """Percentages of 1+, 2+ and 3+ weighed 1, 2 and 3: 0 to 300, over positive and negative nuclei.

    None without nuclei. Formula of McCarty et al. 1985 as in QuPath.

    >>> h_score((10, 20, 30, 40))
    200.0
    """
    if min(counts) < 0:
        raise RequestError(f"counts {counts}", "are negative", "give numbers of nuclei")
    total = sum(counts)
    return 100 * (counts[1] + 2 * counts[2] + 3 * counts[3]) / total if total else None


def wilson(successes: int, total: int, confidence: float = 0.95) -> Fraction:
    """A share with the score interval of Wilson (1927), J Am Stat Assoc 22:209, no continuity correction.

    Raises RequestError unless 0 ≤ successes ≤ total and total is at least 1.

    >>> round(wilson(25, 500).low, 4), round(wilson(25, 500).high, 4)
    (0.0341, 0.0728)
    """
    if not 0 <= successes <= total or total < 1:
        raise RequestError(f"{successes} of {total}", "is no share", "give 0 ≤ successes ≤ total, total ≥ 1")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    # at 0 and at all the interval ends there exactly; rounding must not carry it past the share
    return Fraction(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))
