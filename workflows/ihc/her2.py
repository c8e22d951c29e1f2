"""HER2: how many cells' membranes stain how strongly and how far round, and the score of that."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from coverslip.workflows.ihc.reading import Counted, Judgement, refused, use_of
from coverslip.workflows.result import GuidelineUse, Measurement
from coverslip.workflows.rules.bands import Verdict, insufficient
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.her2 import Membranes, her2_score, her2_status

OVERLAYS = MappingProxyType(
    {
        "positive": "HER2-positive",
        "equivocal": "HER2-positive with amplification, HER2-low without",
        "low": "footnote: HER2-low (as in DESTINY-Breast04)",
        "ultralow": "footnote: HER2-ultralow (as in DESTINY-Breast06)",
        "null": "footnote: HER2-null, no staining at all",
    }
)


def read_her2(counted: Counted, rule: Guideline) -> Judgement:
    cells = membranes_of(counted)
    found = her2_score(cells, rule)
    code = code_of("HER2 score")
    lead = "HER2" if found.score is None else f"HER2 on {cells.total} cells"
    call = counted.call(Verdict(found.score, found.urgency, found.text), lead, code)
    why = counted.doubt or insufficient(cells.total, rule)
    score = Measurement(
        name="HER2 score",
        value=None if why or found.score is None else int(found.score.rstrip("+")),
        unit="1",
        method="from the shares of cells by the pattern of their membrane",
        n=cells.total,
        code=code,
        note=why or _overlay(found.score, found.footnote),
    )
    return Judgement(
        summary=call.text,
        measurements=(score, *_shares(counted, cells, why), counted.h_score(why), *counted.counts()),
        call=call,
        guidelines=(
            use_of(
                rule,
                *("more_than", "intense_complete_above", "intense_incomplete_is_2+", "least_cells"),
            ),
            counted.thresholds_used(),
            membrane_use(counted),
        ),
        abstentions=refused(call, "HER2 score"),
    )


def membranes_of(counted: Counted) -> Membranes:
    names = np.asarray(counted.cells["class"].to_numpy(zero_copy_only=False))
    whole = counted.cells["membrane_complete"].to_numpy() >= counted.choices.cell.complete
    return Membranes(
        total=len(names),
        intense_complete=int((names == "3+").sum()),
        weak_to_moderate_complete=int(((names == "2+") & whole).sum()),
        intense_incomplete=int(((names == "2+") & ~whole).sum()),
        faint_incomplete=int((names == "1+").sum()),
    )


def _overlay(score: str | None, footnote: str | None) -> str | None:
    """Low and ultralow say which treatment was tried; the guideline has no such results."""
    return None if score is None else OVERLAYS[her2_status(score, footnote, None)]


def _shares(counted: Counted, cells: Membranes, why: str | None) -> tuple[Measurement, ...]:
    patterns = {
        "intense complete": cells.intense_complete,
        "weak to moderate complete": cells.weak_to_moderate_complete,
        "moderate to intense incomplete": cells.intense_incomplete,
        "faint incomplete": cells.faint_incomplete,
        "without staining": cells.total - cells.stained,
    }
    method = f"{counted.bins}; complete from {100 * counted.choices.cell.complete:.0f} % of the circumference"
    return tuple(
        counted.share(f"membranes {name}", count, cells.total, method, why=why)
        for name, count in patterns.items()
    )


def membrane_use(counted: Counted) -> GuidelineUse:
    """What a complete and a stained membrane is taken for; no guideline puts figures on it."""
    cell = counted.choices.cell
    used = {
        "complete": cell.complete,
        "partial": cell.partial,
        "sectors": cell.sectors,
        "expansion_um": cell.expansion_um,
    }
    return GuidelineUse(
        name="Membranes as Coverslip measures them",
        version="1",
        source="the settings cell.*; no publication states these figures",
        cut_offs=used,
        unverified=tuple(used),
    )
