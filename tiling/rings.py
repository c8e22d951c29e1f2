"""Outlines of a mask along the edges of its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.regions import Mask

Ring = NDArray[np.float64]
Polygon = tuple[Ring, ...]  # the outline, then its holes


def mask_polygons(mask: Mask, scale_x: float = 1.0, scale_y: float = 1.0) -> list[Polygon]:
    """One polygon per part of the mask that is connected by sides: the outline, then its holes.

    `mask`: bool (h, w). Rings are float64 (n, 2), (x, y), corners of pixels times the scale, not closed;
    outlines run counter-clockwise in (x, y) as numbers, holes clockwise (RFC 7946, 3.1.6). Filling the
    polygons gives the mask back exactly. Polygons are ordered by their top-left pixel.
    """
    labels = np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1])
    parts: dict[int, _Part] = {}
    for ring in _simple_rings(_trace(mask)):
        x, y = ring[0]
        inside = bool(mask[min(y, mask.shape[0] - 1), min(x, mask.shape[1] - 1)])
        part = parts.setdefault(int(labels[y, x] if inside else labels[y - 1, x]), _Part([], []))
        (part.outlines if inside else part.holes).append(_oriented(ring, counter_clockwise=inside))
    scale = np.array([scale_x, scale_y], np.float64)
    return [part.scaled(scale) for _, part in sorted(parts.items())]


@dataclass(frozen=True, slots=True)
class _Part:
    outlines: list[NDArray[np.int64]]
    holes: list[NDArray[np.int64]]

    def scaled(self, scale: NDArray[np.float64]) -> Polygon:
        return tuple(np.asarray(ring * scale, np.float64) for ring in (*self.outlines, *self.holes))


def _oriented(ring: NDArray[np.int64], *, counter_clockwise: bool) -> NDArray[np.int64]:
    x, y = ring[:, 0], ring[:, 1]
    area = int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    return ring if (area > 0) == counter_clockwise else ring[::-1]


def _trace(mask: Mask) -> list[list[tuple[int, int]]]:
    """Closed chains of corners (x, y). Along every row and every column corners pair up into edges.

    Where two pixels touch by a corner only, that corner stands twice, once for each, so that parts that
    are connected by corners alone stay apart.
    """
    x, y, left_goes_up = _corners(mask)
    along_row = _pairs(np.lexsort((_rank(x, y, None), x, y)))
    along_column = _pairs(np.lexsort((_rank(x, y, left_goes_up), y, x)))
    chains, seen = [], np.zeros(len(x), bool)
    for start in range(len(x)):
        if seen[start]:
            continue
        chain, here = [], start
        while not seen[here]:
            beside = int(along_row[here])
            seen[here] = seen[beside] = True
            chain += [(int(x[here]), int(y[here])), (int(x[beside]), int(y[beside]))]
            here = int(along_column[beside])
        chains.append(chain)
    return chains


def _corners(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Grid points where the outline turns, twice where it turns twice; and whether, at a doubled one, the
    edge to the left belongs with the edge upwards. Both copies of a doubled corner follow each other."""
    wide = np.pad(mask, 1)
    a, b, c, d = wide[:-1, :-1], wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]
    odd = (a ^ b) ^ (c ^ d)
    crossing = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero(odd | crossing)
    times = np.where(crossing[y, x], 2, 1)
    return np.repeat(x, times), np.repeat(y, times), np.repeat(a[y, x], times)


def _rank(
    x: NDArray[np.int64], y: NDArray[np.int64], left_goes_up: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Order of the two copies of a doubled corner: the first ends an edge, the second begins one.

    Along rows the first copy takes the edge to the left. Along columns it takes the upper edge where left
    goes with up, the lower one otherwise.
    """
    second = np.zeros(len(x), np.int64)
    second[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    if left_goes_up is None:
        return second
    return np.where(left_goes_up, second, 1 - second)


def _pairs(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each corner its mate, when those at places 0 and 1, 2 and 3, … of an order belong together."""
    mates = np.empty(len(order), np.int64)
    mates[order[0::2]], mates[order[1::2]] = order[1::2], order[0::2]
    return mates


def _simple_rings(chains: list[list[tuple[int, int]]]) -> list[NDArray[np.int64]]:
    """Chains cut where they touch themselves; each ring begins at its topmost, then leftmost corner."""
    rings = []
    for chain in chains:
        path: list[tuple[int, int]] = []
        place: dict[tuple[int, int], int] = {}
        for point in chain:
            if point in place:
                first = place[point]
                rings.append(path[first:])
                for gone in path[first:]:
                    del place[gone]
                del path[first:]
            place[point] = len(path)
            path.append(point)
        rings.append(path)
    return [_from_top_left(np.array(ring, np.int64)) for ring in rings]


def _from_top_left(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.roll(ring, -int(np.lexsort((ring[:, 0], ring[:, 1]))[0]), axis=0)
