"""Which tiles of a slide will be read: a grid over the scanned part, thinned to where the tissue is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.tissue import TissueMask
from coverslip.wsi.geometry import Field, Mpp, Size
from coverslip.wsi.slide import Slide

# A tile finer than level 0 is made up; 5 % is the disagreement of scanners about "20×" and "40×".
FINEST = 1.05
# More tiles than any slide has at 40× with half overlap; more is a wrong unit.
LARGEST_PLAN = 50_000_000
# Columns and rows of tiles that are read together. A row of 32 tiles of 224 px at half scale holds 8 MB.
BLOCK = (32, 16)
# Of a tile of 128 µm that is 800 µm², a cluster of cells; cytology wants less, solid tissue more.
MIN_TISSUE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class TilePlan:
    """The tiles of one slide, as data. Nothing is read.

    `slide`, `digest`: the slide's name and digest. `slide_size`, `slide_mpp`: level 0. `mpp`: µm per tile
    pixel; `size`: side of a tile in its own pixels; `overlap`: pixels it shares with its neighbour.
    `x`, `y`: int64 (n,), top-left corners, level-0 pixels, neighbours together as `plan_tiles` orders them; a
    tile may reach over the right and lower edge of the slide. `tissue`: float32 (n,), share of each tile that
    is tissue.
    """

    slide: str
    digest: str
    slide_size: Size
    slide_mpp: Mpp
    mpp: float
    size: int
    overlap: int
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    tissue: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of a tile in level-0 pixels, fractional: size × mpp over the slide's µm/px."""
        return Field(0, 0, Size(self.size, self.size), self.mpp).extent(self.slide_mpp)

    @property
    def step(self) -> tuple[float, float]:
        """From one tile to the next along x and y, level-0 pixels, before rounding."""
        side = (self.size - self.overlap) * self.mpp
        return side / self.slide_mpp.x, side / self.slide_mpp.y

    def field(self, i: int) -> Field:
        return Field(int(self.x[i]), int(self.y[i]), Size(self.size, self.size), self.mpp)

    def fields(self) -> Iterator[Field]:
        return (self.field(i) for i in range(len(self)))

    def shards(self, shard_size: int) -> list[tuple[int, int]]:
        """The plan in parts of `shard_size` tiles, the last smaller: (start, stop) of each."""
        if shard_size < 1:
            raise RequestError(f"shard of {shard_size} tiles", "is empty", "give at least 1")
        return [(start, min(start + shard_size, len(self))) for start in range(0, len(self), shard_size)]

    def shard(self, k: int, shard_size: int) -> tuple[int, int]:
        """(start, stop) of part `k`, counted from 0."""
        parts = self.shards(shard_size)
        if not 0 <= k < len(parts):
            raise RequestError(
                f"shard {k}", f"the plan has {len(parts)}", f"name one of 0 to {len(parts) - 1}"
            )
        return parts[k]


def plan_tiles(
    slide: Slide,
    tissue: TissueMask,
    *,
    mpp: float,
    size: int,
    overlap: int = 0,
    min_tissue: float = MIN_TISSUE,
    allow_upsampling: bool = False,
) -> TilePlan:
    """Tiles of `size` × `size` pixels at `mpp` µm/px over the scanned part of the slide.

    Tiles come in blocks of `BLOCK` (columns, rows) of the grid, within each row by row, so that any stretch
    of the plan lies close together on the glass, and few of the slide's stored tiles lie under two.

    The grid starts at the corner of `slide.bounds`; each position is rounded to a level-0 pixel by itself,
    so that no error adds up. A tile is kept when at least `min_tissue` of its area, and more than nothing,
    is tissue; what lies outside the slide counts as none.

    Raises RequestError when the request makes no sense, also for tiles finer than level 0 (by more than
    5 % along x or y) unless `allow_upsampling`; SlideInformationError when the slide's µm/px is not known.
    """
    check_tiles(mpp, size, overlap, min_tissue)
    if not allow_upsampling:
        _refuse_upsampling(slide, mpp)
    plan = _grid(slide, mpp, size, overlap)
    share = tissue_share(tissue, plan.x, plan.y, plan.extent)
    kept = np.flatnonzero((share >= min_tissue) & (share > 0))
    kept = kept[_by_block(plan.x[kept] - slide.bounds.x, plan.y[kept] - slide.bounds.y, plan.step)]
    return replace(plan, x=plan.x[kept], y=plan.y[kept], tissue=share[kept].astype(np.float32))


def _by_block(x: NDArray[np.int64], y: NDArray[np.int64], step: tuple[float, float]) -> NDArray[np.intp]:
    """The order of tiles whose corners lie `x`, `y` from the grid's, rounded to whole pixels."""
    columns, rows = np.rint(x / step[0]).astype(np.int64), np.rint(y / step[1]).astype(np.int64)
    return np.lexsort((columns, rows, columns // BLOCK[0], rows // BLOCK[1]))


def check_tiles(mpp: float, size: int, overlap: int, min_tissue: float) -> None:
    """Raises RequestError for tiles that cannot be."""
    if size < 1:
        raise RequestError(f"tile size {size}", "is empty", "give at least 1 pixel")
    if not 0 <= overlap < size:
        raise RequestError(
            f"overlap {overlap}", f"tiles of {size} pixels cannot share it", f"give 0 to {size - 1}"
        )
    if not 0 < mpp < float("inf"):
        raise RequestError(f"{mpp} µm/px", "is not a resolution", "give µm per pixel above 0")
    if not 0 <= min_tissue <= 1:
        raise RequestError(f"min_tissue {min_tissue}", "is not a share", "give 0 to 1")


def _refuse_upsampling(slide: Slide, mpp: float) -> None:
    have = slide.mpp
    if mpp * FINEST < max(have.x, have.y):
        raise RequestError(
            f"{slide.name} at {mpp:g} µm/px",
            f"is finer than its level 0, {have.x:g} × {have.y:g} µm/px",
            f"ask for {max(have.x, have.y):g} or coarser, or allow upsampling",
        )


def _grid(slide: Slide, mpp: float, size: int, overlap: int) -> TilePlan:
    """All tiles over the scanned part, their tissue still 0."""
    have, bounds = slide.mpp, slide.bounds
    step_um, extent_um = (size - overlap) * mpp, size * mpp
    across = tile_positions(bounds.width, step_um / have.x, extent_um / have.x) + bounds.x
    down = tile_positions(bounds.height, step_um / have.y, extent_um / have.y) + bounds.y
    if len(across) * len(down) > LARGEST_PLAN:
        raise RequestError(
            f"{slide.name}: {len(across)} × {len(down)} tiles", "are too many", "give larger or coarser tiles"
        )
    x, y = np.tile(across, len(down)), np.repeat(down, len(across))
    none = np.zeros(len(x), np.float32)
    return TilePlan(slide.name, slide.digest, slide.size, have, mpp, size, overlap, x, y, none)


def tile_positions(length: int, step: float, extent: float) -> NDArray[np.int64]:
    """Starts of the tiles that cover `length` level-0 pixels together: int64 (n,), the first 0.

    `step`, `extent`: level-0 pixels, fractional. Each start is k × step rounded to the nearest pixel (ties to
    even), so that no error adds up. The last tile may reach over the end.
    Raises RequestError when there would be more than `LARGEST_PLAN`.

    >>> tile_positions(1000, 256.4, 256.4).tolist()
    [0, 256, 513, 769]
    """
    # 1e-6 forgives floating point: four tiles of a quarter cover one whole, and no fifth is needed.
    count = 1 + max(0, ceil((length - extent) / step - 1e-6))
    if count > LARGEST_PLAN:
        raise RequestError(f"{count} tiles in a row", "are too many", "give larger or coarser tiles")
    return np.round(np.arange(count) * step).astype(np.int64)


def tissue_share(
    tissue: TissueMask, x: NDArray[np.int64], y: NDArray[np.int64], extent: tuple[float, float]
) -> NDArray[np.float64]:
    """Exact share of tissue in each rectangle, 0 to 1: float64 (n,).

    `x`, `y`: top-left corners; `extent`: width and height; all level-0 pixels. A summed-area table (Crow
    1984, SIGGRAPH 18:207) is linear within a mask pixel, so that fractional corners are exact.
    """
    table = np.asarray(cv2.integral(tissue.mask.astype(np.uint8), sdepth=cv2.CV_32S), np.int32)
    left, top = x / tissue.scale_x, y / tissue.scale_y
    width, height = extent[0] / tissue.scale_x, extent[1] / tissue.scale_y
    right, bottom = left + width, top + height
    inside = (
        _at(table, bottom, right) - _at(table, top, right) - _at(table, bottom, left) + _at(table, top, left)
    )
    share = inside / (width * height)
    # Sums of millions round at 1e-9; below that a tile holds nothing.
    return np.where(share < 1e-9, 0.0, np.minimum(share, 1.0))


def _at(table: NDArray[np.int32], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The table at fractional corners, held inside it."""
    y, x = np.clip(y, 0, table.shape[0] - 1), np.clip(x, 0, table.shape[1] - 1)
    i, j = np.minimum(y.astype(int), table.shape[0] - 2), np.minimum(x.astype(int), table.shape[1] - 2)
    v, u = y - i, x - j
    upper = table[i, j] * (1 - u) + table[i, j + 1] * u
    lower = table[i + 1, j] * (1 - u) + table[i + 1, j + 1] * u
    return upper * (1 - v) + lower * v
