"""From counted blood cells to what a report says: shares, galleries, flags, and what was not assessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coverslip.models.document import TileFit
from coverslip.workflows.blood.cells import SCHISTOCYTES, UNSURE, WHITE, SmearCells
from coverslip.workflows.result import Abstention, Call, Finding, Interval, Measurement, TileReference
from coverslip.workflows.rules.bands import Verdict
from coverslip.workflows.rules.differential import (
    ERYTHROBLASTS,
    PLATELETS,
    SMUDGES,
    URGENCIES,
    Counting,
    Differential,
    Flag,
    Part,
    Rules,
    differential,
    flags,
    verdict,
)
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.schistocytes import schistocyte_verdict
from coverslip.workflows.scores import Fraction, wilson
from coverslip.wsi import Mpp

BLASTS = "blasts"
RAISED = "schistocytes"


@dataclass(frozen=True, slots=True)
class Assessed:
    """Reported names that the finder (`found`) and the caller (`called`) have classes of."""

    found: frozenset[str]
    called: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class BloodReport:
    """What the cells of one smear come to. `too_unsure`: why nothing is called, or None. `schistocytes`: the
    rule's verdict, None where nothing looks for them. `wrong`: what the model took for each part in its test.
    """

    cells: SmearCells
    assessed: Assessed
    counting: Counting
    rules: Rules
    found: Differential
    raised: tuple[Flag, ...]
    schistocytes: Verdict | None
    too_unsure: str | None
    wrong: Mapping[str, str]

    @property
    def summary(self) -> str:
        if self.found.why_not is not None:
            return f"not evaluable: {self.found.why_not}"
        shares = [
            f"{part.name} {100 * part.share.value:.1f} %"
            for part in self.found.parts
            if part.share and part.name in self.assessed.called
        ]
        listed = ", ".join(shares)
        return f"{listed} of {self.found.total} white cells; {self.cells.unsure} more unsure"

    def call(self) -> Call:
        """The category in the guideline's words; no probability is known of it."""
        said = verdict(self.found, self.raised, self.rules.guideline)
        return Call(category=said.category, text=said.text, urgency=said.urgency)

    def measurements(self) -> tuple[Measurement, ...]:
        shares = (self._share(part) for part in self.found.parts)
        return (*shares, self._erythroblasts(), *self._apart(), *self._objects(), *self._fragments())

    def abstentions(self) -> tuple[Abstention, ...]:
        listed = []
        if self.found.why_not is not None:
            listed.append(Abstention(what="white-cell differential", why=self.found.why_not))
        lacking = self.assessed.called
        names = (*self.rules.guideline["parts"], *self.rules.guideline["immature"], ERYTHROBLASTS, SMUDGES)
        listed += [
            Abstention(what=name, why="not assessed: the model has no class of them")
            for name in names
            if name not in lacking
        ]
        listed += [
            Abstention(what=what, why="not assessed: the finder has no class of them")
            for what, name in (("red cells", "red"), ("schistocytes", SCHISTOCYTES))
            if name not in self.assessed.found
        ]
        if self.schistocytes is not None and self.schistocytes.category is None:
            listed.append(Abstention(what="schistocytes", why=self.schistocytes.text))
        return tuple(listed)

    def _share(self, part: Part) -> Measurement:
        counting, evaluable = self.counting, self.found.why_not is None and part.name in self.assessed.called
        together = " together with those of the other parts" if counting.simultaneous else ""
        why = self.found.why_not if part.name in self.assessed.called else "the model has no class of them"
        return Measurement(
            name=part.name,
            value=100 * part.share.value if evaluable and part.share else None,
            unit="%",
            method="share of the white cells called with certainty; erythroblasts, smudges and unsure cells "
            "are not among them; the interval is for which cells were counted, not for wrong calls",
            n=self.found.total,
            interval=_interval(part.share, 100, counting.confidence, f"Wilson{together}")
            if evaluable and part.share
            else None,
            note=self.wrong.get(part.name) if evaluable else f"{part.count} counted; {why}",
        )

    def _erythroblasts(self) -> Measurement:
        ratio, assessed = self.found.erythroblasts, ERYTHROBLASTS in self.assessed.called
        evaluable = ratio is not None and assessed and self.found.why_not is None
        return Measurement(
            name="erythroblasts per 100 white cells",
            value=ratio.value if evaluable and ratio else None,
            unit="/100{WBC}",
            method="nucleated red cells per 100 white cells called with certainty; not in the differential",
            n=self.found.total,
            interval=_interval(ratio, 1, self.counting.confidence, "Wilson, as odds")
            if evaluable and ratio
            else None,
            note=None if evaluable else self.found.why_not or "the model has no class of them",
        )

    def _apart(self) -> tuple[Measurement, ...]:
        """Counts of what is no part of the differential."""
        cells, candidates = self.cells, int(self.cells.leukocytes.sum())
        share = wilson(cells.unsure, candidates, self.counting.confidence) if candidates else None
        counted = "called so with certainty"
        unsure = "unlike what the model learnt from, or with several classes or none in the prediction set"
        listed = [
            Measurement(name=name, value=self.found.apart.get(name, 0), unit="1", method=counted)
            for name in (ERYTHROBLASTS, SMUDGES)
            if name in self.assessed.called
        ]
        listed.append(Measurement(name="unsure white cells", value=cells.unsure, unit="1", method=unsure))
        listed.append(
            Measurement(
                name="unsure white cells, share",
                value=100 * share.value if share else None,
                unit="%",
                method=unsure,
                n=candidates,
                interval=_interval(share, 100, self.counting.confidence, "Wilson") if share else None,
                note=self.too_unsure,
            )
        )
        return tuple(listed)

    def _objects(self) -> tuple[Measurement, ...]:
        cells, found = self.cells, self.assessed.found
        rows = [
            (
                "white cells found",
                int(cells.leukocytes.sum()),
                "found, and called neither platelets nor erythroblasts",
            )
        ]
        if "red" in found:
            rows.append(("red cells found", cells.red, "found one by one; of clumps some are missed"))
        if PLATELETS in found | self.assessed.called:
            how = "found as such, or found as white cells and called platelets"
            rows.append(("platelets found", int(cells.platelets.sum()), how))
        return tuple(Measurement(name=name, value=n, unit="1", method=how) for name, n, how in rows)

    def _fragments(self) -> tuple[Measurement, ...]:
        if self.schistocytes is None:
            return ()
        total, category = self.cells.red, self.schistocytes.category
        share = wilson(self.cells.schistocytes, total, self.counting.confidence) if category else None
        return (
            Measurement(
                name="schistocytes",
                value=100 * share.value if share else None,
                unit="%",
                method="share of the red cells found",
                n=total,
                interval=_interval(share, 100, self.counting.confidence, "Wilson") if share else None,
                note=None if share else self.schistocytes.text,
            ),
        )


def blood_report(
    cells: SmearCells,
    assessed: Assessed,
    counting: Counting,
    rules: Rules,
    fragments: Guideline,
    unsure_share: float,
    wrong: Mapping[str, str],
) -> BloodReport:
    """`fragments`: the guideline of schistocytes; `unsure_share`: of the white cells, above which nothing is
    called, since those that were called are then no longer drawn at random; `wrong`: of `wrong_calls`."""
    names = (*rules.parts, ERYTHROBLASTS, SMUDGES)
    found = differential(cells.counts(names), counting, rules)
    candidates = int(cells.leukocytes.sum())
    share = cells.unsure / candidates if candidates else 0.0
    too_unsure = f"{share:.0%} of the white cells are unsure, more than {unsure_share:.0%}"
    if share > unsure_share:
        found = replace(found, why_not=too_unsure)
    verdict_of = schistocyte_verdict(cells.schistocytes, cells.red, fragments) if _looked(assessed) else None
    raised = list(flags(found, rules))
    if verdict_of is not None and verdict_of.urgency != "routine" and verdict_of.category is not None:
        raised.append(Flag(verdict_of.category, verdict_of.text, verdict_of.urgency))
    ordered = sorted(raised, key=lambda flag: -URGENCIES.index(flag.urgency))
    return BloodReport(
        cells,
        assessed,
        counting,
        rules,
        found,
        tuple(ordered),
        verdict_of,
        too_unsure if share > unsure_share else None,
        wrong,
    )


def galleries(report: BloodReport, mpp: Mpp, tile: TileFit, most: int) -> tuple[Finding, ...]:
    """Per class the cells it is most sure of, then the unsure ones, strangest last; and the flags."""
    cells = report.cells
    surest = np.nan_to_num(cells.probabilities.max(axis=1), nan=0.0)
    shown = (*report.rules.parts, ERYTHROBLASTS, SMUDGES, PLATELETS, UNSURE)
    found = [Finding(name=flag.name, text=flag.text) for flag in report.raised]
    for name in shown:
        rows = np.flatnonzero((cells.call == name) & (cells.kind == WHITE))
        if len(rows):
            order = rows[np.argsort(-surest[rows], kind="stable")]
            text = f"{len(rows)} cells" + (", of no certain class" if name == UNSURE else "")
            title = "unsure white cells" if name == UNSURE else name
            tiles = _references(cells, order[:most], surest, mpp, tile)
            found.append(Finding(name=title, text=text, tiles=tiles))
    return tuple(found)


def _references(
    cells: SmearCells, rows: NDArray[np.intp], score: NDArray, mpp: Mpp, tile: TileFit
) -> tuple[TileReference, ...]:
    side = tile.size * tile.mpp
    width, height = side / mpp.x, side / mpp.y
    x, y = (cells.table[name].to_numpy() for name in ("x", "y"))
    return tuple(
        TileReference(
            x=round(x[row] - width / 2),
            y=round(y[row] - height / 2),
            width=width,
            height=height,
            score=float(score[row]),
        )
        for row in rows.tolist()
    )


def _looked(assessed: Assessed) -> bool:
    return SCHISTOCYTES in assessed.found


def _interval(share: Fraction, times: float, level: float, method: str) -> Interval:
    return Interval(low=times * share.low, high=times * share.high, level=level, method=method)
