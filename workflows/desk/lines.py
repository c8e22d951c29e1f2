"""A result as lines for a person: what the machine said, and beside it what holds after corrections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from coverslip.ruo import RUO
from coverslip.workflows.desk.place import Place, of_finding
from coverslip.workflows.result import Call, Measurement, Quality, SlideResult

Kind = Literal["call", "notice", "finding", "measurement", "abstention", "quality", "guideline"]
NOT_EVALUABLE = "not evaluable"
UNITS = {"1": "", "um2": "µm²", "/mm2": "/mm²", "mm2": "mm²", "um": "µm"}
# What is shown in pictures smaller than this is one cell: a cell of 25 µm with what is around it.
SINGLE_UM = 45.0
NONE_REJECTED: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Line:
    """`original`: what the machine said; `revised`: what holds now, "" where that is the same.

    `note`: all there is to know, for who points at it. `places`: where it is on the slide. `rejected`: why a
    finding does not hold, and who says so; "" for one that does.
    """

    kind: Kind
    name: str
    original: str
    revised: str = ""
    note: str = ""
    places: tuple[Place, ...] = ()
    rejected: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.revised)


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    lines: tuple[Line, ...]


def sections_of(
    original: SlideResult, revised: SlideResult, rejected: Mapping[str, str] = NONE_REJECTED
) -> tuple[Section, ...]:
    """All of a result, in the order in which it is read; sections without lines are left out.

    `rejected`: why the findings of these names do not hold, and who says so.
    """
    found = (
        Section("Call", (*_call(original.call, revised.call), Line("notice", RUO, ""))),
        Section("Findings", _findings(original, revised, rejected)),
        Section("Measurements", _measurements(original, revised)),
        Section("Not answered", _abstentions(original, revised)),
        Section("Quality", _quality(original.quality, revised.quality)),
        Section("Guidelines used", _guidelines(revised)),
    )
    return tuple(section for section in found if section.lines)


def number(value: float | None, unit: str) -> str:
    """To three digits, or whole; with its unit as people write it.

    >>> number(18.7555, "%"), number(1141.0, "1"), number(None, "%"), number(36.04, "um2")
    ('18.8 %', '1141', 'not evaluable', '36.0 µm²')
    """
    if value is None:
        return NOT_EVALUABLE
    digits = 0 if value == int(value) or not value else max(0, 2 - math.floor(math.log10(abs(value))))
    shown = UNITS.get(unit, unit)
    return f"{value:.{digits}f} {shown}".rstrip()


def _measured(measurement: Measurement) -> str:
    shown = number(measurement.value, measurement.unit)
    span = measurement.interval
    if span is None or measurement.value is None:
        return shown
    low, high = number(span.low, "1"), number(span.high, "1")
    return f"{shown} ({low}–{high})"


def _about(measurement: Measurement) -> str:
    said = [measurement.method]
    if measurement.n is not None:
        said.append(f"n = {measurement.n}")
    if measurement.interval:
        said.append(f"interval: {measurement.interval.level:.0%}, {measurement.interval.method}")
    said += [text for text in (measurement.note, measurement.code) if text]
    return "\n".join(said)


def _call(before: Call | None, after: Call | None) -> tuple[Line, ...]:
    first, then = _called(before), _called(after)
    note = "\n".join(call.text for call in (before, after if after != before else None) if call)
    lines = [Line("call", "Category", first, then if then != first else "", note)]
    if before or after:
        sure, now = (call.confidence if call else None for call in (before, after))
        lines.append(Line("call", "Confidence", _sure(sure), _sure(now) if now != sure else ""))
        urgent = [call.urgency if call else "routine" for call in (before, after)]
        lines.append(Line("call", "Urgency", urgent[0], urgent[1] if urgent[1] != urgent[0] else ""))
    return tuple(lines)


def _called(call: Call | None) -> str:
    return call.category if call and call.category else "no category"


def _sure(confidence: float | None) -> str:
    return "not calibrated" if confidence is None else f"{confidence:.0%}"


def single_px(result: SlideResult) -> float:
    """What is smaller than this many level-0 pixels is one cell."""
    return SINGLE_UM / min(result.slide.mpp.x, result.slide.mpp.y)


def _findings(original: SlideResult, revised: SlideResult, rejected: Mapping[str, str]) -> tuple[Line, ...]:
    now = {finding.name: finding for finding in revised.findings}
    small, lines = single_px(original), []
    for finding in original.findings:
        after = now.pop(finding.name, None)
        away = rejected.get(finding.name, "")
        text = "rejected" if away else after.text if after else "no longer found"
        shown = after if after and after.tiles and not away else finding
        lines.append(
            Line(
                "finding",
                finding.name,
                finding.text,
                text if text != finding.text else "",
                "\n".join((finding.name, finding.text, f"confidence: {_sure(finding.confidence)}")),
                of_finding(shown, small),
                away,
            )
        )
    lines += [
        Line("finding", finding.name, "", finding.text, finding.text, of_finding(finding, small))
        for finding in now.values()
    ]
    return tuple(lines)


def _measurements(original: SlideResult, revised: SlideResult) -> tuple[Line, ...]:
    now = {measurement.name: measurement for measurement in revised.measurements}
    lines = []
    for measurement in original.measurements:
        after = now.pop(measurement.name, None)
        first, then = _measured(measurement), _measured(after) if after else "not measured"
        places = _shown_by(measurement.name, revised if after else original)
        told = after or measurement
        lines.append(
            Line("measurement", measurement.name, first, then if then != first else "", _about(told), places)
        )
    lines += [
        Line("measurement", after.name, "", _measured(after), _about(after), _shown_by(after.name, revised))
        for after in now.values()
    ]
    return tuple(lines)


def _shown_by(name: str, result: SlideResult) -> tuple[Place, ...]:
    """Where a measurement was taken: the places of the finding whose words its name has, as a hot spot's."""
    words = _words(name)
    for finding in result.findings:
        if finding.tiles and _words(finding.name) <= words:
            return of_finding(finding, single_px(result))
    return ()


def _words(name: str) -> frozenset[str]:
    return frozenset(name.casefold().replace(",", " ").split())


def _abstentions(original: SlideResult, revised: SlideResult) -> tuple[Line, ...]:
    now = {one.what: one.why for one in revised.abstentions}
    lines = [
        Line("abstention", one.what, one.why, _differs(one.why, now.pop(one.what, "answered")), one.why)
        for one in original.abstentions
    ]
    return (*lines, *(Line("abstention", what, "", why, why) for what, why in now.items()))


def _differs(first: str, then: str) -> str:
    return then if then != first else ""


def _quality(before: Quality, after: Quality) -> tuple[Line, ...]:
    pairs = zip(_quality_figures(before), _quality_figures(after), strict=True)
    return tuple(Line("quality", name, first, _differs(first, then)) for (name, first), (_, then) in pairs)


def _quality_figures(quality: Quality) -> Iterable[tuple[str, str]]:
    yield "tissue", number(quality.tissue_area_mm2, "mm2")
    evaluable = quality.evaluable_area_mm2
    yield "evaluable", "not judged" if evaluable is None else number(evaluable, "mm2")
    yield "damaged", f"{quality.damaged_fraction:.1%}"
    present = [f"{kind} {share:.1%}" for kind, share in quality.artefacts.items() if share]
    yield "artefacts", ", ".join(present) or "none"


def _guidelines(result: SlideResult) -> tuple[Line, ...]:
    return tuple(
        Line("guideline", use.name, use.version, note=_guideline_note(use.source, use.unverified))
        for use in result.guidelines
    )


def _guideline_note(source: str, unverified: tuple[str, ...]) -> str:
    return "\n".join((source, f"unverified: {', '.join(unverified)}")) if unverified else source
