"""Where a million cells lie, asked while somebody waits: what is in a box, in a polygon, next to a point."""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from coverslip.errors import RequestError
from coverslip.wsi import Box

Rows = NDArray[np.int64]

# About as many cells are looked at in vain around a point as a bucket holds; fewer per bucket make more of
# them, and a box is put together from rows of buckets.
PER_BUCKET = 16
MOST_BUCKETS = 4_000_000
# What 16 bits count.
MOST_PER_AXIS = 60_000
# Marking the chosen rows in a list of all is faster than sorting when more than one in so many is chosen.
SORT_BELOW = 64


class CellIndex:
    """Positions `x`, `y` (n,) in level-0 pixels, sorted into square buckets; rows are those of the positions.

    Building costs one sort; a question costs what lies near the answer. Safe for threads: nothing changes.
    Raises RequestError for positions that are not finite or not as many in x as in y.

    >>> index = CellIndex([1.0, 5.0, 9.0], [1.0, 5.0, 9.0])
    >>> index.within(Box(0, 0, 6, 6)).tolist(), index.nearest(8.0, 8.0, 3.0)
    ([0, 1], 2)
    """

    def __init__(self, x: ArrayLike, y: ArrayLike):
        self.x, self.y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self.x.ndim != 1 or self.x.shape != self.y.shape:
            raise RequestError(
                "positions", f"of shapes {self.x.shape} and {self.y.shape}", "give (n,) of each"
            )
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise RequestError("positions", "are not all finite", "leave out the rows without a place")
        self._left, self._top = (float(v.min()) if len(v) else 0.0 for v in (self.x, self.y))
        self._side, self._columns, self._lines = self._buckets()
        column, line = self._column(self.x), self._line(self.y)
        # numpy sorts 16-bit numbers by radix, six times as fast as it sorts one key of both
        order = np.argsort(column.astype(np.uint16), kind="stable")
        order = order[np.argsort(line[order].astype(np.uint16), kind="stable")]
        self._order = order.astype(np.int32)
        counts = np.bincount(line * self._columns + column, minlength=self._lines * self._columns)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return len(self.x)

    def within(self, box: Box) -> Rows:
        """Ascending rows of the cells in a box; its left and top edges are in it, right and bottom not."""
        rows = self.near(box.x, box.y, box.right, box.bottom)
        x, y = self.x[rows], self.y[rows]
        inside = (x >= box.x) & (x < box.right) & (y >= box.y) & (y < box.bottom)
        return self._ascending(rows[inside])

    def nearest(self, x: float, y: float, reach: float) -> int | None:
        """The row of the cell next to a point, at most `reach` away; of equals the first; None without."""
        rows = self.near(x - reach, y - reach, x + reach, y + reach)
        if not len(rows):
            return None
        squared = (self.x[rows] - x) ** 2 + (self.y[rows] - y) ** 2
        least = squared.min()
        return int(rows[squared == least].min()) if least <= reach**2 else None

    def inside(self, polygon: ArrayLike | shapely.Geometry) -> Rows:
        """Ascending rows of the cells inside a polygon, not on its edge.

        `polygon`: corners (k, 2) as x, y, or a shapely geometry with holes and parts as it likes. One that
        crosses itself encloses what `shapely.make_valid` makes of it. Raises RequestError for fewer than 3.
        """
        area = polygon if isinstance(polygon, shapely.Geometry) else _polygon(np.asarray(polygon, np.float64))
        if not shapely.is_valid(area):
            with np.errstate(invalid="ignore"):  # corners that differ by next to nothing
                area = shapely.make_valid(area)
        if shapely.is_empty(area):
            return np.empty(0, np.int64)
        rows = self.near(*shapely.bounds(area).tolist())
        shapely.prepare(area)
        return self._ascending(rows[shapely.contains_xy(area, self.x[rows], self.y[rows])])

    def near(self, left: float, top: float, right: float, bottom: float) -> NDArray[np.int32]:
        """Rows in the buckets that a rectangle touches, in no order: all cells in it, and some around it."""
        if not len(self) or right < self._left or bottom < self._top:
            return np.empty(0, np.int32)
        first, last = (self._column(np.array([edge]))[0] for edge in (left, right))
        above, below = (self._line(np.array([edge]))[0] for edge in (top, bottom))
        if first == 0 and last == self._columns - 1:
            runs = [slice(self._starts[above * self._columns], self._starts[(below + 1) * self._columns])]
        else:
            begin = np.arange(above, below + 1) * self._columns
            runs = map(slice, self._starts[begin + first], self._starts[begin + last + 1])
        return np.concatenate([self._order[run] for run in runs])

    def _ascending(self, rows: NDArray[np.int32]) -> Rows:
        if len(rows) < len(self) // SORT_BELOW:
            return np.sort(rows).astype(np.int64)
        chosen = np.zeros(len(self), bool)
        chosen[rows] = True
        return np.flatnonzero(chosen)

    def _buckets(self) -> tuple[float, int, int]:
        """Side of a bucket, and how many there are along x and y."""
        if not len(self):
            return 1.0, 1, 1
        width, height = np.ptp(self.x), np.ptp(self.y)
        wanted = min(MOST_BUCKETS, max(1, len(self) // PER_BUCKET))
        # also for a line of cells, whose area is nothing
        side = max(math.sqrt(width * height / wanted), max(width, height) / min(wanted, MOST_PER_AXIS), 1e-6)
        return side, int(width / side) + 1, int(height / side) + 1

    def _column(self, x: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.clip((x - self._left) / self._side, 0, self._columns - 1).astype(np.int64)

    def _line(self, y: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.clip((y - self._top) / self._side, 0, self._lines - 1).astype(np.int64)


def _polygon(corners: NDArray[np.float64]) -> shapely.Geometry:
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise RequestError(f"corners {corners.shape}", "are no polygon", "give at least three (x, y)")
    return shapely.Polygon(corners)
