"""What a TIFF's index says of the bytes it should hold, without decoding any."""

from __future__ import annotations

import os
from collections.abc import Sequence

import tifffile


def missing_fraction(path: str) -> float | None:
    """Share of the first image's stored tiles that were never written or lie past the end of the file.

    None when the index cannot be read as TIFF.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            offsets, counts = page.dataoffsets, page.databytecounts
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError):
        return None
    return absent_share(offsets, counts, os.path.getsize(path))


def absent_share(offsets: Sequence[int], counts: Sequence[int], end: int) -> float:
    """Share of (offset, byte count) pairs that are zero or reach past `end`.

    >>> absent_share([8, 0, 90], [10, 0, 20], 100)
    0.6666666666666666
    """
    if not offsets:
        return 0.0
    absent = sum(not at or not count or at + count > end for at, count in zip(offsets, counts, strict=True))
    return absent / len(offsets)
