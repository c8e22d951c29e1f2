"""Nuclei by classical image analysis, from the amounts of stain in each pixel.

The steps are those of QuPath's watershed cell detection (Bankhead et al. 2017, Sci Rep 7:16878):
background taken off by morphological opening, a Laplacian of Gaussian for outlines, a watershed on the
distance map to part touching nuclei, then limits on size and density. It works at about 0.5 µm/px, where
a nucleus is 10 to 30 pixels wide; finer pixels cost more and find no more.

Every filter is local and computed in integers, so that a slide cut into tiles read with a halo of
`margin_um`, keeping from each tile the nuclei whose centroid lies in its core, gives the nuclei of one
large image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError

Amount = NDArray[np.float32]
Labels = NDArray[np.int32]
Fixed = NDArray[np.uint16]
Mask = NDArray[np.uint8]

# Outside, a nucleus is too few pixels to be outlined, or so many that the filters only cost time.
WORKING_MPP = (0.2, 1.0)

# OpenCV's 16-bit Gaussian is exact, its float one depends on where a row begins in memory; a sum of two
# stains of an 8-bit image stays below 8 (65536 / 8192).
STEPS = 8192
# Distances in pixels, likewise, up to 256 px.
DISTANCE_STEPS = 256
# What a Gaussian weighs beyond is 0.3 %.
REACH = 3.0

# Removes noise of single pixels from the background estimate and from contrast, keeps the smallest gaps.
DENOISE_SIGMA_UM = 0.5
# Thin bridges and threads narrower than twice this are no nuclei.
OPEN_UM = 1.0
# Pin-holes of vesicular chromatin.
CLOSE_UM = 0.5
# Rounds the distance map off, so that a ragged outline does not split its nucleus.
DISTANCE_SIGMA_UM = 0.5
# A rim of about three pixels, wide enough to average noise, narrow enough to stay off the next nucleus.
RING_UM = 1.5


@dataclass(frozen=True, slots=True)
class NucleiSettings:
    """How nuclei are found. Lengths in µm of glass, densities in log10 optical density.

    `dab_weight`: share of DAB added to haematoxylin before looking for nuclei. 1 for nuclear markers
    (Ki-67, ER, PR), because DAB hides the haematoxylin of positive nuclei; 0 for membrane and cytoplasm
    markers and for slides without DAB.
    `background_um`: half side of the opening that estimates the density between nuclei (QuPath: 8).
    `sigma_um`: Gaussian before the Laplacian (QuPath: 1.5).
    `threshold`: least mean density of a nucleus above that background (QuPath: 0.1).
    `contrast`: least mean density above the rim just outside it; half the threshold, because the rim of a
    nucleus in a crowd is partly blur of its neighbours. Takes away cytoplasm and fibres. (On H&E, where
    these take haematoxylin too, threshold 0.2 with contrast 0.1 finds fewer that are no nuclei.)
    `peak_um`, `peak_share`: a pixel belongs to a nucleus, whatever the Laplacian says, where it has this
    share of the highest density within `peak_um`: fills pale centres. A blurred edge has half its height
    at the true outline; a little more keeps neighbours apart. 5 µm is the radius of a large nucleus.
    `min_area_um2`, `max_area_um2`: QuPath's limits, 10 and 400.
    `tolerance_um`: a part is a nucleus of its own when the distance map rises by more than this from the
    neck to it (0.5 px of 0.5 µm, as in ImageJ's watershed).
    """

    dab_weight: float = 1.0
    background_um: float = 8.0
    sigma_um: float = 1.5
    threshold: float = 0.1
    contrast: float = 0.05
    peak_um: float = 5.0
    peak_share: float = 0.6
    min_area_um2: float = 10.0
    max_area_um2: float = 400.0
    tolerance_um: float = 0.25

    def __post_init__(self) -> None:
        lengths = (self.background_um, self.sigma_um, self.peak_um, self.tolerance_um, self.max_area_um2)
        shares = (self.dab_weight, self.threshold, self.contrast, self.min_area_um2)
        if not all(0 < value < math.inf for value in lengths):
            raise RequestError(
                "nuclei settings", "have a length or area that is not above 0", "give one in µm"
            )
        if not all(0 <= value < math.inf for value in shares) or not 0 < self.peak_share <= 1:
            raise RequestError("nuclei settings", "have a negative density or share", "give 0 or more")
        if self.min_area_um2 >= self.max_area_um2:
            raise RequestError("nuclei settings", "leave no area", "give min_area_um2 below max_area_um2")

    @property
    def largest_radius_um(self) -> float:
        """Radius of a disc of the largest area."""
        return math.sqrt(self.max_area_um2 / math.pi)


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """One row per nucleus, all arrays of length n, in the order of the labels 1 to n.

    `x`, `y`: centroid in pixels of the array measured, float64; the centre of the top-left pixel is
    (0.5, 0.5), so that times pixel size plus the array's corner is a place on the slide.
    `area_um2`: pixels times mpp². `haematoxylin`, `dab`: mean log10 optical density over the nucleus,
    negative pixels included, as QuPath's "Nucleus: DAB OD mean".
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area_um2: NDArray[np.float64]
    haematoxylin: NDArray[np.float64]
    dab: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)


def margin_um(settings: NucleiSettings) -> float:
    """Width of the halo in which a tile must know its surroundings, in µm of glass.

    The sum of the reach of the filters that decide on a pixel, plus the largest nucleus's radius for the
    distance map and once more for the nucleus itself. Only through a clump of touching nuclei longer
    than its largest nucleus could an influence come from farther.
    """
    background = REACH * DENOISE_SIGMA_UM + 2.5 * settings.background_um
    outline = REACH * settings.sigma_um + settings.peak_um + 2 * (OPEN_UM + CLOSE_UM)
    parting = REACH * DISTANCE_SIGMA_UM + 2 * settings.largest_radius_um
    return background + outline + parting


def find_nuclei(haematoxylin: Amount, dab: Amount, mpp: float, settings: NucleiSettings) -> Labels:
    """Label nuclei: float32 (h, w) amounts of both stains to int32 (h, w), 0 outside, 1 to n inside.

    `mpp`: µm per pixel of the arrays, about 0.5. Labels count without gaps in the order of the nuclei's
    innermost points, row by row. Nuclei cut by the array's edge are labelled as far as they are seen.
    An outline lies up to `sigma_um`² / (2 × radius) outside the edge of a round nucleus (0.3 µm at 4 µm),
    which is what the Laplacian of a Gaussian does to a curved edge.
    Empty arrays and bare glass give no nuclei. Raises RequestError for arrays of different shapes, for
    amounts that are not finite, and for an mpp outside `WORKING_MPP`.
    """
    _check(haematoxylin, dab, mpp)
    if not haematoxylin.size:
        return np.zeros(haematoxylin.shape, np.int32)
    density = _density(haematoxylin, dab, settings.dab_weight)
    calm = _gauss(density, DENOISE_SIGMA_UM / mpp)
    net = cv2.subtract(density, _background(calm, settings.background_um / mpp))
    mask = _outline(np.asarray(net, np.uint16), mpp, settings)
    if not mask.any():
        return np.zeros(haematoxylin.shape, np.int32)
    distance = _distance(mask, mpp, settings)
    parts = _climb(distance, settings.largest_radius_um / mpp)
    labels = _join(parts, distance, settings.tolerance_um / mpp * DISTANCE_STEPS)
    keep = _plausible(labels, np.asarray(net, np.uint16), mpp, settings)
    keep &= _contrast(labels, mask, calm, mpp) >= settings.contrast
    return _renumber(labels, keep)


def measure_nuclei(labels: Labels, haematoxylin: Amount, dab: Amount, mpp: float) -> Nuclei:
    """Measure labelled nuclei: int32 (h, w) with labels 1 to n, float32 (h, w) amounts. See `Nuclei`."""
    _check(haematoxylin, dab, mpp)
    if labels.shape != haematoxylin.shape:
        raise RequestError(f"labels {labels.shape}", f"do not fit {haematoxylin.shape}", "give equal shapes")
    row, column = np.nonzero(labels)
    owner = labels[row, column]
    n = int(owner.max(initial=0)) + 1
    count = np.maximum(np.bincount(owner, minlength=n), 1)[1:]

    def mean(values: NDArray) -> NDArray[np.float64]:
        return np.bincount(owner, weights=values, minlength=n)[1:] / count

    return Nuclei(
        x=mean(column) + 0.5,
        y=mean(row) + 0.5,
        area_um2=count * mpp**2,
        haematoxylin=mean(haematoxylin[row, column]),
        dab=mean(dab[row, column]),
    )


def _check(haematoxylin: Amount, dab: Amount, mpp: float) -> None:
    if haematoxylin.ndim != 2 or haematoxylin.shape != dab.shape:
        raise RequestError(
            f"stains {haematoxylin.shape}, {dab.shape}", "do not fit", "give two arrays (height, width)"
        )
    if not (np.isfinite(haematoxylin).all() and np.isfinite(dab).all()):
        raise RequestError("amounts of stain", "are not all finite", "separate the stains of an 8-bit image")
    low, high = WORKING_MPP
    if not low <= mpp <= high:
        raise RequestError(
            f"{mpp:g} µm/px", "is no resolution for nuclei", f"read at {low:g} to {high:g}, best 0.5"
        )


def _density(haematoxylin: Amount, dab: Amount, dab_weight: float) -> Fixed:
    """Nuclear density in `STEPS` per unit of optical density; amounts below 0 count as 0."""
    both = np.maximum(haematoxylin, 0) + np.float32(dab_weight) * np.maximum(dab, 0)
    return np.minimum(both * STEPS + 0.5, 65535).astype(np.uint16)


def _gauss(image: Fixed, sigma: float) -> Fixed:
    side = 2 * math.ceil(REACH * sigma) + 1
    blurred = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.uint16)


def _background(calm: Fixed, radius: float) -> Fixed:
    """Density between nuclei: a square opening, smoothed over half its width to hide its corners."""
    side = 2 * round(radius) + 1
    opened = cv2.morphologyEx(calm, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    half = 2 * round(radius / 2) + 1
    return np.asarray(cv2.blur(opened, (half, half), borderType=cv2.BORDER_REPLICATE), np.uint16)


def _outline(net: Fixed, mpp: float, settings: NucleiSettings) -> Mask:
    """Where nuclei are, 1 or 0: within the inflection line of the blurred density, or nearly as dense as
    the densest near by. Half the threshold suffices here, the mean is judged later."""
    smooth = _gauss(net, settings.sigma_um / mpp)
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], np.float32)
    laplacian = cv2.filter2D(smooth, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
    peak = np.asarray(cv2.dilate(smooth, _square(settings.peak_um / mpp)), np.float32)
    inside = (np.asarray(laplacian) > 0) | (smooth > np.float32(settings.peak_share) * peak)
    inside &= smooth > settings.threshold / 2 * STEPS
    opened = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_OPEN, _disc(OPEN_UM / mpp))
    return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disc(CLOSE_UM / mpp)), np.uint8)


def _square(radius: float) -> Mask:
    return np.ones((2 * round(radius) + 1,) * 2, np.uint8)


def _disc(radius: float) -> Mask:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _distance(mask: Mask, mpp: float, settings: NucleiSettings) -> Fixed:
    """Distance to the outside in `DISTANCE_STEPS` per pixel, at least 1 inside and 0 outside.

    Cut at the largest nucleus's radius, so that it looks no farther.
    """
    far = settings.largest_radius_um / mpp
    pixels = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    fixed = (np.minimum(np.asarray(pixels), far) * DISTANCE_STEPS + 0.5).astype(np.uint16)
    return np.maximum(_gauss(fixed, DISTANCE_SIGMA_UM / mpp), 1) * mask.astype(np.uint16)


def _climb(height: Fixed, reach: float) -> Labels:
    """Watershed by steepest ascent: pixels above 0 that lead to the same summit get the same label.

    Ties go to the pixel later in row order, so there are no plateaus and the result does not move with
    the array's corner. A path is followed for at least `reach` steps and at most twice that.
    """
    padded = np.pad(height, 1)
    flat, width = padded.ravel(), padded.shape[1]
    pixel = np.flatnonzero(flat)
    target = _steepest(flat, pixel, width)
    rank = np.zeros(flat.size, np.int32)
    rank[pixel] = np.arange(pixel.size, dtype=np.int32)
    step = rank[target]
    for _ in range(math.ceil(math.log2(max(reach, 2)))):
        step = step[step]
    summit = np.zeros(pixel.size, bool)
    summit[step] = True
    rank[:] = 0
    rank[pixel] = np.cumsum(summit, dtype=np.int32)[step]
    return rank.reshape(padded.shape)[1:-1, 1:-1]


def _steepest(flat: Fixed, pixel: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """For each pixel the highest of its eight neighbours, or itself where none is higher."""
    best, target = flat[pixel], pixel.copy()
    for offset in (-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1):
        other = pixel + offset
        height = flat[other]
        better = (height > best) | ((height == best) & (other > target))
        best[better], target[better] = height[better], other[better]
    return target


def _join(labels: Labels, height: Fixed, tolerance: float) -> Labels:
    """Join a part to the neighbour over its highest pass when its summit rises less than that above it.

    A part joins only a higher one (on a tie the one with the later summit); two such steps are followed.
    """
    n = int(labels.max()) + 1
    summit = _summits(labels, height, n)
    low, high, saddle = _passes(labels, height)
    rises = (summit[high] > summit[low]) | ((summit[high] == summit[low]) & (high > low))
    joined = rises & (summit[low] - saddle < tolerance)
    low, high, saddle = low[joined], high[joined], saddle[joined]
    order = np.lexsort((high, saddle, low))
    # of the passes of one part the last assignment holds: the highest one
    target = np.arange(n, dtype=np.int32)
    last = np.flatnonzero(np.diff(low[order], append=n))
    target[low[order][last]] = high[order][last]
    return target[target[target]][labels]


def _summits(labels: Labels, height: Fixed, n: int) -> NDArray[np.int64]:
    """Greatest height of each label."""
    summit = np.zeros(n, np.int64)
    np.maximum.at(summit, labels.ravel(), height.ravel().astype(np.int64))
    return summit


def _passes(labels: Labels, height: Fixed) -> tuple[Labels, Labels, NDArray[np.int64]]:
    """Every place where two parts touch, from both sides: (part, other part, height of the pass)."""
    ones, others, saddles = [], [], []
    for a, b in (((..., slice(-1)), (..., slice(1, None))), (np.s_[:-1], np.s_[1:])):
        touch = (labels[a] != labels[b]) & (labels[a] > 0) & (labels[b] > 0)
        ones.append(labels[a][touch])
        others.append(labels[b][touch])
        saddles.append(np.minimum(height[a][touch], height[b][touch]).astype(np.int64))
    one, other, saddle = (np.concatenate(part) for part in (ones, others, saddles))
    return np.concatenate([one, other]), np.concatenate([other, one]), np.concatenate([saddle, saddle])


def _plausible(labels: Labels, net: Fixed, mpp: float, settings: NucleiSettings) -> NDArray[np.bool_]:
    """Which labels have a nucleus's area and density. The first entry is the outside."""
    pixels = np.bincount(labels.ravel())
    area = pixels * mpp**2
    mean = np.bincount(labels.ravel(), weights=net.ravel()) / np.maximum(pixels, 1) / STEPS
    fits = (area >= settings.min_area_um2) & (area <= settings.max_area_um2)
    return fits & (mean >= settings.threshold)


def _contrast(labels: Labels, mask: Mask, calm: Fixed, mpp: float) -> NDArray[np.float64]:
    """Mean density of each label above that of its rim; infinite where other nuclei take all the rim."""
    n = int(labels.max()) + 1
    grown = np.asarray(cv2.dilate(labels.astype(np.float32), _disc(RING_UM / mpp))).astype(np.int32)
    rim = (mask == 0) & (grown > 0)
    pixels = np.bincount(grown[rim], minlength=n)
    outside = np.bincount(grown[rim], weights=calm[rim], minlength=n) / np.maximum(pixels, 1)
    area = np.maximum(np.bincount(labels.ravel(), minlength=n), 1)
    inside = np.bincount(labels.ravel(), weights=calm.ravel(), minlength=n) / area
    return np.where(pixels > 0, (inside - outside) / STEPS, np.inf)


def _renumber(labels: Labels, keep: NDArray[np.bool_]) -> Labels:
    """Only the kept labels, numbered 1 to n; label 0 stays outside."""
    number = np.zeros(keep.size, np.int32)
    kept = np.flatnonzero(keep[1:]) + 1
    number[kept] = np.arange(1, kept.size + 1)
    return number[labels]
