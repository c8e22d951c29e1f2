"""Categories that are ranges of one percentage, compared exactly: nothing is rounded before."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from coverslip.errors import RequestError
from coverslip.workflows.result import Urgency
from coverslip.workflows.rules.guideline import Guideline


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says. `category`: None where it is withheld, and `text` says why."""

    category: str | None
    urgency: Urgency
    text: str


def exact(value: Any) -> Fraction:
    """A cut-off as it is written: 1, 0.1 (a tenth, not the nearest binary number) or "1/3".

    >>> exact(0.1), exact("1/3")
    (Fraction(1, 10), Fraction(1, 3))
    """
    return Fraction(str(value))


def percent(part: int, whole: int) -> Fraction:
    """100 × part / whole, exactly. Raises RequestError unless 0 ≤ part ≤ whole and whole is at least 1."""
    if not 0 <= part <= whole or whole < 1:
        raise RequestError(f"{part} of {whole}", "is no share", "give 0 ≤ part ≤ whole, whole ≥ 1")
    return Fraction(100 * part, whole)


def band_of(value: Fraction, guideline: Guideline, name: str = "categories") -> Verdict:
    """The first of the guideline's bands that the value lies in.

    A band is a mapping with `name` and an upper end, `below` (excluded) or `at_most` (included); the last has
    none. `urgency` is its place in the worklist, routine where it is not given; `text` replaces the name in
    sentences. Raises RequestError where no band takes the value.
    """
    for band in guideline[name]:
        below, at_most = band.get("below"), band.get("at_most")
        if (below is None or value < exact(below)) and (at_most is None or value <= exact(at_most)):
            return Verdict(band["name"], band.get("urgency", "routine"), band.get("text", band["name"]))
    raise RequestError(guideline.id, f"has no category for {float(value):g}", "let its last have no end")


def insufficient(counted: int, guideline: Guideline) -> str | None:
    """Why nothing may be said of so few cells (`least_cells` of the guideline); None if they are enough."""
    least = guideline["least_cells"]
    return None if counted >= max(1, least) else f"insufficient (<{least}): {counted} cells were counted"


def judge(value: Fraction, counted: int, guideline: Guideline) -> Verdict:
    """The category of a percentage that was counted on so many cells; withheld where they are too few."""
    why = insufficient(counted, guideline)
    return Verdict(None, "unevaluable", why) if why else band_of(value, guideline)


def judge_share(part: int, whole: int, guideline: Guideline) -> Verdict:
    """The category of a share of cells; also where there are none, which is too few."""
    return judge(percent(part, whole) if whole else Fraction(), whole, guideline)
