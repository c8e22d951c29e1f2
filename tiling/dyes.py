"""The two dyes of one slide, their colours and how strong they are; and the same tissue in other dyes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.stain import GREY_COSINE, LEAST_PIXELS, StainVectors, Vector, stain_vectors
from coverslip.tiling.unfitted import Unfitted
from coverslip.wsi.colour import light, optical_density
from coverslip.wsi.facts import WHITE
from coverslip.wsi.pixels import Rgb

# Macenko's β, 0.15 in natural logarithm, asked of the mean of the three channels: eosin hardly absorbs blue,
# and asking it of every channel leaves out the pink.
STAINED_DENSITY = 0.15 / math.log(10)
# Six of 255: beyond it the hue is noise of the camera and of JPEG.
SATURATED_DENSITY = 1.6
# Pixels that fix two colours; of more every n-th is looked at.
SAMPLE = 200_000
# Amounts are compared at this percentile (Macenko et al. 2009, ISBI, 1107).
STRONG_PERCENTILE = 99
# Real H&E lay 13° to 35° apart; noise divided by the sine of less than this is six times as large.
LEAST_ANGLE = math.radians(10)
# Haematoxylins and eosins of twelve sources lay within 34° of the default; green and blue ink do not.
FURTHEST_ANGLE = math.radians(40)
# What is stretched more than this is noise: the stain is not there.
MOST_STRETCH = 6.0
# One stain is stretched at most this much more than the other: up to 3.3 between whole H&E fields, 4 and more
# where a field of one dye was torn into two, and its nuclei would turn pale.
MOST_IMBALANCE = 3.5
# From one colour to the other must lead roughly where it leads between the stains; below this cosine even
# which is which would be a guess. Whole H&E fields: 0.48 and more.
LEAST_LIKENESS = 0.3
# A stain whose strongest hundredth absorbs a tenth of the light is not there.
LEAST_STRONG = 0.05


@dataclass(frozen=True, slots=True)
class Dyes:
    """What was learnt of a slide. `strong`: amount of stain 1 and 2, log10 density, which 1 % of the stained
    pixels exceed. `n`: stained pixels it was learnt from; 0 for a published reference."""

    vectors: StainVectors
    strong: tuple[float, float]
    n: int

    reason: None = field(default=None, init=False, repr=False)

    def towards(self, target: Dyes | Unfitted | None = None) -> DyeTransfer | Unfitted:
        """How to show this slide's tissue in the target's dyes; None is `H_E_REFERENCE`.

        Unfitted where the target is, or where a stain is so weak that only noise would be stretched. Raises
        RequestError for a target of other stains or another method.
        """
        target = H_E_REFERENCE if target is None else target
        if isinstance(target, Unfitted):
            return Unfitted(f"the target was not fitted: {target.reason}")
        names = self.vectors.names[:2]
        if not isinstance(target, Dyes) or target.vectors.names[:2] != names:
            raise RequestError("target", f"has not the stains {' and '.join(names)}", "fit it the same way")
        first, second = (want / have for have, want in zip(self.strong, target.strong, strict=True))
        weak, strong = names if first > second else names[::-1]
        if max(first, second) > MOST_STRETCH:
            return Unfitted(f"there is too little {weak} beside the target's")
        if max(first / second, second / first) > MOST_IMBALANCE:
            return Unfitted(f"there is too little {weak} for its {strong}, beside the target's")
        return DyeTransfer(self, target)


@dataclass(frozen=True, slots=True)
class DyeTransfer:
    """From one slide's dyes to another's, pixel by pixel: amounts of the source, strengths and colours of the
    target. What is neither stain is left out; glass takes the target's colour."""

    source: Dyes
    target: Dyes

    reason: None = field(default=None, init=False, repr=False)

    @property
    def matrix(self) -> NDArray[np.float32]:
        """(3, 3): density of the source, a row red, green, blue, times this is that of the result."""
        ratio = np.asarray(self.target.strong) / np.asarray(self.source.strong)
        target = np.asarray(self.target.vectors.rows[:2])
        return (self.source.vectors.inverse[:, :2] * ratio @ target).astype(np.float32)

    def transform(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) or (n, h, w, 3) to the same shape. A pixel's result does not depend on its place.

        Raises RequestError for another array.
        """
        return each_image(rgb, self._image)

    def _image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        red, green, blue = np.moveaxis(optical_density(rgb, self.source.vectors.background), -1, 0)
        density = np.empty((*rgb.shape[:2], 3), np.float32)
        # three products summed in this order: a matrix product rounds differently at the end of a row
        for channel, (of_red, of_green, of_blue) in enumerate(self.matrix.T):
            density[..., channel] = red * of_red + green * of_green + blue * of_blue
        return light(density, self.target.vectors.background)


def each_image(
    rgb: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """One image, or each of (n, h, w, 3) by itself: a batch is never float all at once."""
    if rgb.ndim != 4:
        return change(rgb)
    out = np.empty_like(rgb)
    for number, image in enumerate(rgb):
        out[number] = change(image)
    return out


def chosen_pixels(rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """uint8 (1, n, 3): the pixels of (h, w, 3) or (n, h, w, 3) that a mask names; None names all.

    `mask`: bool of that shape without its last axis. Raises RequestError for arrays that do not go together.
    """
    if rgb.ndim not in (3, 4) or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise RequestError(f"array {rgb.shape} {rgb.dtype}", "holds no RGB images", "give uint8 (…, h, w, 3)")
    if mask is None:
        return rgb.reshape(1, -1, 3)
    if mask.shape != rgb.shape[:-1] or mask.dtype != bool:
        raise RequestError(
            f"mask {mask.shape} {mask.dtype}", "does not fit the picture", f"give bool {rgb.shape[:-1]}"
        )
    return rgb[mask][None]


def stained_density(pixels: NDArray[np.uint8], background: Rgb = WHITE) -> NDArray[np.float64]:
    """Densities (m, 3) of those of uint8 (1, n, 3) that tell the dyes: neither glass, black nor grey.

    At most `SAMPLE`, evenly taken.
    """
    density = optical_density(pixels, background)[0]
    red, green, blue = density.T
    length = np.sqrt(red**2 + green**2 + blue**2)
    total = red + green + blue
    keep = (total >= 3 * STAINED_DENSITY) & (np.maximum(np.maximum(red, green), blue) <= SATURATED_DENSITY)
    keep &= total < math.sqrt(3) * length * GREY_COSINE
    kept = density[keep]
    return kept[:: max(1, -(-len(kept) // SAMPLE))].astype(np.float64)


def too_few(n: int) -> Unfitted | None:
    """Why so few stained pixels cannot be fitted; None where they are enough."""
    if n >= LEAST_PIXELS:
        return None
    return Unfitted(f"only {n} pixels are stained enough, of {LEAST_PIXELS} needed")


def dyes_of(
    ends: NDArray[np.float64], density: NDArray[np.float64], default: StainVectors
) -> Dyes | Unfitted:
    """From two colours (2, 3), in any order and of any length, found in stained densities (n, 3).

    Refused when they are too near to each other, or one is too far from its default, to be these stains.
    """
    ends = np.maximum(ends, 0)
    ends = ends / np.maximum(np.linalg.norm(ends, axis=1, keepdims=True), 1e-12)
    own = ends @ np.asarray(default.rows[:2]).T
    if own[1, 0] - own[1, 1] > own[0, 0] - own[0, 1]:
        ends, own = ends[::-1], own[::-1]
    names = default.names[0], default.names[1]
    if float(ends[0] @ ends[1]) > math.cos(LEAST_ANGLE):
        return Unfitted("all of it has one colour")
    for number, name in enumerate(names):
        if own[number, number] < math.cos(FURTHEST_ANGLE):
            return Unfitted(f"no colour is like {name}")
    if _cosine(ends[0] - ends[1], np.subtract(*default.rows[:2])) < LEAST_LIKENESS:
        return Unfitted(f"its colours do not differ as {names[0]} and {names[1]} do")
    first, second = (_vector(row) for row in ends)
    vectors = stain_vectors(names, first, second, source="estimated", background=default.background)
    strong = np.percentile(density @ vectors.inverse[:, :2], STRONG_PERCENTILE, axis=0)
    if strong.min() < LEAST_STRONG:
        return Unfitted(f"there is hardly any {names[int(strong.argmin())]}")
    return Dyes(vectors, (float(strong[0]), float(strong[1])), len(density))


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def _vector(row: NDArray[np.float64]) -> Vector:
    return float(row[0]), float(row[1]), float(row[2])


# The reference that Macenko's own code, StainTools and torchstain share; there in natural logarithm.
H_E_REFERENCE = Dyes(
    stain_vectors(
        ("haematoxylin", "eosin"),
        (0.5626, 0.7201, 0.4062),
        (0.2159, 0.8012, 0.5581),
        background=(240, 240, 240),
    ),
    (1.9705 / math.log(10), 1.0308 / math.log(10)),
    0,
)
