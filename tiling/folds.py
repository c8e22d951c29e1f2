"""Folds: narrow strips of tissue that lies on itself.

Two layers absorb twice as much, each dye twice (Beer-Lambert): a fold is a long strip denser than the tissue
around it, in the same dyes. Density is what "saturation less intensity" stands for in the methods of
Palokangas et al. (2007, IEEE EMBC 29:5641) and Kothari et al. (2013, J Pathol Inform 4:22), who adapts the
threshold to each slide; here it is one to the tissue around each place.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.glass import Density, bands
from coverslip.tiling.regions import Mask, close, dilate, drop_small, open_

Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FoldSettings:
    """Lengths are µm; densities log10 above the glass, the mean of three channels."""

    # Nuclei vanish, a fold of 30 µm stays.
    blur_um: float = 8.0
    # How far around a place its tissue is compared with: wider than the widest fold.
    around_um: float = 250.0
    # Two layers are twice as dense; blur and what the local mean holds of the fold itself leave this much.
    denser: float = 1.5
    # Paler tissue that is twice as dense is still paler than much that is not folded.
    least: float = 0.15
    # Wider dense parts are lymphoid tissue, blood, tumour; longer than this, and this many times longer than
    # wide, is no gland or vessel cut across.
    widest_um: float = 200.0
    shortest_um: float = 250.0
    slender: float = 4.0
    # Furthest that a fold's colour (HSD chromaticity) may be from that of the tissue along it.
    furthest_colour: float = 0.2
    # Least share of what lies along it that is solid tissue, and how dense that is for what is around:
    # epithelium along a lumen and dense rims have glass or threads on one side.
    least_solid: float = 0.75
    solid: float = 0.5

    def __post_init__(self) -> None:
        numbers = (self.blur_um, self.around_um, self.least, self.widest_um, self.shortest_um)
        if min(numbers) <= 0 or self.denser <= 1 or self.slender < 1:
            raise RequestError(
                "fold settings", "hold a value out of range", "give positive values, denser > 1"
            )


def find_folds(density: Density, tissue: Mask, mpp: float, settings: FoldSettings) -> Mask:
    """Where tissue is folded: bool (h, w), inside `tissue`. `mpp`: µm per pixel, 1 to 20."""
    none = np.zeros(tissue.shape, bool)
    if max(tissue.shape) * mpp < settings.shortest_um or not tissue.any():
        return none
    mean = _blurred(mean_density(density), settings.blur_um / mpp)
    # Weighted by the root of the densities: gaps and threads then do not make solid tissue look dense, nor
    # does a dark spot make what is around it look pale.
    weight = np.sqrt(np.where(tissue, np.maximum(mean, 0), 0))
    around = local_mean(mean, weight, settings.around_um / mpp)
    solid = tissue & (mean >= settings.solid * around)
    dense = tissue & (mean >= settings.denser * around) & (mean >= settings.least)
    dense &= ~open_(dense, settings.widest_um / 2 / mpp)
    dense = drop_small(close(dense, settings.blur_um / mpp), settings.shortest_um * settings.blur_um / mpp**2)
    found = none
    for part, corner in _parts(dense):
        if _is_long(part, mpp, settings) and _is_same(density, solid, dense, part, corner, mpp, settings):
            place = found[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]]
            place |= part
    return dilate(found, settings.blur_um / mpp) & tissue


def mean_density(density: Density) -> Plane:
    """Of the three channels: float32 (h, w)."""
    mean = np.empty(density.shape, np.float32)
    for start, stop in bands(density.shape):
        mean[start:stop] = density.rows(start, stop).mean(axis=2)
    return mean


def local_mean(values: Plane, weight: Plane, sigma: float) -> Plane:
    """Gaussian mean of the values, weighted; worked out on a picture a quarter of `sigma` fine."""
    step = max(1, int(sigma / 4))
    size = max(1, values.shape[1] // step), max(1, values.shape[0] // step)
    total, count = (
        cv2.GaussianBlur(cv2.resize(part, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / step)
        for part in (values * weight, weight)
    )
    mean = np.asarray(total, np.float32) / np.maximum(np.asarray(count, np.float32), 1e-6)
    whole = values.shape[1], values.shape[0]
    return np.asarray(cv2.resize(mean, whole, interpolation=cv2.INTER_LINEAR), np.float32)


def _blurred(values: Plane, sigma: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), max(sigma, 0.5)), np.float32)


def _parts(mask: Mask) -> list[tuple[Mask, tuple[int, int]]]:
    """Each connected part in its bounding box, and the box's (row, column)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = []
    for number, (left, top, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        box = np.asarray(labels)[top : top + height, left : left + width]
        found.append((box == number, (top, left)))
    return found


def _is_long(part: Mask, mpp: float, settings: FoldSettings) -> bool:
    """Long enough, and slender: its length is what its half perimeter is longer than its width."""
    outline = max(
        cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len
    )
    length = cv2.arcLength(outline, True) / 2 * mpp
    width = float(part.sum()) * mpp**2 / max(length, mpp)
    extent = max(cv2.minAreaRect(outline)[1]) * mpp
    return extent >= settings.shortest_um and length >= settings.slender * width


def _is_same(
    density: Density,
    solid: Mask,
    dense: Mask,
    part: Mask,
    corner: tuple[int, int],
    mpp: float,
    settings: FoldSettings,
) -> bool:
    """Whether it has the dyes of the tissue along both its sides."""
    reach = int(np.ceil(settings.widest_um / 2 / mpp)) + 1
    top, left = max(0, corner[0] - reach), max(0, corner[1] - reach)
    bottom, right = corner[0] + part.shape[0] + reach, corner[1] + part.shape[1] + reach
    where = np.s_[top:bottom, left:right]
    inside = np.zeros(solid[where].shape, bool)
    first, second = corner[0] - top, corner[1] - left
    inside[first : first + part.shape[0], second : second + part.shape[1]] = part
    beside = dilate(inside, reach - 1) & ~dilate(inside, settings.blur_um / mpp)
    along = beside & solid[where] & ~dense[where]
    if (beside & solid[where]).sum() < settings.least_solid * beside.sum() or not along.any():
        return False
    colours = density.rows(top, min(bottom, density.shape[0]))[:, left:right]
    gap = _chroma(colours[inside]) - _chroma(colours[along])
    return float(np.hypot(*gap)) <= settings.furthest_colour


def _chroma(density: NDArray[np.float32]) -> NDArray[np.float64]:
    """HSD chromaticity (van der Laak et al. 2000, Cytometry 39:275) of the summed densities (n, 3)."""
    red, green, blue = np.maximum(density, 0).sum(axis=0, dtype=np.float64)
    mean = max((red + green + blue) / 3, 1e-9)
    return np.array([red / mean - 1, (green - blue) / (np.sqrt(3) * mean)])
