"""What was done to the regions and exclusions of a review in another program."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import spatial
from shapely.geometry.base import BaseGeometry

from coverslip.errors import RequestError
from coverslip.tiling.geojson import NAMESPACE
from coverslip.workflows.review.corrections import Correction, DrawRegion, Exclude, RemoveArea
from coverslip.workflows.review.qupath_object import DESCRIPTION, IGNORE, QuPathObject, shape_of

# Metadata of an area: its id in the review, and its class as it was written.
ID, LABEL = "coverslip.id", "coverslip.label"
IGNORED, DELETED = "ignored in QuPath", "deleted in QuPath"
UNNAMED = "region"
# Level-0 pixels: QuPath keeps corners in 24 bits and writes two decimals.
TOLERANCE = 0.02
Area = DrawRegion | Exclude


@dataclass(frozen=True, slots=True)
class Areas:
    """Areas by id: `before`, when the file was written, and `now`. `listed`: those that the file says it had.
    `ids`: feature id → area id. `labels`: classes of the workflow. `size`: of the slide, level-0 pixels.
    `key`: of the result."""

    before: Mapping[str, Area]
    now: Mapping[str, Area]
    listed: frozenset[str]
    ids: Mapping[str, str]
    labels: tuple[str, ...]
    size: tuple[int, int]
    key: str


def area_edits(objects: Sequence[QuPathObject], areas: Areas, notes: Counter[str]) -> list[Correction]:
    """Those that differ from `before` and from `now`; what is left out or mended is counted in `notes`.

    Raises RequestError for an annotation that is no geometry.
    """
    drawn = [(one, _shape(one)) for one in objects]
    polygons = [(one, shape) for one, shape in drawn if shape is not None]
    if len(drawn) > len(polygons):
        notes["annotations are points or lines, which are no areas: left out"] += len(drawn) - len(polygons)
    names = _names(polygons, areas)
    edits: list[Correction] = []
    for (one, shape), name in zip(polygons, names, strict=True):
        was = areas.before.get(name) or areas.now.get(name)
        area = _area(one, shape, name, was, areas, notes)
        if area is not None and not _same(area, was) and not _same(area, areas.now.get(name)):
            edits.append(area)
    gone = [name for name in areas.now if name in areas.listed and name not in names]
    edits += [RemoveArea(id=name, why=DELETED) for name in gone]
    return edits


def _shape(one: QuPathObject) -> BaseGeometry | None:
    """None for points and lines."""
    try:
        shape = shape_of(one.geometry)
    except ValueError as error:
        raise RequestError(f"annotation {one.name or one.id}", str(error), "delete it in QuPath") from error
    return shape if shapely.area(shape) > 0 or shape.geom_type in ("Polygon", "MultiPolygon") else None


def _names(drawn: Sequence[tuple[QuPathObject, BaseGeometry]], areas: Areas) -> list[str]:
    """Which area each is, each once: by the object's id, by that in its metadata, by its outline; or new."""
    found: list[str | None] = [None] * len(drawn)
    taken: set[str] = set()

    def take(number: int, name: str | None) -> None:
        if found[number] is None and name is not None and name not in taken:
            found[number] = name
            taken.add(name)

    for number, (one, _) in enumerate(drawn):
        take(number, areas.ids.get(one.id or ""))
    for number, (one, _) in enumerate(drawn):
        said = one.metadata.get(ID)
        take(number, str(said) if said else None)
    known = [(name, shapely.geometry.shape(area.geometry)) for name, area in areas.before.items()]
    for number, (_, shape) in enumerate(drawn):
        if found[number] is None:
            take(number, next((n for n, s in known if n not in taken and same_outline(s, shape)), None))
    for number, (one, shape) in enumerate(drawn):
        take(number, one.id)
        if found[number] is None:
            content = f"{areas.key}#{number}#{one.label}#{shape.wkt}"
            take(number, str(uuid.uuid5(NAMESPACE, content)))
    return [str(name) for name in found]


def _area(
    one: QuPathObject,
    shape: BaseGeometry,
    name: str,
    was: Area | None,
    areas: Areas,
    notes: Counter[str],
) -> Area | None:
    """The area as the object says; None where nothing of it is left."""
    if was is not None and same_outline(shapely.geometry.shape(was.geometry), shape):
        geometry = was.geometry
    else:
        mended = _mended(shape, areas.size, notes)
        if mended is None:
            return None
        geometry = json.loads(shapely.to_geojson(mended))
    said = one.metadata.get(DESCRIPTION)
    why = str(said) if said else (was.why if was is not None else "")
    label = _label(one, was, areas.labels)
    if label is None:
        return Exclude(id=name, geometry=geometry, why=why if why.strip() else IGNORED)
    if was is None and _plain(label) not in {_plain(known) for known in areas.labels}:
        notes[f"new annotations of class {label}, which is none of this workflow: kept as regions"] += 1
    return DrawRegion(id=name, label=label, geometry=geometry, why=why)


def _label(one: QuPathObject, was: Area | None, labels: tuple[str, ...]) -> str | None:
    """None for an exclusion. QuPath changes blanks beside colons and nothing else; case is not meant."""
    said = one.label or ""
    written = [was.label] if isinstance(was, DrawRegion) else []
    if LABEL in one.metadata:
        written.append(str(one.metadata[LABEL]))
    for label in (*written, *labels):
        if _plain(label) == _plain(said):
            return label
    if _plain(said) == _plain(IGNORE):
        return None
    return said or (one.name or "").strip() or UNNAMED


def _plain(label: str) -> str:
    return ": ".join(" ".join(part.split()) for part in label.split(":")).casefold()


def _mended(shape: BaseGeometry, size: tuple[int, int], notes: Counter[str]) -> BaseGeometry | None:
    if not shapely.is_valid(shape):
        shape = shapely.make_valid(shape)
        notes["annotations cross themselves: made whole"] += 1
    slide = shapely.box(0, 0, *size)
    if not shapely.covers(slide, shape):
        shape = shapely.intersection(shape, slide)
        notes["annotations reach beyond the slide: cut off there"] += 1
    parts = [part for part in _simple(shape) if shapely.area(part) > 0]
    if not parts:
        notes["annotations enclose nothing of the slide: left out"] += 1
        return None
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _simple(shape: BaseGeometry) -> Iterator[BaseGeometry]:
    """Its parts, and those of collections in it."""
    if shapely.get_num_geometries(shape) == 1 and shape.geom_type in ("Polygon", "LineString", "Point"):
        yield shape
        return
    for part in shapely.get_parts(shape):
        yield from _simple(part)


def same_outline(first: BaseGeometry, second: BaseGeometry) -> bool:
    """Whether every corner of each is one of the other, and as many rings: where a ring begins, and which way
    it goes, is not meant."""
    if not np.allclose(shapely.bounds(first), shapely.bounds(second), rtol=0, atol=TOLERANCE, equal_nan=True):
        return False
    if _parts(first) != _parts(second):
        return False
    a, b = shapely.get_coordinates(first), shapely.get_coordinates(second)
    if not len(a) or not len(b):
        return len(a) == len(b)
    return _near(a, b) and _near(b, a)


def _near(some: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    away, _ = spatial.KDTree(others).query(some)
    return bool((away <= 2 * TOLERANCE).all())


def _parts(shape: BaseGeometry) -> tuple[int, int]:
    """How many polygons, and how many holes."""
    parts = shapely.get_parts(shape)
    return len(parts), int(shapely.get_num_interior_rings(parts).sum())


def _same(one: Area, other: Area | None) -> bool:
    """As `same_outline` has it, and all else alike."""
    if other is None or type(one) is not type(other):
        return False
    if one.model_copy(update={"geometry": {}}) != other.model_copy(update={"geometry": {}}):
        return False
    return one.geometry == other.geometry or same_outline(
        shapely.geometry.shape(one.geometry), shapely.geometry.shape(other.geometry)
    )
