"""Nuclei of a smear stained by Papanicolaou, and clumps in which none can be told apart.

Cytoplasm in this stain is cyan, pink or orange: each takes up red light or green light, but hardly both.
Haematoxylin takes up both. So the optical density that red and green have in common (the lesser of the two)
shows nuclei as they are and cytoplasm hardly at all; outlines are then found as in `coverslip.models.nuclei`.
That common density is ours, tried on CRIC's fields; it needs no stain vectors, which differ from one
laboratory's orange G and eosin-azure to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.models.nuclei import (
    RING_UM,
    Nuclei,
    NucleiSettings,
    find_nuclei,
    margin_um,
    measure_nuclei,
)
from coverslip.models.objects import Labels, Objects, areas, outlines_of

NUCLEUS, SMALL, CLUMP = "nucleus", "small body", "clump"
# log10 optical density of each 8-bit value; 0 counts as 1. On white: what opening takes off the density
# between nuclei takes off the glass's own colour, too.
DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PapSettings:
    """What counts as a nucleus of an epithelial cell. Areas in µm², densities in log10 optical density.

    `background_um`: half side of the opening that estimates what lies between nuclei; wider than for
    histology, as a nucleus of LSIL is up to 20 µm across. `threshold`: least mean density above that;
    `contrast`: least above the rim.
    `smallest_um2`: below it an object is a small body: neutrophils, lobes of them, pyknotic remains. An
    intermediate cell's nucleus has some 35 µm² (Bethesda's yardstick), a superficial one's 15 to 20.
    `largest_um2`: above it a clump. `solidity`: least share of its convex hull that a nucleus fills; one that
    is less than `dark` above its rim must fill `pale_solidity` and be no longer than `pale_length` times its
    width: folds of cytoplasm are as dark, but neither round nor smooth.

    The densities and shapes were chosen on the training and validation parts of CRIC's cells.
    """

    background_um: float = 12.0
    threshold: float = 0.08
    contrast: float = 0.07
    smallest_um2: float = 18.0
    largest_um2: float = 400.0
    solidity: float = 0.7
    dark: float = 0.15
    pale_solidity: float = 0.88
    pale_length: float = 2.0

    @property
    def nuclei(self) -> NucleiSettings:
        # Clumps up to twice the largest nucleus are outlined, too: they are counted as what they are.
        return NucleiSettings(
            dab_weight=0.0,
            background_um=self.background_um,
            threshold=self.threshold,
            contrast=self.contrast,
            max_area_um2=2 * self.largest_um2,
        )


@dataclass(frozen=True, slots=True)
class PapFinder:
    """A `coverslip.models.objects.Finder` of nuclei, small bodies and clumps. It states no scores."""

    settings: PapSettings = field(default_factory=PapSettings)
    mpp: float = 0.5
    classes: tuple[str, ...] = (NUCLEUS, SMALL, CLUMP)
    step: int = 1

    @property
    def margin(self) -> int:
        return ceil(margin_um(self.settings.nuclei) / self.mpp)

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        density = common_density(rgb)
        labels = find_nuclei(density, np.zeros_like(density), self.mpp, self.settings.nuclei)
        outlines = outlines_of(labels)
        found = measure_nuclei(labels, density, density, self.mpp)
        kind = self._kinds(found, outlines, found.haematoxylin - self._rims(labels, density))
        return Objects(found.x, found.y, outlines, kind, np.full(len(found), np.nan, np.float32), labels)

    def _kinds(
        self, found: Nuclei, outlines: list[NDArray[np.float32]], contrast: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        choices, filled = self.settings, solidity(outlines)
        smooth = (filled >= choices.pale_solidity) & (lengths(outlines) <= choices.pale_length)
        nuclear = (filled >= choices.solidity) & ((contrast >= choices.dark) | smooth)
        nuclear &= found.area_um2 <= choices.largest_um2
        return np.where(found.area_um2 < choices.smallest_um2, 1, np.where(nuclear, 0, 2)).astype(np.intp)

    def _rims(self, labels: Labels, density: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean density within `RING_UM` outside each; 0 where other objects take all of it."""
        side = 2 * round(RING_UM / self.mpp) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        rim = np.asarray(cv2.dilate(labels.astype(np.float32), disc)).astype(np.int64)
        rim[labels > 0] = 0
        n = int(labels.max(initial=0)) + 1
        pixels = np.bincount(rim.ravel(), minlength=n)[1:]
        return np.bincount(rim.ravel(), density.ravel(), n)[1:] / np.maximum(pixels, 1)


def common_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """log10 optical density that red and green light have in common: uint8 (h, w, 3) to float32 (h, w).

    >>> cyan, nucleus = [60, 200, 210], [60, 60, 120]
    >>> common_density(np.array([[cyan, nucleus]], np.uint8)).astype(float).round(2).tolist()
    [[0.11, 0.63]]
    """
    # The lesser density is the brighter value's.
    return DENSITY[np.maximum(rgb[..., 0], rgb[..., 1])]


def solidity(outlines: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Area over the area of the convex hull of each outline, 0 to 1."""
    hulls = [np.asarray(cv2.convexHull(points), np.float32).reshape(-1, 2) for points in outlines]
    return areas(outlines) / np.maximum(areas(hulls), 1e-9)


def lengths(outlines: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Length over width of the smallest rectangle about each outline, at least 1."""
    sides = np.array([cv2.minAreaRect(points)[1] for points in outlines]).reshape(-1, 2)
    return sides.max(axis=1) / np.maximum(sides.min(axis=1), 1e-3)
