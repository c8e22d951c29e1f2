"""Folds: narrow strips of tissue that lies on itself.

Two layers absorb twice as much, each dye twice (Beer-Lambert): a fold is a long strip denser than the tissue
around it, in the same dyes. Density is what "saturation less intensity" stands for in the methods of
Palokangas et al. (2007, IEEE EMBC 29:5641) and Kothari et al. (2013, J Pathol Inform 4:22), who adapts the
threshold to each slide; here it is one to the tissue around each place.

Pale tissue is too uneven for that: its own gaps and nuclei are denser or paler than their surroundings by as
much. There a strip is told by being denser than what lies along both its sides, each averaged over a length
that no gland's wall or row of nuclei keeps straight.
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
# About the resolution that pieces are averaged at: a fold of 40 µm is 3 px wide.
PIECES_MPP = 13.0
DIRECTIONS = 12
# Least share of a piece that lies on tissue, and the palest that a side is taken for (noise of the glass).
TISSUE_ALONG, PALEST = 0.6, 0.02


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
    # Where the tissue around is paler than `least`; denser epithelium has dense strips of its own. A piece
    # of a strip: standard deviations, along and across, over which densities are averaged;
    # how far from its middle its sides are; how many times denser than the denser side it is; how dense.
    piece_um: tuple[float, float] = (90.0, 14.0)
    sides_um: tuple[float, ...] = (60.0, 95.0)
    denser_than_sides: float = 1.65
    least_of_piece: float = 0.08

    def __post_init__(self) -> None:
        numbers = (self.blur_um, self.around_um, self.least, self.widest_um, self.shortest_um)
        numbers += (*self.piece_um, *self.sides_um, self.least_of_piece)
        if min(numbers) <= 0 or min(self.denser, self.denser_than_sides) <= 1 or self.slender < 1:
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
    strips = tissue & (mean >= settings.least_of_piece) & (around < settings.least)
    strips &= _above_sides(mean, tissue, mpp, settings) >= settings.denser_than_sides
    found = none
    for candidates in (dense, strips):
        joined = close(candidates, settings.blur_um / mpp)
        joined = drop_small(joined, settings.shortest_um * settings.blur_um / mpp**2)
        for part, corner in _parts(joined):
            if _is_long(part, mpp, settings) and _is_same(
                density, solid, joined, part, corner, mpp, settings
            ):
                place = found[corner[0] : corner[0] + part.shape[0], corner[1] : corner[1] + part.shape[1]]
                place |= part
    return dilate(found, settings.blur_um / mpp) & tissue


def _above_sides(mean: Plane, tissue: Mask, mpp: float, settings: FoldSettings) -> Plane:
    """How many times denser a straight piece through each pixel is than the denser of its two sides, in the
    direction in which that is most; 0 where a side is not tissue."""
    factor = max(1, round(PIECES_MPP / mpp))
    size, mpp = (max(1, mean.shape[1] // factor), max(1, mean.shape[0] // factor)), mpp * factor
    weight = cv2.resize(tissue.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    values = cv2.resize(np.where(tissue, mean, 0), size, interpolation=cv2.INTER_AREA)
    most = np.zeros(weight.shape, np.float32)
    for turn in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        kernel = _piece(turn, settings.piece_um[0] / mpp, settings.piece_um[1] / mpp)
        held, total = (
            cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_CONSTANT) for plane in (weight, values)
        )
        piece = np.where(held > TISSUE_ALONG, total / np.maximum(held, TISSUE_ALONG), np.inf)
        for away in settings.sides_um:
            x, y = -np.sin(turn) * away / mpp, np.cos(turn) * away / mpp
            denser = np.maximum(_moved(piece, x, y), _moved(piece, -x, -y))
            above = np.where(np.isfinite(piece), piece, 0) / np.maximum(denser, PALEST)
            most = np.maximum(most, above)
    whole = mean.shape[1], mean.shape[0]
    return np.asarray(cv2.resize(most, whole, interpolation=cv2.INTER_LINEAR), np.float32)


def _piece(turn: float, along: float, across: float) -> Plane:
    """Gaussian weights of a straight piece, summing to 1; `turn`: radians; `along`, `across`: pixels."""
    reach = int(np.ceil(2.5 * along))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    far, beside = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    weights = np.exp(-((far / along) ** 2 + (beside / across) ** 2) / 2)
    return np.asarray(weights / weights.sum(), np.float32)


def _moved(plane: NDArray[np.floating], x: float, y: float) -> Plane:
    """By whole pixels; what comes in from beyond the border is infinite."""
    right, down = round(x), round(y)
    moved = np.full(plane.shape, np.inf, np.float32)
    height, width = plane.shape
    if abs(right) < width and abs(down) < height:
        to = np.s_[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
        of = np.s_[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
        moved[to] = plane[of]
    return moved


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
