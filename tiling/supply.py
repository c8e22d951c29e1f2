"""Tile supply: the pixels of a plan's tiles, batch by batch, read ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.plan import BLOCK, TilePlan
from coverslip.tiling.route import WHOLE, Route, choose_route, shrunk
from coverslip.tiling.strips import Shrink, Strips
from coverslip.wsi import Box, Field, Mpp, Pixels, Size, Slide
from coverslip.wsi.levels import pixels_under
from coverslip.wsi.resample import Window, is_whole, resample_rgb
from coverslip.wsi.stored import StoredLevel

# Strips are no wider than this many tiles, whatever the slide's width, and are begun anew after so many.
WIDEST, LONGEST = 2 * BLOCK[0], 2 * BLOCK[0] * BLOCK[1]


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
    `exact`: decode stored tiles in full, so that pixels are those of `Slide.read_field`; see `choose_route`.
    `threads`: decoding side by side; more than one where a GPU uses tiles faster than one core decodes.
    """

    batch: int = 32
    ahead: int = 1
    halo: int = 0
    exact: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.batch, self.threads) < 1 or self.ahead < 0 or self.halo < 0:
            raise RequestError(
                f"batch {self.batch}, ahead {self.ahead}, halo {self.halo}, threads {self.threads}",
                "cannot be supplied",
                "give a batch and threads of at least 1, and 0 or more of the others",
            )


def supply(slide: Slide, plan: TilePlan, rows: range, settings: SupplySettings) -> Iterator[TileBatch]:
    """The tiles of `rows`, in order; a batch is never larger than `settings.batch`.

    Memory is (ahead + 2) batches and the stored tiles under one of them, whatever the plan's length. Errors
    of the slide are raised where the batch is asked for. Raises RequestError for rows the plan does not have,
    or that leave some out.
    """
    if rows.step != 1 or not 0 <= rows.start <= rows.stop <= len(plan):
        raise RequestError(f"{rows}", f"is no part of a plan of {len(plan)} tiles", "give start and stop")
    return _ahead(slide, plan, rows, settings)


def _ahead(slide: Slide, plan: TilePlan, rows: range, settings: SupplySettings) -> Iterator[TileBatch]:
    starts = iter(range(rows.start, rows.stop, settings.batch))
    with ExitStack() as stack:
        reading = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="supply"))
        decoding = None
        if settings.threads > 1:
            decoding = stack.enter_context(
                ThreadPoolExecutor(settings.threads, thread_name_prefix="supply-decode")
            )
        read = tile_source(slide, plan, rows, settings, decoding).read
        pending: deque[Future[TileBatch]] = deque()
        try:
            while True:
                while len(pending) <= settings.ahead and (start := next(starts, None)) is not None:
                    part = range(start, min(start + settings.batch, rows.stop))
                    pending.append(reading.submit(read, part))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class TileSource(Protocol):
    """Reads tiles of one plan; its caller asks for one batch at a time."""

    def read(self, rows: range) -> TileBatch: ...


def tile_source(
    slide: Slide, plan: TilePlan, rows: range, settings: SupplySettings, pool: Executor | None = None
) -> TileSource:
    """What `choose_route` says serves this plan. `rows`: all that will be asked for."""
    route = choose_route(slide, plan.mpp, exact=settings.exact)
    if not route.scale or not len(rows):
        return ReaderTiles(slide, plan, settings.halo)
    return StoredTiles(slide, plan, rows, settings.halo, route, pool)


def empty_batch(plan: TilePlan, rows: range, halo: int) -> TileBatch:
    """Pixels not yet read; all valid, nothing damaged."""
    side = plan.size + 2 * halo
    index = np.arange(rows.start, rows.stop, dtype=np.int64)
    return TileBatch(
        np.empty((len(rows), side, side, 3), np.uint8),
        np.ones((len(rows), side, side), bool),
        np.zeros((len(rows), side, side), bool),
        index,
        plan.x[index],
        plan.y[index],
        halo,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ReaderTiles:
    """Each tile read by itself through the slide's reader."""

    slide: Slide
    plan: TilePlan
    halo: int

    def read(self, rows: range) -> TileBatch:
        batch = empty_batch(self.plan, rows, self.halo)
        for n, row in enumerate(rows):
            self.put(batch, n, row)
        return batch

    def put(self, batch: TileBatch, n: int, row: int) -> None:
        """Tile `row` of the plan as tile `n` of the batch."""
        tile = read_tile(self.slide, self.plan, row, self.halo)
        batch.pixels[n], batch.valid[n], batch.damaged[n] = tile.rgb, tile.valid, tile.damaged


class StoredTiles:
    """Tiles cut from stored tiles, each of which is decoded once per row of tiles that needs it.

    A tile that reaches over the level's edge, or onto a stored tile that is absent or corrupt, is read by
    itself: what stands for such pixels is the reader's to say.
    """

    def __init__(
        self,
        slide: Slide,
        plan: TilePlan,
        rows: range,
        halo: int,
        route: Route,
        pool: Executor | None = None,
    ):
        self._slide, self._plan, self._halo, self._route = slide, plan, halo, route
        self._single = ReaderTiles(slide, plan, halo)
        stored = slide.stored(route.level)
        assert stored is not None
        self._shrink = Shrink(route.scale, self._mean(rows, stored))
        self._level = shrunk(slide.levels[route.level], self._shrink.factor)
        self._stored, self._pool, self._stop = stored, pool, rows.stop
        self._stretch = range(0)

    def _mean(self, rows: range, stored: StoredLevel) -> int:
        """What is left of a whole factor, where averaging stored tiles is averaging the tiles cut from them.

        That is where both begin at whole pixels of the result.
        """
        level = shrunk(self._slide.levels[self._route.level], self._route.scale)
        factor = self._plan.mpp / (self._slide.mpp.x * level.downsample_x)
        whole = round(factor)
        steps = level.downsample_x * whole, level.downsample_y * whole
        sides = stored.tile.width // self._route.scale, stored.tile.height // self._route.scale
        part = slice(rows.start, rows.stop)
        fits = (
            whole > 1
            and factor == self._plan.mpp / (self._slide.mpp.y * level.downsample_y)
            and abs(factor - whole) < WHOLE
            and not any(side % whole for side in sides)
            and not (self._plan.x[part] % steps[0]).any()
            and not (self._plan.y[part] % steps[1]).any()
        )
        return whole if fits else 1

    def _columns(self, rows: range) -> range:
        """Of stored tiles, under these tiles."""
        part = slice(rows.start, rows.stop)
        wide = self._stored.tile.width * self._slide.levels[self._route.level].downsample_x
        margin = self._halo * self._plan.mpp / self._slide.mpp.x + 1
        first = int((self._plan.x[part].min() - margin) // wide)
        last = int((self._plan.x[part].max() + self._plan.extent[0] + margin) // wide)
        return range(max(0, first), min(self._stored.counts.shape[1], last + 1))

    def read(self, rows: range) -> TileBatch:
        batch = empty_batch(self._plan, rows, self._halo)
        row = rows.start
        while row < rows.stop:
            if row not in self._stretch:
                self._begin(row)
            part = range(row, min(rows.stop, self._stretch.stop))
            self._fill(batch, row - rows.start, part)
            row = part.stop
        return batch

    def _begin(self, row: int) -> None:
        """Empty strips for this tile and those after it that lie near."""
        ahead = self._plan.x[row : min(row + LONGEST, self._stop)]
        self._stretch = range(row, row + near(ahead, WIDEST * self._plan.extent[0]))
        columns = self._columns(self._stretch)
        self._strips = Strips(self._slide, self._route.level, self._shrink, columns, self._pool)

    def _fill(self, batch: TileBatch, first: int, rows: range) -> None:
        """Tiles `rows` of the plan as tiles `first` and on of the batch."""
        fields = [widen(self._plan.field(row), self._slide.mpp, self._halo) for row in rows]
        boxes = [pixels_under(field, self._slide.mpp, self._level) for field in fields]
        places = dict(enumerate(boxes, first))
        inside = [n for n, (box, _) in places.items() if box.clip(self._level.size) == box]
        self._strips.load(places[n][0] for n in inside)
        good = [n for n in inside if self._strips.holds(places[n][0])]
        for n in places.keys() - set(good):
            self._single.put(batch, n, rows[n - first])
        self._cut(batch, good, places)

    def _cut(self, batch: TileBatch, tiles: Sequence[int], places: Mapping[int, tuple[Box, Window]]) -> None:
        """Whole squares of the batch's size are copied a row of tiles at a time, all others resampled."""
        side = batch.pixels.shape[1]
        at: dict[int, list[int]] = {}
        for n in tiles:
            box, window = places[n]
            if (box.width, box.height) == (side, side) and is_whole(window):
                at.setdefault(box.y, []).append(n)
            else:
                size = Size(side, side)
                batch.pixels[n] = resample_rgb(self._strips.crop(box), window, size)
        for y, row in at.items():
            self._strips.gather(np.array([places[n][0].x for n in row]), y, side, batch.pixels, row)


def near(x: NDArray[np.int64], widest: float) -> int:
    """How many of these, from the first on, are all within `widest` of each other.

    >>> near(np.array([40, 45, 49, 90, 44]), 10)
    3
    """
    apart = np.maximum.accumulate(x) - np.minimum.accumulate(x) > widest
    return int(apart.argmax()) if apart.any() else len(x)


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
