"""What empty glass looks like on one slide: its colour, how it fades over the field, how noisy it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Stained tissue absorbs green more than the mean of red and blue (haematoxylin [0.65, 0.70, 0.29], eosin
# [0.07, 0.99, 0.11], MGG purple); a lamp's tint or a fading white balance does not. Tinted glass of our
# smears and scanners stays below 0.015 (log10 optical density), the palest all-tissue H&E tiles above 0.06.
GREEN_DEFICIT = 0.03
# Strongest tint of glass met: CellaVision smears (252, 225, 195), red against blue 0.11.
TINT = 0.16
# Glass of the darkest exposed field met (photographed LBC): mean 143 of 255.
DARKEST = 90
# A peak of glass holds at least this share of the pixels.
SMALLEST_SHARE = 0.005
# Furthest the fitted glass may depart from its mode: vignetting of cameras on microscopes reaches 0.1.
LARGEST_FADE = 0.12
# Side of the small picture to which the fade is fitted.
FIT_SIDE = 128
# Pixels enough to know a colour; of larger pictures every n-th is looked at.
SAMPLE = 500_000
# Pixels worked on at once: as float32 of three channels 3 MB.
BAND = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Fade:
    """A quadratic surface over the image. `weights`: float64 (6, 3), of 1, x, y, x², xy and y² for each
    channel; x and y run from -1 at the first pixel to 1 at the last."""

    weights: NDArray[np.float64]

    def rows(self, shape: tuple[int, int], start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of an image of `shape` (height, width): float32 (stop - start, width, 3)."""
        down = np.linspace(-1, 1, shape[0])[start:stop]
        y, x = np.meshgrid(down, np.linspace(-1, 1, shape[1]), indexing="ij")
        surface = (_quadratic(x.ravel(), y.ravel()) @ self.weights).astype(np.float32)
        return np.clip(surface, -LARGEST_FADE, LARGEST_FADE).reshape(stop - start, shape[1], 3)


@dataclass(frozen=True, slots=True, eq=False)
class Glass:
    """Empty glass of one image, as log10 optical density against 255.

    `density`: float32 (3,), red, green, blue of the mode. `fade`: what to add to it per pixel; None when
    even. `noise`: standard deviation of one channel among glass pixels. `found`: False when the image holds
    no glass and `density` is that of the lamp, guessed from the palest pixels.
    """

    density: NDArray[np.float32]
    fade: Fade | None
    noise: float
    found: bool

    @property
    def rgb(self) -> tuple[int, int, int]:
        r, g, b = (round(255 * 10 ** -float(d)) for d in self.density)
        return r, g, b


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """−log10(max(v, 1) / 255) per channel: float32, same shape."""
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), table), np.float32)


def of_channels(choose: np.ufunc, pixels: NDArray) -> NDArray:
    """The least (`np.minimum`), the most (`np.maximum`) or the sum (`np.add`) of each pixel's three channels.

    (h, w, 3) to (h, w). Numpy's own reductions take ten times as long over an axis of three.
    """
    return choose(choose(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def estimate_glass(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Glass:
    """Colour, fade and noise of the glass in an RGB image, uint8 (h, w, 3).

    The glass is the brightest frequent colour that no stain explains; white that a program filled in
    (exactly 255) counts only when nothing else does. `valid`: bool (h, w), pixels to look at.
    """
    stride = max(1, round((valid.size / SAMPLE) ** 0.5))
    rgb, valid = rgb[::stride, ::stride], valid[::stride, ::stride]
    density = optical_density(rgb)
    total = of_channels(np.add, rgb.astype(np.uint16))
    usable = valid & _glass_like(total, density)
    filled = total == 3 * 255
    mode = _mode(total, usable & ~filled, int(valid.sum()))
    if mode is None:
        mode = _mode(total, usable, int(valid.sum()))
    if mode is None:
        return Glass(_lamp(rgb, valid), None, 0.0, found=False)
    near = usable & (np.abs(total / 3 - mode) <= 4)
    colour = np.median(density[near], axis=0).astype(np.float32)
    noise = _noise(density, usable & ~filled, colour)
    fade = _fit_fade(density, usable & ~filled, colour, noise)
    if fade is not None:
        noise = _noise(density - fade.rows(valid.shape, 0, len(valid)), usable & ~filled, colour)
    return Glass(colour, fade, noise, found=True)


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """log10 optical density of an image above that of its glass, worked out a few rows at a time.

    Whole, it would be four times the size of the image, whose own size grows with that of the slide.
    """

    rgb: NDArray[np.uint8]
    glass: Glass

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Per channel: float32 (stop - start, width, 3)."""
        density = optical_density(self.rgb[start:stop]) - self.glass.density
        return density if self.glass.fade is None else density - self.glass.fade.rows(self.shape, start, stop)

    def darkest(self) -> NDArray[np.float32]:
        """Of the channel that absorbs most: float32 (height, width)."""
        darkest = np.empty(self.shape, np.float32)
        for start, stop in bands(self.shape):
            darkest[start:stop] = of_channels(np.maximum, self.rows(start, stop))
        return darkest


def bands(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Rows of an image in groups of about `BAND` pixels: (start, stop) of each."""
    step = max(1, BAND // shape[1])
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _glass_like(total: NDArray[np.uint16], density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """`total`: (h, w), red, green and blue together, as below."""
    red, green, blue = (density[..., channel] for channel in range(3))
    untinted = of_channels(np.maximum, density) - of_channels(np.minimum, density) <= TINT
    return (green - (red + blue) / 2 <= GREEN_DEFICIT) & untinted & (total >= 3 * DARKEST)


def _mode(total: NDArray[np.uint16], usable: NDArray[np.bool_], pixels: int) -> float | None:
    """Brightness (0 to 255) of the brightest peak worth the name, None when there is none."""
    if not usable.any():
        return None
    counts = np.bincount(np.round(total[usable] / 3).astype(int), minlength=256).astype(np.float64)
    padded = np.concatenate([counts, np.zeros(16)])
    smooth = cv2.GaussianBlur(padded[None], (0, 0), 2.0)[0]
    mass = np.convolve(padded, np.ones(9), "same")
    enough = (mass >= SMALLEST_SHARE * pixels) & (smooth >= 0.1 * smooth.max())
    peak = enough & (smooth >= np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1))
    return float(np.flatnonzero(peak)[-1]) if peak.any() else None


def _lamp(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Neutral, as bright as the least absorbed channel of the palest pixels: no stain absorbs all three."""
    palest = np.percentile(rgb[valid].max(axis=1), 99.5) if valid.any() else 255.0
    return np.full(3, -np.log10(max(float(palest), 1.0) / 255), np.float32)


def _noise(density: NDArray[np.float32], glass: NDArray[np.bool_], colour: NDArray[np.float32]) -> float:
    """Spread of the side brighter than the mode, which no tissue can widen; the noisiest channel."""
    spread = 0.0
    for channel in range(3):
        off = density[..., channel][glass] - colour[channel]
        bright = off[(off < 0) & (off > -0.1)]
        if len(bright) > 30:
            spread = max(spread, 1.4826 * float(np.median(-bright)))
    return spread


def _fit_fade(
    density: NDArray[np.float32], usable: NDArray[np.bool_], colour: NDArray[np.float32], noise: float
) -> Fade | None:
    """A quadratic surface through the glass; None when it is even."""
    height, width = usable.shape
    factor = FIT_SIDE / max(width, height)
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    off = np.asarray(cv2.resize(density - colour, small, interpolation=cv2.INTER_AREA), np.float32).reshape(
        -1, 3
    )
    share = np.asarray(cv2.resize(usable.astype(np.float32), small, interpolation=cv2.INTER_AREA)).ravel()
    y, x = np.meshgrid(np.linspace(-1, 1, small[1]), np.linspace(-1, 1, small[0]), indexing="ij")
    return _grow_surface(off, share > 0.9, _quadratic(x.ravel(), y.ravel()), max(0.015, 2.5 * noise))


def _grow_surface(
    off: NDArray[np.float32], usable: NDArray[np.bool_], design: NDArray[np.float64], reach: float
) -> Fade | None:
    """Fit, take in what lies within `reach` of the fit, fit again; None when it is even.

    Grown from the pixels at the mode, so that a slow fade is followed and the sharp step to pale tissue
    is not.
    """
    weights = np.zeros((design.shape[1], 3))
    surface, chosen = np.zeros(off.shape), np.zeros(len(usable), bool)
    for _ in range(8):
        chosen = usable & (np.abs(off - surface).max(axis=1) < reach)
        if chosen.sum() < max(60, 0.05 * len(usable)):
            return None
        weights = np.linalg.lstsq(design[chosen], off[chosen], rcond=None)[0]
        surface = np.clip(design @ weights, -LARGEST_FADE, LARGEST_FADE)
    return Fade(weights.astype(np.float64)) if np.ptp(surface[chosen], axis=0).max() >= 0.01 else None


def _quadratic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The six terms at n places: float64 (n, 6)."""
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
