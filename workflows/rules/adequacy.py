"""Whether a cervical sample can be judged at all: the Bethesda System's adequacy, as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline

Preparation = Literal["liquid-based", "conventional"]
Population = Literal["general", "special"]


@dataclass(frozen=True, slots=True)
class Adequacy:
    """`satisfactory`: None where it cannot be told. `why`: what decided. `transformation_zone`: whether
    enough endocervical or metaplastic cells are there; None where they were not looked for. It says how good
    the sample is, never that it is unsatisfactory."""

    satisfactory: bool | None
    why: str
    transformation_zone: bool | None = None

    @property
    def category(self) -> str | None:
        if self.satisfactory is None:
            return None
        return "satisfactory" if self.satisfactory else "unsatisfactory"


def assess_adequacy(
    guideline: Guideline,
    *,
    cells: int,
    share: float = 1.0,
    preparation: Preparation | None,
    abnormal: bool = False,
    obscured: float | None = None,
    endocervical: int | None = None,
    population: Population = "general",
) -> Adequacy:
    """Adequacy of a sample.

    `cells`: well-preserved squamous cells, metaplastic ones among them. `share`: how many of these are
    squamous cells at least, where a program counted them: it is told to be enough, or too little, only where
    both ends agree. `abnormal`: whether any abnormal cell
    (ASC, AGC or worse) is established: then the sample is satisfactory, whatever else. `obscured`: share of
    the squamous cells hidden by blood, inflammation or thickness, None where not assessed. `endocervical`:
    endocervical and metaplastic cells, None where not looked for. `population`: "special" for samples in
    which fewer cells are enough (an unverified figure).

    Raises RequestError for counts below 0, shares beyond 0 to 1, and a preparation that has no figure.
    """
    if cells < 0 or (endocervical or 0) < 0 or not 0 <= (obscured or 0) <= 1 or not 0 <= share <= 1:
        raise RequestError("adequacy", "is out of range", "give counts of 0 or more and a share of 0 to 1")
    zone = None if endocervical is None else endocervical >= guideline["transformation_zone_cells"]
    if abnormal:
        return Adequacy(True, "abnormal cells make any sample satisfactory", zone)
    most = guideline["largest_obscured_share"]
    if obscured is not None and obscured > most:
        return Adequacy(False, f"{obscured:.0%} is obscured, more than {most:.0%}", zone)
    if preparation is None:
        return Adequacy(None, "the preparation is not stated, and the least count depends on it", zone)
    least = least_cells(guideline, preparation, population)
    if cells < least:
        return Adequacy(False, f"{cells} squamous cells, fewer than {least} ({preparation})", zone)
    if share * cells < least:
        few = f"{cells} were counted as squamous cells, and as few as {int(share * cells)} may be"
        return Adequacy(None, f"{few}; at least {least} are needed ({preparation})", zone)
    return Adequacy(True, f"{cells} squamous cells, at least {least} ({preparation})", zone)


def least_cells(guideline: Guideline, preparation: str, population: Population = "general") -> int:
    """Squamous cells below which a sample is unsatisfactory. Raises RequestError for an unknown one."""
    known = guideline["least_cells"]
    if preparation not in known:
        raise RequestError(
            f"preparation {preparation!r}", "has no least count", f"name one of {', '.join(known)}"
        )
    return int(guideline["least_cells_special"] if population == "special" else known[preparation])
