"""A chunk's bytes: lossless, or JPEG."""

from __future__ import annotations

from collections.abc import Callable

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.pyramid import PyramidPlan
from coverslip.wsi.geometry import Size
from coverslip.wsi.jpeg_codec import JpegCodec

Encode = Callable[[NDArray[np.uint8]], bytes | None]
# Levels above 1 cost several times the time and make H&E no smaller.
ZSTD_LEVEL = 1
# Of levels that are made: finer than scanners' own 70 to 80, since it is the second loss; colour as theirs.
MADE = JpegCodec("ycbcr", level=90, subsampling="420")


def zstd() -> numcodecs.Zstd:
    """With zstd's own checksum, so that a flipped bit is an error and not another pixel."""
    return numcodecs.Zstd(level=ZSTD_LEVEL, checksum=True)


def blosc(itemsize: int) -> numcodecs.Blosc:
    """For OME-Zarr 0.4: JZarr, through which QuPath and Bio-Formats read, knows blosc, zlib and no
    compression, but not bare zstd. Of these blosc with lz4 is three times as fast as blosc with zstd and a
    tenth larger. Shuffling bytes helps where a number has several.
    """
    shuffle = numcodecs.Blosc.SHUFFLE if itemsize > 1 else numcodecs.Blosc.NOSHUFFLE
    return numcodecs.Blosc(cname="lz4", clevel=5, shuffle=shuffle)


def encoder(plan: PyramidPlan, level: int) -> Encode:
    """What makes a chunk of that level from its pixels, uint8 (height, width, 3), cut at the level's edge.

    It gives None for pixels that are all the fill value: their chunk is left out.
    """
    of, fill = plan.levels[level], plan.fill_value
    if of.coding == "lossless":
        compress = _interleaved() if plan.settings.ngff == "0.5" else _planar()
    else:
        compress = _jpeg
    beyond = fill if of.coding == "lossless" else None

    def encode(rgb: NDArray[np.uint8]) -> bytes | None:
        # The first pixel tells nearly always that it is not empty.
        if (rgb[0, 0] == fill).all() and (rgb == fill).all():
            return None
        return compress(np.ascontiguousarray(fill_up(rgb, of.chunk, beyond)))

    return encode


def fill_up(rgb: NDArray[np.uint8], chunk: Size, fill: int | None) -> NDArray[np.uint8]:
    """Pixels cut at the level's edge made as large as the chunk: by `fill`, or repeating the last (None)."""
    below, right = chunk.height - rgb.shape[0], chunk.width - rgb.shape[1]
    if not below and not right:
        return rgb
    around = ((0, below), (0, right), (0, 0))
    if fill is None:
        return np.pad(rgb, around, mode="edge")
    return np.pad(rgb, around, constant_values=fill)


def checksum(data: bytes) -> bytes:
    """What stands behind a JPEG chunk, by Zarr's codec `crc32c`, so that a flipped bit is an error and not
    another pixel; a JPEG decoder stops before it."""
    return google_crc32c.value(data).to_bytes(4, "little")


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    data = MADE.encode_chunk(rgb)
    return data + checksum(data)


def _interleaved() -> Callable[[NDArray[np.uint8]], bytes]:
    return zstd().encode


def _planar() -> Callable[[NDArray[np.uint8]], bytes]:
    codec = blosc(1)
    return lambda rgb: codec.encode(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
