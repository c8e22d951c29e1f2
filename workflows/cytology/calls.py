"""From the cells of a whole smear to adequacy, category and triage score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.models.pap_finder import common_density
from coverslip.tiling.stain import estimate_background
from coverslip.tiling.tissue import TissueMask, overview_mpp
from coverslip.workflows.cytology.cells import Cells, crowds_of
from coverslip.workflows.cytology.points import Points, counts_towards
from coverslip.workflows.result import Abstention, Call, Urgency
from coverslip.workflows.rules.adequacy import Adequacy, Population, Preparation, assess_adequacy
from coverslip.workflows.rules.bethesda import Judged, judge, severity, triage_score, worst_category
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.wsi import Slide

CATEGORY = "Bethesda category"


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """All that a smear's cells come to.

    `obscured`: share, None where not assessed. `suspicion`, `crowds`: of each cell, 0 for none. `why_not`:
    what forbids any category.
    """

    cells: Cells
    judged: Judged
    adequacy: Adequacy
    obscured: float | None
    triage: float
    suspicion: NDArray[np.float64]
    crowds: NDArray[np.int32]
    why_not: str | None


def read_cells(
    cells: Cells,
    points: Points,
    guideline: Guideline,
    preparation: Preparation | None,
    population: Population,
    obscured: float | None,
    squamous: float = 1.0,
) -> Reading:
    """The rules applied to the cells of one slide. `obscured`: share of the squamous cells hidden;
    `squamous`: of the cells counted for adequacy, the share that are at least.

    Cells that a person confirmed are no false positives: they are left out of the model's, and the worst of
    them is the category where it is worse than what the others come to.
    """
    familiar, probabilities = cells.familiar, cells.probabilities
    guessed = familiar & ~cells.sure
    observed = {
        point.category: int((counts_towards(probabilities, cells.roles, point, guideline) & guessed).sum())
        for point in points.points
    }
    judged = judge(observed, int(guessed.sum()), points.points, guideline)
    judged = _confirmed(judged, cells, guideline)
    counted = {guideline["negative"], *guideline["squamous"]}
    endocervical = int((familiar & (cells.best == "endocervical")).sum())
    adequacy = assess_adequacy(
        guideline,
        cells=int((familiar & np.isin(cells.best.astype(str), list(counted))).sum()),
        share=squamous,
        preparation=preparation,
        abnormal=judged.category in severity(guideline),
        obscured=obscured,
        endocervical=endocervical if "endocervical" in cells.roles else None,
        population=population,
    )
    by_role = {
        role: np.where(familiar, cells.of_role(role), 0.0)
        for role in severity(guideline)
        if role in cells.roles
    }
    triage, suspicion = triage_score(by_role, guideline)
    crowds = crowds_of(cells, guideline["crowd_um"], guideline["crowd_cells"])
    why_not = _why_not(cells, points, guideline, preparation)
    return Reading(cells, judged, adequacy, obscured, triage, suspicion, crowds, why_not)


def _confirmed(judged: Judged, cells: Cells, guideline: Guideline) -> Judged:
    """With what a person said of single cells."""
    order = (guideline["negative"], *severity(guideline))
    confirmed = cells.best[cells.sure].tolist()
    counts = {name: confirmed.count(name) for name in order}
    worst = worst_category(counts, guideline)
    if worst == order[0] or (judged.category in order and order.index(judged.category) >= order.index(worst)):
        return judged
    why = f"{counts[worst]} cells are {worst} as the reviewer says; of the others: {judged.why}"
    return Judged(worst, None, why, judged.excesses)


def _why_not(
    cells: Cells, points: Points, guideline: Guideline, preparation: Preparation | None
) -> str | None:
    """What forbids any category, before the cells are counted."""
    called = int(cells.called.sum())
    strange = 1 - float(cells.familiar.sum()) / called if called else 0.0
    if strange > guideline["largest_strange_share"]:
        return f"{strange:.0%} of the cells are unlike those the model learnt from"
    if preparation and points.preparations and preparation not in points.preparations:
        known = " and ".join(points.preparations)
        return f"how often the model errs was measured on {known} smears, and this one is {preparation}"
    return None


def obscured_share(slide: Slide, tissue: TissueMask, density: float) -> float | None:
    """Share of the cellular area too dense in red and green light for nuclei to show.

    In the picture that tissue was found in; None without tissue. Blood lets red light through and is not
    among it. `density`: log10, above the glass.
    """
    pixels = slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings)).pixels
    glass = estimate_background(pixels.rgb, pixels.valid) or slide.background
    off = common_density(np.array(glass, np.uint8).reshape(1, 1, 3))[0, 0]
    if pixels.rgb.shape[:2] != tissue.mask.shape or not tissue.mask.any():
        return None
    return float((common_density(pixels.rgb)[tissue.mask] - off > density).mean())


def call_of(reading: Reading, guideline: Guideline) -> tuple[Call, tuple[Abstention, ...]]:
    """The slide's call, and why there is none where there is none."""
    judged, adequacy, triage = reading.judged, reading.adequacy, reading.triage
    if reading.why_not:
        return _no_call(reading.why_not, triage, "unevaluable")
    if adequacy.satisfactory is False:
        text = f"unsatisfactory: {adequacy.why}"
        found = Call(
            category="unsatisfactory",
            text=text,
            triage=triage,
            urgency="unevaluable",
            code=code_of("unsatisfactory"),
        )
        return found, ()
    if judged.category is None:
        return _no_call(judged.why, triage, "attention")
    if judged.category == guideline["negative"] and adequacy.satisfactory is None:
        return _no_call(f"NILM needs a satisfactory sample, and {adequacy.why}", triage, "unevaluable")
    urgency = guideline["urgency"][judged.category]
    text = f"{judged.category}: {judged.why}"
    found = Call(
        category=judged.category,
        text=text,
        confidence=judged.confidence,
        triage=triage,
        urgency=urgency,
        code=code_of(judged.category),
    )
    return found, ()


def _no_call(why: str, triage: float, urgency: Urgency) -> tuple[Call, tuple[Abstention, ...]]:
    call = Call(category=None, text=f"no category: {why}", triage=triage, urgency=urgency)
    return call, (Abstention(what=CATEGORY, why=why),)


def summary_of(call: Call, reading: Reading) -> str:
    cells = int(reading.cells.called.sum())
    confidence = "" if call.confidence is None else f" (confidence {call.confidence:.2f})"
    head = f"{call.category}{confidence}" if call.category else call.text
    return f"{head}; {cells} cells, adequacy {reading.adequacy.category or 'not judged'}"
