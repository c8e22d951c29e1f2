"""Air under the cover glass, told by its rim, and what is black.

The rim of a bubble refracts light out of the objective: a grey, nearly round line, over glass and over tissue
alike. Grey is the density that all three channels share, the smallest of the three; stain adds little to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.glass import Density, bands, of_channels
from coverslip.tiling.regions import Mask, drop_small

Plane = NDArray[np.float32]
# Centre (x, y), both axes and the turn of the first in degrees, as OpenCV has them.
Ellipse = tuple[tuple[float, float], tuple[float, float], float]


@dataclass(frozen=True, slots=True)
class BubbleSettings:
    """Lengths are µm; densities log10 above the glass."""

    # Resolution it is looked at: rims are 30 to 150 µm wide.
    mpp: float = 16.0
    # How much darker, in grey, the rim is than what lies on both its sides; one after the other, since what
    # hangs on to a rim at one of them may let go at the next.
    rims: tuple[float, ...] = (0.10, 0.15, 0.22, 0.33)
    widest_rim_um: float = 150.0
    # Smaller ones than a high-power field hide little, and vessels cut across are as round.
    least_radius_um: float = 200.0
    most_radius_um: float = 10_000.0
    # Of the full circle, how much of the rim must be seen …
    least_arc: float = 0.6
    # … and how far its line may be from an ellipse at most half as long again as wide, as share of the radius
    # (standard deviation).
    roundness: float = 0.10

    def __post_init__(self) -> None:
        lengths = (self.mpp, *self.rims, self.widest_rim_um, self.least_radius_um)
        if min(lengths) <= 0 or self.most_radius_um <= self.least_radius_um or not 0 < self.least_arc <= 1:
            raise RequestError(
                "bubble settings", "hold a value out of range", "give positive values, arc ≤ 1"
            )


@dataclass(frozen=True, slots=True)
class DarkSettings:
    """What lets through almost nothing of any colour: dust, ink, pigment, the edge of the glass.

    `least`: density (log10) of the channel that absorbs least, 0.6 is a quarter of the light; haematoxylin of
    the densest nuclei stays below. `smallest_um2`: 30 × 30 µm.
    """

    least: float = 0.6
    smallest_um2: float = 900.0

    def __post_init__(self) -> None:
        if min(self.least, self.smallest_um2) <= 0:
            raise RequestError("dark settings", "hold a value that is not above 0", "give positive values")


def grey_density(density: Density) -> Plane:
    """Density of the channel that absorbs least: float32 (h, w), not below 0."""
    grey = np.empty(density.shape, np.float32)
    for start, stop in bands(density.shape):
        grey[start:stop] = of_channels(np.minimum, density.rows(start, stop))
    return np.maximum(grey, 0, out=grey)


def find_dark(grey: Plane, mpp: float, settings: DarkSettings) -> Mask:
    """Where it is black: bool (h, w). `grey` as `grey_density` gives it; `mpp`: µm per pixel."""
    return drop_small(grey >= settings.least, max(1.0, settings.smallest_um2 / mpp**2))


def find_bubbles(grey: Plane, mpp: float, settings: BubbleSettings) -> Mask:
    """Bubbles with their rims: bool (h, w). `grey` as `grey_density` gives it; `mpp`: µm per pixel."""
    factor = max(1, int(settings.mpp / mpp))
    height, width = grey.shape
    if min(height, width) * mpp < 2 * settings.least_radius_um:
        return np.zeros(grey.shape, bool)
    size = max(1, width // factor), max(1, height // factor)
    small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    found = np.zeros(small.shape, np.uint8)
    coarse = mpp * factor
    lines = _lines(small, coarse, settings)
    for least in settings.rims:
        for rim in _rims(lines >= least, coarse, settings):
            outline = _outline(rim, coarse, settings)
            if outline is not None:
                cv2.ellipse(found, outline, 1, -1)
                cv2.ellipse(found, outline, 1, max(1, round(settings.widest_rim_um / 2 / coarse)))
    return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)) > 0


def _lines(grey: Plane, mpp: float, settings: BubbleSettings) -> Plane:
    """How much darker thin lines are than what lies beside them."""
    side = 2 * max(1, round(settings.widest_rim_um / 2 / mpp)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    soft = cv2.GaussianBlur(grey, (0, 0), 0.7)
    return np.asarray(cv2.morphologyEx(soft, cv2.MORPH_TOPHAT, kernel), np.float32)


def _rims(line: Mask, mpp: float, settings: BubbleSettings) -> list[NDArray[np.int64]]:
    """Pixels (n, 2), x and y, of each connected line that is long enough for the smallest bubble."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(line.astype(np.uint8), connectivity=8)
    least = 2 * np.pi * settings.least_arc * settings.least_radius_um / mpp
    rows, columns = np.nonzero(np.asarray(labels))
    of = np.asarray(labels)[rows, columns]
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(1, len(stats) + 1))
    points = np.stack([columns[order], rows[order]], axis=1)
    return [
        points[ends[n - 1] : ends[n]] for n in range(1, len(stats)) if stats[n, cv2.CC_STAT_AREA] >= least
    ]


def _outline(rim: NDArray[np.int64], mpp: float, settings: BubbleSettings) -> Ellipse | None:
    """The nearly round ellipse that a rim lies on, in pixels; None where it lies on none.

    Least squares (Fitzgibbon et al. 1999, IEEE Trans PAMI 21:476), once more without the furthest fifth.
    """
    points = rim.astype(np.float32)
    off = np.abs(_off(points, _fit(points)))
    kept = points[off <= np.quantile(off, 0.8)]
    ellipse = _fit(kept)
    small, large = sorted(side / 2 * mpp for side in ellipse[1])
    if not settings.least_radius_um <= small <= large <= min(settings.most_radius_um, 1.5 * small):
        return None
    (x, y), _, _ = ellipse
    angles = np.floor(np.degrees(np.arctan2(kept[:, 1] - y, kept[:, 0] - x)) / 10)
    seen = len(np.unique(angles)) / 36
    smooth = _off(kept, ellipse).std() <= settings.roundness
    return ellipse if smooth and seen >= settings.least_arc else None


def _fit(points: NDArray[np.float32]) -> Ellipse:
    (x, y), (width, height), angle = cv2.fitEllipseDirect(points)
    return (float(x), float(y)), (float(width), float(height)), float(angle)


def _off(points: NDArray[np.float32], ellipse: Ellipse) -> NDArray[np.float64]:
    """How far each point lies outside the ellipse (negative: inside), as share of the radius there."""
    (x, y), (width, height), angle = ellipse
    turn = np.radians(angle)
    across, down = points[:, 0] - x, points[:, 1] - y
    along = across * np.cos(turn) + down * np.sin(turn)
    beside = down * np.cos(turn) - across * np.sin(turn)
    return np.hypot(along / max(width / 2, 1e-6), beside / max(height / 2, 1e-6)) - 1
