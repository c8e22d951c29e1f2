"""Levels that are read tile by tile when they are looked at, and not before."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.cascade import halve
from coverslip.wsi.geometry import Box, Size

# Stored tiles have sides of 240 to 1024 px: 512 reads few of them twice, and little beside the screen.
TILE = 512
# The coarsest level is read whole, for the thumbnail and the first picture: at most 3 MB of RGB.
COARSEST = 1024
# Twice as fine is still one step: viewers show the level just finer than the screen, so steps of 4 or 16
# would put up to 16 or 256 times the screen's pixels into memory.
STEP = 2.2
# About 340 tiles of RGB, fifteen screens.
CACHE_BYTES = 256 << 20

Read = Callable[[Box], NDArray]
Key = tuple[int, int, int]


class TileCache:
    """The tiles used last, up to `limit` bytes together; shared by all levels of a scene, safe for threads.

    >>> cache = TileCache(2)
    >>> for column in (0, 1, 2): _ = cache.get((0, 0, column), lambda: np.zeros(1, np.uint8))
    >>> sorted(cache.held())
    [(0, 0, 1), (0, 0, 2)]
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self._limit, self._bytes, self._drops = limit, 0, 0
        self._tiles: OrderedDict[Key, NDArray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, read: Callable[[], NDArray]) -> NDArray:
        """The tile of that key; `read` is called when it is not here. Do not write to it."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
            drops = self._drops
        tile = read()
        with self._lock:
            # what was read while something was dropped may be what was dropped
            if key not in self._tiles and drops == self._drops:
                self._tiles[key] = tile
                self._bytes += tile.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def fetch(self, wanted: Sequence[tuple[Key, Callable[[], NDArray]]]) -> None:
        """Read those of the tiles that are not here side by side, on a thread per core.

        What a tile is made from must be got by `get`: threads that waited for others here would for ever.
        """
        with self._lock:
            missing = [one for one in wanted if one[0] not in self._tiles]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as threads:
                for done in [threads.submit(self.get, *one) for one in missing]:
                    done.result()

    def drop(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        """Forget these tiles: they are read again. Gives those that were held."""
        with self._lock:
            self._drops += 1
            dropped = tuple(key for key in keys if key in self._tiles)
            self._bytes -= sum(self._tiles.pop(key).nbytes for key in dropped)
            return dropped

    def held(self) -> tuple[Key, ...]:
        """What is held: (number of the mosaic, row, column)."""
        with self._lock:
            return tuple(self._tiles)

    @property
    def bytes(self) -> int:
        """What the tiles held take together."""
        return self._bytes


@dataclass(frozen=True, eq=False)
class Mosaic:
    """One level: (height, width) or (height, width, 3), in square tiles, the last of a row or column smaller.

    `read(box)` gives the pixels of a box inside the level; it is called from several threads.
    `downsample`: level-0 pixels per pixel. `stored`: False where the level is made from the next finer one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Read
    downsample: float = 1.0
    tile: int = TILE
    stored: bool = True

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def longest(self) -> int:
        return max(self.shape[:2])

    def box(self, row: int, column: int) -> Box:
        """The pixels of one tile."""
        x, y = column * self.tile, row * self.tile
        return Box(x, y, min(self.tile, self.shape[1] - x), min(self.tile, self.shape[0] - y))


@dataclass(frozen=True, slots=True)
class Span:
    """Pixels start to stop of one axis, and what of these is wanted."""

    start: int
    stop: int
    within: slice | int


def _span(part: slice | int, side: int) -> Span:
    """The fewest adjacent pixels that hold an index or a slice, whatever its step."""
    if not isinstance(part, slice):
        return Span(part, part + 1, 0)
    wanted = range(*part.indices(side))
    if not wanted:
        return Span(0, 0, slice(None))
    start = min(wanted[0], wanted[-1])
    return Span(start, max(wanted[0], wanted[-1]) + 1, slice(wanted[0] - start, None, wanted.step))


@dataclass(frozen=True, eq=False)
class Shown:
    """A mosaic behind the cache, as what viewers take for an array: parts of it are read when asked for.

    Not a dask array, whose graph of all tiles of a large level costs 40 ms each time a part is taken of it.
    """

    mosaic: Mosaic
    number: int
    cache: TileCache

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mosaic.shape

    @property
    def dtype(self) -> np.dtype:
        return self.mosaic.dtype

    @property
    def ndim(self) -> int:
        return self.mosaic.ndim

    @property
    def size(self) -> int:
        """Numbers in it, as numpy counts them."""
        return prod(self.shape)

    def __getitem__(self, index: slice | int | tuple[slice | int, ...]) -> NDArray:
        """Pixels put together from whole tiles, read side by side; slices and numbers are understood."""
        parts = (*index, slice(None), slice(None)) if isinstance(index, tuple) else (index, slice(None))
        rows, columns = (_span(part, side) for part, side in zip(parts, self.shape[:2], strict=False))
        size = (rows.stop - rows.start, columns.stop - columns.start)
        if 0 in size:
            picture = np.empty((*size, *self.shape[2:]), self.dtype)
        else:
            box = Box(columns.start, rows.start, size[1], size[0])
            self.cache.fetch([(key, partial(self.mosaic.read, at)) for key, at in self._tiles(box)])
            picture = self.pixels(box)
        return picture[(rows.within, columns.within, *parts[2 : self.ndim])]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        """All of it: for the coarsest levels."""
        return self[:, :].astype(dtype or self.dtype, copy=False)

    def pixels(self, box: Box) -> NDArray:
        """Pixels of a box inside the level."""
        picture = np.empty((*box.size.shape, *self.shape[2:]), self.dtype)
        for key, tile_box in self._tiles(box):
            part = tile_box.intersect(box)
            assert part is not None
            tile = self.cache.get(key, partial(self.mosaic.read, tile_box))
            picture[part.within(box)] = tile[part.within(tile_box)]
        return picture

    def _tiles(self, box: Box) -> Iterator[tuple[Key, Box]]:
        """Keys and boxes of the tiles under a box."""
        side = self.mosaic.tile
        for row in range(box.y // side, (box.bottom - 1) // side + 1):
            for column in range(box.x // side, (box.right - 1) // side + 1):
                yield (self.number, row, column), self.mosaic.box(row, column)


def pyramid(stored: Sequence[Mosaic], cache: TileCache, first_number: int = 0) -> tuple[Shown, ...]:
    """The levels to show, finest first: those stored, and between and above them halved ones.

    Each is at most `STEP` times coarser than the one before, and the last at most `COARSEST` pixels long, so
    that what a screen needs is a few times the screen. A halved tile is made from four tiles of the next
    finer level when it is looked at: where a file stores no coarse levels, the first look at the whole
    reads all of it, but never holds more than the cache. Numbers from `first_number` on name the levels
    in the cache.
    """
    shown = [Shown(stored[0], first_number, cache)]
    rest = list(stored[1:])
    while True:
        last = shown[-1].mosaic
        rest = [level for level in rest if _is_smaller(level, last)]
        if not rest and last.longest <= COARSEST:
            return tuple(shown)
        near = rest and rest[0].downsample <= STEP * last.downsample
        level = rest.pop(0) if near else halved(shown[-1])
        shown.append(Shown(level, first_number + len(shown), cache))


def _is_smaller(level: Mosaic, than: Mosaic) -> bool:
    """Viewers take levels that do not get smaller for another axis."""
    pairs = list(zip(level.shape[:2], than.shape[:2], strict=True))
    return all(side <= other for side, other in pairs) and level.shape != than.shape


def refined(level: Mosaic, times: int) -> Mosaic:
    """The same labels, each pixel as `times` × `times`: outlines, a pixel wide, are thin then."""

    def read(box: Box) -> NDArray:
        x, y = box.x // times, box.y // times
        under = Box(x, y, (box.right - 1) // times + 1 - x, (box.bottom - 1) // times + 1 - y)
        large = level.read(under).repeat(times, axis=0).repeat(times, axis=1)
        return large[box.within(Box(x * times, y * times, 1, 1))]

    shape = (level.shape[0] * times, level.shape[1] * times)
    return replace(level, shape=shape, read=read, downsample=level.downsample / times, stored=False)


def halved(finer: Shown) -> Mosaic:
    """A level of half the size, rounded up: the mean of four pixels, of labels the upper left one.

    The mean of labels means nothing, and the commonest of four would close every thin line.
    """
    size = Size(-(-finer.shape[1] // 2), -(-finer.shape[0] // 2))
    reduce = halve if finer.ndim == 3 else _pick

    def read(box: Box) -> NDArray:
        under = Box(2 * box.x, 2 * box.y, 2 * box.width, 2 * box.height)
        inside = under.clip(Size(finer.shape[1], finer.shape[0]))
        assert inside is not None
        return reduce(finer.pixels(inside))

    return replace(
        finer.mosaic,
        shape=(*size.shape, *finer.shape[2:]),
        read=read,
        downsample=2 * finer.mosaic.downsample,
        stored=False,
    )


def _pick(pixels: NDArray) -> NDArray:
    return pixels[::2, ::2]
