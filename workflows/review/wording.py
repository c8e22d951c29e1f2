"""A correction as the trail tells it: a sentence, what was before, and what is after."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely

from coverslip.errors import RequestError
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.chain import Draft, Person
from coverslip.workflows.review.corrections import (
    ChangeCall,
    Correction,
    DrawRegion,
    Exclude,
    Objects,
    RejectFinding,
    Relabel,
    RemoveArea,
    areas_of,
    write_correction,
)
from coverslip.workflows.review.recompute import labels_of, refuse_unfit, standing_labels

SHOWN = {"cells": ("cell", "cells"), "tiles": ("tile", "tiles")}


def draft_of(
    base: Base, standing: tuple[Correction, ...], now: SlideResult, new: Correction, who: Person
) -> Draft:
    """The entry of a correction made when these stood, and the result was `now`.

    Raises RequestError for one that this result has no place for: rows it has not, a class its rules do not
    know, a finding or an area that is not there.
    """
    refuse_unfit(base, new)
    match new:
        case Relabel():
            what, before, after = _relabelled(base, standing, new)
        case DrawRegion() | Exclude() | RemoveArea():
            what, before, after = _area(base, standing, new)
        case RejectFinding():
            what, before, after = _rejected(base.result, standing, new)
        case ChangeCall():
            before = now.call.category if now.call else None
            after = new.category
            what = "withdrew the call" if after is None else f"called the slide {after}"
    document = write_correction(new)
    return Draft("correct", who, what, before, after, new.why, (document,))


def _relabelled(base: Base, standing: tuple[Correction, ...], new: Relabel) -> tuple[str, Any, Any]:
    labels = labels_of(base, new.of)
    before = _counts(standing_labels(base, standing, new.of)[list(new.rows)], labels)
    after = {new.label: len(new.rows)}
    return f"called {_number(len(new.rows), new.of)} {new.label} ({told(before)} before)", before, after


def _counts(values: Any, labels: tuple[str, ...]) -> dict[str, int]:
    """How many of each class, in the order of the classes; those of none last."""
    found = dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))
    counts = {label: found[n] for n, label in enumerate(labels) if n in found}
    return counts | ({"not counted": found[-1]} if -1 in found else {})


def _number(count: int, of: Objects) -> str:
    one, many = SHOWN[of]
    return f"{count} {one if count == 1 else many}"


def _area(
    base: Base, standing: tuple[Correction, ...], new: DrawRegion | Exclude | RemoveArea
) -> tuple[str, Any, Any]:
    earlier = areas_of(standing).get(new.id)
    before = None if earlier is None else _facts(base, earlier)
    if isinstance(new, RemoveArea):
        if earlier is None:
            raise RequestError(f"the area {new.id!r}", "is not there", "name one that was drawn and stands")
        return f"removed {_named(earlier)}", before, None
    verb = "drew" if earlier is None else "edited"
    if isinstance(new, Exclude):
        verb = "excluded" if earlier is None else "edited"
    after = _facts(base, new)
    return f"{verb} {_named(new)} ({after['area_mm2']:.3g} mm²)", before, after


def _named(area: DrawRegion | Exclude) -> str:
    return f"a region, {area.label}" if isinstance(area, DrawRegion) else "an area"


def _facts(base: Base, area: DrawRegion | Exclude) -> dict[str, Any]:
    """Few figures; the outline itself is in the correction."""
    mpp = base.result.slide.mpp
    size = shapely.geometry.shape(area.geometry).area * mpp.x * mpp.y / 1e6
    label = {"label": area.label} if isinstance(area, DrawRegion) else {}
    return {"id": area.id, **label, "area_mm2": float(f"{size:.4g}")}


def _rejected(
    result: SlideResult, standing: tuple[Correction, ...], new: RejectFinding
) -> tuple[str, Any, Any]:
    if any(isinstance(one, RejectFinding) and one.finding == new.finding for one in standing):
        raise RequestError(f"the finding {new.finding!r}", "was rejected already", "take that back first")
    text = next(finding.text for finding in result.findings if finding.name == new.finding)
    return f"rejected the finding {new.finding}", text, "rejected"


def told(value: Any) -> str:
    """What was before or is after, as people read it.

    >>> told({"negative": 3, "1+": 1})
    '3 negative, 1 1+'
    >>> told({"call": None, "H-score": 45.1972})
    'call nothing; H-score 45.2'
    """
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and all(isinstance(item, int) for item in value.values()):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {told(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(told(item) for item in value)
    return str(value)
