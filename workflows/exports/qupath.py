"""Cells and tiles as GeoJSON that QuPath 0.5 and later open, written as they are read.

QuPath (`PathClassTypeAdapter`, `ROITypeAdapters`, `GsonTools`) wants level-0 pixels, and a colour with every
class: without one it stops. It takes infinities as text; a figure that is not known (NaN) is left out, which
it shows as NaN.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
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

Rgb = tuple[int, int, int]
Geometry = dict[str, Any]
# Not measurements: where an object lies is its geometry.
PLACE = ("x", "y")
INFINITE = MappingProxyType({math.inf: "Infinity", -math.inf: "-Infinity"})


def write_cells(table: Path, store: Path, key: str, file: Path) -> int:
    """Each row as a detection: its outline, or a point where the table has none; returns how many.

    `store`: the result's pyramid, whose labels give classes their colours. `key`: of the result; the same
    row of the same result always has the same id.
    """
    schema, batches = read_rows(table)
    colours = colours_of(table, store, schema)
    outlined = OUTLINE.name in schema.names
    shapes = _outlines if outlined else _points
    return _write(file, _features(batches, schema, "detection", colours, key, shapes))


def write_tiles(table: Path, store: Path, extent: tuple[float, float], key: str, file: Path) -> int:
    """Each row as a tile of `extent` (width, height in level-0 pixels); returns how many."""
    schema, batches = read_rows(table)
    colours = colours_of(table, store, schema)

    def shapes(batch: pa.RecordBatch) -> list[Geometry]:
        return _rectangles(batch, extent)

    return _write(file, _features(batches, schema, "tile", colours, key, shapes))


def colours_of(table: Path, store: Path, schema: pa.Schema) -> Mapping[str, Rgb]:
    """Of every class in the table: that of the result's labels, so that QuPath shows what the report does."""
    if "class" not in schema.names:
        return {}
    names = distinct(table, "class")
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
) -> Iterator[dict[str, Any]]:
    figures = [field.name for field in schema if is_figure(field.type) and field.name not in PLACE]
    row = 0
    for batch in batches:
        columns = [batch[name].to_pylist() for name in figures]
        classes = batch["class"].to_pylist() if colours else [None] * len(batch)
        for geometry, said, *values in zip(shapes(batch), classes, *columns, strict=True):
            properties: dict[str, Any] = {"objectType": kind}
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


def _write(file: Path, features: Iterable[dict[str, Any]]) -> int:
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
