"""PD-L1: TPS of the cells that count. What needs immune cells told from tumour cells is not evaluable."""

from __future__ import annotations

from fractions import Fraction

from coverslip.workflows.ihc.her2 import membrane_use
from coverslip.workflows.ihc.reading import Counted, Judgement, refused
from coverslip.workflows.result import Abstention, Measurement
from coverslip.workflows.rules.bands import Verdict, insufficient
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.pdl1 import PdL1Cells, judge_pdl1, sp142_verdict

NO_IMMUNE = "immune cells are not told from tumour cells here"


def read_pdl1(counted: Counted, rule: Guideline) -> Judgement:
    score = counted.score
    cells = PdL1Cells(viable=score.total, tumour=score.positive)
    why = counted.doubt or insufficient(cells.viable, rule)
    proportion = _proportion(counted, cells, why)
    verdict = _verdict(cells, rule, why)
    share = "" if proportion.value is None else f", TPS {proportion.value:.1f} % of {cells.viable}"
    call = counted.call(
        verdict, f"PD-L1 {rule['clone']}, {rule['indication']}{share}", code_of(rule["score"])
    )
    return Judgement(
        summary=call.text,
        measurements=(proportion, _combined(), counted.h_score(why), *counted.counts()),
        call=call,
        guidelines=(rule.use(), counted.thresholds_used(), membrane_use(counted)),
        abstentions=(*refused(call, "category of PD-L1"), Abstention(what="CPS", why=NO_IMMUNE)),
    )


def _verdict(cells: PdL1Cells, rule: Guideline, why: str | None) -> Verdict:
    if why:
        return Verdict(None, "unevaluable", why)
    if rule["score"] == "CPS":
        return Verdict(None, "unevaluable", f"CPS is not evaluable: {NO_IMMUNE}")
    if rule["score"] == "SP142":
        return sp142_verdict(Fraction(100 * cells.tumour, cells.viable), None, rule)
    return judge_pdl1(cells, rule)


def _proportion(counted: Counted, cells: PdL1Cells, why: str | None) -> Measurement:
    """TPS; on too few cells not evaluable."""
    partial = counted.choices.cell.partial
    method = f"cells with membrane stained in {partial:.0%} of the circumference or more; {counted.bins}"
    if why:
        return Measurement(
            name="TPS", value=None, unit="%", method=method, n=cells.viable, code=code_of("TPS"), note=why
        )
    note = "all cells counted are taken for viable tumour cells, immune cells among them"
    return counted.share("TPS", cells.tumour, cells.viable, method, code_of("TPS"), note)


def _combined() -> Measurement:
    method = "PD-L1+ tumour cells, lymphocytes and macrophages per 100 viable tumour cells, at most 100"
    return Measurement(name="CPS", value=None, unit="1", method=method, code=code_of("CPS"), note=NO_IMMUNE)
