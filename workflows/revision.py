"""What a reviewer changed of a result, as arrays beside its tables; what a `Judge` concludes again from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from coverslip.tiling.geojson_reader import Regions

# What a reviewer can give a class to, and the tables they are the rows of.
Objects = Literal["cells", "tiles"]
TABLES: Mapping[Objects, str] = {"cells": "cells.parquet", "tiles": "tiles.parquet"}
MACHINE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Revision:
    """`labels`: for the rows of a table, int32 (n,): number in `Judge.labels` of the class that a person
    gave, `MACHINE` where none did. `excluded`: bool (n,), whose centre lies where nothing counts. A table
    that nobody touched is missing from either. `drawn`: areas with a label, in the order they were drawn.
    `hidden`: where nothing counts, None for nowhere. Places are level-0 pixels."""

    labels: Mapping[Objects, NDArray[np.int32]] = field(default_factory=dict)
    excluded: Mapping[Objects, NDArray[np.bool_]] = field(default_factory=dict)
    drawn: tuple[tuple[str, Regions], ...] = ()
    hidden: Regions | None = None

    def given(self, of: Objects) -> NDArray[np.int32] | None:
        return self.labels.get(of)

    def kept(self, of: Objects) -> NDArray[np.bool_] | None:
        """Rows that count, None for all."""
        excluded = self.excluded.get(of)
        return None if excluded is None else ~excluded

    def called(self, names: Collection[str]) -> Regions | None:
        """All drawn areas whose label is one of the names, whatever its case, less what is hidden; None
        where none was drawn."""
        wanted = {name.casefold() for name in names}
        shapes = [regions.shape for label, regions in self.drawn if label.strip().casefold() in wanted]
        return without(together(shapes), self.hidden) if shapes else None


def together(shapes: Collection[shapely.Geometry]) -> Regions:
    """Areas in one; where they overlap they count once."""
    shape = shapely.union_all(list(shapes))
    shapely.prepare(shape)
    return Regions(shape)


def without(regions: Regions, hidden: Regions | None) -> Regions:
    return regions if hidden is None else together([shapely.difference(regions.shape, hidden.shape)])


def within(regions: Regions, x: NDArray, y: NDArray) -> NDArray[np.bool_]:
    """Whether each place lies inside, (n,); those far away are not looked at closely."""
    inside = np.zeros(len(x), bool)
    if shapely.is_empty(regions.shape):
        return inside
    left, top, right, bottom = shapely.bounds(regions.shape)
    near = np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))
    inside[near] = regions.contain(np.asarray(x[near], np.float64), np.asarray(y[near], np.float64))
    return inside


def named(column: pa.ChunkedArray, given: NDArray[np.int32] | None, labels: tuple[str, ...]) -> pa.Array:
    """A column of names with those that a person gave over them."""
    whole = column.combine_chunks()
    if given is None:
        return whole
    rows = np.flatnonzero(given != MACHINE)
    names = pa.array(labels, whole.type).take(pa.array(given[rows], pa.int64()))
    return pc.call_function("replace_with_mask", [whole, pa.array(given != MACHINE), names])


def numbered(column: pa.ChunkedArray, labels: tuple[str, ...]) -> NDArray[np.int32]:
    """Number of each name among the labels; -1 for one that is none."""
    options = pc.SetLookupOptions(pa.array(labels, pa.string()))
    found = pc.call_function("index_in", [column], options)
    return np.asarray(pc.call_function("coalesce", [found, pa.scalar(-1, pa.int32())]).to_numpy(), np.int32)


def with_column(table: pa.Table, name: str, values: pa.Array | NDArray) -> pa.Table:
    """The table with this column in the place it had, or at the end."""
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    at = table.column_names.index(name) if name in table.column_names else None
    return table.append_column(name, array) if at is None else table.set_column(at, name, array)


def chosen(table: pa.Table, kept: NDArray[np.bool_] | None) -> pa.Table:
    return table if kept is None else table.filter(pa.array(kept))
