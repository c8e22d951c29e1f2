"""JPEG tiles: their markers (ITU T.81), made whole, and decoded at full, half, quarter or eighth size.

libjpeg-turbo decodes, with the accurate integer DCT and smooth upsampling of colour, as OpenSlide lets it:
full size gives the same bytes. A smaller size is taken in the DCT, each block from its lowest frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from coverslip.wsi.geometry import Size
from coverslip.wsi.stored import Colour

SOI, EOI, SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
SOS, APP0, APP14, APP15, COM = 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
# Adobe's marker is the only one that says of which colours three components are, both ways (T.872 6.5.3).
ADOBE = {
    "rgb": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00",
    "ycbcr": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01",
}
# Writers pad streams to even or aligned lengths: the end marker is looked for this far from the end.
PADDING = 64
# Tiles of a slide share what comes before the scan, which is shorter than this unless metadata lie in it: it
# is looked at once, since for a small tile doing so takes a tenth of the time of decoding.
USUAL_HEAD = 2048
HEADS_KEPT = 256


def segments(stream: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of each segment between SOI and the end of the scan header, in order.

    Raises ValueError where the bytes are no chain of segments that leads to a scan.
    """
    at, end = 2, len(stream)
    if bytes(stream[:2]) != SOI:
        raise ValueError("it does not begin as a JPEG")
    while at + 4 <= end and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        stop = at + 2 + (stream[at + 2] << 8 | stream[at + 3])
        if stop > end:
            break
        yield marker, at, stop
        if marker == SOS:
            return
        at = stop
    raise ValueError("the JPEG stream has no scan")


def head_of(stream: bytes | memoryview) -> bytes:
    """What comes before the scan: from SOI to the end of the first scan header. Raises ValueError."""
    begin = bytes(stream[:USUAL_HEAD])
    at = begin.find(SCAN)
    stop = at + 2 + int.from_bytes(begin[at + 2 : at + 4])
    # The same two bytes may stand within a segment.
    if at < 0 or not _is_head(begin[:stop]):
        *_, (_, _, stop) = segments(stream)
        begin = bytes(stream[:stop])
    return begin[:stop]


@lru_cache(HEADS_KEPT)
def _is_head(head: bytes) -> bool:
    try:
        *_, (_, _, stop) = segments(head)
    except ValueError:
        return False
    return stop == len(head)


def jpeg_frame(stream: bytes | memoryview) -> tuple[int, int, int]:
    """(width, height, samples) of the first frame header (T.81 B.2.2). Raises ValueError without one."""
    return _frame(head_of(stream))


@lru_cache(HEADS_KEPT)
def _frame(head: bytes) -> tuple[int, int, int]:
    for marker, start, stop in segments(head):
        if is_frame(marker) and stop - start >= 10:
            high, wide = head[start + 5 : start + 7], head[start + 7 : start + 9]
            return int.from_bytes(wide), int.from_bytes(high), head[start + 9]
    raise ValueError("the JPEG stream has no frame header")


def shared_tables(tables: bytes | None) -> bytes:
    """The segments of a tables-only stream (TIFF tag 347), without SOI and EOI; b"" for none."""
    if not tables:
        return b""
    return tables.removeprefix(SOI).removesuffix(EOI)


def make_whole(data: memoryview, tables: bytes, colour: Colour, header: bytes = b"") -> bytes:
    """A stream that decodes by itself, its pixels unchanged, from a tile's bytes as they are stored.

    The shared tables come first, so that a tile's own win; markers that say something of colours are left
    out and one that says `colour` is put in. `data`: without the header where there is one, else a stream of
    its own. Raises ValueError for what is no JPEG, or has no end.
    """
    if header:
        if not is_restart(data[-2:]) and not has_end(data):
            raise ValueError("the part of a JPEG has no end: it was cut off")
        return b"".join((header, data, EOI))
    if not has_end(data):
        raise ValueError("the JPEG stream has no end: it was cut off")
    head = head_of(data)
    return b"".join((_whole_head(head, tables, colour), data[len(head) :]))


@lru_cache(HEADS_KEPT)
def _whole_head(head: bytes, tables: bytes, colour: Colour) -> bytes:
    if colour == "marked":
        colour = "ycbcr" if _bears_jfif(head) else "rgb"
    parts = [SOI, ADOBE[colour], tables]
    begin = 2
    for marker, start, stop in segments(head):
        if APP0 <= marker <= APP15 or marker == COM:
            parts.append(head[begin:start])
            begin = stop
    return b"".join((*parts, head[begin:]))


def stated_colour(stream: bytes | memoryview) -> Colour:
    """What libjpeg takes three components for when nobody tells it (jdapimin.c, default_decompress_parms).

    Raises ValueError for what is no JPEG.
    """
    colours: list[Colour] = []
    for marker, start, stop in segments(stream):
        body = bytes(stream[start + 4 : stop])
        if marker == APP0 and body.startswith(b"JFIF\0"):
            return "ycbcr"
        if marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            colours.insert(0, "ycbcr" if body[11] else "rgb")
        elif is_frame(marker) and len(body) >= 13:
            colours.append("rgb" if body[6:13:3] == b"RGB" else "ycbcr")
    return colours[0] if colours else "ycbcr"


def has_end(stream: bytes | memoryview) -> bool:
    """Whether the end marker is where it belongs, but for what writers fill up with."""
    return EOI in bytes(stream[-PADDING:]) or EOI in bytes(stream).rstrip(b"\0")[-PADDING:]


def is_frame(marker: int) -> bool:
    """Whether it begins a frame header, SOF0 to SOF15 (T.81 table B.1)."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def is_restart(marker: bytes | memoryview) -> bool:
    """Whether the two bytes are one of the restart markers RST0 to RST7."""
    return len(marker) == 2 and marker[0] == 0xFF and 0xD0 <= marker[1] <= 0xD7


def _bears_jfif(head: bytes) -> bool:
    return any(marker == APP0 and head[at + 4 : at + 9] == b"JFIF\0" for marker, at, _ in segments(head))


def decode_jpeg(stream: bytes, tile: Size, scale: int = 1) -> NDArray[np.uint8]:
    """RGB uint8 (tile.height / scale, tile.width / scale, 3). `scale`: 1, 2, 4 or 8, a divisor of both sides.

    Raises ValueError for a stream that cannot be decoded, says it is of another size, or has anything wrong
    within its scan: what OpenSlide takes for corrupt and TIFF libraries pass over is the reader's to judge.
    """
    if jpeg_frame(stream) != (tile.width, tile.height, 3):
        raise ValueError(f"the tile does not say it is {tile.width}×{tile.height} pixels of three samples")
    high, wide = tile.height // scale, tile.width // scale
    rgb = simplejpeg.decode_jpeg(stream, "RGB", min_height=high, min_width=wide)
    if rgb.shape != (high, wide, 3):
        raise ValueError(f"it decodes to {rgb.shape[1]}×{rgb.shape[0]} pixels")
    return rgb
