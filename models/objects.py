"""What every finder of nuclei and cells gives, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Objects of one picture, arrays of length n; object i is drawn as label i + 1.

    Pixels of the picture; the centre of the first is at (0.5, 0.5). `x`, `y`: the outline's centroid.
    `outlines`: of each, float32 (points, 2) as x, y, closed by its first point. `kind`: number into the
    finder's classes. `score`: 0 to 1; NaN where the finder states none. `labels`: int32 (h, w), 0 outside.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    outlines: Sequence[NDArray[np.float32]]
    kind: NDArray[np.intp]
    score: NDArray[np.float32]
    labels: Labels

    def __len__(self) -> int:
        return len(self.x)


class Finder(Protocol):
    """Finds objects in a picture; nothing in it changes from call to call, threads share one."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def mpp(self) -> float:
        """µm per pixel of the pictures it wants."""
        ...

    @property
    def margin(self) -> int:
        """Pixels around an object that decide on it: a picture cut with this halo gives the objects of its
        core that the whole picture gives."""
        ...

    @property
    def step(self) -> int:
        """Pictures begin on multiples of this many pixels, so that a place is looked at alike from each."""
        ...

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        """All objects of a picture uint8 (h, w, 3), also those its edge cuts."""
        ...


def centroids(outlines: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, y) of the areas that polygons enclose; of one without area the mean of its points.

    The formula is that of the shoelace (Bourke 1988, "Calculating the area and centroid of a polygon").
    """
    found = np.array([_centroid(np.asarray(points, np.float64)) for points in outlines]).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _centroid(points: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = points.mean(axis=0)
    here = points - middle
    following = np.roll(here, -1, axis=0)
    cross = here[:, 0] * following[:, 1] - following[:, 0] * here[:, 1]
    area = cross.sum() / 2
    if abs(area) < 1e-6:
        return middle
    return middle + ((here + following) * cross[:, None]).sum(axis=0) / (6 * area)


def areas(outlines: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Square pixels that each polygon encloses (the shoelace formula)."""
    return np.array([cv2.contourArea(points.astype(np.float32)) for points in outlines], np.float64)


def outlines_of(labels: Labels) -> list[NDArray[np.float32]]:
    """The outer outline of each label, 1 to n without gaps, a quarter of a pixel inside the label's edge.

    OpenCV's contour goes through the centres of the outermost pixels, half a pixel inside: here of an image
    twice as large.
    """
    outlines = []
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        inside = (labels[window] == number).astype(np.uint8)
        twice = np.pad(np.kron(inside, np.ones((2, 2), np.uint8)), 1)
        contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        points = max(contours, key=cv2.contourArea).reshape(-1, 2).astype(np.float32)
        # Twice as large and padded by one: pixel k of it lies between (k − 1) / 2 and k / 2.
        outlines.append((points - 0.5) / 2 + np.array([window[1].start, window[0].start], np.float32))
    return outlines
