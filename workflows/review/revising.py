"""From corrections to what they change of a result's rows and areas."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.geojson_reader import Regions
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import (
    Correction,
    DrawRegion,
    Exclude,
    RejectFinding,
    Relabel,
    areas_of,
)
from coverslip.workflows.revision import MACHINE, TABLES, Objects, Revision, together, within

REMEDY = "see docs/review.md"


def labels_of(base: Base, of: Objects) -> tuple[str, ...]:
    """Classes that a reviewer can give to cells or tiles of this workflow; () where there are none."""
    return () if base.judge is None or base.table(of) is None else base.judge.labels(of)


def refuse_unfit(base: Base, correction: Correction) -> None:
    """Raises RequestError for a correction that cannot be of this result: rows it does not have, a class that
    its workflow does not know, a finding that it does not hold."""
    if isinstance(correction, Relabel):
        _refuse_relabel(base, correction)
    elif isinstance(correction, RejectFinding):
        known = [finding.name for finding in base.result.findings]
        if correction.finding not in known:
            named = ", ".join(known) or "none"
            raise RequestError(f"finding {correction.finding!r}", "is none of this result", f"it has {named}")


def _refuse_relabel(base: Base, correction: Relabel) -> None:
    labels, table = labels_of(base, correction.of), base.table(correction.of)
    if not labels or table is None:
        why = f"of the workflow {base.result.workflow} have no class that a person could give"
        raise RequestError(correction.of, why, "draw a region, or change the call")
    if correction.label not in labels:
        known = ", ".join(labels)
        raise RequestError(
            f"class {correction.label!r}", f"is none of these {correction.of}", f"give {known}"
        )
    if correction.rows[-1] >= len(table):
        said = f"is beyond the {len(table)} of this result"
        raise RequestError(f"row {correction.rows[-1]} of {correction.of}", said, REMEDY)


def revision_of(base: Base, corrections: tuple[Correction, ...]) -> Revision:
    """Of several on one row the last holds. Raises RequestError, see `refuse_unfit`."""
    for one in corrections:
        refuse_unfit(base, one)
    areas = areas_of(corrections).values()
    drawn = [(one.label, _regions(one)) for one in areas if isinstance(one, DrawRegion)]
    hidden = [_regions(one).shape for one in areas if isinstance(one, Exclude)]
    nowhere = together(hidden) if hidden else None
    return Revision(
        labels=_labels(base, corrections),
        excluded={} if nowhere is None else _excluded(base, nowhere),
        drawn=tuple(drawn),
        hidden=nowhere,
    )


def _regions(area: DrawRegion | Exclude) -> Regions:
    return together([shapely.geometry.shape(area.geometry)])


def _labels(base: Base, corrections: tuple[Correction, ...]) -> dict[Objects, NDArray[np.int32]]:
    found: dict[Objects, NDArray[np.int32]] = {}
    for one in corrections:
        table = base.table(one.of) if isinstance(one, Relabel) else None
        if isinstance(one, Relabel) and table is not None:
            given = found.setdefault(one.of, np.full(len(table), MACHINE, np.int32))
            given[np.array(one.rows)] = labels_of(base, one.of).index(one.label)
    return found


def _excluded(base: Base, hidden: Regions) -> dict[Objects, NDArray[np.bool_]]:
    found: dict[Objects, NDArray[np.bool_]] = {}
    for of in TABLES:
        table = base.table(of)
        if table is not None:
            inside = within(hidden, *_centres(base, of, table))
            if inside.any():
                found[of] = inside
    return found


def _centres(base: Base, of: Objects, table: pa.Table) -> tuple[NDArray, NDArray]:
    x, y = (table[name].to_numpy() for name in ("x", "y"))
    if of == "cells":
        return x, y
    width, height = base.grounds.plan.extent
    return x + width / 2, y + height / 2
