"""Which row of a table an object of a GeoJSON file is: by the id its export gave it, else by its place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from scipy import spatial
from shapely.geometry.base import BaseGeometry

from coverslip.tiling.geojson import NAMESPACE
from coverslip.workflows.cell_table import OUTLINE, PARTS

# Level-0 pixels. Files have two decimals, QuPath's corners 24 bits.
TOLERANCE = 1.0


class RowIds:
    """The ids of all rows, 24 bytes each. `kind`: "detection" or "tile", as `exports.qupath` writes them."""

    def __init__(self, key: str, kind: str, count: int):
        start = NAMESPACE.bytes + f"{key}#{kind}#".encode()
        made = b"".join(
            hashlib.sha1(start + str(row).encode(), usedforsecurity=False).digest()[:16]
            for row in range(count)
        )
        parts = np.frombuffer(made, np.uint8).reshape(-1, 16).copy()
        # version 5, variant of RFC 4122
        parts[:, 6] = parts[:, 6] & 0x0F | 0x50
        parts[:, 8] = parts[:, 8] & 0x3F | 0x80
        halves = parts.view(">u8").astype(np.uint64)
        self._order = np.argsort(halves[:, 0]).astype(np.int32)
        self._first, self._second = halves[self._order, 0], halves[self._order, 1]

    def rows(self, ids: Sequence[str | None]) -> NDArray[np.int64]:
        """The row of each id; -1 for those of none."""
        if not len(self._order):
            return np.full(len(ids), -1, np.int64)
        asked = np.frombuffer(b"".join(_bytes(one) for one in ids), ">u8").astype(np.uint64).reshape(-1, 2)
        at = np.minimum(np.searchsorted(self._first, asked[:, 0]), len(self._order) - 1)
        same = (self._first[at] == asked[:, 0]) & (self._second[at] == asked[:, 1])
        return np.where(same, self._order[at].astype(np.int64), -1)


def _bytes(text: str | None) -> bytes:
    """Sixteen, zeros for what is no UUID: none of ours is zero."""
    try:
        found = bytes.fromhex((text or "").replace("-", ""))
    except ValueError:
        found = b""
    return found if len(found) == 16 else bytes(16)


class RowPlaces:
    """Rows by where they lie; nothing is prepared before it is asked."""

    def __init__(self, table: pa.Table, *, corners: bool):
        """`corners`: x and y are the top-left corner, as of tiles; else the centre, as of cells."""
        self._table, self._corners = table, corners

    @cached_property
    def _tree(self) -> spatial.KDTree:
        return spatial.KDTree(np.stack([np.asarray(self._table[axis], np.float64) for axis in "xy"], axis=1))

    def rows(self, shapes: Sequence[BaseGeometry]) -> NDArray[np.int64]:
        """The row whose place each shape has, within a pixel; -1 for none.

        A cell with an outline is the same when its outline's bounds are; an area of tiles when its corner is;
        a point when the centre is.
        """
        found = np.full(len(shapes), -1, np.int64)
        if not len(self._table) or not len(shapes):
            return found
        bounds = shapely.bounds(np.asarray(shapes, object))
        usable = np.flatnonzero(np.isfinite(bounds).all(axis=1))
        if not len(usable):
            return found
        if self._corners:
            asked = bounds[usable, :2]
        else:
            asked = shapely.get_coordinates(shapely.centroid(np.asarray(shapes, object)[usable]))
        # the centre of a cell is that of its pixels, not of its outline: a few neighbours are looked at
        count = 1 if self._corners else min(4, len(self._table))
        away, rows = self._tree.query(asked, k=count)
        away, rows = away.reshape(len(usable), count), rows.reshape(len(usable), count)
        for near in range(count):
            open_ = np.flatnonzero(found[usable] < 0)
            same = self._is(rows[open_, near], away[open_, near], bounds[usable[open_]])
            found[usable[open_[same]]] = rows[open_[same], near]
        return found

    def _is(
        self, rows: NDArray[np.int64], away: NDArray[np.float64], bounds: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        if self._corners or OUTLINE.name not in self._table.column_names:
            return away <= TOLERANCE
        own = self._bounds(rows)
        plain = np.isnan(own).any(axis=1)
        return np.where(plain, away <= TOLERANCE, (np.abs(own - bounds) <= TOLERANCE).all(axis=1))

    def _bounds(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 4) left, top, right, bottom of the outlines; NaN for rows without."""
        packed = self._table[OUTLINE.name].take(pa.array(rows)).combine_chunks()
        lengths = packed.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        own = np.full((len(rows), 4), np.nan)
        some = np.flatnonzero(lengths >= 6)
        if not len(some):
            return own
        points = np.asarray(packed.flatten().to_numpy(), np.float64).reshape(-1, 2) / PARTS
        counts = lengths // 2
        owner = np.repeat(np.arange(len(rows)), counts)
        starts = np.concatenate([[0], np.cumsum(counts[some])[:-1]])
        kept = points[np.isin(owner, some)]
        centres = np.stack(
            [np.asarray(self._table[axis].take(pa.array(rows[some]))) for axis in "xy"], axis=1
        )
        own[some, :2] = np.minimum.reduceat(kept, starts) + centres
        own[some, 2:] = np.maximum.reduceat(kept, starts) + centres
        return own
