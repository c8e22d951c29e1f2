"""Means and spreads of colour: Reinhard et al. (2001), IEEE Comput Graph Appl 21(5):34, on stained pixels.

In CIE Lab, as TIAToolbox and StainTools do it, where the paper has Ruderman's lαβ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.dyes import MOST_STRETCH, STAINED_DENSITY, chosen_pixels, each_image, too_few
from coverslip.tiling.stain import H_E, StainVectors
from coverslip.tiling.unfitted import Unfitted
from coverslip.wsi.colour import from_lab, optical_density, to_lab

Three = tuple[float, float, float]

# As large as the rounding of 8 bits: a channel that varies less does not vary.
LEAST_SPREAD = 0.3
# Glass is not moved at all, and what is paler than stained only in part, so that there is no edge.
GLASS_DENSITY = STAINED_DENSITY / 2


@dataclass(frozen=True, slots=True)
class LabStatistics:
    """Mean and standard deviation of L, a and b over the stained pixels of a slide; `n` of them, 0 for a
    reference. `background`: of the picture, which says what is stained."""

    mean: Three
    std: Three
    n: int
    background: tuple[int, int, int] = (255, 255, 255)

    reason: None = field(default=None, init=False, repr=False)

    def towards(self, target: LabStatistics | Unfitted | None = None) -> LabTransfer | Unfitted:
        """How to give this slide's stained pixels the target's statistics; None is `LAB_REFERENCE`.

        Unfitted where the target is, or where a spread would be stretched to noise. Raises RequestError for
        a target of another method.
        """
        target = LAB_REFERENCE if target is None else target
        if isinstance(target, Unfitted):
            return Unfitted(f"the target was not fitted: {target.reason}")
        if not isinstance(target, LabStatistics):
            raise RequestError("target", "has no statistics of Lab", "fit it the same way")
        if any(want > MOST_STRETCH * have for have, want in zip(self.std, target.std, strict=True)):
            return Unfitted("its colours vary too little beside the target's")
        return LabTransfer(self, target)


@dataclass(frozen=True, slots=True)
class LabTransfer:
    """(Lab − mean) × target's std ÷ std + target's mean, of stained pixels; glass stays as it is."""

    source: LabStatistics
    target: LabStatistics

    reason: None = field(default=None, init=False, repr=False)

    def transform(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) or (n, h, w, 3) to the same shape; what sRGB cannot show is held at its edge.

        Raises RequestError for another array.
        """
        return each_image(rgb, self._image)

    def moved(self, lab: NDArray[np.float32]) -> NDArray[np.float32]:
        """Lab (…, 3) of stained pixels in the target's statistics, exactly."""
        ratio = np.asarray(self.target.std) / np.asarray(self.source.std)
        offset = np.asarray(self.target.mean) - np.asarray(self.source.mean) * ratio
        return lab * ratio.astype(np.float32) + offset.astype(np.float32)

    def _image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        density = optical_density(rgb, self.source.background).mean(axis=-1, keepdims=True)
        part = np.clip((density - GLASS_DENSITY) / (STAINED_DENSITY - GLASS_DENSITY), 0, 1)
        moved = from_lab(self.moved(to_lab(rgb)))
        return np.rint(rgb + part * (moved - rgb)).astype(np.uint8)


def fit_reinhard(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, default: StainVectors = H_E
) -> LabStatistics | Unfitted:
    """Statistics of the stained pixels of uint8 (h, w, 3) or (n, h, w, 3); arguments as for `fit_macenko`,
    of `default` only the background counts. Unfitted, with the reason, where there are too few or all are
    alike."""
    pixels = chosen_pixels(rgb, mask)
    stained = optical_density(pixels, default.background).mean(axis=-1) >= STAINED_DENSITY
    few = too_few(int(stained.sum()))
    if few is not None:
        return few
    lab = to_lab(pixels[stained][None])[0].astype(np.float64)
    mean, std = lab.mean(axis=0), lab.std(axis=0)
    if std.min() < LEAST_SPREAD:
        return Unfitted("all of it has one colour")
    return LabStatistics(_three(mean), _three(std), len(lab), default.background)


def _three(values: NDArray[np.float64]) -> Three:
    return float(values[0]), float(values[1]), float(values[2])


# Measured with `fit_reinhard` on TIAToolbox's target image (BSD-3-Clause), a common target of normalisation.
LAB_REFERENCE = LabStatistics((49.58, 31.84, -13.95), (14.72, 6.05, 6.32), 0)
