"""Shapes on a mask, in µm: closing, filling, leaving out what is small."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def dilate(mask: Mask, radius_px: float) -> Mask:
    """All pixels within `radius_px` (centre to centre) of a True one; exact discs."""
    if not mask.any() or radius_px < 1:
        return mask
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away) <= radius_px


def erode(mask: Mask, radius_px: float) -> Mask:
    """All pixels further than `radius_px` from a False one; the picture's edge does not eat."""
    return ~dilate(~mask, radius_px)


def close(mask: Mask, radius_px: float) -> Mask:
    """Joins what is nearer than 2 × `radius_px`, and keeps outer outlines."""
    if radius_px < 1 or not mask.any():
        return mask
    pad = int(np.ceil(radius_px)) + 1
    wide = dilate(np.pad(mask, pad), radius_px)
    return erode(wide, radius_px)[pad:-pad, pad:-pad] | mask


def open_(mask: Mask, radius_px: float) -> Mask:
    """Keeps only what a disc of `radius_px` fits into."""
    return dilate(erode(mask, radius_px), radius_px)


def drop_small(mask: Mask, smallest_px: float) -> Mask:
    """Without connected parts (touching corners count) of fewer than `smallest_px` pixels."""
    count, labels, stats = _parts(mask, 8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest_px
    keep[0] = False
    return keep[labels] if count > 1 else mask


def fill_small(mask: Mask, largest_px: float) -> Mask:
    """With holes of at most `largest_px` pixels filled; what touches the picture's edge is no hole."""
    count, labels, stats = _parts(~mask, 4)
    fill = stats[:, cv2.CC_STAT_AREA] <= largest_px
    fill[0] = False
    at_edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    fill[at_edge] = False
    return mask | fill[labels] if count > 1 else mask


def _parts(mask: Mask, connectivity: int) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """How many connected parts (and 1), which one each pixel belongs to (0 is none), OpenCV's statistics."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    return count, np.asarray(labels, np.int32), np.asarray(stats, np.int32)
