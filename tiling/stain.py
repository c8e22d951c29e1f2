"""How much of each stain lies in a pixel: optical density and linear unmixing.

Optical density is log10 throughout, as in QuPath and in Ruifrok and Johnston (2001), Anal Quant Cytol
Histol 23:291. Macenko's papers and code use the natural logarithm, which is 2.303 times larger: a vector
set names its convention, and only "log10" is known here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.wsi.colour import DAB, EOSIN_QUPATH, HAEMATOXYLIN, optical_density
from coverslip.wsi.facts import WHITE
from coverslip.wsi.pixels import Rgb

Vector = tuple[float, float, float]

# Two stains closer than this cannot be told apart: the residual axis is then mostly noise.
SMALLEST_ANGLE = math.radians(5)


@dataclass(frozen=True)
class StainVectors:
    """Two stains and what is left: the colour of each, as optical density of red, green and blue.

    `rows`: three rows of unit length, stain 1, stain 2, residual. The residual is the normalised cross
    product of the first two. `background`: RGB of empty glass, 1 to 255 per channel. Make one with
    `stain_vectors`, which normalises.
    """

    names: tuple[str, str, str]
    rows: tuple[Vector, Vector, Vector]
    source: Literal["default", "given", "estimated"]
    background: Rgb = WHITE
    convention: Literal["log10"] = "log10"

    def __post_init__(self) -> None:
        matrix = np.asarray(self.rows)
        if matrix.shape != (3, 3) or not np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6):
            raise RequestError("stain vectors", "are not three rows of unit length", "use stain_vectors(...)")
        if self.convention != "log10":
            raise RequestError("stain vectors", f"are in {self.convention}", "give them for log10 density")
        if not all(1 <= value <= 255 for value in self.background):
            raise RequestError(f"background {self.background}", "is not a colour of glass", "give 1 to 255")

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """(3, 3), rows red, green, blue, columns the stains: amounts = density row vector @ inverse."""
        return np.asarray(np.linalg.inv(np.asarray(self.rows, np.float64)), np.float64)

    def on(self, background: Rgb) -> StainVectors:
        """The same stains on glass of another colour."""
        return StainVectors(self.names, self.rows, self.source, background, self.convention)


def stain_vectors(
    names: tuple[str, str],
    first: Vector,
    second: Vector,
    *,
    source: Literal["default", "given", "estimated"] = "given",
    background: Rgb = WHITE,
) -> StainVectors:
    """Two stain vectors of any length, normalised, with their residual.

    Raises RequestError when one is zero, negative in a channel or not finite, or when both are closer
    than 5 degrees.
    """
    pair = np.asarray([first, second], np.float64)
    lengths = np.linalg.norm(pair, axis=1, keepdims=True)
    if not (np.isfinite(pair).all() and (pair >= 0).all() and (lengths > 0).all()):
        raise RequestError(
            f"stain vectors {first}, {second}", "are no densities", "give three numbers ≥ 0 each"
        )
    pair = pair / lengths
    residual = np.cross(pair[0], pair[1])
    sine = float(np.linalg.norm(residual))
    if sine < math.sin(SMALLEST_ANGLE):
        raise RequestError(f"stain vectors {first}, {second}", "are one stain", "give two different colours")
    rows = np.vstack([pair, residual / sine])
    one, two, three = ((float(r), float(g), float(b)) for r, g, b in rows)
    return StainVectors((*names, "residual"), (one, two, three), source, background)


# Ruifrok and Johnston 2001, as QuPath's StainVector and TIAToolbox have them.
H_DAB = stain_vectors(("haematoxylin", "DAB"), HAEMATOXYLIN, DAB, source="default")
# Haematoxylin of Ruifrok and Johnston with QuPath's eosin, which is not theirs (0.07, 0.99, 0.11).
H_E = stain_vectors(("haematoxylin", "eosin"), HAEMATOXYLIN, EOSIN_QUPATH, source="default")

# Of Landini's plugin Colour Deconvolution for ImageJ, "H AEC", which scikit-image (rgb_from_hax) has too.
H_AEC = stain_vectors(
    ("haematoxylin", "AEC"), (0.650, 0.704, 0.286), (0.2743, 0.6796, 0.6803), source="default"
)


def separate(rgb: NDArray[np.uint8], vectors: StainVectors) -> NDArray[np.float32]:
    """Amounts of stain 1, stain 2 and residual: uint8 (h, w, 3) to float32 (h, w, 3).

    Linear unmixing (Ruifrok and Johnston 2001). An amount is the length of that stain's optical density
    vector; it is negative where the colour lies outside the stains, and is not clipped. A pixel's amounts
    do not depend on its place in the array, to the bit. Each `[..., stain]` is contiguous.
    """
    red, green, blue = np.moveaxis(optical_density(rgb, vectors.background), -1, 0)
    planes = np.empty((3, *rgb.shape[:2]), np.float32)
    # three products summed in this order: a matrix product rounds differently at the end of a row
    for stain, (of_red, of_green, of_blue) in enumerate(vectors.inverse.T.astype(np.float32)):
        planes[stain] = red * of_red
        planes[stain] += green * of_green
        planes[stain] += blue * of_blue
    return np.moveaxis(planes, 0, -1)


# Glass is brighter than this in every channel and this grey; a share below 1 % is gaps in tissue.
GLASS_LEAST = 190
GLASS_SPREAD = 30
GLASS_SHARE = 0.01


def estimate_background(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Rgb | None:
    """Colour of empty glass: the commonest value of each channel among bright, nearly grey pixels.

    `rgb` uint8 (h, w, 3), `valid` bool (h, w): pixels the file holds. None when fewer than 1 % of the
    valid pixels are bright enough, so that the caller falls back on the colour the file declares. The
    modal value is QuPath's choice; of equally common values the darkest counts.
    """
    pixels = rgb[valid]
    # channel by channel: numpy is ten times slower along an axis of three
    low = np.minimum(np.minimum(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
    high = np.maximum(np.maximum(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
    glass = pixels[(low >= GLASS_LEAST) & (high - low <= GLASS_SPREAD)]
    if len(glass) < max(1, GLASS_SHARE * len(pixels)):
        return None
    red, green, blue = (int(np.bincount(glass[:, channel], minlength=256).argmax()) for channel in range(3))
    return red, green, blue


# Fainter pixels have no colour to speak of.
COLOURED_DENSITY = 0.15


def residual_share(rgb: NDArray[np.uint8], chosen: NDArray[np.bool_], vectors: StainVectors) -> float | None:
    """How far the colours lie off the plane of both stains: the median of residual amount ÷ density, −1 to 1.

    `rgb` uint8 (h, w, 3), `chosen` bool (h, w). With H-DAB vectors below 0 is the pink side, where eosin
    lies, above 0 the green. None when no chosen pixel has a colour.
    """
    pixels = rgb[chosen][None]
    density = np.linalg.norm(optical_density(pixels, vectors.background), axis=2)
    coloured = density > COLOURED_DENSITY
    if not coloured.any():
        return None
    return float(np.median(separate(pixels, vectors)[..., 2][coloured] / density[coloured]))


@dataclass(frozen=True, slots=True)
class StainEstimate:
    """Vectors to use. `reason` says why they are the defaults; None when they were estimated."""

    vectors: StainVectors
    reason: str | None = None


# QuPath's limits: fainter is noise, denser is folded or out of the linear range of the camera.
LEAST_DENSITY = 0.05
MOST_DENSITY = 1.0
# QuPath's: within 0.15 rad of grey a pixel is pigment, carbon or a shadow.
GREY_COSINE = math.cos(0.15)
# Share of pixels at either end of the angles that is left out (Macenko 2009, QuPath: 1 %).
TAIL = 0.01
# About 0.01 mm² at 0.5 µm/px, some twenty cells; fewer pixels make the 1 % tail a handful.
LEAST_PIXELS = 5_000
# Larger images are thinned to this side: a million pixels fix an angle (QuPath takes up to 4000).
LARGEST_SIDE = 2_000


def estimate_vectors(
    rgb: NDArray[np.uint8], valid: NDArray[np.bool_], default: StainVectors
) -> StainEstimate:
    """Stain vectors of this slide, after Macenko et al. 2009 as QuPath's "estimate stain vectors" does it.

    `rgb` uint8 (h, w, 3), `valid` bool (h, w), `default`: which two stains, on which background. The
    colours are smoothed by 3 × 3 twice, faint, dense and grey pixels (for H&E also those that are not
    purple to pink) left out, and of the angles in the plane of the two largest principal axes the 1 % and
    99 % points are taken. An estimate nearer to the other stain than to its own is refused, which is what
    a field with only one of the stains gives. Whatever the picture, something usable comes back: the
    defaults, with the reason, where it cannot be estimated.
    """
    density = _typical(rgb, valid, default)
    if len(density) < LEAST_PIXELS:
        return StainEstimate(
            default, f"only {len(density)} pixels are stained enough, of {LEAST_PIXELS} needed"
        )
    ends = _extremes(density)
    own = ends @ np.asarray(default.rows[:2]).T
    first, second = (0, 1) if own[0, 0] + own[1, 1] >= own[0, 1] + own[1, 0] else (1, 0)
    # half the angle between both stains: beyond it an estimate is nearer to the other one
    limit = math.acos(float(np.dot(default.rows[0], default.rows[1]))) / 2
    if min(own[first, 0], own[second, 1]) < math.cos(limit):
        return StainEstimate(default, "the colours do not lie between the two stains")
    one, two = (_vector(ends[index]) for index in (first, second))
    if float(np.linalg.norm(np.cross(one, two))) < math.sin(SMALLEST_ANGLE):
        return StainEstimate(default, "the two colours found are the same")
    names = default.names[0], default.names[1]
    return StainEstimate(stain_vectors(names, one, two, source="estimated", background=default.background))


def _vector(row: NDArray[np.float64]) -> Vector:
    return float(row[0]), float(row[1]), float(row[2])


def _typical(rgb: NDArray[np.uint8], valid: NDArray[np.bool_], default: StainVectors) -> NDArray[np.float64]:
    """Optical densities (n, 3) of the pixels that can tell the stains' colours."""
    if not rgb.size:
        return np.zeros((0, 3))
    thin = max(1, math.ceil(max(rgb.shape[:2]) / LARGEST_SIDE))
    smooth = cv2.blur(cv2.blur(np.ascontiguousarray(rgb[::thin, ::thin]), (3, 3)), (3, 3))
    shown = valid[::thin, ::thin]
    density = optical_density(np.asarray(smooth, np.uint8), default.background)[shown].astype(np.float64)
    red, green, blue = density.T
    length = np.sqrt(red**2 + green**2 + blue**2)
    keep = (np.minimum(np.minimum(red, green), blue) >= LEAST_DENSITY) & (length <= MOST_DENSITY)
    keep &= red + green + blue < math.sqrt(3) * length * GREY_COSINE
    if default.names[:2] == H_E.names[:2]:
        keep &= (red <= green) & (blue <= green)
    return density[keep]


def _extremes(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two unit rows: the colours of the pixels at either end of the angles, tails left out."""
    axes = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    flat = density @ axes
    middle = flat.mean(axis=0)
    # angles from the mean direction, so that none wraps around
    angle = np.arctan2(
        flat[:, 1] * middle[0] - flat[:, 0] * middle[1], flat[:, 0] * middle[0] + flat[:, 1] * middle[1]
    )
    order = np.argsort(angle, kind="stable")
    last = len(order) - 1
    ends = density[order[[round(TAIL * last), round((1 - TAIL) * last)]]]
    return ends / np.linalg.norm(ends, axis=1, keepdims=True)
