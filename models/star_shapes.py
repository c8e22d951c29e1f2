"""From what a star network says of each pixel to objects: the surest first, none over another."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.models.star_network import STRIDE
from coverslip.models.star_targets import directions

# Outlines are drawn in sixteenths of a pixel.
SHIFT = 4
# Points of an ellipse.
ROUND = 32


@dataclass(frozen=True, slots=True, eq=False)
class Stars:
    """Objects, the surest first; arrays of length n. Pixels of the picture, the centre of the first at (0,
    0).

    `centre`: (n, 2) as x, y, the pixel that spoke for the object; `distances`: (n, rays) from there to the
    border; `kind`: class number; `score`: 0 to 1.
    """

    centre: NDArray[np.float32]
    distances: NDArray[np.float32]
    kind: NDArray[np.intp]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    @property
    def outlines(self) -> NDArray[np.float32]:
        """(n, points, 2) as x, y: the ends of the rays; of a box the ellipse in it, which is a cell's
        shape."""
        rays = self.distances.shape[1]
        if rays == 4:
            low, high = self.boxes[:, None, :2], self.boxes[:, None, 2:]
            ends = (low + high) / 2 + (high - low) / 2 * directions(ROUND)
        else:
            ends = self.centre[:, None] + self.distances[..., None] * directions(rays)
        return ends.astype(np.float32)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(n, 4) as x0, y0, x1, y1."""
        if self.distances.shape[1] == 4:
            right, down, left, up = self.distances.T
            x, y = self.centre.T
            return np.stack([x - left, y - up, x + right, y + down], axis=1)
        ends = self.outlines
        return np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)

    def take(self, rows: NDArray) -> Stars:
        """These rows alone."""
        return Stars(self.centre[rows], self.distances[rows], self.kind[rows], self.score[rows])


def find_candidates(
    objectness: NDArray[np.float32], distances: NDArray[np.float32], threshold: float
) -> Stars:
    """Pixels that speak loudest among their eight neighbours: objectness (classes, h, w), 0 to 1, distances
    (rays, h, w) in pixels of the picture, both on the network's grid. Of equal neighbours the first
    counts."""
    loudest = objectness.max(axis=0)
    around = np.asarray(cv2.dilate(loudest, np.ones((3, 3), np.uint8)))
    row, column = np.nonzero((loudest >= threshold) & (loudest == around))
    score = loudest[row, column]
    order = np.lexsort((column, row, -score))
    row, column = row[order], column[order]
    centre = STRIDE * np.stack([column, row], axis=1).astype(np.float32)
    return Stars(
        centre,
        np.maximum(distances[:, row, column].T, 1),
        objectness[:, row, column].argmax(axis=0),
        score[order],
    )


def suppress_boxes(found: Stars, most: float) -> Stars:
    """Those whose box shares at most `most` (intersection over union) with that of any surer one kept."""
    boxes = found.boxes
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for row, box in enumerate(boxes):
        others = boxes[kept]
        side = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        shared = np.prod(np.maximum(side, 0), axis=1)
        if not (shared > most * (area[row] + area[kept] - shared)).any():
            kept.append(row)
    return found.take(np.array(kept, np.intp))


def draw_stars(
    found: Stars, shape: tuple[int, int], most: float
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """(labels int32 (h, w), rows drawn): the surest first; one more than `most` of which is drawn over
    already
    is left out, and one drawn keeps to what is free. Label n is that of the n-th row drawn."""
    labels = np.zeros(shape, np.int32)
    drawn: list[int] = []
    for row, outline in enumerate(found.outlines):
        x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, shape[::-1])
        if x0 >= x1 or y0 >= y1:
            continue
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        points = np.rint((outline - (x0, y0)) * 2**SHIFT).astype(np.int32)
        cv2.fillPoly(inside, [points], 1, shift=SHIFT)
        window = labels[y0:y1, x0:x1]
        free = (inside > 0) & (window == 0)
        if np.count_nonzero(free) <= (1 - most) * np.count_nonzero(inside):
            continue
        drawn.append(row)
        window[free] = len(drawn)
    return labels, np.array(drawn, np.intp)
