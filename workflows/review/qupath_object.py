"""One object of a GeoJSON file as QuPath means it, of any version since 0.2.

From QuPath's `QuPathTypeAdapters.PathObjectTypeAdapter`, `GsonTools.PathClassTypeAdapter` and
`ROITypeAdapters`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

Kind = Literal["annotation", "detection", "tile", "other"]
# Version 0.2 wrote the type as the id; 0.3 named it `object_type`; `type` is an alias.
KINDS: Mapping[str, Kind] = {
    "detection": "detection",
    "PathDetectionObject": "detection",
    "cell": "detection",
    "PathCellObject": "detection",
    "tile": "tile",
    "PathTileObject": "tile",
    "tmaCore": "other",
    "tma_core": "other",
    "TMACoreObject": "other",
    "root": "other",
    "PathRootObject": "other",
}
LEGACY = frozenset(
    (
        "PathTileObject",
        "PathCellObject",
        "TMACoreObject",
        "PathDetectionObject",
        "PathRootObject",
        "PathAnnotationObject",
    )
)
# What QuPath shows and lets one edit as an annotation's description.
DESCRIPTION = "ANNOTATION_DESCRIPTION"
# Level-0 pixels; no slide has a millionth of it.
FARTHEST = 1e12
# QuPath's class for what is left out of all measurement.
IGNORE = "Ignore*"


@dataclass(frozen=True, slots=True, eq=False)
class QuPathObject:
    """`label`: its class, the parts of a derived one joined by ": ", None without. `geometry`, `nucleus`: as
    in the file. `plane`: z and t."""

    id: str | None
    kind: Kind
    geometry: Any
    nucleus: Any
    label: str | None
    name: str | None
    metadata: Mapping[str, Any]
    plane: tuple[int, int]


def read_objects(feature: Mapping[str, Any]) -> Iterator[QuPathObject]:
    """The feature, and those within it. Raises ValueError for what QuPath would not read."""
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise ValueError("its properties are no object")
    identity = feature.get("id")
    geometry = feature.get("geometry")
    metadata = properties.get("metadata")
    name = properties.get("name")
    yield QuPathObject(
        None if identity is None or identity in LEGACY else str(identity),
        _kind(identity, properties),
        geometry,
        feature.get("nucleusGeometry"),
        class_name(properties.get("classification")),
        None if name is None else str(name),
        metadata if isinstance(metadata, dict) else {},
        _plane(geometry),
    )
    for child in properties.get("childObjects") or properties.get("children") or ():
        if not isinstance(child, dict):
            raise ValueError("an object within it is none")
        yield from read_objects(child)


def _kind(identity: Any, properties: Mapping[str, Any]) -> Kind:
    said = properties.get("objectType") or properties.get("object_type") or properties.get("type")
    if said is None and isinstance(identity, str) and identity in LEGACY:
        said = identity
    return KINDS.get(str(said), "annotation")


def class_name(said: Any) -> str | None:
    """A text, {name}, {names}, or {name, parentClass} of before 0.4; None for none. Raises ValueError.

    >>> class_name({"names": ["Tumor", "Positive"], "color": [200, 0, 0]})
    'Tumor: Positive'
    """
    if said is None or isinstance(said, str):
        return said or None
    if not isinstance(said, dict):
        raise ValueError("its classification is no text and no object")
    names = said.get("names")
    if isinstance(names, list) and names:
        return ": ".join(map(str, names))
    parts: list[str] = []
    at: Any = said
    while isinstance(at, dict):
        if at.get("name"):
            parts.insert(0, str(at["name"]))
        at = at.get("parentClass")
    return ": ".join(parts) or None


def _plane(geometry: Any) -> tuple[int, int]:
    plane = geometry.get("plane") if isinstance(geometry, dict) else None
    if not isinstance(plane, dict):
        return 0, 0
    z, t = plane.get("z", 0), plane.get("t", 0)
    return (z if isinstance(z, int) else 0), (t if isinstance(t, int) else 0)


def shape_of(geometry: Any) -> BaseGeometry:
    """Flat; as it is drawn, valid or not. Raises ValueError for what is no geometry or not finite."""
    try:
        with np.errstate(invalid="ignore"):
            shape = shapely.force_2d(shapely.geometry.shape(geometry))
        places = shapely.get_coordinates(shape)
    except (
        ShapelyError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
    ) as error:
        raise ValueError(f"its geometry cannot be read ({error})") from error
    if not (np.abs(places) < FARTHEST).all():
        raise ValueError("its geometry has a place that is no number, or out of all bounds")
    return shape
