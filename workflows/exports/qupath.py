"""Cells and tiles as GeoJSON that QuPath 0.5 and later open, written as they are read.

With the classes of a review, those that a person gave have the machine's class and the reason as metadata.

QuPath (`PathClassTypeAdapter`, `ROITypeAdapters`, `GsonTools`) wants level-0 pixels, and a colour with every
class: without one it stops. It takes infinities as text; a figure that is not known (NaN) is left out, which
it shows as NaN.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from coverslip.atomic import replacing
from coverslip.ruo import RUO
from coverslip.tiling.geojson import NAMESPACE, VERSION
from coverslip.workflows.cell_table import OUTLINE, PARTS
from coverslip.workflows.exports.rows import distinct, is_figure, read_rows
from coverslip.workflows.overlays import find_labels
from coverslip.workflows.palette import INTENSITY, class_colours
from coverslip.workflows.review.row_classes import RowClasses

Rgb = tuple[int, int, int]
Geometry = dict[str, Any]
# Not measurements: where an object lies is its geometry.
PLACE = ("x", "y")
INFINITE = MappingProxyType({math.inf: "Infinity", -math.inf: "-Infinity"})
# Metadata of what a person relabelled: the class before, the class given, and why.
MACHINE, GIVEN, WHY = "coverslip.machine", "coverslip.class", "coverslip.why"


def write_cells(table: Path, store: Path, key: str, file: Path) -> int:
    """Each row as a detection: its outline, or a point where the table has none; returns how many.

    `store`: the result's pyramid, whose labels give classes their colours. `key`: of the result; the same
    row of the same result always has the same id.
    """
    return write_features(file, cell_features(table, store, key))


def cell_features(
    table: Path, store: Path, key: str, classes: RowClasses | None = None
) -> Iterator[dict[str, Any]]:
    """As `write_cells` writes them. `classes`: those after a review."""
    schema, batches = read_rows(table)
    colours = colours_of(table, store, schema, classes.names if classes else ())
    shapes = _outlines if OUTLINE.name in schema.names else _points
    return _features(batches, schema, "detection", colours, key, shapes, classes)


def write_tiles(table: Path, store: Path, extent: tuple[float, float], key: str, file: Path) -> int:
    """Each row as a tile of `extent` (width, height in level-0 pixels); returns how many."""
    return write_features(file, tile_features(table, store, extent, key))


def tile_features(
    table: Path, store: Path, extent: tuple[float, float], key: str, classes: RowClasses | None = None
) -> Iterator[dict[str, Any]]:
    """As `write_tiles` writes them. `classes`: those after a review."""
    schema, batches = read_rows(table)
    colours = colours_of(table, store, schema, classes.names if classes else ())

    def shapes(batch: pa.RecordBatch) -> list[Geometry]:
        return _rectangles(batch, extent)

    return _features(batches, schema, "tile", colours, key, shapes, classes)


def colours_of(table: Path, store: Path, schema: pa.Schema, others: Sequence[str] = ()) -> Mapping[str, Rgb]:
    """Of every class in the table: that of the result's labels, so that QuPath shows what the report does.

    `others`: classes that a person gave; they change no colour of the table's own.
    """
    names = distinct(table, "class") if "class" in schema.names else []
    names += [name for name in others if name not in names]
    known = dict(class_colours(names).values())
    known.update({name: rgba for name, rgba in INTENSITY.values() if name in known})
    for label in find_labels(store):
        known.update(
            {name: label.colours[value] for value, name in label.names.items() if value in label.colours}
        )
    return {name: known[name][:3] for name in names}


def _features(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    kind: str,
    colours: Mapping[str, Rgb],
    key: str,
    shapes: Any,
    reviewed: RowClasses | None = None,
) -> Iterator[dict[str, Any]]:
    figures = [field.name for field in schema if is_figure(field.type) and field.name not in PLACE]
    row = 0
    for batch in batches:
        columns = [batch[name].to_pylist() for name in figures]
        classes = batch["class"].to_pylist() if "class" in schema.names else [None] * len(batch)
        changed = _changes(reviewed, row, len(batch)) if reviewed else {}
        for geometry, machine, *values in zip(shapes(batch), classes, *columns, strict=True):
            properties: dict[str, Any] = {"objectType": kind}
            said = machine
            if row in changed:
                said, why = changed[row]
                properties["metadata"] = {MACHINE: machine or "", GIVEN: said, WHY: why}
            if said is not None:
                properties["classification"] = {"name": said, "color": colours[said]}
            properties["measurements"] = {
                name: INFINITE.get(value, value)
                for name, value in zip(figures, values, strict=True)
                if value is not None and value == value
            }
            identity = str(uuid.uuid5(NAMESPACE, f"{key}#{kind}#{row}"))
            yield {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}
            row += 1


def _changes(reviewed: RowClasses, start: int, count: int) -> dict[int, tuple[str, str]]:
    """Row → its class and the reason, of those among the next `count` that a person relabelled."""
    rows = start + np.flatnonzero(reviewed.reason[start : start + count] >= 0)
    return {
        int(row): (reviewed.names[reviewed.now[row]], reviewed.reasons[reviewed.reason[row]]) for row in rows
    }


def _points(batch: pa.RecordBatch) -> list[Geometry]:
    places = np.round(np.stack([batch[axis].to_numpy() for axis in PLACE], axis=1), 2).tolist()
    return [{"type": "Point", "coordinates": place} for place in places]


def _rectangles(batch: pa.RecordBatch, extent: tuple[float, float]) -> list[Geometry]:
    x, y = (batch[axis].to_numpy() for axis in PLACE)
    right, bottom = x + extent[0], y + extent[1]
    rings = np.stack([x, y, right, y, right, bottom, x, bottom, x, y], axis=1).reshape(-1, 5, 2)
    return [_polygon(ring) for ring in np.round(rings, 2).tolist()]


def _outlines(batch: pa.RecordBatch) -> list[Geometry]:
    """All points of the batch at once: one by one takes ten times as long."""
    packed = batch[OUTLINE.name]
    counts = packed.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) // 2
    offsets = np.asarray(packed.flatten().to_numpy(), np.float64).reshape(-1, 2) / PARTS
    centres = np.stack([batch[axis].to_numpy() for axis in PLACE], axis=1)
    points = np.round(offsets + np.repeat(centres, counts, axis=0), 2).tolist()
    ends = np.cumsum(counts).tolist()
    middles = np.round(centres, 2).tolist()
    return [
        _polygon(_closed(points[end - count : end]))
        if count >= 3
        else {"type": "Point", "coordinates": middle}
        for end, count, middle in zip(ends, counts.tolist(), middles, strict=True)
    ]


def _closed(ring: list[list[float]]) -> list[list[float]]:
    return ring if ring[0] == ring[-1] else [*ring, ring[0]]


def _polygon(ring: list[list[float]]) -> Geometry:
    return {"type": "Polygon", "coordinates": [ring]}


def write_features(file: Path, features: Iterable[dict[str, Any]]) -> int:
    """A FeatureCollection, a line for each as it comes; returns how many. Appears whole or not at all."""
    head = {"type": "FeatureCollection", "schema": "coverslip.geojson", "version": VERSION, "note": RUO}
    count = 0
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
    with replacing(file) as part, open(os.fspath(part), "w", encoding="utf-8", newline="\n") as stream:
        stream.write(encode(head)[:-1] + ',"features":[')
        for feature in features:
            stream.write(("\n" if count == 0 else ",\n") + encode(feature))
            count += 1
        stream.write("\n]}\n")
    return count
