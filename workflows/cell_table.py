"""Rows about nuclei and cells: where each lies, how large and how dense it is, and its outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# An outline's points are whole numbers of these parts of a level-0 pixel, from the centroid: two bytes each
# reach 4,096 pixels, and a million nuclei of 32 points take 128 MB.
PARTS = 8
# "element" is what Parquet calls it when the column is read again.
OUTLINE = pa.field("outline", pa.list_(pa.field("element", pa.int16())))


def pack_outlines(
    outlines: Sequence[NDArray[np.floating]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> pa.Array:
    """Points (k, 2) in level-0 pixels, x, y, with the centroids (n,) of their objects, to a column.

    Each entry is x, y, x, y and so on, from the centroid in eighths of a pixel, closed by its first point.
    """
    lengths = np.array([0, *(2 * len(points) for points in outlines)], np.int32)
    if not len(outlines):
        return pa.array([], OUTLINE.type)
    off = [points - (cx, cy) for points, cx, cy in zip(outlines, x, y, strict=True)]
    limit = np.iinfo(np.int16)
    parts = np.clip(np.rint(PARTS * np.concatenate(off)), limit.min, limit.max).astype(np.int16)
    ends = pa.array(np.cumsum(lengths, dtype=np.int32))
    return pa.ListArray.from_arrays(ends, pa.array(parts.ravel()), type=OUTLINE.type)


def read_outlines(table: pa.Table) -> list[NDArray[np.float64]]:
    """Of rows of `cells.parquet`, points (k, 2) in level-0 pixels, x, y."""
    x, y = (table[name].to_numpy() for name in ("x", "y"))
    packed = table["outline"].to_pylist()
    return [
        np.asarray(points, np.float64).reshape(-1, 2) / PARTS + (cx, cy)
        for points, cx, cy in zip(packed, x, y, strict=True)
    ]
