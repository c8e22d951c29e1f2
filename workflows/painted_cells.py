"""Cells whose outlines nobody kept, drawn from the label image their finder painted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.mosaic import Shown, TileCache
from coverslip.workflows.overlays import LabelImage
from coverslip.wsi import Box, Size


@dataclass(frozen=True, eq=False)
class PaintedCells:
    """Patches of a label image (any value but 0), each given to the cell whose centre lies in it.

    Where one patch holds the centres of several cells, which touch, each pixel goes to the nearest centre.
    `levels` share `cache` under numbers from `number` on.
    """

    label: LabelImage
    cache: TileCache
    number: int

    def draw(
        self,
        values: NDArray,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        box: Box,
        downsample: int,
        far: int,
    ) -> NDArray:
        """Pixels of a box of a level of `downsample` level-0 pixels each.

        `x`, `y` (n,): centres in pixels from the box's corner, also of cells around it, as far as `far`
        pixels; `values` (n,), not 0: what each is drawn as. Cells without a patch are not drawn.
        """
        patches = self._patches(box, downsample, far)
        height, width = patches.shape
        column, line = (np.floor(v).astype(np.int64) + far for v in (x, y))
        inside = np.flatnonzero((column >= 0) & (column < width) & (line >= 0) & (line < height))
        patch = patches[line[inside], column[inside]]
        inside, patch = inside[patch > 0], patch[patch > 0]
        of_patch = np.zeros(int(patches.max()) + 1, values.dtype)
        of_patch[patch] = values[inside]
        picture = of_patch[patches]
        shared = np.bincount(patch, minlength=len(of_patch)) > 1
        crowded = shared[patch]
        if crowded.any():
            self._divide(picture, patches, shared, inside[crowded], values, x + far, y + far)
        return picture[far : height - far, far : width - far]

    @staticmethod
    def _divide(
        picture: NDArray,
        patches: NDArray[np.int32],
        shared: NDArray[np.bool_],
        cells: NDArray[np.int64],
        values: NDArray,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
    ) -> None:
        """Patches shared by some of `cells` are drawn anew, each pixel as the cell nearest to it."""
        lines, columns = np.nonzero(shared[patches])
        centres = np.stack([x[cells], y[cells]], axis=1)
        from scipy.spatial import KDTree

        _, nearest = KDTree(centres).query(np.stack([columns + 0.5, lines + 0.5], axis=1))
        picture[lines, columns] = values[cells[nearest]]

    def _patches(self, box: Box, downsample: int, far: int) -> NDArray[np.int32]:
        """Which patch each pixel of the box and `far` around it belongs to, 0 for none."""
        wanted = downsample / min(self.label.scale)
        fitting = [n for n, level in enumerate(self.label.levels) if level.downsample <= max(1.0, wanted)]
        number = fitting[-1]
        level = self.label.levels[number]
        rows = self._places(box.y - far, box.height + 2 * far, downsample, 0, level.downsample)
        columns = self._places(box.x - far, box.width + 2 * far, downsample, 1, level.downsample)
        picture = np.zeros((len(rows), len(columns)), np.uint8)
        size = Size(level.shape[1], level.shape[0])
        under = Box(
            int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
        ).clip(size)
        if under is not None:
            pixels = Shown(level, self.number + number, self.cache).pixels(under) > 0
            down = np.flatnonzero((rows >= under.y) & (rows < under.bottom))
            right = np.flatnonzero((columns >= under.x) & (columns < under.right))
            picture[np.ix_(down, right)] = pixels[np.ix_(rows[down] - under.y, columns[right] - under.x)]
        return np.asarray(cv2.connectedComponents(picture, connectivity=4)[1], np.int32)

    def _places(
        self, first: int, count: int, downsample: int, axis: int, coarser: float
    ) -> NDArray[np.int64]:
        """Of so many pixels from `first` on, the label pixel under the centre of each."""
        scale = self.label.scale[axis] * coarser
        # from the slide's corner to the label's: the places of both first centres, half a pixel in
        corner = self.label.translate[axis] + 0.5 - self.label.scale[axis] / 2
        centres = (np.arange(first, first + count) + 0.5) * downsample
        return np.floor((centres - corner) / scale).astype(np.int64)
