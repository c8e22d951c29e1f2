"""What `coverslip tissue` writes: the mask as OME-Zarr label and as outlines, and a picture."""

from __future__ import annotations

from pathlib import Path

from coverslip.atomic import discard, replacing
from coverslip.tiling.cascade import write_region
from coverslip.tiling.geojson import tissue_features, write_geojson
from coverslip.tiling.ome_zarr import create_store, finish_store
from coverslip.tiling.overlay import draw_tissue, write_png
from coverslip.tiling.pyramid import PyramidLevel, PyramidPlan, PyramidSettings
from coverslip.tiling.tissue import TissueMask, TissueSettings, find_tissue, overview_mpp
from coverslip.workflows.canvas import write_tissue
from coverslip.wsi import Box, Overview, Pixels, Size, Slide


def write_tissue_files(slide: Slide, folder: Path, settings: TissueSettings | None = None) -> TissueMask:
    """Find the tissue and write `tissue.ome.zarr`, `tissue.geojson` and `tissue.png` to `folder`."""
    tissue = find_tissue(slide, settings)
    overview = slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings))
    folder.mkdir(parents=True, exist_ok=True)
    write_geojson(folder / "tissue.geojson", tissue_features(tissue), slide.digest)
    write_png(folder / "tissue.png", draw_tissue(overview.pixels.rgb, tissue.mask, tissue.pen))
    store = folder / "tissue.ome.zarr"
    discard(store)
    with replacing(store) as building:
        _write_overview(slide, overview, building)
        write_tissue(building, tissue)
    return tissue


def _write_overview(slide: Slide, overview: Overview, store: Path) -> None:
    """The slide made small as a pyramid of its own: what the mask is drawn on."""
    height, width = overview.pixels.rgb.shape[:2]
    level = PyramidLevel(Size(width, height), overview.scale_x, overview.scale_y, 0)
    plan = PyramidPlan((level,), slide.mpp, slide.background, PyramidSettings())
    create_store(store, plan, slide, "slide")
    damaged = [write_region(_Small(overview.pixels), plan, store, 0, box) for box in plan.regions(0)]
    finish_store(store, [sum(damaged)])


class _Small:
    """The overview's pixels, as what a level is copied from."""

    def __init__(self, pixels: Pixels):
        self._pixels = pixels

    def read(self, level: int, box: Box) -> Pixels:
        part = slice(box.y, box.bottom), slice(box.x, box.right)
        return Pixels(self._pixels.rgb[part], self._pixels.valid[part], self._pixels.damaged[part])
