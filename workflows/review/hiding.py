"""A slide's tissue and its quality without what a reviewer excluded."""

from __future__ import annotations

from dataclasses import replace

from coverslip.tiling.geojson_reader import Regions
from coverslip.tiling.quality import hidden_by_pen
from coverslip.tiling.raster import covered
from coverslip.workflows.job import RunSettings
from coverslip.workflows.layout import Layout
from coverslip.workflows.quality import good_area_mm2
from coverslip.workflows.result import Quality


def without_hidden(layout: Layout, hidden: Regions, settings: RunSettings) -> Layout:
    """Pixels of the masks whose centre lies in the area are no tissue, and no pen; the tiles stay."""
    tissue, quality = layout.tissue, layout.quality
    gone = covered(hidden.shape, tissue.mask.shape, tissue.scale_x, tissue.scale_y)
    values = quality.values.copy()
    values[gone] = 0
    pen = int((hidden_by_pen(tissue, settings.quality) & ~gone).sum())
    return replace(
        layout,
        tissue=replace(tissue, mask=tissue.mask & ~gone, pen=tissue.pen & ~gone),
        quality=replace(quality, values=values, pen_over_tissue=pen),
    )


def quality_of(before: Quality, left: Layout, tiles: int) -> Quality:
    """What the result says of quality, of what is left. Damage stays that of the whole slide."""
    changes = {
        "tissue_fraction": left.tissue.fraction,
        "tissue_area_mm2": left.tissue.area_mm2,
        "pen_fraction": left.tissue.pen_fraction,
        "tiles": tiles,
        "artefacts": left.quality.artefacts,
        "evaluable_area_mm2": good_area_mm2(left.quality, left.tissue),
    }
    return before.model_copy(update=changes)
