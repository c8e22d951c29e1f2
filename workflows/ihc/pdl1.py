"""PD-L1: TPS of the cells that count; CPS and SP142's area only where a person marked immune cells."""

from __future__ import annotations

from fractions import Fraction

from coverslip.workflows.ihc.her2 import membrane_use
from coverslip.workflows.ihc.reading import Counted, Immune, Judgement, refused
from coverslip.workflows.result import Abstention, Measurement
from coverslip.workflows.rules.bands import Verdict, insufficient
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.pdl1 import PdL1Cells, cps, judge_pdl1, sp142_verdict

NO_IMMUNE = "immune cells are not told from tumour cells here"


def read_pdl1(counted: Counted, rule: Guideline) -> Judgement:
    score = counted.score
    immune = counted.immune
    cells = PdL1Cells(score.total, score.positive, lymphocytes=immune.stained if immune else 0)
    why = counted.doubt or insufficient(cells.viable, rule)
    proportion = _proportion(counted, cells, why)
    verdict = _verdict(cells, immune, rule, why)
    share = "" if proportion.value is None else f", TPS {proportion.value:.1f} % of {cells.viable}"
    call = counted.call(
        verdict, f"PD-L1 {rule['clone']}, {rule['indication']}{share}", code_of(rule["score"])
    )
    return Judgement(
        summary=call.text,
        measurements=(
            proportion,
            _combined(cells, immune, rule, why),
            *_covered(immune),
            counted.h_score(why),
            *counted.counts(),
        ),
        call=call,
        guidelines=(rule.use(), counted.thresholds_used(), membrane_use(counted)),
        abstentions=(*refused(call, "category of PD-L1"), *_not_combined(immune)),
    )


def _verdict(cells: PdL1Cells, immune: Immune | None, rule: Guideline, why: str | None) -> Verdict:
    if why:
        return Verdict(None, "unevaluable", why)
    if rule["score"] == "CPS" and immune is None:
        return Verdict(None, "unevaluable", f"CPS is not evaluable: {NO_IMMUNE}")
    if rule["score"] == "SP142":
        area = immune.area if immune else None
        return sp142_verdict(Fraction(100 * cells.tumour, cells.viable), area, rule)
    return judge_pdl1(cells, rule)


def _proportion(counted: Counted, cells: PdL1Cells, why: str | None) -> Measurement:
    """TPS; on too few cells not evaluable."""
    partial = counted.choices.cell.partial
    least = f"{100 * partial:.0f} % of the circumference"
    method = f"cells with membrane stained in {least} or more; {counted.bins}"
    if why:
        return Measurement(
            name="TPS", value=None, unit="%", method=method, n=cells.viable, code=code_of("TPS"), note=why
        )
    among = "immune cells among them" if counted.immune is None else "those marked as immune cells left out"
    note = f"all cells counted are taken for viable tumour cells, {among}"
    return counted.share("TPS", cells.tumour, cells.viable, method, code_of("TPS"), note)


def _combined(cells: PdL1Cells, immune: Immune | None, rule: Guideline, why: str | None) -> Measurement:
    method = "PD-L1+ tumour cells, lymphocytes and macrophages per 100 viable tumour cells, at most 100"
    value = None if immune is None or why else cps(cells, rule)
    told = "" if immune is None else f"{immune.stained} of the {immune.cells} immune cells marked are stained"
    return Measurement(
        name="CPS",
        value=None if value is None else float(value),
        unit="1",
        method=method,
        n=None if immune is None else cells.viable,
        code=code_of("CPS"),
        note=NO_IMMUNE if immune is None else why or told,
    )


def _covered(immune: Immune | None) -> tuple[Measurement, ...]:
    """Only where somebody marked immune cells."""
    if immune is None:
        return ()
    method = "area of the stained immune cells marked, per area of the tumour outlined"
    value = None if immune.area is None else float(immune.area)
    note = "nobody outlined the tumour" if immune.area is None else None
    return (
        Measurement(
            name="stained immune cells, area",
            value=value,
            unit="%",
            method=method,
            n=immune.stained,
            note=note,
        ),
    )


def _not_combined(immune: Immune | None) -> tuple[Abstention, ...]:
    return (Abstention(what="CPS", why=NO_IMMUNE),) if immune is None else ()
