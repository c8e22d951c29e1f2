"""Regions that somebody drew: GeoJSON as QuPath and Coverslip write it, level-0 pixels, origin top-left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from coverslip.errors import RequestError

# A drawn outline has thousands of points; this is far beyond, and bounds the memory that reading takes.
LARGEST_BYTES = 64 << 20
AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
CAST = "export the annotations again, as GeoJSON"


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Areas on a slide, level-0 pixels. `shape`: all of them in one, prepared for asking."""

    shape: shapely.Geometry

    def contain(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each place lies inside; on an outline it does not."""
        return np.asarray(shapely.contains_xy(self.shape, x, y), bool)

    @property
    def area_px(self) -> float:
        """In square level-0 pixels; where areas overlap they count once."""
        return float(shapely.area(self.shape))

    @property
    def polygons(self) -> tuple[tuple[NDArray[np.float64], ...], ...]:
        """Outline and holes of each part, rings (n, 2) that are not closed; as `Feature` takes them."""
        parts = [part for part in shapely.get_parts(self.shape) if part.geom_type == "Polygon"]
        rings = [(part.exterior, *part.interiors) for part in parts]
        return tuple(tuple(np.asarray(ring.coords)[:-1, :2] for ring in part) for part in rings)


def read_regions(text: str, subject: str, label: str | None = None) -> Regions:
    """All areas of a GeoJSON document: a FeatureCollection, a list of features, a feature or a geometry.

    `label`: only those of this classification, whatever its case; None for all. Points and lines are left
    out. Outlines that cross themselves are made valid. Raises RequestError, naming `subject`, for what is no
    GeoJSON, for one without such areas (the message lists the classes there are), and for larger than 64 MB.
    """
    if len(text) > LARGEST_BYTES:
        raise RequestError(subject, "is larger than 64 MB", CAST)
    try:
        document = json.loads(text)
        features = list(_features(document))
        chosen = [geometry for name, geometry in features if label is None or _same(name, label)]
        areas = [shapely.make_valid(shapely.geometry.shape(geometry)) for geometry in chosen]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ShapelyError) as error:
        raise RequestError(subject, f"is no GeoJSON of areas ({error})", CAST) from error
    whole = shapely.union_all(areas) if areas else shapely.Polygon()
    if whole.is_empty or not np.isfinite(whole.bounds).all() or whole.area == 0:
        named = ", ".join(sorted({name for name, _ in features if name})) or "none"
        wanted = f"of class {label} " if label else ""
        raise RequestError(
            subject, f"holds no area {wanted}(its classes: {named})", "draw the region, or name its class"
        )
    shapely.prepare(whole)
    return Regions(whole)


def read_regions_file(path: str | os.PathLike[str], label: str | None = None) -> Regions:
    """As `read_regions`; a file that cannot be read is a RequestError too."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LARGEST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(os.fspath(path), f"cannot be read ({error})", CAST) from error
    return read_regions(text, os.fspath(path), label)


def _same(name: str | None, label: str) -> bool:
    return name is not None and name.casefold() == label.casefold()


def _features(document: Any) -> Iterator[tuple[str | None, dict]]:
    """(classification, geometry) of each area."""
    if isinstance(document, list):
        for item in document:
            yield from _features(item)
    elif document["type"] == "FeatureCollection":
        yield from _features(document["features"])
    elif document["type"] == "Feature":
        geometry = document["geometry"]
        if geometry is not None and geometry["type"] in AREAS:
            yield _class_of(document.get("properties") or {}), geometry
    elif document["type"] in AREAS:
        yield None, document


def _class_of(properties: dict) -> str | None:
    """QuPath 0.5's `classification` (an object, or names joined by colons), or a plain `class`."""
    said = properties.get("classification") or properties.get("class") or properties.get("label")
    if isinstance(said, dict):
        names = said.get("names")
        said = ": ".join(map(str, names)) if names else said.get("name")
    return None if said is None else str(said)
