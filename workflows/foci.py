"""Foci: tiles of a class that touch, and how far and how wide each group reaches.

A grid of tiles resolves no more than a tile. What reaches from one tile to another spans at least the glass
between their centres, if a tile counts as soon as half of it does, and at most a tile's side more at each
end: so an extent is the distance between centres plus one side, ± one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist

from coverslip.tiling.plan import TilePlan
from coverslip.workflows.canvas import cells_of

# Also by their corners, as the evaluation script of CAMELYON16 joins pixels (Ehteshami Bejnordi 2016).
CONNECTED = np.ones((3, 3), int)


@dataclass(frozen=True, slots=True, eq=False)
class Focus:
    """Tiles of one focus.

    `rows`: of the plan, ascending. `area_mm2`: of the tiles, each by its share of tissue. `extent_mm`: the
    greatest distance across it (largest Feret diameter), known to ± `resolution_mm`, one tile's side.
    `major_axis_mm`: of the ellipse of the same second moments, by which CAMELYON16's script tells isolated
    tumour cells, with a cut of its own. `x`, `y`: mean of the tiles' centres, level-0 pixels.
    """

    rows: NDArray[np.intp]
    area_mm2: float
    extent_mm: float
    resolution_mm: float
    major_axis_mm: float
    x: float
    y: float

    @property
    def low_mm(self) -> float:
        return max(0.0, self.extent_mm - self.resolution_mm)

    @property
    def high_mm(self) -> float:
        return self.extent_mm + self.resolution_mm


def find_foci(plan: TilePlan, inside: NDArray[np.bool_], weights: NDArray[np.floating]) -> tuple[Focus, ...]:
    """The foci of the tiles that are `inside`, bool (n,) in the plan's order, those of largest extent first.

    `weights`: share of tissue of each tile, (n,). Of equals that of larger area comes first, then that whose
    first tile is first in the plan. Tiles must not overlap.
    """
    rows = np.flatnonzero(inside)
    if not len(rows):
        return ()
    cells = cells_of(plan)
    grid = np.zeros(cells.shape, bool)
    grid[cells.rows[rows], cells.columns[rows]] = True
    labelled, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(grid, CONNECTED))
    labels = labelled[cells.rows[rows], cells.columns[rows]]
    places = np.stack([cells.columns[rows], cells.rows[rows]], axis=1)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=0))[1:]
    found = [_focus(plan, rows[part], places[part], weights) for part in np.split(order, starts)]
    return tuple(sorted(found, key=lambda focus: (-focus.extent_mm, -focus.area_mm2, focus.rows[0])))


def _focus(
    plan: TilePlan, rows: NDArray[np.intp], places: NDArray[np.int64], weights: NDArray[np.floating]
) -> Focus:
    side = plan.size * plan.mpp / 1000
    width, height = plan.extent
    return Focus(
        rows=np.sort(rows),
        area_mm2=float(weights[rows].sum(dtype=np.float64)) * side**2,
        extent_mm=(greatest_distance(places) + 1) * side,
        resolution_mm=side,
        major_axis_mm=major_axis(places) * side,
        x=float(plan.x[rows].mean() + width / 2),
        y=float(plan.y[rows].mean() + height / 2),
    )


def greatest_distance(places: NDArray[np.integer]) -> float:
    """Between any two of the places, whole numbers (n, 2); 0 of one place.

    >>> greatest_distance(np.array([[0, 0], [3, 0], [3, 4]]))
    5.0
    """
    hull = np.asarray(cv2.convexHull(np.asarray(places, np.int32))).reshape(-1, 2)
    return float(pdist(hull.astype(np.float64)).max(initial=0.0))


def major_axis(places: NDArray[np.integer]) -> float:
    """Major axis of the ellipse that has the second moments of these places, (n, 2); 0 of one place.

    4 √λ of the larger eigenvalue of their covariance: `axis_major_length` of scikit-image's regionprops.

    >>> round(major_axis(np.array([[0, 0], [1, 0], [2, 0]])), 4)
    3.266
    """
    covariance = np.cov(np.asarray(places, np.float64).T, bias=True)
    return float(4 * np.sqrt(max(0.0, np.linalg.eigvalsh(covariance)[-1])))
