"""Pixels of one TIFF image, read tile by tile (or strip by strip), each failing for itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION

from coverslip.errors import UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.jpeg import has_end, jpeg_frame
from coverslip.wsi.jpeg2000 import jpeg_2000_size
from coverslip.wsi.pixels import Raw
from coverslip.wsi.tiff_colour import check_colour, to_rgb

Fetch = Callable[[int, int], bytes]

# A tile or strip is decoded whole: 2**26 pixels are 200 MB of RGB, an 8,000-pixel square.
LARGEST_SEGMENT = 1 << 26
JPEG = frozenset({COMPRESSION.JPEG})
JPEG_2000 = frozenset({COMPRESSION.APERIO_JP2000_RGB, COMPRESSION.JPEG_2000_LOSSY, COMPRESSION.JPEG2000})
# Codecs that stop at the size they are told, so that a small file cannot take all memory.
BOUNDED = frozenset(
    {
        COMPRESSION.NONE,
        COMPRESSION.LZW,
        COMPRESSION.DEFLATE,
        COMPRESSION.ADOBE_DEFLATE,
        COMPRESSION.PACKBITS,
        COMPRESSION.LZMA,
        COMPRESSION.ZSTD,
        COMPRESSION.ZSTD_DEPRECATED,
        COMPRESSION.WEBP,  # at most 16383² by its format
    }
)
TILE_IT = "convert it to a tiled pyramid first, for example with: vips tiffsave IN OUT.tif --tile --pyramid"
DECODE_ERRORS = (ValueError, RuntimeError, OSError, IndexError, TypeError, KeyError, MemoryError)


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """One image of a TIFF. `tile`: size of its tiles or strips; `end`: bytes in the file.

    Safe to read from several threads when `fetch(offset, count)` is.
    """

    page: tifffile.TiffPage
    size: Size
    tile: Size
    fetch: Fetch
    end: int

    def read(self, box: Box) -> Raw:
        """Pixels of a box inside the image.

        A tile whose bytes are absent gets alpha 0; one that cannot be decoded, alpha 0 and `corrupt`.
        """
        page = self.page
        assert page.dtype is not None
        samples = np.zeros((*box.size.shape, page.samplesperpixel), page.dtype)
        holds = np.ones(box.size.shape, bool)
        corrupt = np.zeros(box.size.shape, bool)
        for index, tile in self._tiles(box):
            part = tile.intersect(box)
            assert part is not None
            at = part.within(box)
            try:
                decoded = self._decode_all(index)
            except DECODE_ERRORS:
                holds[at], corrupt[at] = False, True
                continue
            if decoded is None:
                holds[at] = False
            else:
                samples[at] = decoded[part.within(tile)]
        return self._raw(samples, holds, corrupt)

    def _raw(self, samples: NDArray[np.generic], holds: NDArray[np.bool_], corrupt: NDArray[np.bool_]) -> Raw:
        rgb, alpha = to_rgb(self.page, samples)
        if holds.all():
            return Raw(rgb, alpha)
        if alpha is None:
            alpha = np.full(holds.shape, 255, np.uint8)
        else:  # where transparency is declared, only this tells a lost tile from it
            corrupt = ~holds
        return Raw(rgb, np.where(holds, alpha, 0).astype(np.uint8), corrupt if corrupt.any() else None)

    def _tiles(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Tiles under the box: number in the first plane, and place clipped to the image."""
        wide, high = self.tile.width, self.tile.height
        across = ceil(self.size.width / wide)
        for row in range(box.y // high, (box.bottom - 1) // high + 1):
            for column in range(box.x // wide, (box.right - 1) // wide + 1):
                tile = Box(column * wide, row * high, wide, high).clip(self.size)
                if tile is not None:
                    yield row * across + column, tile

    def _decode_all(self, index: int) -> NDArray[np.generic] | None:
        """(height, width, samples) of a tile, its planes put together; None when any is absent."""
        if self.page.planarconfig == 1:
            return self._decode(index)
        per_plane = ceil(self.size.width / self.tile.width) * ceil(self.size.height / self.tile.height)
        planes = [self._decode(index + n * per_plane) for n in range(self.page.samplesperpixel)]
        found = [plane for plane in planes if plane is not None]
        return np.concatenate(found, axis=2) if len(found) == len(planes) else None

    def _decode(self, index: int) -> NDArray[np.generic] | None:
        data = self._stored(index)
        if data is None:
            return None
        page = self.page
        header = page.jpegheader
        _check_stream(page, data if header is None else header + data, self.tile)
        decoded, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=header)
        if decoded is None:
            return None
        return decoded[0]

    def _stored(self, index: int) -> bytes | None:
        if index >= min(len(self.page.dataoffsets), len(self.page.databytecounts)):
            return None
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if not offset or not count or offset + count > self.end:
            return None
        return self.fetch(offset, count)


def stored_image(page: tifffile.TiffPage, fetch: Fetch, end: int, subject: str) -> StoredImage:
    """Check all that can be checked before a byte is decoded.

    Raises UnreadableSlideError for an image without pixels, UnsupportedSlideError for colours, codecs and
    strips that are not decoded here.
    """
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1 or page.imagedepth != 1 or page.samplesperpixel < 1:
        raise UnreadableSlideError(subject, f"says it is {width}×{height} pixels", "copy or export it again")
    check_colour(page, subject)
    codec = page.compression
    if page.dtype is None or codec not in JPEG | JPEG_2000 | BOUNDED:
        name = getattr(codec, "name", codec)
        raise UnsupportedSlideError(
            subject, f"its TIFF compression {name} with {page.bitspersample} bits is not read here", TILE_IT
        )
    tile = _tile(page)
    if tile.area > LARGEST_SEGMENT:
        raise UnsupportedSlideError(
            subject,
            f"is stored in pieces of {tile.width}×{tile.height} pixels, more than {LARGEST_SEGMENT}",
            TILE_IT,
        )
    _ = page.decode  # made here once, since making it is not thread-safe
    return StoredImage(page, Size(width, height), tile, fetch, end)


def _tile(page: tifffile.TiffPage) -> Size:
    if page.is_tiled:
        return Size(page.tilewidth, page.tilelength)
    return Size(page.imagewidth, min(page.rowsperstrip or page.imagelength, page.imagelength))


def _check_stream(page: tifffile.TiffPage, data: bytes, tile: Size) -> None:
    """Raise ValueError when an image codec would make more pixels than a tile has, or its end is lost."""
    if page.compression in JPEG:
        declared = jpeg_frame(data)[:2]
        if page.jpegheader is None and not has_end(data):
            raise ValueError("the JPEG stream has no end: it was cut off")
    elif page.compression in JPEG_2000:
        declared = jpeg_2000_size(data)
    else:
        return
    if declared[0] * declared[1] > tile.area:
        raise ValueError(f"the tile says it is {declared[0]}×{declared[1]} pixels")
