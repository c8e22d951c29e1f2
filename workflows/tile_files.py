"""What `coverslip tile` writes: the plan, a picture, and coordinates for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coverslip.tiling.coords import write_coords
from coverslip.tiling.overlay import draw_plan, write_png
from coverslip.tiling.plan import TilePlan, plan_tiles
from coverslip.tiling.planfile import write_plan
from coverslip.tiling.tissue import find_tissue
from coverslip.wsi import Slide

LONGEST = 2000


@dataclass(frozen=True, slots=True)
class TileRequest:
    """`mpp`, `size`, `overlap`, `min_tissue` as in `plan_tiles`; `h5`: also CLAM's and TRIDENT's layout."""

    mpp: float
    size: int
    overlap: int
    min_tissue: float
    h5: bool


def write_tile_files(slide: Slide, folder: Path, request: TileRequest) -> TilePlan:
    """Plan tiles on tissue and write `tiles.parquet`, `tiles.png` and with `h5` also `coords.h5`."""
    plan = plan_tiles(
        slide,
        find_tissue(slide),
        mpp=request.mpp,
        size=request.size,
        overlap=request.overlap,
        min_tissue=request.min_tissue,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_plan(plan, folder / "tiles.parquet")
    rgb = slide.thumbnail(LONGEST)
    scale = slide.size.width / rgb.shape[1], slide.size.height / rgb.shape[0]
    write_png(folder / "tiles.png", draw_plan(rgb, plan, scale))
    if request.h5:
        write_coords(plan, slide, folder / "coords.h5")
    return plan
