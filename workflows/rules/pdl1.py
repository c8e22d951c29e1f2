"""PD-L1: TPS and CPS from counts of cells, SP142 from areas. A rule belongs to a clone and an indication."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from coverslip.errors import RequestError
from coverslip.workflows.rules.bands import Verdict, band_of, exact, insufficient, judge, percent
from coverslip.workflows.rules.guideline import Guideline


@dataclass(frozen=True, slots=True)
class PdL1Cells:
    """Counts. `viable`: all viable tumour cells. PD-L1+: `tumour`, `lymphocytes`, `macrophages`, and `others`
    (neutrophils, eosinophils, plasma cells, stroma), which no score counts."""

    viable: int
    tumour: int
    lymphocytes: int = 0
    macrophages: int = 0
    others: int = 0

    def __post_init__(self) -> None:
        counts = (self.viable, self.tumour, self.lymphocytes, self.macrophages, self.others)
        if min(counts) < 0 or self.tumour > self.viable:
            raise RequestError("counts of PD-L1", "do not add up", "positive tumour cells are viable ones")


def tps(cells: PdL1Cells, guideline: Guideline) -> Fraction | None:
    """Tumour proportion score, %; None with too few cells.

    >>> from coverslip.workflows.rules.guideline import load_guideline
    >>> tps(PdL1Cells(200, 30, 12, 8), load_guideline("pdl1-22c3-nsclc"))
    Fraction(15, 1)
    """
    return None if insufficient(cells.viable, guideline) else percent(cells.tumour, cells.viable)


def cps(cells: PdL1Cells, guideline: Guideline) -> Fraction | None:
    """Combined positive score, 0 to 100; None with too few cells."""
    if insufficient(cells.viable, guideline):
        return None
    positive = cells.tumour + cells.lymphocytes + cells.macrophages
    return min(Fraction(100), Fraction(100 * positive, cells.viable))


def judge_pdl1(cells: PdL1Cells, guideline: Guideline) -> Verdict:
    """The category of this clone and indication, by the score that it uses, "TPS" or "CPS"."""
    kind = guideline["score"]
    if kind not in ("TPS", "CPS"):
        raise RequestError(guideline.id, f"scores {kind}, not cells", "use sp142_verdict")
    value = tps(cells, guideline) if kind == "TPS" else cps(cells, guideline)
    return judge(value or Fraction(), cells.viable, guideline)


def immune_class(area: Fraction, guideline: Guideline) -> str:
    """IC0 to IC3, from the % of tumour area that PD-L1+ immune cells cover."""
    return band_of(area, guideline, "immune_classes").category or ""


def sp142_verdict(tumour: Fraction | None, area: Fraction | None, guideline: Guideline) -> Verdict:
    """Whether SP142's criterion is met: % of tumour cells stained, % of tumour area of immune cells.

    None for what was not measured: one of both that reaches its cut-off is enough, and where none does and
    one is missing, no category is given.
    """
    met, missing = [], []
    for name, value in (("tumour_from", tumour), ("immune_from", area)):
        least = guideline[name]
        if least is None:
            continue
        if value is None:
            missing.append("tumour cells" if name == "tumour_from" else "area of immune cells")
        elif value >= exact(least):
            met.append(name)
    if met:
        return Verdict("criterion met", "attention", "criterion met")
    if missing:
        return Verdict(None, "unevaluable", f"the {' and the '.join(missing)} was not measured")
    return Verdict("criterion not met", "routine", "criterion not met")
