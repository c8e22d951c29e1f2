"""HER2 by immunohistochemistry: 0, 1+, 2+ or 3+ from how many tumour cells' membranes stain how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coverslip.errors import RequestError
from coverslip.workflows.result import Urgency
from coverslip.workflows.rules.bands import exact, insufficient, percent
from coverslip.workflows.rules.guideline import Guideline

Ish = Literal["positive", "negative"]


@dataclass(frozen=True, slots=True)
class Membranes:
    """Tumour cells, counted by their membrane. `total`: all; the others are parts of it."""

    total: int
    intense_complete: int = 0
    weak_to_moderate_complete: int = 0
    intense_incomplete: int = 0
    faint_incomplete: int = 0

    def __post_init__(self) -> None:
        parts = self.parts
        if min(self.total, *parts) < 0 or sum(parts) > self.total:
            raise RequestError("counts of membranes", "do not add up", "give parts of all cells counted")

    @property
    def parts(self) -> tuple[int, int, int, int]:
        return (
            self.intense_complete,
            self.weak_to_moderate_complete,
            self.intense_incomplete,
            self.faint_incomplete,
        )

    @property
    def stained(self) -> int:
        return sum(self.parts)


@dataclass(frozen=True, slots=True)
class Her2Score:
    """`score`: "0" to "3+", None where it is withheld. `footnote`: of a 0, "null" or "ultralow"."""

    score: str | None
    footnote: str | None
    urgency: Urgency
    text: str


def her2_score(cells: Membranes, guideline: Guideline) -> Her2Score:
    """The score of a slide. Weaker staining never lowers it: what is complete counts for 1+ too.

    >>> from coverslip.workflows.rules.guideline import load_guideline
    >>> her2_score(Membranes(100, intense_complete=10), load_guideline("her2-asco-cap-2023")).score
    '2+'
    """
    why = insufficient(cells.total, guideline)
    if why:
        return Her2Score(None, None, "unevaluable", why)
    score = _score(cells, guideline)
    footnote = None if score != "0" else "ultralow" if cells.stained else "null"
    said = guideline["texts"][footnote or score]
    return Her2Score(score, footnote, guideline["urgencies"][score], said)


def _score(cells: Membranes, guideline: Guideline) -> str:
    limit = exact(guideline["more_than"])

    def many(count: int) -> bool:
        return percent(count, cells.total) > limit

    if many(cells.intense_complete):
        return "3+"
    complete = cells.intense_complete + cells.weak_to_moderate_complete
    some_intense = percent(cells.intense_complete, cells.total) > exact(guideline["intense_complete_above"])
    unusual = guideline["intense_incomplete_is_2+"] and many(cells.intense_incomplete)
    if many(complete) or some_intense or unusual:
        return "2+"
    return "1+" if many(cells.stained) else "0"


def her2_status(score: str, footnote: str | None, ish: Ish | None) -> str:
    """What the score and in situ hybridisation come to: positive, low, ultralow, null or equivocal.

    HER2-low (DESTINY-Breast04) is 1+, or 2+ without amplification; ultralow (DESTINY-Breast06) is 0 with some
    staining. They are overlays for treatment, not results of the guideline.
    """
    if score == "3+" or (score == "2+" and ish == "positive"):
        return "positive"
    if score == "2+":
        return "low" if ish == "negative" else "equivocal"
    return "low" if score == "1+" else footnote or "null"
