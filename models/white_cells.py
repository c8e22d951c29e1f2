"""White cells of a Romanowsky-stained smear by classical means: purple nuclei, and the cell around each.

Azure and eosin together turn chromatin purple, which passes blue and stops green; haemoglobin and glass pass
or stop both alike. So log10(blue / green) is high in nuclei of white cells, near 0 elsewhere, and does not
change with the lamp's brightness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.objects import Labels, Objects, outlines_of

Mask = NDArray[np.uint8]
# A Gaussian is cut off after so many standard deviations.
REACH = 3.0


@dataclass(frozen=True, slots=True)
class WhiteCellSettings:
    """How white cells are found. Lengths are µm of glass.

    `purple`: least log10(blue / green) of a nucleus. Over the middle of white cells it is 0.24 in Giemsa (46
    of BCCD) and up to 0.38 in May-Grünwald-Giemsa, 0.0 in red cells, −0.1 in yellowish glass; from 0.09 to
    0.15 the same cells are found. `blur_um`: before it is compared; less than a lobe. `open_um`: radius of
    what is too thin to be a nucleus; `join_um`: half of the widest gap between lobes of one nucleus.
    `least_um2`: smallest nucleus, lobes together: more than most platelets, half of a small lymphocyte's.
    `most_um2`: of the largest cell, which only the halo of tiles rests on. `grow_um`: cytoplasm around the
    nucleus, so that boxes of cells are met best (mean overlap 0.80 on BCCD).
    """

    purple: float = 0.12
    blur_um: float = 0.3
    open_um: float = 0.5
    join_um: float = 1.25
    least_um2: float = 14.0
    most_um2: float = 450.0
    grow_um: float = 1.25

    def __post_init__(self) -> None:
        lengths = (self.blur_um, self.open_um, self.join_um, self.grow_um)
        if not all(0 <= length < inf for length in lengths) or not self.purple > 0:
            raise RequestError("white cell settings", "are negative", "give lengths of at least 0, in µm")
        if not 0 < self.least_um2 < self.most_um2 < inf:
            raise RequestError("white cell settings", "leave no area", "give least_um2 below most_um2")


@dataclass(frozen=True, slots=True)
class WhiteCellFinder:
    """Purple nuclei with their cytoplasm: a `coverslip.models.objects.Finder`.

    Cells whose nuclei are nearer than twice `join_um` are one. What makes it uncertain whether one is a
    leukocyte at all (erythroblasts, giant platelets, smudges, stain) is for a classifier to say.
    """

    settings: WhiteCellSettings = field(default_factory=WhiteCellSettings)
    mpp: float = 0.25
    step: int = 1
    classes: tuple[str, ...] = ("WBC",)

    @property
    def margin(self) -> int:
        """The reach of the filters, and the largest cell from side to side."""
        chosen = self.settings
        filters = REACH * chosen.blur_um + 2 * (chosen.open_um + chosen.join_um) + chosen.grow_um
        return ceil((filters + 2 * sqrt(chosen.most_um2 / np.pi)) / self.mpp) + 4

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise RequestError(f"a picture {rgb.dtype} {rgb.shape}", "is not RGB", "give uint8 (h, w, 3)")
        labels, surety = self._label(rgb) if rgb.size else (None, np.zeros(0, np.float32))
        if labels is None or not len(surety):
            return _nothing(rgb.shape[0], rgb.shape[1])
        n = len(surety)
        pixels = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        down, right = np.nonzero(labels)
        owner = labels[down, right]
        x, y = (np.bincount(owner, at, n + 1)[1:] / np.maximum(pixels, 1) + 0.5 for at in (right, down))
        return Objects(x, y, outlines_of(labels), np.zeros(n, np.intp), surety, labels)

    def _label(self, rgb: NDArray[np.uint8]) -> tuple[Labels, NDArray[np.float32]]:
        """Cells as labels without gaps, and of each how purple its nucleus is (see `_surety`)."""
        purple = purpleness(rgb, self.settings.blur_um / self.mpp)
        nuclei = (purple > self.settings.purple).astype(np.uint8)
        nuclei = cv2.morphologyEx(nuclei, cv2.MORPH_OPEN, self._disc(self.settings.open_um))
        joined = cv2.morphologyEx(nuclei, cv2.MORPH_CLOSE, self._disc(self.settings.join_um))
        count, parts = cv2.connectedComponents(np.asarray(joined, np.uint8), connectivity=8, ltype=cv2.CV_32S)
        owner = (np.asarray(parts, np.int32) * nuclei).ravel()
        pixels = np.bincount(owner, minlength=count)
        pixels[0] = 0
        large = pixels * self.mpp**2 >= self.settings.least_um2
        mean = np.bincount(owner, purple.ravel(), count)[large] / pixels[large]
        number = np.zeros(count, np.int32)
        number[large] = np.arange(1, large.sum() + 1)
        return self._grow(number[np.asarray(parts, np.int32)]), _surety(mean, self.settings.purple)

    def _grow(self, labels: Labels) -> Labels:
        """Each label by `grow_um`; where two meet, a pixel goes to the nearer."""
        if not labels.any():
            return labels
        outside = (labels == 0).astype(np.uint8)
        distance, pixel = cv2.distanceTransformWithLabels(
            outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        nearest = np.asarray(pixel, np.int32)
        owner = np.zeros(int(nearest.max()) + 1, np.int32)
        inside = labels > 0
        owner[nearest[inside]] = labels[inside]
        return np.where(distance <= self.settings.grow_um / self.mpp, owner[nearest], 0).astype(np.int32)

    def _disc(self, radius_um: float) -> Mask:
        side = 2 * round(radius_um / self.mpp) + 1
        return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _nothing(height: int, width: int) -> Objects:
    none = np.zeros(0)
    labels = np.zeros((height, width), np.int32)
    return Objects(none, none, [], np.zeros(0, np.intp), np.zeros(0, np.float32), labels)


def purpleness(rgb: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """log10((blue + 1) / (green + 1)) after a Gaussian of `sigma` pixels: float32 (h, w).

    >>> round(float(purpleness(np.full((4, 4, 3), (120, 49, 159), np.uint8), 1)[0, 0]), 3)
    0.505
    """
    table = np.log10(np.arange(1, 257)).astype(np.float32)
    difference = table[rgb[..., 2]] - table[rgb[..., 1]]
    if sigma <= 0 or not difference.size:
        return difference
    side = 2 * ceil(REACH * sigma) + 1
    return np.asarray(cv2.GaussianBlur(difference, (side, side), sigma), np.float32)


def _surety(purple: NDArray[np.float64], least: float) -> NDArray[np.float32]:
    """0 to 1: how far the nucleus is above the threshold, 0.5 at it; no probability."""
    return (purple / (purple + least)).astype(np.float32)
