"""What a TIFF's index says of the bytes it should hold, without decoding any."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import tifffile
from numpy.typing import NDArray

from coverslip.unheard import unheard
from coverslip.wsi.geometry import Size
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiff_colour import has_alpha
from coverslip.wsi.tiff_stored import absent_tiles, stored_level

# What tifffile raises on an index that makes no sense, beside its own error.
INDEX_ERRORS = (
    tifffile.TiffFileError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class StoredGrid:
    """The tiles of one tiled image. `absent`: bool (rows, columns), never written or past the end.
    `stored`: where their bytes lie, None where they are not JPEG or JPEG 2000 of red, green and blue."""

    size: Size
    tile: Size
    absent: NDArray[np.bool_]
    stored: StoredLevel | None


@dataclass(frozen=True, slots=True, eq=False)
class TiffIndex:
    """Of the first image: `orientation` (TIFF 6.0 tag 274; 1 when it states none), `has_alpha` and
    `description`.

    `largest_segment`: values in the largest tile or strip of all images.
    """

    orientation: int
    has_alpha: bool
    largest_segment: int
    missing_fraction: float
    description: str
    grids: tuple[StoredGrid, ...]

    def grid(self, size: Size, tile: Size | None) -> StoredGrid | None:
        """The one image with that size and tile; None when none or several have it."""
        found = [grid for grid in self.grids if grid.size == size and grid.tile == tile]
        return found[0] if len(found) == 1 else None

    def grid_of(self, size: Size) -> StoredGrid | None:
        """The one image with that size, whatever its tiles."""
        found = [grid for grid in self.grids if grid.size == size]
        return found[0] if len(found) == 1 else None


def read_index(path: str) -> TiffIndex | None:
    """None when the index cannot be read as TIFF."""
    try:
        with unheard("tifffile"), tifffile.TiffFile(path) as tif:
            pages = [page for page in tif.pages if isinstance(page, tifffile.TiffPage)]
            end = os.path.getsize(path)
            first = pages[0]
            return TiffIndex(
                orientation=orientation_of(first),
                has_alpha=has_alpha(first),
                largest_segment=max(segment_of(page) for page in pages),
                missing_fraction=absent_share(first.dataoffsets, first.databytecounts, end),
                description=first.description,
                grids=tuple(_grids(pages, path, end)),
            )
    except INDEX_ERRORS:
        return None


def segment_of(page: tifffile.TiffPage) -> int:
    """Values in one of its tiles or strips."""
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if page.is_tiled:
        return page.tilewidth * page.tilelength * samples
    return page.imagewidth * min(page.rowsperstrip or page.imagelength, page.imagelength) * samples


def orientation_of(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1


def _grids(pages: Iterable[tifffile.TiffPage], path: str, end: int) -> Iterator[StoredGrid]:
    """Of the tiled images whose lists are as long as their tiles are many."""
    for page in pages:
        if not page.is_tiled or page.planarconfig != 1:
            continue
        size, tile = Size(page.imagewidth, page.imagelength), Size(page.tilewidth, page.tilelength)
        columns, rows = ceil(size.width / tile.width), ceil(size.height / tile.height)
        if len(page.dataoffsets) == len(page.databytecounts) == rows * columns:
            absent = absent_tiles(page.dataoffsets, page.databytecounts, end)
            yield StoredGrid(size, tile, absent.reshape(rows, columns), stored_level(page, path, end))


def absent_share(offsets: Sequence[int], counts: Sequence[int], end: int) -> float:
    """Share of (offset, byte count) pairs that are zero or reach past `end`.

    >>> absent_share([8, 0, 90], [10, 0, 20], 100)
    0.6666666666666666
    """
    return float(absent_tiles(offsets, counts, end).mean()) if len(offsets) else 0.0
