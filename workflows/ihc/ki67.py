"""Ki-67: the labelling index of all nuclei, of weighted fields and of the hot spot; one of them is called."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from coverslip.workflows.ihc.fields import Field, Places, Representative, hot_spot, representatives
from coverslip.workflows.ihc.reading import Counted, Judgement, refused, use_of
from coverslip.workflows.result import Finding, Measurement, TileReference
from coverslip.workflows.rules.bands import Verdict, judge
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.ki67 import mean_index, weighted_index

NAME = "Ki-67 labelling index"


def read_ki67(counted: Counted, rule: Guideline) -> Judgement:
    places = _places(counted)
    hot = hot_spot(places, counted.choices.fields)
    fields = representatives(places, counted.choices.fields, rule["levels"], rule["field_cells"])
    index, nuclei, missing = _called(counted, hot, fields)
    verdict = Verdict(None, "unevaluable", missing) if index is None else judge(index, nuclei, rule)
    method = counted.choices.method
    figure = "" if index is None else f" {float(index):.1f} % of {nuclei}"
    lead = f"{NAME}{figure} ({method})"
    call = counted.call(verdict, lead, code_of(NAME))
    return Judgement(
        summary=call.text,
        measurements=_measurements(counted, rule, hot, fields),
        call=call,
        guidelines=(
            use_of(rule, "categories", "least_cells", "levels", "field_cells"),
            counted.thresholds_used(),
        ),
        findings=_findings(counted, hot, fields),
        abstentions=refused(call, "category of Ki-67"),
    )


def _places(counted: Counted) -> Places:
    cells = counted.cells
    positive = np.asarray(cells["class"].to_numpy(zero_copy_only=False) != "negative", bool)
    return Places(cells["x"].to_numpy(), cells["y"].to_numpy(), positive, counted.scanned, counted.mpp)


def _called(
    counted: Counted, hot: Field | None, fields: tuple[Representative, ...]
) -> tuple[Fraction | None, int, str]:
    """(index in %, nuclei it was counted on, why there is none) by the method that was asked for."""
    score, settings = counted.score, counted.choices.fields
    if counted.choices.method == "hot-spot":
        why = f"no square of {settings.hotspot_mm2:g} mm² holds {settings.hotspot_cells} nuclei"
        return (None, 0, why) if hot is None else (hot.index, hot.total, "")
    if counted.choices.method == "weighted":
        if not fields:
            return None, 0, f"too few squares of {settings.field_mm2:g} mm² hold enough nuclei"
        return weighted_index([f.counted for f in fields]), sum(f.field.total for f in fields), ""
    index = Fraction(100 * score.positive, score.total) if score.total else None
    return index, score.total, "no nuclei were found"


def _measurements(
    counted: Counted, rule: Guideline, hot: Field | None, fields: tuple[Representative, ...]
) -> tuple[Measurement, ...]:
    score, settings, least = counted.score, counted.choices.fields, rule["least_cells"]
    note = None if score.total >= least else f"insufficient (<{least})"
    why = counted.doubt
    everywhere = counted.share(
        NAME, score.positive, score.total, f"global: {counted.bins}", code_of(NAME), note, why
    )
    return (
        everywhere,
        _weighted("weighted fields", fields, rule, settings.field_mm2, why, weighted=True),
        _weighted("mean of fields", fields, rule, settings.field_mm2, why, weighted=False),
        _hottest(counted, hot),
        counted.h_score(why or note),
        *counted.counts(),
    )


def _weighted(
    name: str,
    fields: tuple[Representative, ...],
    rule: Guideline,
    mm2: float,
    why: str | None,
    *,
    weighted: bool,
) -> Measurement:
    how = "each weighed by its level's share of the fields" if weighted else "unweighted"
    method = f"one field of {mm2:g} mm² for each of up to {rule['levels']} levels of staining, {how}"
    found = [field.counted for field in fields]
    value = (weighted_index if weighted else mean_index)(found) if found and not why else None
    least = f"fewer than {rule['levels']} squares hold {rule['field_cells']} nuclei"
    return Measurement(
        name=f"{NAME}, {name}",
        value=None if value is None else float(value),
        unit="%",
        method=method,
        n=sum(field.total for field in found),
        note=why or (None if found else least),
    )


def _hottest(counted: Counted, hot: Field | None) -> Measurement:
    settings = counted.choices.fields
    method = f"the square of {settings.hotspot_mm2:g} mm² with the largest share; {counted.bins}"
    if hot is None:
        why = f"no square of {settings.hotspot_mm2:g} mm² holds {settings.hotspot_cells} nuclei"
        return Measurement(name=f"{NAME}, hot spot", value=None, unit="%", method=method, n=0, note=why)
    note = "the interval does not know that the largest of many was taken"
    return counted.share(f"{NAME}, hot spot", hot.positive, hot.total, method, note=note, why=counted.doubt)


def _findings(counted: Counted, hot: Field | None, fields: tuple[Representative, ...]) -> tuple[Finding, ...]:
    found = []
    if hot is not None:
        text = f"{float(hot.index):.1f} % of {hot.total} nuclei in {counted.choices.fields.hotspot_mm2:g} mm²"
        found.append(Finding(name="Ki-67 hot spot", text=text, tiles=(_tile(hot, counted),)))
    if fields:
        said = ", ".join(f"{float(f.field.index):.1f} % for {float(f.weight):.0%}" for f in fields)
        tiles = tuple(_tile(field.field, counted) for field in fields)
        found.append(Finding(name="Ki-67 fields", text=f"{said} of the fields", tiles=tiles))
    return tuple(found)


def _tile(field: Field, counted: Counted) -> TileReference:
    return TileReference(
        x=field.x,
        y=field.y,
        width=field.side_um / counted.mpp.x,
        height=field.side_um / counted.mpp.y,
        score=float(field.index / 100),
    )
