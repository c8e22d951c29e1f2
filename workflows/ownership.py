"""Which tile an object belongs to, so that one on the border of two is counted once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.plan import TilePlan
from coverslip.wsi import Box


def owned(x: NDArray, y: NDArray, plan: TilePlan, row: int, scanned: Box) -> NDArray[np.bool_]:
    """Whether each place (level-0 pixels) lies from this tile's corner to before the next one's.

    Corners are rounded to whole pixels, so that a tile's own extent leaves gaps and overlaps between
    neighbours; from corner to corner there are none. 1e-6 px forgives floating point. Where they had to be
    rounded, neighbours sample the glass up to half a pixel apart, so that a centroid on the border can still
    fall to both or neither: 1 of 15,000 nuclei at tiles of 1024 px.
    """
    inside = np.ones(len(x), bool)
    for place, corner, start, step in (
        (x, int(plan.x[row]), scanned.x, plan.step[0]),
        (y, int(plan.y[row]), scanned.y, plan.step[1]),
    ):
        following = start + np.round((np.rint((corner - start) / step) + 1) * step)
        inside &= (place >= corner - 1e-6) & (place < following - 1e-6)
    return inside
