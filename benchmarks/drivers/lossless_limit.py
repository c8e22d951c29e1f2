"""What a lossless pyramid cannot do without: decode each stored tile once, halve, compress with zstd-1.

SLIDE LEVELS: number of levels, each half the one before. Nothing is written.
"""

from __future__ import annotations

import sys
from functools import partial

import cv2
import imagecodecs
import numpy as np
import tifffile
from clock import report
from numpy.typing import NDArray

BLOCK = 512


class Pyramid:
    """Blocks of 512 × 512 px at each level; level 0 from the stored tiles, others from four of the last."""

    def __init__(self, path: str):
        page = tifffile.TiffFile(path).series[0].levels[0].pages[0]
        assert isinstance(page, tifffile.TiffPage)
        self._page = page
        assert page.jpegtables is not None
        self._tables = page.jpegtables[:-2]
        self._side = self._page.tilewidth
        self._across = -(-self._page.imagewidth // self._side)
        self._down = -(-self._page.imagelength // self._side)

    @property
    def megapixels(self) -> float:
        return self._page.imagewidth * self._page.imagelength / 1e6

    def blocks(self, level: int) -> tuple[int, int]:
        per_block = BLOCK * 2**level // self._side
        return -(-self._across // per_block), -(-self._down // per_block)

    def block(self, level: int, column: int, row: int) -> NDArray[np.uint8] | int:
        """Compressed and let go; what the level above needs of it is given back: itself, halved.

        0 where the slide has ended.
        """
        across, down = self.blocks(level)
        if column >= across or row >= down:
            return 0
        part = partial(self.block, level - 1) if level else self._stored
        size = BLOCK // 2 if level else self._side
        whole, ratio = np.zeros((BLOCK, BLOCK, 3), np.uint8), BLOCK // size
        for y in range(ratio):
            for x in range(ratio):
                tile = part(column * ratio + x, row * ratio + y)
                whole[y * size : (y + 1) * size, x * size : (x + 1) * size] = tile
        imagecodecs.zstd_encode(whole, level=1)  # pyright: ignore[reportArgumentType] its stub knows bytes only
        return np.asarray(cv2.resize(whole, (BLOCK // 2, BLOCK // 2), interpolation=cv2.INTER_AREA), np.uint8)

    def _stored(self, column: int, row: int) -> NDArray[np.uint8] | int:
        if column >= self._across or row >= self._down:
            return 0
        number = row * self._across + column
        file = self._page.parent.filehandle
        file.seek(self._page.dataoffsets[number])
        stream = self._tables + file.read(self._page.databytecounts[number])[2:]
        return imagecodecs.jpeg8_decode(stream)


def megapixels() -> float:
    pyramid = Pyramid(sys.argv[1])
    top = int(sys.argv[2]) - 1
    across, down = pyramid.blocks(top)
    for row in range(down):
        for column in range(across):
            pyramid.block(top, column, row)
    return pyramid.megapixels


cv2.setNumThreads(1)
report(megapixels)
