"""Where rows of a result's tables lie on the slide, and how far they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.errors import StoreVersionError
from coverslip.workflows.exports.rows import read_rows
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Objects

# A cell whose size the table does not say is framed as large as most are.
CELL_UM = 15.0


@dataclass(frozen=True, slots=True)
class Place:
    """`x`, `y`: the middle; `width`, `height`: the extent about it. Level-0 pixels."""

    x: float
    y: float
    width: float
    height: float


def place_of(result: SlideResult, of: Objects, row: Mapping[str, Any]) -> Place:
    """Of one row by column: a tile, or the disc of a cell's area. Raises as `tile_extent`."""
    if of == "tiles":
        width, height = tile_extent(result)
        return Place(row["x"] + width / 2, row["y"] + height / 2, width, height)
    mpp, area = result.slide.mpp, row.get("cell_area_um2") or row.get("area_um2")
    side = 2 * sqrt(area / pi) if area else CELL_UM
    return Place(row["x"], row["y"], side / mpp.x, side / mpp.y)


def middles(
    result: SlideResult, of: Objects, x: NDArray, y: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of rows by the columns `x` and `y`, which are a cell's middle and a tile's upper left corner."""
    width, height = tile_extent(result) if of == "tiles" else (0.0, 0.0)
    return np.asarray(x, np.float64) + width / 2, np.asarray(y, np.float64) + height / 2


def tile_extent(result: SlideResult) -> tuple[float, float]:
    """Width and height of the result's tiles, level-0 pixels. Raises StoreVersionError where none is said."""
    grid = result.provenance.settings.get("grid")
    if grid is None:
        raise StoreVersionError(
            result.slide.id, "does not say how large its tiles are", "run again with --overwrite"
        )
    side = grid["size"] * grid["mpp"]
    return side / result.slide.mpp.x, side / result.slide.mpp.y


def rows_at(path: Path, rows: Sequence[int]) -> list[dict[str, Any]]:
    """These rows of a table in this order, as values by column, without lists.

    Raises StoreIncompleteError for a damaged table, StoreVersionError where it has no such row.
    """
    order = np.unique(np.array(rows, np.int64))
    columns = [one.name for one in pq.read_schema(path) if not pa.types.is_list(one.type)]
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in read_rows(path, columns)[1]:
        here = order[np.searchsorted(order, start) : np.searchsorted(order, start + len(batch))]
        values = pa.Table.from_batches([batch]).take(pa.array(here - start)).to_pylist()
        found.update(zip(here.tolist(), values, strict=True))
        start += len(batch)
    if len(found) < len(order):
        raise StoreVersionError(str(path), f"has {start} rows, and no row {order[-1]}", "review it anew")
    return [found[row] for row in rows]
