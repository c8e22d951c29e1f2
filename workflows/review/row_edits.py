"""What was done to the classes of cells or tiles in another program."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from coverslip.errors import RequestError
from coverslip.tiling.geojson import NAMESPACE
from coverslip.workflows.cell_table import OUTLINE, read_outlines
from coverslip.workflows.exports.qupath import GIVEN, MACHINE, WHY
from coverslip.workflows.review.area_edits import DELETED, IGNORED
from coverslip.workflows.review.base import Base, with_outlines
from coverslip.workflows.review.corrections import (
    Correction,
    Exclude,
    Objects,
    Relabel,
    areas_of,
    rows_as_runs,
)
from coverslip.workflows.review.qupath_object import IGNORE, QuPathObject, shape_of
from coverslip.workflows.review.recompute import labels_of
from coverslip.workflows.review.row_classes import RowClasses
from coverslip.workflows.review.row_match import RowIds, RowPlaces

UNSEEN, UNCLASSED = -2, -1
# Of a row's target: excluded, or a class that this workflow does not have.
OUT, UNKNOWN = -3, -4
# More deletions than this share are a file with a part of the objects.
MOST_DELETED = 0.5


class RowsSaid:
    """The class that a file gives each row of one table, gathered piece by piece.

    `said`: (n,) int32 into `names`, `UNSEEN` for rows that the file does not have, `UNCLASSED` for those
    without class. `given`: row → class and reason as exported, of rows that somebody had relabelled.
    """

    def __init__(self, base: Base, of: Objects):
        table = with_outlines(base, of)
        if table is None:
            raise RequestError(str(base.home), f"has no {of}", "name another result")
        self.base, self.table = base, table
        self.of: Objects = of
        self.said = np.full(len(table), UNSEEN, np.int32)
        self.given: dict[int, tuple[str, str]] = {}
        self.strangers = self.twice = 0
        self._numbers: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    @cached_property
    def _ids(self) -> RowIds:
        kind = "detection" if self.of == "cells" else "tile"
        return RowIds(self.base.result.provenance.request, kind, len(self.table))

    @cached_property
    def _places(self) -> RowPlaces:
        return RowPlaces(self.table, corners=self.of == "tiles")

    def add(self, objects: Sequence[QuPathObject], subject: str) -> None:
        """Raises RequestError, naming `subject`, for an object without id whose geometry is none."""
        if not objects:
            return
        rows = self._ids.rows([one.id for one in objects])
        lost = np.flatnonzero(rows < 0)
        if len(lost):
            rows[lost] = self._places.rows([_shape(objects[number], subject) for number in lost.tolist()])
        for one, row in zip(objects, rows.tolist(), strict=True):
            if row < 0:
                self.strangers += 1
            elif self.said[row] != UNSEEN:
                self.twice += 1
            else:
                self._say(one, row)

    def _say(self, one: QuPathObject, row: int) -> None:
        if one.label is None:
            self.said[row] = UNCLASSED
        else:
            self.said[row] = self._numbers.setdefault(one.label, len(self._numbers))
        if MACHINE in one.metadata:
            self.given[row] = (str(one.metadata.get(GIVEN, "")), str(one.metadata.get(WHY, "")))


def _shape(one: QuPathObject, subject: str) -> BaseGeometry:
    try:
        return shape_of(one.nucleus if one.nucleus is not None else one.geometry)
    except ValueError as error:
        raise RequestError(f"{subject}, object {one.id}", str(error), "export it again") from error


def row_edits(
    rows: RowsSaid,
    before: RowClasses,
    now: RowClasses,
    standing: tuple[Correction, ...],
    notes: Counter[str],
    *,
    deleted: bool,
) -> list[Correction]:
    """Rows whose class differs from `before`, when the file was written, and from `now`.

    `standing`: all corrections by now, whose exclusions are not made again. What is left out is counted in
    `notes`. Raises RequestError where more than half of the rows would be excluded as deleted.
    """
    labels = labels_of(rows.base, rows.of)
    classes = list(dict.fromkeys((*labels, *before.names, *now.names)))
    targets = np.array([_target(name, classes) for name in rows.names], np.int32)
    seen = rows.said >= 0
    target = np.where(seen, targets[np.maximum(rows.said, 0)] if len(targets) else UNCLASSED, rows.said)
    differs = seen & (target != _renumber(before, classes)) & (target != _renumber(now, classes))
    # a class that somebody had confirmed differs from none, but that it was looked at is kept
    confirmed = np.zeros(len(target), bool)
    confirmed[[row for row in rows.given if now.reason[row] < 0 and before.reason[row] < 0]] = True
    edits = _relabels(rows, np.flatnonzero((differs | confirmed) & (target >= 0)), target, classes, notes)
    for row in np.flatnonzero(differs & (target == UNKNOWN)).tolist():
        notes[
            f"{rows.of} have the class {rows.names[rows.said[row]]}, which they cannot have here: left"
        ] += 1
    emptied = int(((rows.said == UNCLASSED) & (before.now >= 0)).sum())
    for what, count in (
        (f"{rows.of} have lost their class: left as they were", emptied),
        (f"{rows.of} of the file are none of this result: left out", rows.strangers),
        (f"{rows.of} are there twice: the first counts", rows.twice),
    ):
        if count:
            notes[what] += count
    out = _not_yet_out(rows, np.flatnonzero(seen & (target == OUT)), standing)
    if len(out):
        edits.append(_exclusion(rows, out, IGNORED))
    return edits + _deletions(rows, standing, notes, deleted)


def _target(name: str, classes: list[str]) -> int:
    plain = name.casefold()
    if plain == IGNORE.casefold():
        return OUT
    return next(
        (number for number, known in enumerate(classes) if known == name),
        next((number for number, known in enumerate(classes) if known.casefold() == plain), UNKNOWN),
    )


def _renumber(rows: RowClasses, classes: list[str]) -> NDArray[np.int32]:
    numbers = np.array([*(classes.index(name) for name in rows.names), UNCLASSED], np.int32)
    return numbers[rows.now]


def _relabels(
    rows: RowsSaid,
    chosen: NDArray[np.int64],
    target: NDArray[np.int32],
    classes: list[str],
    notes: Counter[str],
) -> list[Correction]:
    """One for each class and reason."""
    labels = labels_of(rows.base, rows.of)
    groups: dict[tuple[str, str], list[int]] = {}
    for row, number in zip(chosen.tolist(), target[chosen].tolist(), strict=True):
        label = classes[number]
        if label not in labels:
            notes[f"{rows.of} have the class {label}, which they cannot have here: left"] += 1
            continue
        given, why = rows.given.get(row, ("", ""))
        groups.setdefault((label, why if given == label else ""), []).append(row)
    return [
        Relabel(of=rows.of, rows=tuple(found), label=label, why=why) for (label, why), found in groups.items()
    ]


def _deletions(
    rows: RowsSaid, standing: tuple[Correction, ...], notes: Counter[str], deleted: bool
) -> list[Correction]:
    missing = np.flatnonzero(rows.said == UNSEEN)
    if not len(missing) or len(missing) == len(rows.said):
        return []
    if not deleted:
        notes[f"{rows.of} of the result are not in the file: left as they were"] += len(missing)
        return []
    if len(missing) > MOST_DELETED * len(rows.said):
        raise RequestError(
            f"{len(missing)} of {len(rows.said)} {rows.of}",
            "are not in the file: too many to have been deleted one by one",
            "export all objects, or do not ask for deleted ones to be excluded",
        )
    missing = _not_yet_out(rows, missing, standing)
    return [_exclusion(rows, missing, DELETED)] if len(missing) else []


def _not_yet_out(
    rows: RowsSaid, chosen: NDArray[np.int64], standing: tuple[Correction, ...]
) -> NDArray[np.int64]:
    """Those whose centre is in no exclusion."""
    areas = [one for one in areas_of(standing).values() if isinstance(one, Exclude)]
    if not areas or not len(chosen):
        return chosen
    whole = shapely.union_all([shapely.geometry.shape(one.geometry) for one in areas])
    shapely.prepare(whole)
    x, y = _centres(rows, chosen)
    return chosen[~shapely.intersects_xy(whole, x, y)]


def _centres(rows: RowsSaid, chosen: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    width, height = _tile(rows) if rows.of == "tiles" else (0.0, 0.0)
    x, y = (np.asarray(rows.table[axis].take(pa.array(chosen)), np.float64) for axis in "xy")
    return x + width / 2, y + height / 2


def _tile(rows: RowsSaid) -> tuple[float, float]:
    """Width and height in level-0 pixels. Raises RequestError."""
    result = rows.base.result
    grid = result.provenance.settings.get("grid")
    if grid is None:
        raise RequestError(result.slide.id, "does not say how large its tiles are", "run again")
    width = grid["size"] * grid["mpp"]
    return width / result.slide.mpp.x, width / result.slide.mpp.y


def _exclusion(rows: RowsSaid, chosen: NDArray[np.int64], why: str) -> Exclude:
    """Of what these rows cover, their centres with it."""
    x, y = _centres(rows, chosen)
    shapes = np.asarray(shapely.buffer(shapely.points(x, y), 0.5, quad_segs=1)).tolist()
    if rows.of == "tiles":
        width, height = _tile(rows)
        shapes += np.asarray(
            shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        ).tolist()
    elif OUTLINE.name in rows.table.column_names:
        part = rows.table.select(["x", "y", OUTLINE.name]).take(pa.array(chosen))
        filled = part.filter(part[OUTLINE.name].is_valid())
        shapes += [
            shapely.make_valid(shapely.Polygon(ring)) for ring in read_outlines(filled) if len(ring) >= 4
        ]
    whole = shapely.union_all(shapes)
    runs = rows_as_runs(tuple(chosen.tolist()))
    name = uuid.uuid5(NAMESPACE, f"{rows.base.result.provenance.request}#{rows.of}#{runs}#{why}")
    polygons = [part for part in shapely.get_parts(whole).tolist() if part.geom_type == "Polygon"]
    area = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
    return Exclude(id=str(name), geometry=json.loads(shapely.to_geojson(area)), why=why)
