"""What a slide's quality means for its result: whether its stain fits, whether enough can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import StainMismatchError
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.quality import ARTEFACTS, BLURRED, BUBBLE, FOLD, GOOD, WEAK, QualityMap
from coverslip.tiling.quality import DARK as DARK_MATTER
from coverslip.tiling.quality import PEN as PEN_MARK
from coverslip.tiling.stain_kind import LEAST_PIXELS, NO_BROWN, StainEvidence
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.palette import DARK, OKABE_ITO, PEN, TISSUE, Rgba
from coverslip.workflows.result import Abstention, Call
from coverslip.workflows.workflow import Conclusion, Workflow
from coverslip.wsi import Slide

# Value of the label `quality` → name and colour.
COLOURS: Mapping[int, tuple[str, Rgba]] = MappingProxyType(
    {
        GOOD: ("good", TISSUE),
        BLURRED: (ARTEFACTS[BLURRED], OKABE_ITO[0]),
        PEN_MARK: (ARTEFACTS[PEN_MARK], PEN),
        FOLD: (ARTEFACTS[FOLD], OKABE_ITO[3]),
        BUBBLE: (ARTEFACTS[BUBBLE], OKABE_ITO[4]),
        WEAK: (ARTEFACTS[WEAK], OKABE_ITO[6]),
        DARK_MATTER: (ARTEFACTS[DARK_MATTER], DARK),
    }
)
EVALUABLE = "evaluable"
# What an abstention for doubts of the stain is about, and what the user can do.
STAIN = "stain"
ACCEPTED = "; it was accepted"
REMEDY = "look at the slide, and if it is of the right kind run again with --accept-stain"


def refuse_other_stain(slide: Slide, stain: StainEvidence, workflow: Workflow) -> None:
    """Raises StainMismatchError where a slide's colours exclude every stain the workflow is made for."""
    excluded = stain.excluded
    if not workflow.expects or not all(kind in excluded for kind in workflow.expects):
        return
    kind = f"; it looks like {stain.kind}" if stain.kind else ""
    raise StainMismatchError(
        slide.path,
        f"is not {' or '.join(workflow.expects)}, which {workflow.name} is made for: "
        f"{excluded[workflow.expects[0]]}{kind}",
        "choose a workflow made for its stain (coverslip workflows list), or go on with --accept-stain",
    )


def stain_said(stain: StainEvidence, workflow: Workflow, accepted: bool = False) -> str | None:
    """Whether a slide is of a stain the workflow is made for, as far as it shows; None where it takes any.

    "doubtful" where it does not: a negative IHC slide has only the haematoxylin that all sections have.
    `accepted`: the user went on with what the slide is in any case.
    """
    if not workflow.expects:
        return None
    shown = [kind for kind in workflow.expects if stain.shows(kind)]
    if shown:
        return f"{shown[0]}, as its {'colours' if stain.kind else 'cells, apart on glass,'} show"
    wanted = " or ".join(workflow.expects)
    if all(kind in stain.excluded for kind in workflow.expects):
        return f"not {wanted}: {stain.excluded[workflow.expects[0]]}{ACCEPTED}"
    doubt = f"doubtful: {_doubt(stain, workflow, wanted)}"
    return f"{doubt}{ACCEPTED}" if accepted else doubt


def _doubt(stain: StainEvidence, workflow: Workflow, wanted: str) -> str:
    if stain.pixels < LEAST_PIXELS:
        return f"too little of it is stained to tell whether it is {wanted}"
    if stain.kind is not None:
        return f"it looks like {stain.kind}, and {workflow.name} is made for {wanted}"
    if all(kind in stain.unlike for kind in workflow.expects):
        return f"it does not look like {wanted}: {stain.unlike[workflow.expects[0]]}"
    dab = "; nothing on it is brown as DAB" if "IHC" in workflow.expects and stain.brown < NO_BROWN else ""
    return f"its colours do not tell whether it is {wanted}{dab}"


def stain_doubted(
    conclusion: Conclusion, stain: StainEvidence, workflow: Workflow, accepted: bool = False
) -> Conclusion:
    """With an abstention, and the call withheld, where the slide looks like another kind than those the
    workflow is made for, or unlike nearly all slides of those.

    Where it was `accepted` the call stays, and the summary says so.
    """
    said = stain_said(stain, workflow, accepted)
    doubted = said is not None and not said.endswith(ACCEPTED) and _is_doubted(stain, workflow)
    why = (Abstention(what=STAIN, why=f"{said}; {REMEDY}"),) if doubted else ()
    return stain_said_again(conclusion, why, said)


def stain_said_again(conclusion: Conclusion, doubts: tuple[Abstention, ...], said: str | None) -> Conclusion:
    """With what was said of the stain when the slide was looked at: the doubts for which a call was withheld,
    and in the summary that it was accepted."""
    if said is not None and said.endswith(ACCEPTED):
        summary = f"{conclusion.summary} (stain {said.partition(':')[0]}{ACCEPTED})"
        return replace(conclusion, summary=summary)
    return _doubted(conclusion, doubts)


def _doubted(conclusion: Conclusion, doubts: tuple[Abstention, ...]) -> Conclusion:
    """With these doubts of its stain, and the call withheld for the first; as it is without any."""
    if not doubts:
        return conclusion
    why = f"stain {doubts[0].why}"
    return replace(
        conclusion,
        summary=f"{conclusion.summary} (not evaluable: stain doubtful)",
        abstentions=(*doubts, *conclusion.abstentions),
        call=conclusion.call and _withheld(conclusion.call, why),
    )


def _is_doubted(stain: StainEvidence, workflow: Workflow) -> bool:
    if any(stain.shows(kind) for kind in workflow.expects) or stain.pixels < LEAST_PIXELS:
        return False
    if all(kind in stain.excluded for kind in workflow.expects):
        return True
    return stain.kind is not None or all(kind in stain.unlike for kind in workflow.expects)


def evaluated(conclusion: Conclusion, quality: QualityMap, tissue: TissueMask, least: float) -> Conclusion:
    """The conclusion, with an abstention where less than the share `least` of the tissue can be evaluated.

    A call then is withheld, and the slide unevaluable; one that is urgent stays, since what was seen in the
    good part was seen.
    """
    if tissue.is_empty:
        return conclusion
    share, call = quality.evaluable, conclusion.call
    if share >= least:
        return conclusion
    area = good_area_mm2(quality, tissue)
    why = (
        f"{share:.0%} of the tissue ({area:.2g} mm²) can be evaluated, less than the {least:.0%} asked for: "
        f"{listed(quality)}"
    )
    return replace(
        conclusion,
        summary=f"{conclusion.summary} (not evaluable: {listed(quality)})",
        abstentions=(Abstention(what="quality", why=why), *conclusion.abstentions),
        call=call if call is None or call.urgency == "urgent" else _withheld(call, why),
    )


def _withheld(call: Call, why: str) -> Call:
    """It stays urgent, so that nobody waits for what may be there."""
    text = f"not evaluable: {why}; of the rest it was said: {call.text}"
    urgency = "urgent" if call.urgency == "urgent" else "unevaluable"
    changes = {"category": None, "confidence": None, "code": None, "urgency": urgency, "text": text}
    return call.model_copy(update=changes)


def listed(quality: QualityMap) -> str:
    """The artefacts there are, most first, with their shares of the tissue."""
    found = sorted(((share, name) for name, share in quality.artefacts.items() if share > 0), reverse=True)
    return ", ".join(f"{share:.0%} {name}" for share, name in found) or "no artefact"


def good_area_mm2(quality: QualityMap, tissue: TissueMask) -> float:
    """Area of good tissue, mm²."""
    return float(quality.good.sum()) * tissue.mpp.x * tissue.mpp.y / 1e6


def seen(quality: QualityMap) -> dict[str, Any]:
    """What was seen of the stain and how much was looked at, for provenance."""
    return {
        "stain_kind": quality.stain.kind,
        "stain_colours": asdict(quality.stain),
        "focus_judged": quality.focus,
        "fields_looked_at": quality.fields,
    }


def with_evaluable(table: pa.Table, plan: TilePlan, tissue: TissueMask, quality: QualityMap) -> pa.Table:
    """A table with one row per tile of the plan, and the column `evaluable`: the share of the tile's tissue,
    0 to 1, that is good; null where it holds none. Any other table as it is."""
    if EVALUABLE in table.column_names or not _is_of(table, plan):
        return table
    good, all_ = (_in_tiles(mask, plan, tissue) for mask in (quality.good, quality.values > 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(all_ > 0, good / all_, 0.0).astype(np.float32)
    return table.append_column(EVALUABLE, pa.array(share, mask=all_ == 0))


def _is_of(table: pa.Table, plan: TilePlan) -> bool:
    if table.num_rows != len(plan) or not {"x", "y"} <= set(table.column_names):
        return False
    return all(
        np.array_equal(table[name].to_numpy(), column) for name, column in (("x", plan.x), ("y", plan.y))
    )


def _in_tiles(mask: NDArray[np.bool_], plan: TilePlan, tissue: TissueMask) -> NDArray[np.float64]:
    """Mask pixels in each tile: float64 (n,)."""
    sums = np.asarray(cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_32S))
    height, width = mask.shape
    (left, right), (top, bottom) = (
        (
            np.clip(np.floor(at / scale), 0, most - 1).astype(np.int64),
            np.clip(np.ceil((at + long) / scale), 1, most).astype(np.int64),
        )
        for at, long, scale, most in (
            (plan.x, plan.extent[0], tissue.scale_x, width),
            (plan.y, plan.extent[1], tissue.scale_y, height),
        )
    )
    return (sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]).astype(np.float64)
