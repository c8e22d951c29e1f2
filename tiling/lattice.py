"""Where a slide is looked at closely: small fields spread over its tissue, one in a square of a lattice."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.tissue import TissueMask

# Places tried in a square, along each side, for the one with most tissue.
TRIES = 5
# The mask is looked at this coarsely: a field of 256 µm is 8 of its pixels.
COARSE_UM = 32.0


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Squares of `side_um` over all of level 0, and a field in each that holds tissue.

    `rows`, `columns`: int64 (n,), which square. `x`, `y`: int64 (n,), the field's corner in level-0 pixels.
    `of_row` (h,), `of_column` (w,): int64, the square that a pixel of the tissue mask belongs to.
    """

    side_um: float
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    of_row: NDArray[np.int64]
    of_column: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, chosen: NDArray[np.bool_]) -> Lattice:
        """With these of its fields, bool (n,)."""
        rows, columns, x, y = (part[chosen] for part in (self.rows, self.columns, self.x, self.y))
        return Lattice(self.side_um, rows, columns, x, y, self.of_row, self.of_column)

    def spread(self, values: NDArray) -> NDArray:
        """A value per field to one per mask pixel (h, w); squares without one have that of the nearest."""
        shape = int(self.of_row[-1]) + 1, int(self.of_column[-1]) + 1
        numbers = np.arange(shape[0] * shape[1])
        rows, columns = numbers // shape[1], numbers % shape[1]
        nearest = np.empty(len(numbers), np.int64)
        for number in numbers:
            away = np.square(self.rows - rows[number]) + np.square(self.columns - columns[number])
            nearest[number] = int(np.argmin(away))
        return values[nearest].reshape(shape)[np.ix_(self.of_row, self.of_column)]


def lay_lattice(tissue: TissueMask, field_um: float, most: int, least_tissue: float) -> Lattice:
    """At most `most` fields of `field_um`, as close to each other as that allows.

    A square gets one when it holds `least_tissue` of a field's area; where none does, all that hold any. The
    field lies where most of the square's tissue is, in its middle where that is all the same.
    """
    side, least = field_um, least_tissue * field_um**2 / (tissue.mpp.x * tissue.mpp.y)
    while True:
        of_row, of_column = (
            np.floor((np.arange(n) + 0.5) * per / side).astype(np.int64)
            for n, per in zip(tissue.mask.shape, (tissue.mpp.y, tissue.mpp.x), strict=True)
        )
        count = _per_square(tissue.mask, of_row, of_column)
        chosen = count >= least if (count >= least).any() else count > 0
        if chosen.sum() <= most:
            break
        side *= sqrt(2)
    rows, columns = np.nonzero(chosen)
    x, y = _fields(tissue, rows, columns, side, field_um)
    return Lattice(side, rows.astype(np.int64), columns.astype(np.int64), x, y, of_row, of_column)


def _per_square(
    mask: NDArray[np.bool_], of_row: NDArray[np.int64], of_column: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many True pixels each square holds."""
    starts = [np.flatnonzero(np.diff(of, prepend=-1)) for of in (of_row, of_column)]
    found = np.zeros((int(of_row[-1]) + 1, int(of_column[-1]) + 1), np.int64)
    down = np.add.reduceat(mask, starts[0], axis=0, dtype=np.int64)
    counts = np.add.reduceat(down, starts[1], axis=1)
    found[np.ix_(of_row[starts[0]], of_column[starts[1]])] = counts
    return found


def _fields(
    tissue: TissueMask, rows: NDArray[np.int64], columns: NDArray[np.int64], side: float, field_um: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners of the fields, level-0 pixels, inside the scanned part where that is large enough."""
    height, width = tissue.mask.shape
    factor = max(1, floor(COARSE_UM / tissue.mpp.mean))
    size = max(1, width // factor), max(1, height // factor)
    small = cv2.resize(tissue.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    sums = np.asarray(cv2.integral(small), np.float64)
    per_x, per_y = width * tissue.mpp.x / size[0], height * tissue.mpp.y / size[1]
    middle = (TRIES - 1) / 2
    tries = [(i, j) for i in range(TRIES) for j in range(TRIES)]
    tries.sort(key=lambda at: (at[0] - middle) ** 2 + (at[1] - middle) ** 2)
    step = (side - field_um) / (TRIES - 1)
    across, down = (columns * side, rows * side)
    best = np.full(len(rows), -1.0)
    left, top = np.zeros((2, len(rows)))
    for i, j in tries:
        x, y = across + i * step, down + j * step
        ends = [
            np.clip(np.rint(at / per), 0, most).astype(np.int64)
            for at, per, most in (
                (x, per_x, size[0]),
                (x + field_um, per_x, size[0]),
                (y, per_y, size[1]),
                (y + field_um, per_y, size[1]),
            )
        ]
        here = (
            sums[ends[3], ends[1]] - sums[ends[2], ends[1]] - sums[ends[3], ends[0]] + sums[ends[2], ends[0]]
        )
        better = here > best + 0.5
        best[better], left[better], top[better] = here[better], x[better], y[better]
    bounds, mpp_x, mpp_y = tissue.bounds, tissue.mpp.x / tissue.scale_x, tissue.mpp.y / tissue.scale_y
    x = np.clip(np.rint(left / mpp_x), bounds.x, max(bounds.x, bounds.right - field_um / mpp_x))
    y = np.clip(np.rint(top / mpp_y), bounds.y, max(bounds.y, bounds.bottom - field_um / mpp_y))
    return x.astype(np.int64), y.astype(np.int64)
