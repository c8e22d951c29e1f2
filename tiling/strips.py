"""Stored tiles, decoded once each, and kept while tiles of the plan still lie on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.resample import resample_rgb
from coverslip.wsi.slide import Slide
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import Place, decode


class Strip:
    """One row of stored tiles, at the scale decoded: uint8 (tile height, columns × tile width, 3).

    What was not decoded holds anything.
    """

    def __init__(self, columns: range, tile: tuple[int, int]):
        self.columns, self._width = columns, tile[1]
        self.pixels = np.empty((tile[0], len(columns) * tile[1], 3), np.uint8)
        self.held: set[int] = set()

    def empty(self) -> Strip:
        """The same memory for another row: fresh memory costs as much as filling it."""
        self.held.clear()
        return self

    def put(self, column: int, pixels: NDArray[np.uint8]) -> None:
        at = (column - self.columns.start) * self._width
        self.pixels[:, at : at + self._width] = pixels
        self.held.add(column)

    def windows(self, side: int) -> NDArray[np.uint8]:
        """Every stretch of `side` columns, without copying: uint8 (starts, tile height, side, 3)."""
        high, wide = self.pixels.shape[:2]
        row, column, channel = self.pixels.strides
        shape = (wide - side + 1, high, side, 3)
        return as_strided(self.pixels, shape, (column, row, column, channel), writeable=False)


@dataclass(frozen=True, slots=True)
class Shrink:
    """How stored tiles are made smaller: by the decoder's `scale`, then `mean` × `mean` pixels into one."""

    scale: int
    mean: int = 1

    @property
    def factor(self) -> int:
        return self.scale * self.mean


class Strips:
    """The strips under the tiles that are being read. Coordinates are pixels of the level, shrunk.

    Used by one thread; `pool` decodes side by side where there is one.
    """

    def __init__(
        self,
        slide: Slide,
        number: int,
        shrink: Shrink,
        columns: range,
        pool: Executor | None = None,
    ):
        stored = slide.stored(number)
        assert stored is not None
        self._slide, self._number, self._shrink, self._pool = slide, number, shrink, pool
        self._stored: StoredLevel = stored
        self._columns = columns
        self._tile = stored.tile.height // shrink.factor, stored.tile.width // shrink.factor
        self._strips: dict[int, Strip] = {}
        self._spare: list[Strip] = []
        self._lost: set[Place] = set()

    def under(self, box: Box) -> Iterator[Place]:
        """Stored tiles that a box touches."""
        high, wide = self._tile
        for row in range(box.y // high, (box.bottom - 1) // high + 1):
            for column in range(box.x // wide, (box.right - 1) // wide + 1):
                yield row, column

    def load(self, boxes: Iterable[Box]) -> None:
        """Decode what the boxes need, and let go of all rows they do not touch."""
        wanted = sorted({place for box in boxes for place in self.under(box)})
        rows = {row for row, _ in wanted}
        self._spare += [self._strips.pop(row).empty() for row in self._strips.keys() - rows]
        missing = [place for place in wanted if place not in self._lost and not self._has(place)]
        for place, pixels in zip(missing, self._decoded(missing), strict=True):
            if pixels is None:
                self._lost.add(place)
            else:
                self._strip(place[0]).put(place[1], pixels)

    def _has(self, place: Place) -> bool:
        strip = self._strips.get(place[0])
        return strip is not None and place[1] in strip.held

    def _strip(self, row: int) -> Strip:
        if row not in self._strips:
            self._strips[row] = self._spare.pop() if self._spare else Strip(self._columns, self._tile)
        return self._strips[row]

    def _decoded(self, places: Sequence[Place]) -> Iterable[NDArray[np.uint8] | None]:
        data = self._slide.fetch(self._number, places)
        over = map if self._pool is None else self._pool.map
        return over(self._decode, data)

    def _decode(self, data: memoryview) -> NDArray[np.uint8] | None:
        pixels = decode(self._stored, data, self._shrink.scale)
        if pixels is None or self._shrink.mean == 1:
            return pixels
        high, wide = self._tile
        return resample_rgb(pixels, (0, 0, pixels.shape[1], pixels.shape[0]), Size(wide, high))

    def holds(self, box: Box) -> bool:
        """Whether every stored tile under the box could be had; it was among those loaded."""
        return not self._lost or self._lost.isdisjoint(self.under(box))

    def crop(self, box: Box) -> NDArray[np.uint8]:
        """The pixels of a box that was loaded: uint8 (height, width, 3)."""
        parts = [
            strip.pixels[rows, box.x - self._left : box.right - self._left]
            for strip, rows, _ in self._across(box.y, box.height)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def gather(
        self, x: NDArray[np.int64], y: int, side: int, out: NDArray[np.uint8], at: Sequence[int]
    ) -> None:
        """Squares of `side` pixels whose top row is `y` and whose left columns are `x`, put into `out[at]`.

        `out`: uint8 (n, side, side, 3).
        """
        for strip, rows, into in self._across(y, side):
            out[at, into] = strip.windows(side)[x - self._left, rows]

    @property
    def _left(self) -> int:
        return self._columns.start * self._tile[1]

    def _across(self, y: int, height: int) -> Iterator[tuple[Strip, slice, slice]]:
        """The strips from top to bottom: each with its rows, and the rows of the result they make."""
        high = self._tile[0]
        for row in range(y // high, (y + height - 1) // high + 1):
            start, stop = max(y, row * high), min(y + height, (row + 1) * high)
            yield self._strips[row], slice(start - row * high, stop - row * high), slice(start - y, stop - y)
