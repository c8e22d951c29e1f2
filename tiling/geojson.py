"""Regions as GeoJSON that QuPath 0.5 and later open: full-resolution pixels, origin top-left."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.rings import Polygon, mask_polygons
from coverslip.tiling.tissue import TissueMask
from coverslip.wsi.pixels import Rgb

VERSION = 1
# Namespace of all identifiers made here; any constant would do, and it must never change.
NAMESPACE = uuid.UUID("6f0a9d3c-7f0e-5d5b-9a55-2f0c0e5f8a11")
TISSUE_COLOUR: Rgb = (0, 160, 80)
PEN_COLOUR: Rgb = (220, 180, 0)

ObjectType = Literal["annotation", "detection", "cell", "tile"]


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """One object on the slide.

    `polygons`: each a tuple of rings, the outline first, then its holes; a ring is float (n, 2), (x, y) in
    level-0 pixels, not closed. One polygon is written as Polygon, several as MultiPolygon. `classification`:
    its class, or None; QuPath refuses a class without `colour`. `measurements`: name to number, the unit in
    the name.
    """

    polygons: tuple[Polygon, ...]
    classification: str | None = None
    colour: Rgb = TISSUE_COLOUR
    name: str | None = None
    object_type: ObjectType = "annotation"
    measurements: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    locked: bool = False

    def __post_init__(self) -> None:
        if not self.polygons or any(not polygon for polygon in self.polygons):
            raise RequestError("GeoJSON feature", "has no outline", "give at least one polygon")
        if any(ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 for p in self.polygons for ring in p):
            raise RequestError(
                "GeoJSON feature", "has a ring of fewer than 3 points", "give float (n, 2), n ≥ 3"
            )


def tissue_features(tissue: TissueMask) -> list[Feature]:
    """Outlines of tissue and of marker along the mask's pixels, one annotation per part, holes kept."""
    area = tissue.mpp.x * tissue.mpp.y / (tissue.scale_x * tissue.scale_y)
    found = []
    for mask, label, colour in ((tissue.mask, "Tissue", TISSUE_COLOUR), (tissue.pen, "Pen", PEN_COLOUR)):
        for polygon in mask_polygons(mask, tissue.scale_x, tissue.scale_y):
            sizes = MappingProxyType({"Area µm^2": round(polygon_area(polygon) * area, 2)})
            found.append(Feature((polygon,), label, colour, measurements=sizes, locked=True))
    return found


def polygon_area(polygon: Polygon) -> float:
    """Area inside the outline and outside the holes, in the square of the coordinates' unit."""
    return float(shapely.Polygon(polygon[0], polygon[1:]).area)


def feature_json(feature: Feature, key: str = "") -> dict:
    """One feature as RFC 7946 has it, with QuPath's properties and a stable identifier (UUID version 5).

    `key` tells slides apart, mostly their digest: the same object on the same slide has the same id.
    """
    properties: dict = {"objectType": feature.object_type}
    if feature.name is not None:
        properties["name"] = feature.name
    if feature.classification is not None:
        properties["classification"] = {"name": feature.classification, "color": list(feature.colour)}
    if feature.locked:
        properties["isLocked"] = True
    if feature.measurements:
        properties["measurements"] = {name: _number(value) for name, value in feature.measurements.items()}
    polygons = [[_closed(ring) for ring in polygon] for polygon in feature.polygons]
    single = len(polygons) == 1
    geometry = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": polygons[0] if single else polygons,
    }
    identity = hashlib.sha256(_dump([key, geometry, properties]).encode()).hexdigest()
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, identity)),
        "geometry": geometry,
        "properties": properties,
    }


def write_geojson(path: str | os.PathLike[str], features: Iterable[Feature], key: str = "") -> int:
    """A FeatureCollection, one feature per line; returns how many.

    Features are written as they come, so that a million nuclei need no memory. Two equal features get ids
    that differ by their place. The file appears whole or not at all.
    """
    head = {"type": "FeatureCollection", "schema": "coverslip.geojson", "version": VERSION, "note": RUO}
    count, seen = 0, set()
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(_dump(head)[:-1] + ',"features":[')
        for feature in features:
            item = feature_json(feature, key)
            if item["id"] in seen:
                item = feature_json(feature, f"{key}#{count}")
            seen.add(item["id"])
            file.write(("\n" if count == 0 else ",\n") + _dump(item))
            count += 1
        file.write("\n]}\n")
    return count


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _closed(ring: NDArray[np.float64]) -> list[list[float | int]]:
    """Two decimals, as QuPath writes; whole numbers without a point; the first point again at the end."""
    points = [[int(v) if v == int(v) else v for v in point] for point in np.round(ring, 2).tolist()]
    return [*points, points[0]]


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity; QuPath reads them as text."""
    value = float(value)
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
