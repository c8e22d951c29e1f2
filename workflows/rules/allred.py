"""Allred score: the share of positive nuclei and how strongly they stain, 0 or 2 to 8.

The bins of the share are not the same everywhere: a guideline names its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from coverslip.errors import RequestError
from coverslip.workflows.rules.bands import exact
from coverslip.workflows.rules.guideline import Guideline


@dataclass(frozen=True, slots=True)
class Allred:
    """`proportion` 0 to 5, `intensity` 0 to 3. `total` and `positive` are None where the intensity cannot be
    scored."""

    proportion: int
    intensity: int | None
    positive_from: int

    @property
    def total(self) -> int | None:
        return None if self.intensity is None else self.proportion + self.intensity

    @property
    def positive(self) -> bool | None:
        return None if self.total is None else self.total >= self.positive_from


def allred(share: Fraction, intensity: int | tuple[int, int], guideline: Guideline) -> Allred:
    """From a share of nuclei in % and an average intensity 0 to 3; a range such as (2, 3) is not scorable.

    >>> from coverslip.workflows.rules.guideline import load_guideline
    >>> allred(Fraction(85), 3, load_guideline("allred-registry")).total
    8
    """
    low, high = (intensity, intensity) if isinstance(intensity, int) else intensity
    if not 0 <= share <= 100 or not 0 <= low <= high <= 3:
        raise RequestError(f"{float(share):g} %, intensity {intensity}", "is out of range", "0–100 %, 0–3")
    proportion = proportion_score(share, guideline)
    scored = 0 if proportion == 0 else low if low == high else None
    if proportion and scored == 0:
        raise RequestError("Allred", "has stained nuclei of no intensity", "give 1, 2 or 3")
    return Allred(proportion, scored, guideline["positive_from"])


def allred_of_counts(counts: tuple[int, int, int, int], guideline: Guideline) -> Allred:
    """From nuclei counted as negative, 1+, 2+, 3+. Raises RequestError without nuclei."""
    total, positive = sum(counts), sum(counts[1:])
    if total == 0:
        raise RequestError("Allred", "has no nuclei", "count them first")
    share = Fraction(100 * positive, total)
    return allred(share, intensity_score(counts, guideline), guideline)


def proportion_score(share: Fraction, guideline: Guideline) -> int:
    """0 to 5. With whole-percent bins a share of at least 1 % is rounded first, half upwards: they say
    nothing about 10.5 %."""
    if share == 0:
        return 0
    if guideline["whole_percent"] and share >= 1:
        share = Fraction((2 * share + 1) // 2)
    return 1 + sum(share >= exact(least) for least in guideline["proportions_from"])


def intensity_score(counts: tuple[int, int, int, int], guideline: Guideline) -> int:
    """Mean of the positive nuclei with 1+, 2+, 3+ as 1, 2, 3; 0 without any."""
    positive = sum(counts[1:])
    if positive == 0:
        return 0
    mean = Fraction(counts[1] + 2 * counts[2] + 3 * counts[3], positive)
    return 1 + sum(mean > exact(limit) for limit in guideline["intensities_above"])
