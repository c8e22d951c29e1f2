"""Decoded stored tiles: a level's pixels without the detour through a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.dicom_stored import item_header
from coverslip.wsi.geometry import Box
from coverslip.wsi.jpeg import decode_jpeg, is_restart, make_whole
from coverslip.wsi.jpeg2000 import decode_jpeg_2000
from coverslip.wsi.ranges import Ranges
from coverslip.wsi.stored import Codec, Prefix, StoredLevel

# (row, column) on the level's grid of tiles.
Place = tuple[int, int]
# How many times smaller a tile may be decoded. Against the exact mean of the same pixels, on stained tissue,
# JPEG in the DCT reaches 42 to 52 dB at 2, 48 to 55 at 4, 52 to 57 at 8 (PSNR over a level). JPEG 2000's
# low-pass band lies half a pixel or more to the left and above (its filters are centred on even pixels,
# T.800 F.3) and reaches 16 to 23: never.
SCALES: Mapping[Codec, tuple[int, ...]] = MappingProxyType({"jpeg": (1, 2, 4, 8), "jpeg2000": (1,)})
PREFIX_BYTES: Mapping[Prefix, int] = MappingProxyType({"": 0, "item": 8, "restart": 2})
# What decoders say of bytes that are no image.
DECODE_ERRORS = (ValueError, OSError, SyntaxError, MemoryError)


def scales_of(level: StoredLevel) -> tuple[int, ...]:
    """What `decode` may be asked for on this level, ascending: of SCALES those that divide a tile's sides."""
    sides = level.tile.width, level.tile.height
    return tuple(scale for scale in SCALES[level.codec] if not any(side % scale for side in sides))


def fetch(level: StoredLevel, ranges: Ranges, places: Sequence[Place]) -> list[memoryview]:
    """The bytes of each tile as they are stored; empty for one the file does not hold, or no longer holds."""
    lead = PREFIX_BYTES[level.prefix]
    held = [n for n, place in enumerate(places) if level.counts[place] and level.offsets[place] >= lead]
    found = [memoryview(b"")] * len(places)
    offsets = [int(level.offsets[places[n]]) - lead for n in held]
    counts = [int(level.counts[places[n]]) + lead for n in held]
    try:
        data = ranges.read(offsets, counts)
    except OSError:
        return found
    for n, one in zip(held, data, strict=True):
        if _is_announced(level, places[n], one[:lead], len(one) - lead):
            found[n] = one[lead:]
    return found


def _is_announced(level: StoredLevel, place: Place, before: memoryview, count: int) -> bool:
    """Whether the bytes before a tile say that it begins there."""
    if level.prefix == "item":
        return before == item_header(count)
    return level.prefix == "" or place == (0, 0) or is_restart(before)


def decode(level: StoredLevel, data: memoryview, scale: int = 1) -> NDArray[np.uint8] | None:
    """RGB uint8 (tile.height / scale, tile.width / scale, 3), or None for a tile that is absent or corrupt.

    `scale`: one of `scales_of(level)`. At 1 the pixels are those OpenSlide shows.
    """
    if not data:
        return None
    try:
        if level.codec == "jpeg2000":
            return decode_jpeg_2000(bytes(data), level.tile)
        whole = make_whole(data, level.tables, level.colour, level.header)
        return decode_jpeg(whole, level.tile, scale)
    except DECODE_ERRORS:
        return None


def is_worth_it(level: StoredLevel, box: Box) -> bool:
    """Whether one box is read faster from stored tiles than through a reader that keeps what it decodes.

    Not where tiles are parts of a larger JPEG, each a row of blocks as wide as the slide or half of it, and
    the box is narrow: 60 MPix/s against 120 for 512 of 2048 pixels.
    """
    return not level.header or level.tile.width <= 2 * box.width


def read_box(level: StoredLevel, ranges: Ranges, box: Box) -> NDArray[np.uint8] | None:
    """RGB uint8 (height, width, 3) of a box of the level; None when any of it cannot be had."""
    box = Box(box.x - level.origin[0], box.y - level.origin[1], box.width, box.height)
    if box.clip(level.size) != box:
        return None
    rows, columns = level.under(box)
    places = [(row, column) for row in rows for column in columns]
    rgb = np.empty((*box.size.shape, 3), np.uint8)
    wide, high = level.tile.width, level.tile.height
    # Fetched at once, which a distant store answers side by side: a tenth of what the pixels take.
    for (row, column), data in zip(places, fetch(level, ranges, places), strict=True):
        pixels = decode(level, data)
        if pixels is None:
            return None
        tile = Box(column * wide, row * high, wide, high)
        part = tile.intersect(box)
        assert part is not None
        rgb[part.within(box)] = pixels[part.within(tile)]
    return rgb
