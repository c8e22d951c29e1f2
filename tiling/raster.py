"""Which pixels of a mask lie in an area."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray


def covered(
    area: shapely.Geometry, shape: tuple[int, int], scale_x: float, scale_y: float
) -> NDArray[np.bool_]:
    """Pixels whose centre lies in the area, bool (h, w).

    `area`: polygons that do not overlap, in a frame where pixel (row i, column j) covers x in [j, j + 1) ×
    `scale_x` and y in [i, i + 1) × `scale_y`. Takes as long as the area's outline is, and the mask large:
    a row's pixels change sides where it crosses an edge (Shimrat 1962, Commun ACM 5:434, even-odd). On a left
    or upper edge a centre is inside, on a right or lower one it is not.
    """
    height, width = shape
    flips = np.zeros((height, width + 1), bool)
    for ring in shapely.get_rings(shapely.get_parts(area)):
        points = shapely.get_coordinates(ring)
        x, y = points[:, 0] / scale_x - 0.5, points[:, 1] / scale_y - 0.5
        _flip(flips, x, y)
    return np.logical_xor.accumulate(flips, axis=1)[:, :width]


def _flip(flips: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Turns, in every row that an edge crosses, the first pixel beyond it. `x`, `y`: a closed ring, in pixels
    from the first one's centre."""
    height, last = flips.shape[0], flips.shape[1] - 1
    low, high = np.minimum(y[:-1], y[1:]), np.maximum(y[:-1], y[1:])
    first = np.clip(np.ceil(low), 0, height).astype(np.int64)
    stop = np.clip(np.ceil(high), 0, height).astype(np.int64)
    count = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (row - y[edge]) / (y[edge + 1] - y[edge])
    column = np.clip(np.ceil(x[edge] + along * (x[edge + 1] - x[edge])), 0, last).astype(np.int64)
    np.logical_xor.at(flips, (row, column), True)
