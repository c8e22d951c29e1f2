"""Tile supply: the pixels of a plan's tiles, batch by batch, read ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.plan import TilePlan
from coverslip.wsi import Field, Mpp, Pixels, Size, Slide


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch:
    """Pixels of n tiles, in the plan's order.

    `pixels`: uint8 (n, size + 2·halo, size + 2·halo, 3), background where the file holds nothing.
    `valid`, `damaged`: bool of the same height and width, as in `coverslip.wsi.Pixels`.
    `rows`: int64 (n,), which rows of the plan. `x`, `y`: int64 (n,), the tiles' top-left corners in
    level-0 pixels, halo not counted. `halo`: pixels added on every side.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    damaged: NDArray[np.bool_]
    rows: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    halo: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the tile itself, without its halo."""
        inner = slice(self.halo, self.pixels.shape[1] - self.halo)
        return inner, inner

    @property
    def damaged_pixels(self) -> int:
        """Damaged pixels in the tiles themselves, halo not counted."""
        return int(self.damaged[:, self.core[0], self.core[1]].sum())


@dataclass(frozen=True, slots=True)
class SupplySettings:
    """How tiles are read.

    `batch`: tiles per batch; 32 keeps a batch of 224-px tiles under 10 MB and a network busy.
    `ahead`: batches read before they are asked for; one hides the reading behind the use of the last.
    `halo`: pixels added around each tile, for operators that look at a pixel's surroundings.
    """

    batch: int = 32
    ahead: int = 1
    halo: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.ahead < 0 or self.halo < 0:
            raise RequestError(
                f"batch {self.batch}, ahead {self.ahead}, halo {self.halo}",
                "cannot be supplied",
                "give a batch of at least 1, and 0 or more of the others",
            )


def supply(slide: Slide, plan: TilePlan, rows: range, settings: SupplySettings) -> Iterator[TileBatch]:
    """The tiles of `rows`, in order; a batch is never larger than `settings.batch`.

    Memory is (ahead + 2) batches, whatever the plan's length. Errors of the slide are raised where the
    batch is asked for. Raises RequestError for rows the plan does not have, or that leave some out.
    """
    if rows.step != 1 or not 0 <= rows.start <= rows.stop <= len(plan):
        raise RequestError(f"{rows}", f"is no part of a plan of {len(plan)} tiles", "give start and stop")
    return _ahead(slide, plan, rows, settings)


def _ahead(slide: Slide, plan: TilePlan, rows: range, settings: SupplySettings) -> Iterator[TileBatch]:
    starts = iter(range(rows.start, rows.stop, settings.batch))
    with ThreadPoolExecutor(1, thread_name_prefix="supply") as pool:
        pending: deque[Future[TileBatch]] = deque()
        try:
            while True:
                while len(pending) <= settings.ahead and (start := next(starts, None)) is not None:
                    part = range(start, min(start + settings.batch, rows.stop))
                    pending.append(pool.submit(read_batch, slide, plan, part, settings.halo))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_batch(slide: Slide, plan: TilePlan, rows: range, halo: int = 0) -> TileBatch:
    """The tiles of `rows` at once."""
    side = plan.size + 2 * halo
    pixels = np.empty((len(rows), side, side, 3), np.uint8)
    valid = np.empty((len(rows), side, side), bool)
    damaged = np.empty((len(rows), side, side), bool)
    for n, row in enumerate(rows):
        tile = read_tile(slide, plan, row, halo)
        pixels[n], valid[n], damaged[n] = tile.rgb, tile.valid, tile.damaged
    index = np.arange(rows.start, rows.stop, dtype=np.int64)
    return TileBatch(pixels, valid, damaged, index, plan.x[index], plan.y[index], halo)


def read_tile(slide: Slide, plan: TilePlan, row: int, halo: int = 0) -> Pixels:
    """One tile with its halo."""
    return slide.read_field(widen(plan.field(row), slide.mpp, halo))


def widen(field: Field, slide_mpp: Mpp, halo: int) -> Field:
    """The field with `halo` of its own pixels added on every side."""
    if not halo:
        return field
    dx, dy = halo * field.mpp / slide_mpp.x, halo * field.mpp / slide_mpp.y
    size = Size(field.size.width + 2 * halo, field.size.height + 2 * halo)
    return Field(field.x - dx, field.y - dy, size, field.mpp)
