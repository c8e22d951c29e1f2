"""What every marker's reading takes and gives: cells that count in, measurements and a call out."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pyarrow as pa

from coverslip.workflows.ihc.cells import NAMES
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.result import (
    Abstention,
    Call,
    Finding,
    GuidelineUse,
    Interval,
    Measurement,
)
from coverslip.workflows.rules.bands import Verdict
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.scores import IhcScore, score_counts, wilson
from coverslip.wsi import Box, Mpp

THRESHOLDS = "intensity-qupath"


@dataclass(frozen=True, slots=True)
class Immune:
    """Immune cells: all, those stained, and the share of the tumour's area, %, that the stained ones cover;
    None where nobody outlined the tumour."""

    cells: int
    stained: int
    area: Fraction | None


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """The cells of one slide that count. `where`: in which part of it; `dye`: the antibody's; `doubt`: why no
    call can be made of whatever is counted, None where nothing speaks against it. `immune`: stained and all
    immune cells, as a person told them from those; None where nobody did."""

    cells: pa.Table
    choices: IhcSettings
    where: str
    dye: str
    scanned: Box
    mpp: Mpp
    doubt: str | None = None
    immune: Immune | None = None

    @property
    def score(self) -> IhcScore:
        seen = self.cells["class"].value_counts()
        found = dict(zip(seen.field("values").to_pylist(), seen.field("counts").to_pylist(), strict=True))
        negative, one, two, three = (found.get(name, 0) for name in NAMES)
        return score_counts((negative, one, two, three), self.choices.score)

    @property
    def noun(self) -> str:
        return "cells" if self.choices.kind.in_membrane else "nuclei"

    @property
    def bins(self) -> str:
        """How a cell comes to be 1+, 2+ or 3+."""
        one, two, three = self.choices.score.thresholds
        if self.choices.kind.in_membrane:
            return (
                f"membrane {self.dye} OD (log10) ≥ {one:g} / {two:g} / {three:g} for weak / moderate / strong"
            )
        return f"nuclear {self.dye} OD mean (log10) ≥ {one:g} / {two:g} / {three:g} for 1+ / 2+ / 3+"

    def share(
        self,
        name: str,
        part: int,
        whole: int,
        method: str,
        code: str | None = None,
        note: str | None = None,
        why: str | None = None,
    ) -> Measurement:
        """A percentage of cells with its Wilson interval; not evaluable without cells, nor with a `why`."""
        value = wilson(part, whole, self.choices.score.confidence) if whole and not why else None
        interval = value and Interval(
            low=100 * value.low, high=100 * value.high, level=self.choices.score.confidence, method="Wilson"
        )
        return Measurement(
            name=name,
            value=value and 100 * value.value,
            unit="%",
            method=method,
            n=whole,
            interval=interval,
            code=code,
            note=why or note,
        )

    def h_score(self, why: str | None = None) -> Measurement:
        """`why`: the reason for which it is not evaluable."""
        score = self.score
        method = f"1·%1+ + 2·%2+ + 3·%3+; {self.bins}"
        value = None if why else score.h_score
        return Measurement(name="H-score", value=value, unit="1", method=method, n=score.total, note=why)

    def counts(self) -> tuple[Measurement, ...]:
        return tuple(
            Measurement(name=f"{self.noun} {name}", value=count, unit="1", method=self.bins)
            for name, count in zip(NAMES, self.score.counts, strict=True)
        )

    def thresholds_used(self) -> GuidelineUse:
        """Cut-offs of density. On membranes they are unverified: QuPath states them for nuclei."""
        used = list(self.choices.score.thresholds)
        known = load_guideline(THRESHOLDS)
        own = used != known["thresholds"]
        name = "thresholds of density, given" if own else known.name
        return GuidelineUse(
            name=name,
            version="given" if own else known.version,
            source="settings of this run" if own else known.source,
            cut_offs={"thresholds": used},
            unverified=("thresholds",) if self.choices.kind.in_membrane else (),
        )

    def call(self, verdict: Verdict, lead: str, code: str | None) -> Call:
        """`lead`: the figure that it rests on."""
        if self.doubt is not None:
            return Call(category=None, text=self.doubt, urgency="unevaluable", code=code)
        text = f"{lead}: {verdict.text}; {self.noun} in {self.where}"
        return Call(category=verdict.category, text=text, urgency=verdict.urgency, code=code)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a marker comes to on one slide."""

    summary: str
    measurements: tuple[Measurement, ...]
    call: Call | None = None
    guidelines: tuple[GuidelineUse, ...] = ()
    findings: tuple[Finding, ...] = ()
    abstentions: tuple[Abstention, ...] = ()


def refused(call: Call, what: str) -> tuple[Abstention, ...]:
    """Where no category is given, that it is not."""
    return () if call.category is not None else (Abstention(what=what, why=call.text),)


def use_of(guideline: Guideline, *names: str) -> GuidelineUse:
    """Its values of these names, as far as it has them."""
    return guideline.use(*(name for name in names if name in guideline.values))
