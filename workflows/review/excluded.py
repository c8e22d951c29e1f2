"""Where a reviewer said that nothing counts."""

from __future__ import annotations

import shapely
from shapely.geometry import shape

from coverslip.workflows.review.corrections import Correction, Exclude, areas_of


def excluded_area(corrections: tuple[Correction, ...]) -> shapely.Geometry | None:
    """All standing exclusions in one, level-0 pixels, prepared for many questions; None for nothing."""
    areas = [shape(one.geometry) for one in areas_of(corrections).values() if isinstance(one, Exclude)]
    if not areas:
        return None
    whole = shapely.union_all(areas)
    shapely.prepare(whole)
    return whole
