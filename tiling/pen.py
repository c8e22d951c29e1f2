"""Marker on the cover glass: told from stain by which channel it absorbs least, and by its size.

Ratios of optical density do not change as ink thins out (Beer-Lambert), so a rule on them holds from the
middle of a stroke to its rim. Inks and stains of the same ratios (blue ink and the blue-green of Pap) are
told apart by size only: a felt tip writes strokes far wider than any cell group, and solid ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.glass import Density, bands
from coverslip.tiling.regions import Mask, dilate, drop_small, open_


@dataclass(frozen=True, slots=True)
class PenSettings:
    """Densities are log10, above the glass; r, g, b are those of the three channels.

    The figures were read from pen and tissue of two H&E slides (TCGA, GTEx) and held against H&E, DAB,
    Pap and MGG images without pen.
    """

    # Fine liners write 0.3 mm, felt tips 1 mm; the solid core of the narrowest stroke holds this disc.
    stroke_radius_um: float = 60.0
    # Half a millimetre of the narrowest stroke.
    smallest_um2: float = 50_000.0
    # How far the blurred rim of a stroke reaches: pen lies on the cover glass, 170 µm above the focal plane.
    rim_um: float = 200.0
    # Ink out of focus has no texture: what is lost by this blur is nuclei.
    blur_um: float = 15.0
    # Green ink is the only thing whose least absorbed channel is green: r − g at least this.
    green: float = 0.15
    # Blue ink: r − b at least this, and r above g, which no nuclear stain of H&E, IHC or MGG has.
    blue: float = 0.45
    # Red and black ink: g at least this …
    dark: float = 0.45
    # … and b/g in this range: haematoxylin 0.4, eosin and blood 0.6 to 0.7, DAB and melanin above 1.2.
    dark_ratio: tuple[float, float] = (0.70, 1.1)
    # Thin red ink: g at least this, b/g from 0.64 up, and red passes almost unhindered: r/g below 0.12,
    # where tissue in eosin always has some haematoxylin, 0.15 to 0.25.
    red: float = 0.35
    red_ratio: float = 0.64
    red_leak: float = 0.12

    def __post_init__(self) -> None:
        lengths = (self.stroke_radius_um, self.smallest_um2, self.rim_um, self.blur_um)
        if min(*lengths, self.green, self.blue, self.dark, self.red) <= 0:
            raise RequestError("pen settings", "hold a value that is not above 0", "give positive values")


def find_pen(density: Density, settings: PenSettings, mpp: float) -> Mask:
    """Where marker covers the picture: bool (h, w).

    `mpp`: µm per pixel. A picture smaller than a stroke holds none by definition.
    """
    height, width = density.shape
    if min(height, width) * mpp < 2 * settings.stroke_radius_um:
        return np.zeros((height, width), bool)
    # Ink blurred by 15 µm needs no finer pixel than a quarter of that.
    factor = max(1, min(int(settings.blur_um / 4 / mpp), height, width))
    soft, sharp = _inks(density, settings, mpp, factor)
    found = _strokes(soft, sharp, settings, mpp * factor).astype(np.uint8)
    return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)) > 0


def _inks(density: Density, settings: PenSettings, mpp: float, factor: int) -> tuple[Mask, Mask]:
    """Pixels of an ink's colour when blurred, and those that have a trace of it as they are.

    Each pixel is the mean of `factor` × `factor`; both masks are worked out band by band.
    """
    height, width = (side // factor for side in density.shape)
    soft, sharp = np.empty((2, height, width), bool)
    sigma = max(settings.blur_um / (mpp * factor), 0.5)
    reach = ceil(4 * sigma) + 1  # a Gaussian of OpenCV on floats ends at 4 sigma
    for start, stop in bands((height, width * factor**2)):
        first, last = max(0, start - reach), min(height, stop + reach)
        fine = density.rows(first * factor, last * factor)[:, : width * factor]
        coarse = np.asarray(cv2.resize(fine, (width, last - first), interpolation=cv2.INTER_AREA), np.float32)
        blurred = np.asarray(cv2.GaussianBlur(coarse, (0, 0), sigma), np.float32)
        inner = slice(start - first, stop - first)
        soft[start:stop] = _ink(blurred[inner], settings, 1.0)
        sharp[start:stop] = _ink(coarse[inner], settings, 0.2)
    return soft, sharp


def _strokes(soft: Mask, sharp: Mask, settings: PenSettings, mpp: float) -> Mask:
    """Cores of strokes, and what lies around them and has an ink's colour."""
    core = open_(soft, settings.stroke_radius_um / mpp)
    core = drop_small(core, settings.smallest_um2 / mpp**2)
    if not core.any():
        return core
    return core | (dilate(core, settings.rim_um / mpp) & sharp)


def _ink(density: NDArray[np.float32], settings: PenSettings, strength: float) -> Mask:
    """Pixels of an ink's colour, its limits scaled by `strength`. `density`: float32 (h, w, 3), log10."""
    red, green, blue = (density[..., channel] for channel in range(3))
    low, high = settings.dark_ratio
    is_green = (red - green >= settings.green * strength) & (green <= blue)
    is_blue = (red - blue >= settings.blue * strength) & (red >= 1.15 * green) & (blue < green)
    is_dark = (green >= settings.dark * strength) & (blue >= low * green) & (blue <= high * green)
    is_red = (green >= settings.red * strength) & (blue >= settings.red_ratio * green)
    is_red &= (red <= settings.red_leak * green) & (blue <= high * green)
    return is_green | is_blue | is_dark | is_red
