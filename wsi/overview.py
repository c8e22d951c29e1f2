"""The whole slide made small, reading as little of it as will do.

Stored tiles are decoded no larger than asked, and not at all where two things already say what is on them:
a coarser level is of one colour there, and the tile has no more bytes than a tile without any detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box, Level, Size
from coverslip.wsi.pixels import Pixels, Rgb, blank
from coverslip.wsi.plain_tiles import plain_tiles
from coverslip.wsi.resample import reduce, resample_rgb
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import Place, decode, scales_of

# Pixels read at once: 2048² × (3 + 2 masks) is 20 MB, whatever the slide's size.
BLOCK = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """The whole of level 0 made small: pixel (i, j) covers level-0 [i·scale_x, (i+1)·scale_x) × […)."""

    pixels: Pixels
    scale_x: float
    scale_y: float


class Source(Protocol):
    """What of a `Slide` an overview is made from."""

    @property
    def levels(self) -> tuple[Level, ...]: ...

    @property
    def background(self) -> Rgb: ...

    def read(self, level: int, box: Box) -> Pixels: ...

    def stored(self, level: int) -> StoredLevel | None: ...

    def fetch(self, level: int, places: Sequence[Place]) -> list[memoryview]: ...


@dataclass(frozen=True, slots=True)
class Reduction:
    """`across` × `down` pixels of a level into one. Sides of boxes are multiples of these."""

    level: int
    across: int
    down: int

    def of(self, box: Box) -> Box:
        """Where a box lies in the result."""
        return Box(
            box.x // self.across, box.y // self.down, box.width // self.across, box.height // self.down
        )

    def blocks(self, size: Size, side: int) -> Iterator[Box]:
        """Boxes of about `side` pixels over a level, row by row; the last of each may reach outside."""
        wide = max(1, side // self.across) * self.across
        high = max(1, side // self.down) * self.down
        for y in range(0, size.height, high):
            for x in range(0, size.width, wide):
                width = min(wide, ceil((size.width - x) / self.across) * self.across)
                height = min(high, ceil((size.height - y) / self.down) * self.down)
                yield Box(x, y, width, height)


def make_overview(slide: Source, level: int, across: int, down: int) -> Overview:
    """A whole level, `across` × `down` pixels averaged into one.

    From stored tiles where each is a whole number of such pixels: within 40 dB (PSNR) of the mean, since the
    decoder takes a part of the factor. What lies at the edges, or on tiles that cannot be had, is read.
    """
    of, how = slide.levels[level], Reduction(level, across, down)
    height, width = ceil(of.size.height / down), ceil(of.size.width / across)
    whole = blank(Box(0, 0, width, height), slide.background)
    stored = slide.stored(level)
    if stored is not None and not stored.tile.width % across and not stored.tile.height % down:
        _from_tiles(slide, how, stored, whole)
    else:
        for box in how.blocks(of.size, BLOCK):
            _put(whole, how, box, slide.read(level, box))
    return Overview(whole, across * of.downsample_x, down * of.downsample_y)


def _put(whole: Pixels, how: Reduction, box: Box, pixels: Pixels) -> None:
    """The means of a box's pixels, in their place."""
    at = how.of(box)
    where = at.within(Box(0, 0, whole.rgb.shape[1], whole.rgb.shape[0]))
    part = reduce(pixels, at.size)
    whole.rgb[where], whole.valid[where], whole.damaged[where] = part.rgb, part.valid, part.damaged


def _from_tiles(slide: Source, how: Reduction, stored: StoredLevel, whole: Pixels) -> None:
    scale = max(n for n in scales_of(stored) if not how.across % n and not how.down % n)
    plain, colour = plain_tiles(slide, how.level, stored)
    tile = stored.tile
    for row in range(len(plain)):
        places = [(row, int(column)) for column in np.flatnonzero(~plain[row])]
        for place, data in zip(places, slide.fetch(how.level, places), strict=True):
            box = Box(place[1] * tile.width, row * tile.height, tile.width, tile.height)
            pixels = decode(stored, data, scale) if box.clip(stored.size) == box else None
            if pixels is None:
                _read(slide, how, box, whole)
            else:
                _show(whole, how.of(box), pixels)
        for column in np.flatnonzero(plain[row]):
            box = Box(int(column) * tile.width, row * tile.height, tile.width, tile.height)
            _show(whole, how.of(box), colour[row : row + 1, column : column + 1])


def _read(slide: Source, how: Reduction, tile: Box, whole: Pixels) -> None:
    """What the reader says of a tile."""
    size = slide.levels[how.level].size
    width = min(tile.width, ceil((size.width - tile.x) / how.across) * how.across)
    height = min(tile.height, ceil((size.height - tile.y) / how.down) * how.down)
    box = Box(tile.x, tile.y, width, height)
    _put(whole, how, box, slide.read(how.level, box))


def _show(whole: Pixels, at: Box, rgb: NDArray[np.uint8]) -> None:
    """Whole pixels of a tile, averaged into their place, or one colour all over it."""
    where = at.within(Box(0, 0, whole.rgb.shape[1], whole.rgb.shape[0]))
    if rgb.shape[:2] != (1, 1):
        rgb = resample_rgb(rgb, (0, 0, rgb.shape[1], rgb.shape[0]), at.size)
    whole.rgb[where] = rgb
    whole.valid[where] = True
