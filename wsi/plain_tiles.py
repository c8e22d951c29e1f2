"""Stored tiles whose pixels are known without decoding them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box, Level
from coverslip.wsi.pixels import Pixels
from coverslip.wsi.stored import StoredLevel

# A coarser level is of one colour where its values differ by no more than this of 255: glass and its grain.
# Stain over a tenth of a pixel differs by more.
ONE_COLOUR = 8
# A tile without detail has hardly more bytes than the smallest of its level (their 1st percentile). One red
# cell on glass adds a twentieth.
NO_DETAIL = 1.03
# Pixels of the coarser level, which is read whole: 25 MB.
LARGEST_COARSE = 1 << 23


class Source(Protocol):
    """What of a `Slide` is looked at."""

    @property
    def levels(self) -> tuple[Level, ...]: ...

    def read(self, level: int, box: Box) -> Pixels: ...


def plain_tiles(
    slide: Source, level: int, stored: StoredLevel
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which stored tiles of a level are of one colour, bool (rows, columns), and which, uint8 (…, 3).

    By two things that must agree: the slide's coarsest level is of one colour there, and the tile has no more
    bytes than tiles without detail. None is, where the slide has no coarser level of at most `LARGEST_COARSE`
    pixels, or its pixels lie across the tiles' borders.
    """
    none = np.zeros(stored.counts.shape, bool), np.zeros((*stored.counts.shape, 3), np.uint8)
    coarsest = len(slide.levels) - 1
    coarse, own = slide.levels[coarsest], slide.levels[level]
    wide = stored.tile.width * own.downsample_x / coarse.downsample_x
    high = stored.tile.height * own.downsample_y / coarse.downsample_y
    if coarsest <= level or coarse.size.area > LARGEST_COARSE or wide % 1 or high % 1 or min(wide, high) < 1:
        return none
    if coarse.size.width < wide or coarse.size.height < high:
        return none
    here, colour = none
    one, means = _one_colour(slide.read(coarsest, coarse.size.box), int(high), int(wide))
    rows, columns = (min(sides) for sides in zip(one.shape, stored.counts.shape, strict=True))
    here[:rows, :columns], colour[:rows, :columns] = one[:rows, :columns], means[:rows, :columns]
    return here & _without_detail(stored), colour


def _one_colour(pixels: Pixels, high: int, wide: int) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which whole blocks of `high` × `wide` pixels are of one colour, and the mean colour of each."""
    squares = _squares(pixels.rgb, high, wide)
    held = np.asarray(_squares(pixels.valid[..., None], high, wide).all(axis=(2, 3, 4)), bool)
    spread = squares.max(axis=(2, 3)).astype(int) - squares.min(axis=(2, 3))
    means = np.rint(squares.mean(axis=(2, 3))).astype(np.uint8)
    return held & np.asarray(spread.max(axis=-1) <= ONE_COLOUR, bool), means


def _squares(image: NDArray, high: int, wide: int) -> NDArray:
    """Whole blocks of an image (height, width, c), as a view (rows, columns, high, wide, c)."""
    rows, columns = image.shape[0] // high, image.shape[1] // wide
    blocks = image[: rows * high, : columns * wide].reshape(rows, high, columns, wide, -1)
    return blocks.swapaxes(1, 2)


def _without_detail(stored: StoredLevel) -> NDArray[np.bool_]:
    held = stored.counts[stored.counts > 0]
    smallest = float(np.percentile(held, 1)) if len(held) else 0.0
    return (stored.counts > 0) & (stored.counts <= NO_DETAIL * smallest)
