"""What is drawn on the canvas as areas of the slide, and what a change of it means as corrections."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from coverslip.workflows.desk.place import World
from coverslip.workflows.review.corrections import Correction, DrawRegion, Exclude, RemoveArea

Area = DrawRegion | Exclude
# Eighths of a pixel are finer than anybody draws; equal drawings stay equal.
PARTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One ring on the canvas, (k, 2) world (y, x), of the area of that id; "" is a new one."""

    id: str
    points: NDArray[np.float64]


def new_id() -> str:
    return uuid.uuid4().hex[:12]


def polygon_of(outlines: Sequence[NDArray[np.floating]], world: World) -> dict[str, Any] | None:
    """GeoJSON in level-0 pixels, (x, y), of rings in the world; None where they enclose nothing.

    A ring that crosses itself encloses what `shapely.make_valid` makes of it.
    """
    parts = [_valid(points, world) for points in outlines if len(points) >= 3]
    return geojson(shapely.union_all(parts)) if parts else None


def _valid(points: NDArray[np.floating], world: World) -> shapely.Geometry:
    at = np.array([world.place(float(y), float(x)) for y, x in np.asarray(points)[:, -2:]])
    return shapely.make_valid(shapely.Polygon(np.rint(at * PARTS) / PARTS))


def geojson(shape: shapely.Geometry) -> dict[str, Any] | None:
    """Its polygons; None where it has no area."""
    whole = [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon) and part.area > 0]
    if not whole:
        return None
    found = shapely.normalize(whole[0] if len(whole) == 1 else shapely.union_all(whole))
    return dict(shapely.geometry.mapping(found))


def rings_of(area: Area, world: World) -> list[NDArray[np.float64]]:
    """Outer rings of an area in the world, (k, 2) as (y, x), the first point not repeated."""
    shape = shapely.geometry.shape(area.geometry)
    return [
        np.array([world.point(x, y) for x, y in part.exterior.coords[:-1]])
        for part in shapely.get_parts(shape)
    ]


def changes(
    known: Mapping[str, Area], outlines: Sequence[Outline], world: World
) -> tuple[tuple[Correction, ...], tuple[Outline, ...]]:
    """Corrections that make the known areas what is on the canvas; and the rings that are new to them.

    Holes of an area stay. An area none of whose rings is left is taken back.
    """
    found: list[Correction] = []
    for id_, area in known.items():
        rings = [outline.points for outline in outlines if outline.id == id_]
        edited = _edited(area, rings, world)
        if edited is None:
            found.append(RemoveArea(id=id_))
        elif edited is not area:
            found.append(edited)
    return tuple(found), tuple(outline for outline in outlines if outline.id not in known)


def _edited(area: Area, rings: Sequence[NDArray[np.float64]], world: World) -> Area | None:
    before = rings_of(area, world)
    if len(before) == len(rings) and all(map(_same, before, rings)):
        return area
    geometry = polygon_of(rings, world)
    if geometry is None:
        return None
    holes = _holes(area)
    if holes is not None:
        geometry = geojson(shapely.difference(shapely.geometry.shape(geometry), holes))
    return None if geometry is None else area.model_copy(update={"geometry": geometry})


def _same(one: NDArray, other: NDArray) -> bool:
    return one.shape == other.shape and np.allclose(one, other)


def _holes(area: Area) -> shapely.Geometry | None:
    shape = shapely.geometry.shape(area.geometry)
    holes = [shapely.Polygon(ring) for part in shapely.get_parts(shape) for ring in part.interiors]
    return shapely.union_all(holes) if holes else None
