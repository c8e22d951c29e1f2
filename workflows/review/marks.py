"""What a reviewer gave another class, as outlines of a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np
import shapely
from numpy.typing import NDArray

from coverslip.workflows.deep_zoom import Named
from coverslip.workflows.palette import INTENSITY, Rgba, class_colours
from coverslip.workflows.pictures import LONGEST
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import Correction, Objects, Relabel
from coverslip.workflows.review.places import CELL_UM, middles, tile_extent
from coverslip.workflows.review.recompute import labels_of, standing_labels

# Pixels of the report's picture: what is smaller is not seen in it.
LEAST_PX = 12.0
# A ring leaves this much free around a cell.
AROUND = 1.5
# More than these are drawn as the places of the picture that they fill.
MOST = 4_000
CORNERS = np.pi / 4 * (np.arange(8) + 0.5)


def marks_of(base: Base, standing: tuple[Correction, ...]) -> list[Named]:
    """A ring around each cell, the outline of tiles, by the class that these have after the corrections where
    the machine had called them otherwise; level-0 pixels. Excluded ones are left out."""
    return [mark for of in get_args(Objects) for mark in _marks(base, standing, of)]


def _marks(base: Base, standing: tuple[Correction, ...], of: Objects) -> Iterator[Named]:
    labels, table = labels_of(base, of), base.table(of)
    if table is None or not any(isinstance(one, Relabel) and one.of == of for one in standing):
        return
    now = standing_labels(base, standing, of)
    changed = (now >= 0) & (now != standing_labels(base, (), of))
    x, y = middles(base.result, of, table["x"].to_numpy(), table["y"].to_numpy())
    sides = _sides(base, of)
    for number, label in enumerate(labels):
        rows = np.flatnonzero(changed & (now == number))
        if len(rows):
            said = f"{label}, as the reviewer says: {len(rows)} {of if len(rows) > 1 else of[:-1]}"
            places = np.stack([x[rows], y[rows]], axis=1)
            yield said, _colour(labels, label), _drawn(places, sides[rows], of, _least(base))


def _sides(base: Base, of: Objects) -> NDArray[np.float64]:
    """(n, 2) width and height of what is framed, level-0 pixels."""
    table, mpp = base.table(of), base.result.slide.mpp
    assert table is not None
    if of == "tiles":
        return np.tile(tile_extent(base.result), (len(table), 1))
    name = next((one for one in ("cell_area_um2", "area_um2") if one in table.column_names), None)
    areas = np.zeros(len(table)) if name is None else np.asarray(table[name].to_numpy(), np.float64)
    um = np.where(np.nan_to_num(areas) > 0, 2 * np.sqrt(np.nan_to_num(areas) / np.pi), CELL_UM)
    return AROUND * um[:, None] / (mpp.x, mpp.y)


def _least(base: Base) -> float:
    return LEAST_PX * max(base.result.slide.size) / LONGEST


def _drawn(
    places: NDArray[np.float64], sides: NDArray[np.float64], of: Objects, least: float
) -> list[list[NDArray[np.float64]]]:
    """Polygons, each its outer ring and its holes; those that touch are one."""
    if of == "cells" and len(places) > MOST:
        places, first = np.unique(np.round(places / least) * least, axis=0, return_index=True)
        sides = sides[first]
    half = np.maximum(sides, least if of == "cells" else 0.0) / 2
    if of == "tiles":
        shapes = shapely.box(*(places - half).T, *(places + half).T)
    else:
        ring = np.stack([np.cos(CORNERS), np.sin(CORNERS)], axis=1)
        shapes = shapely.polygons(places[:, None] + half[:, None] * ring)
    parts = shapely.get_parts(shapely.union_all(shapes))
    return [
        [shapely.get_coordinates(ring) for ring in (one.exterior, *one.interiors)] for one in parts.tolist()
    ]


def _colour(labels: tuple[str, ...], label: str) -> str:
    """As the picture has this class: #rrggbb."""
    colours: dict[str, Rgba] = dict(class_colours(labels).values())
    graded = dict(INTENSITY.values())
    if graded.keys() <= set(labels):
        colours |= graded
    red, green, blue, _ = colours[label]
    return f"#{red:02x}{green:02x}{blue:02x}"
