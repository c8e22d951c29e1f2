"""Where the compressed tiles of a TIFF image lie."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from coverslip.wsi.geometry import Size
from coverslip.wsi.jpeg import shared_tables
from coverslip.wsi.stored import Codec, Colour, StoredLevel

CODECS: dict[int, Codec] = {
    COMPRESSION.JPEG: "jpeg",
    COMPRESSION.APERIO_JP2000_RGB: "jpeg2000",
    COMPRESSION.JPEG_2000_LOSSY: "jpeg2000",
    COMPRESSION.JPEG2000: "jpeg2000",
}


def stored_level(
    page: tifffile.TiffPage, path: str, end: int, *, trust_jfif: bool = False
) -> StoredLevel | None:
    """The tiles of an image of red, green and blue bytes in JPEG or JPEG 2000; None for any other.

    Hamamatsu's one JPEG per level counts as tiles, cut at its restart markers: tifffile reads where they lie.
    Each is one row of blocks; where these are higher than 8 pixels (4:2:0), OpenSlide cannot read it, and
    neither is it read here.

    `end`: bytes in the file; a tile that reaches past it counts as absent. `trust_jfif`: take the JFIF
    marker of a JPEG over an index that says RGB, as tifffile does and OpenSlide does not; Bio-Formats writes
    such files.
    """
    codec = CODECS.get(page.compression)
    if codec is None or not page.is_tiled or not _is_rgb(page) or (page.jpegheader and page.tilelength != 8):
        return None
    size, tile = Size(page.imagewidth, page.imagelength), Size(page.tilewidth, page.tilelength)
    shape = ceil(size.height / tile.height), ceil(size.width / tile.width)
    if not len(page.dataoffsets) == len(page.databytecounts) == shape[0] * shape[1]:
        return None
    offsets, counts = _within(page, end)
    return StoredLevel(
        path,
        size,
        tile,
        codec,
        _colour(page, codec, trust_jfif=trust_jfif),
        offsets.reshape(shape),
        counts.reshape(shape),
        shared_tables(page.jpegtables) if codec == "jpeg" else b"",
        page.jpegheader or b"",
        "restart" if page.jpegheader else "",
    )


def _colour(page: tifffile.TiffPage, codec: Codec, *, trust_jfif: bool) -> Colour:
    if codec != "jpeg":
        return "rgb"
    if page.photometric == PHOTOMETRIC.YCBCR:
        return "ycbcr"
    return "marked" if trust_jfif else "rgb"


def _is_rgb(page: tifffile.TiffPage) -> bool:
    return (
        page.dtype == np.uint8
        and page.bitspersample == 8
        and page.samplesperpixel == 3
        and page.planarconfig == 1
        and page.imagedepth == 1
        and page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
    )


def _within(page: tifffile.TiffPage, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets and counts, both 0 for what is not in the file. An index may hold any 64-bit number."""
    absent = absent_tiles(page.dataoffsets, page.databytecounts, end)
    offsets, counts = (
        np.where(absent, 0, np.asarray(values, np.uint64)).astype(np.int64)
        for values in (page.dataoffsets, page.databytecounts)
    )
    return offsets, counts


def absent_tiles(offsets: Sequence[int], counts: Sequence[int], end: int) -> NDArray[np.bool_]:
    """True for each (offset, byte count) pair that is zero or reaches past `end`, or lacks its other half."""
    at, count = np.zeros((2, max(len(offsets), len(counts))), np.uint64)
    at[: len(offsets)], count[: len(counts)] = offsets, counts
    stop = np.uint64(end)
    return (at == 0) | (count == 0) | (at > stop) | (count > stop - np.minimum(at, stop))
