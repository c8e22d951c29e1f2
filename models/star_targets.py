"""What a star network is to learn, from labelled pictures: objectness and the way to the border, pixel by
pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.models.star_network import STRIDE

Labels = NDArray[np.int32]


def directions(rays: int) -> NDArray[np.float64]:
    """Unit vectors (rays, 2) as x, y; the first to the right, then clockwise as y grows downwards."""
    angles = 2 * math.pi * np.arange(rays) / rays
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def star_targets(
    labels: Labels, rays: int, where: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(objectness (h / 2, w / 2), distances (rays, h / 2, w / 2) in pixels) of a label image int32 (h, w).

    Objectness is the distance to the nearest pixel of another label over its largest value in the same
    object:
    1 in the middle, falling to the border, 0 outside (Schmidt et al. 2018). Sides must be even. A border of
    the
    array counts as one of the object: mask what lies near it. Distances are 0 outside, and where `where`
    (h / 2, w / 2) is false.
    """
    depth = _depth(labels)
    small = labels[::STRIDE, ::STRIDE]
    greatest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(greatest, small, depth[::STRIDE, ::STRIDE])
    objectness = np.where(small > 0, depth[::STRIDE, ::STRIDE] / np.maximum(greatest[small], 1e-6), 0)
    return objectness.astype(np.float32), _march(
        labels, depth, small * where if where is not None else small, rays
    )


def _depth(labels: Labels) -> NDArray[np.float32]:
    """Distance of each object's pixels to the first that is not of it; touching objects part at their
    border."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        first = [slice(None)] * 2
        second = [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
    inside = (labels > 0) & ~edge
    inner = np.asarray(cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 5))[1:-1, 1:-1]
    return np.where(labels > 0, inner + 1, 0).astype(np.float32)


def _march(labels: Labels, depth: NDArray[np.float32], small: Labels, rays: int) -> NDArray[np.float32]:
    """Along each ray from each object pixel, the length at which its label ends, to half a pixel.

    A ray steps as far as the depth where it stands allows: no border is nearer.
    """
    row, column = (index.astype(np.float32) * STRIDE for index in np.nonzero(small))
    owner = small[small > 0]
    found = np.zeros((rays, *small.shape), np.float32)
    bounds = np.array(labels.shape, np.float32)[:, None] - 0.5
    for number, (dx, dy) in enumerate(directions(rays).astype(np.float32)):
        length = np.zeros(len(row), np.float32)
        going = np.arange(len(row))
        step = depth[::STRIDE, ::STRIDE][small > 0]
        while len(going):
            length[going] += np.maximum(step - 1, 1)
            places = np.stack([row[going] + dy * length[going], column[going] + dx * length[going]])
            within = ((places > -0.5) & (places < bounds)).all(axis=0)
            y, x = np.rint(np.where(within, places, 0)).astype(np.intp)
            within &= labels[y, x] == owner[going]
            length[going[~within]] -= 0.5
            going, step = going[within], depth[y, x][within]
        found[number][small > 0] = length
    return found


def box_targets(
    boxes: NDArray[np.float32], classes: NDArray[np.intp], shape: tuple[int, int], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(objectness (count, h / 2, w / 2), distances (4, h / 2, w / 2)) of boxes (n, 4) as x0, y0, x1, y1 in
    pixels.

    `classes`: (n,), below `count`; `shape`: (h, w). Objectness falls from 1 in the middle of a box to 0 at
    the
    border of the ellipse inscribed in it, the shape of a cell. Where two overlap, a pixel is of the one whose
    middle is nearer, in units of its own size.
    """
    height, width = shape[0] // STRIDE, shape[1] // STRIDE
    objectness = np.zeros((count, height, width), np.float32)
    distances = np.zeros((4, height, width), np.float32)
    best = np.zeros((height, width), np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32) * STRIDE
    for (x0, y0, x1, y1), kind in zip(boxes, classes, strict=True):
        across, down = max(x1 - x0, 1) / 2, max(y1 - y0, 1) / 2
        off = np.hypot((x - (x0 + x1) / 2) / across, (y - (y0 + y1) / 2) / down)
        value = np.clip(1 - off, 0, 1)
        nearer = value > best
        best[nearer] = value[nearer]
        objectness[:, nearer] = 0
        objectness[kind][nearer] = value[nearer]
        for number, reach in enumerate((x1 - x, y1 - y, x - x0, y - y0)):
            distances[number][nearer] = reach[nearer]
    return objectness, distances
