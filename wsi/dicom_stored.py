"""Where the frames of a DICOM whole slide image lie in its file (PS3.5, PS3.10), without a DICOM library.

Only what is encapsulated in JPEG or JPEG 2000, in explicit VR little endian as all encapsulated data are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from math import ceil
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Size
from coverslip.wsi.stored import Codec, Colour, StoredLevel

# (codec, colour) by transfer syntax and photometric interpretation, as OpenSlide pairs them; its YBR_ICT of
# JPEG 2000 is left to it, since it converts colours that OpenJPEG may have converted already.
KINDS: Mapping[tuple[str, str], tuple[Codec, Colour]] = MappingProxyType(
    {
        ("1.2.840.10008.1.2.4.50", "YBR_FULL_422"): ("jpeg", "ycbcr"),
        ("1.2.840.10008.1.2.4.50", "YBR_FULL"): ("jpeg", "ycbcr"),
        ("1.2.840.10008.1.2.4.50", "RGB"): ("jpeg", "rgb"),
        ("1.2.840.10008.1.2.4.90", "RGB"): ("jpeg2000", "rgb"),
        ("1.2.840.10008.1.2.4.91", "RGB"): ("jpeg2000", "rgb"),
    }
)
# PS3.6.
SYNTAX, IMAGE_TYPE, SERIES, ORGANIZATION = 0x0002_0010, 0x0008_0008, 0x0020_000E, 0x0020_9311
SAMPLES, PHOTOMETRIC, PLANAR, FRAMES = 0x0028_0002, 0x0028_0004, 0x0028_0006, 0x0028_0008
ROWS, COLUMNS, ALLOCATED = 0x0028_0010, 0x0028_0011, 0x0028_0100
MATRIX_COLUMNS, MATRIX_ROWS = 0x0048_0006, 0x0048_0007
PATHS, PLANES = 0x0048_0302, 0x0048_0303
EXTENDED_OFFSETS, PIXELS = 0x7FE0_0001, 0x7FE0_0010
TEXTS = frozenset({SYNTAX, IMAGE_TYPE, SERIES, ORGANIZATION, PHOTOMETRIC, FRAMES})
NUMBERS = frozenset({SAMPLES, PLANAR, ROWS, COLUMNS, ALLOCATED, MATRIX_COLUMNS, MATRIX_ROWS, PATHS, PLANES})
ITEM, UNDEFINED = 0xFFFE_E000, 0xFFFF_FFFF
DELIMITERS = frozenset({0xFFFE_E00D, 0xFFFE_E0DD})
# Value representations whose length takes four bytes, after two that are reserved (PS3.5 7.1.2).
LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
# Of a header; slides with every frame on one grid have some hundreds of elements.
MOST_ELEMENTS = 1 << 20
LONGEST_TEXT = 256
ITEM_HEADER = 8  # bytes of an item's tag and length


@dataclass(frozen=True, slots=True)
class Header:
    """Values by tag; where the pixel data begin; place and length of the extended offset table."""

    texts: Mapping[int, str]
    numbers: Mapping[int, int]
    pixels: int
    extended: tuple[int, int] | None


def stored_frames(paths: Iterable[str], series: str) -> dict[tuple[Size, Size], StoredLevel]:
    """By size of the image and of its frames, the levels of a series whose frames can be fetched.

    Left out are files of another series or of labels and macro images, levels of which there are two (or
    parts, in files of their own), and what `stored_level` refuses.
    """
    found: dict[tuple[Size, Size], StoredLevel | None] = {}
    for path in paths:
        level = stored_level(path, series)
        if level is not None:
            key = level.size, level.tile
            found[key] = None if key in found else level
    return {key: level for key, level in found.items() if level is not None}


def stored_level(path: str, series: str) -> StoredLevel | None:
    """The frames of one file; None where it is not whole, of that series and TILED_FULL, of one focal plane
    and optical path, with red, green and blue bytes in JPEG or JPEG 2000, each frame in one fragment."""
    try:
        with FileIO(path) as file:
            return _level(file, path, series)
    except (OSError, ValueError, KeyError):
        return None


def _level(file: FileIO, path: str, series: str) -> StoredLevel | None:
    header = _header(file)
    kind = KINDS.get((header.texts.get(SYNTAX, ""), header.texts.get(PHOTOMETRIC, "")))
    if kind is None or header.texts.get(SERIES) != series or not _is_plain(header):
        return None
    size = Size(header.numbers[MATRIX_COLUMNS], header.numbers[MATRIX_ROWS])
    tile = Size(header.numbers[COLUMNS], header.numbers[ROWS])
    shape = ceil(size.height / tile.height), ceil(size.width / tile.width)
    if shape[0] * shape[1] != int(header.texts.get(FRAMES, 1)):
        return None
    offsets, counts = _frames(file, header, shape[0] * shape[1])
    return StoredLevel(path, size, tile, *kind, offsets.reshape(shape), counts.reshape(shape), prefix="item")


def _is_plain(header: Header) -> bool:
    expected = {SAMPLES: 3, ALLOCATED: 8, PLANAR: 0, PATHS: 1, PLANES: 1}
    return (
        header.texts.get(ORGANIZATION) == "TILED_FULL"
        and "VOLUME" in header.texts.get(IMAGE_TYPE, "").split("\\")
        and all(header.numbers.get(tag, number) == number for tag, number in expected.items())
    )


def _header(file: FileIO) -> Header:
    """Raises ValueError where there are no encapsulated pixel data, or the file is cut off."""
    if _bytes(file, 128, 4) != b"DICM":
        raise ValueError("it is no DICOM")
    texts: dict[int, str] = {}
    numbers: dict[int, int] = {}
    extended = None
    for tag, at, length in _elements(file, 132):
        if tag == PIXELS:
            if length != UNDEFINED:
                raise ValueError("its pixel data are not encapsulated")
            return Header(texts, numbers, at, extended)
        if tag == EXTENDED_OFFSETS:
            extended = at, length
        elif tag in TEXTS and length <= LONGEST_TEXT:
            texts[tag] = _bytes(file, at, length).decode("ascii", "replace").rstrip("\0 ")
        elif tag in NUMBERS:
            numbers[tag] = int.from_bytes(_bytes(file, at, min(length, 4)), "little")
    raise ValueError("it holds no pixel data")


def _elements(file: FileIO, at: int) -> Iterator[tuple[int, int, int]]:
    """(tag, where the value begins, its length) of the elements that lie in no sequence."""
    depth = 0
    for _ in range(MOST_ELEMENTS):
        head = _bytes(file, at, 12)
        tag = int.from_bytes(head[0:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        if tag in DELIMITERS:
            depth, at = depth - 1, at + ITEM_HEADER
            continue
        if tag == ITEM:
            at, length = at + ITEM_HEADER, int.from_bytes(head[4:8], "little")
        elif head[4:6] in LONG:
            at, length = at + 12, int.from_bytes(head[8:12], "little")
        else:
            at, length = at + 8, int.from_bytes(head[6:8], "little")
        if depth == 0:
            yield tag, at, length
        if length == UNDEFINED:
            depth += 1
        else:
            at += length
    raise ValueError("it has too many elements")


def _frames(file: FileIO, header: Header, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offset and byte count of each frame: from the offset table, basic or extended, or item by item.

    What a table says of a frame is proved when the frame is fetched, by the header before it.
    """
    table = _item(file, header.pixels)
    begin = header.pixels + ITEM_HEADER + table
    if header.extended is not None:
        return _listed(file, header.extended, "<u8", begin, count)
    if table:
        return _listed(file, (header.pixels + ITEM_HEADER, table), "<u4", begin, count)
    return _walked(file, begin, count)


def _listed(
    file: FileIO, table: tuple[int, int], kind: str, begin: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    at, length = table
    if length != count * np.dtype(kind).itemsize:
        raise ValueError(f"its offset table does not list {count} frames")
    listed = np.frombuffer(_bytes(file, at, length), kind)
    if listed.max() > file.seek(0, 2):
        raise ValueError("its offset table reaches past its end")
    offsets = listed.astype(np.int64) + begin + ITEM_HEADER
    first, last = (_item(file, int(offsets[n]) - ITEM_HEADER) for n in (0, -1))
    counts = np.append(np.diff(offsets) - ITEM_HEADER, last)
    if (counts < 0).any() or counts[0] != first:
        raise ValueError("its frames are not in order, or in several fragments")
    return offsets, counts


def _walked(file: FileIO, at: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if count * ITEM_HEADER > file.seek(0, 2):
        raise ValueError(f"it is too small for {count} frames")
    offsets, counts = np.empty((2, count), np.int64)
    for n in range(count):
        counts[n] = _item(file, at)
        offsets[n] = at + ITEM_HEADER
        at = int(offsets[n] + counts[n])
    if _bytes(file, at, 4) == item_header(0)[:4]:
        raise ValueError("it has more fragments than frames")
    return offsets, counts


def _item(file: FileIO, at: int) -> int:
    """Length of the item there. Raises ValueError where there is none."""
    head = _bytes(file, at, ITEM_HEADER)
    length = int.from_bytes(head[4:], "little")
    if head[:4] != item_header(0)[:4] or length == UNDEFINED:
        raise ValueError(f"there is no item at {at}")
    return length


def item_header(length: int) -> bytes:
    """The tag (FFFE,E000) and the length, which stand before each fragment (PS3.5 A.4)."""
    return struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, length)


def _bytes(file: FileIO, at: int, count: int) -> bytes:
    """Raises ValueError past the end of the file; memory is taken only for what is there."""
    if at < 0 or at + count > file.seek(0, 2):
        raise ValueError("it is cut off")
    file.seek(at)
    return file.read(count)
