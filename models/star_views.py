"""Views of a marked picture to learn from: turned, scaled, cut and stained otherwise each time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.models.pictures import Picture
from coverslip.models.star_network import STRIDE
from coverslip.models.star_targets import box_targets, star_targets

# An object cut by less than this of its box is whole enough to be learnt as one.
LEAST_SEEN = 0.4
# Neighbouring pixels say nearly the same of their object, so distances are worked out for this share of them.
ASKED = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """`rgb`: uint8 (side, side, 3). Targets on the network's grid, side / 2: `objectness` (classes, …),
    `distances` (rays, …) in pixels, `known` (…): where distances are right, which they are not near a cut."""

    rgb: NDArray[np.uint8]
    objectness: NDArray[np.float32]
    distances: NDArray[np.float32]
    known: NDArray[np.bool_]


def draw_view(
    picture: Picture,
    side: int,
    scales: tuple[float, float],
    classes: int,
    rays: int,
    rng: np.random.Generator,
) -> View:
    """A square of `side` px at a scale drawn evenly in its logarithm; outside the picture it is mirrored.

    Pictures with label images are turned by any angle; boxes stay upright, so theirs by quarter turns.
    """
    scale = math.exp(rng.uniform(math.log(scales[0]), math.log(scales[1])))
    quarter = picture.labels is None
    angle = rng.integers(4) * 90.0 if quarter else rng.uniform(0, 360)
    matrix = _placing(picture.rgb.shape[:2], side, scale, angle, bool(rng.integers(2)), rng)
    rgb = cv2.warpAffine(
        _blurred(picture.rgb, scale),
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if picture.labels is None:
        boxes, kinds = _moved(picture, matrix, side)
        objectness, distances = box_targets(boxes, kinds, (side, side), classes)
        return View(np.asarray(rgb, np.uint8), objectness, distances, np.ones(objectness.shape[1:], bool))
    labels = _warped_labels(picture.labels, matrix, side)
    known = _away_from_cuts(labels) & (rng.random((side // STRIDE,) * 2) < ASKED)
    objectness, distances = star_targets(labels, rays, known)
    return View(np.asarray(rgb, np.uint8), objectness[None], distances, known)


def _blurred(rgb: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Before it is made smaller, so that nothing finer than the new pixels is left."""
    if scale >= 0.8:
        return rgb
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 0.4 / scale), np.uint8)


def _placing(
    shape: tuple[int, int], side: int, scale: float, angle: float, mirror: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """2×3: from the picture's pixels to the view's, a place of the picture in the view's middle."""
    turn, flip = math.radians(angle), -1 if mirror else 1
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
    room = [max(length - side / scale, 0) / 2 for length in shape[::-1]]
    middle = [length / 2 + rng.uniform(-free, free) for length, free in zip(shape[::-1], room, strict=True)]
    return np.concatenate([linear, (side / 2 - linear @ middle)[:, None]], axis=1)


def _warped_labels(labels: NDArray[np.int32], matrix: NDArray[np.float64], side: int) -> NDArray[np.int32]:
    # OpenCV warps no int32; a float32 holds every whole number up to 2²⁴.
    warped = cv2.warpAffine(
        labels.astype(np.float32),
        matrix,
        (side, side),
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(warped).astype(np.int32)


def _away_from_cuts(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of objects that the view's edge does not cut, and all that are of none."""
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    cut = np.zeros(int(labels.max(initial=0)) + 1, bool)
    cut[rim] = True
    cut[0] = False
    return ~cut[labels[::STRIDE, ::STRIDE]]


def _moved(
    picture: Picture, matrix: NDArray[np.float64], side: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Boxes in the view's pixels, whole, of those that are seen enough of."""
    corners = picture.boxes.reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    seen = np.clip(boxes, 0, side)
    share = np.prod(seen[:, 2:] - seen[:, :2], axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    keep = share > LEAST_SEEN
    return boxes[keep].astype(np.float32), picture.kinds[keep]
