"""Stored JPEG tiles as chunks: looked at from outside, and copied byte by byte."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.chunk import fill_up
from coverslip.wsi.jpeg import EOI, PADDING, SOI, SOS, is_frame, make_whole, segments
from coverslip.wsi.jpeg_codec import JpegCodec
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import decode

# Within a scan 0xFF stands only before 0, which makes it a number, and in restart markers (T.81 B.1.1.5).
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
# Baseline and extended sequential: one scan, all that can be refused stands before it.
SEQUENTIAL = (0xC0, 0xC1)
# A sector of a disk that was lost reads as 512 zeros or more; a scan has no such run.
LOST = bytes(256)
# Heads that are remembered; slides have one, or a few.
MOST_HEADS = 64


def codec_of(stored: StoredLevel) -> JpegCodec:
    """What decodes the chunks that `chunk_of` makes of a level's tiles."""
    if not _is_verbatim(stored):
        return JpegCodec()
    return JpegCodec(stored.colour, SOI + stored.tables + EOI if stored.tables else b"")


def chunk_of(stored: StoredLevel, data: bytes) -> bytes:
    """A tile's bytes as they are; made whole where one codec cannot say for all what is missing in them:
    without heads, or of colours that differ."""
    if _is_verbatim(stored):
        return data
    return make_whole(memoryview(data), stored.tables, stored.colour, stored.header)


def _is_verbatim(stored: StoredLevel) -> bool:
    return stored.colour != "marked" and not stored.header


class Inspector:
    """Tells tiles that `decode` accepts from those it does not, mostly without decoding.

    Tiles of a slide share their head, up to the scan: one is tried once, by decoding its tile, and is then
    known. Scans are not decoded, which would cost ten times the copying; but one with a marker inside, as
    overwritten ones have, with a long run of zeros, as lost sectors are, or without an end is tried.
    What is left, a flipped bit say, is found by whoever decodes the copy, as it would be in the slide.
    """

    def __init__(self, stored: StoredLevel):
        self._stored = stored
        self._heads: dict[int, set[bytes]] = {}
        self._count = 0

    def accepts(self, data: bytes) -> bool:
        if not data:
            return False
        if self._is_known(data):
            return True
        if decode(self._stored, memoryview(data)) is None:
            return False
        self._learn(data)
        return True

    def _is_known(self, data: bytes) -> bool:
        for length, heads in self._heads.items():
            if data[:length] in heads:
                found = MARKER.search(data, length)
                whole = found is not None and found[0] == EOI and found.start() >= len(data) - PADDING
                return whole and LOST not in data
        return False

    def _learn(self, data: bytes) -> None:
        if self._stored.header or self._count >= MOST_HEADS:
            return
        stop, frame = 0, 0
        for marker, _, end in segments(data):
            frame = marker if is_frame(marker) else frame
            stop = end if marker == SOS else stop
        if frame in SEQUENTIAL:
            self._heads.setdefault(stop, set()).add(data[:stop])
            self._count += 1


def plain_tile(stored: StoredLevel, rgb: NDArray[np.uint8]) -> bytes:
    """A tile of pixels the slide shows and stores no tile of: a chunk for `codec_of`, of the best quality.

    `rgb`: uint8 (height, width, 3), at most a tile; its last row and column are repeated to fill it.
    """
    codec = JpegCodec(codec_of(stored).colour, level=100)
    return codec.encode_chunk(fill_up(rgb, stored.tile, None))
