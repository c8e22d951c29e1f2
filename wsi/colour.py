"""In what a pixel's colour is counted: optical density and CIE Lab, there and back; the colours of dyes.

Rooms that must not know each other take these from here, so that both mean the same by them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.wsi.facts import WHITE
from coverslip.wsi.pixels import Rgb

Density3 = tuple[float, float, float]

# Optical densities of red, green and blue, of about unit length: Ruifrok and Johnston (2001), Anal Quant
# Cytol Histol 23:291.
HAEMATOXYLIN: Density3 = (0.65, 0.70, 0.29)
EOSIN: Density3 = (0.07, 0.99, 0.11)
# QuPath's, which is nearer to that of most sections.
EOSIN_QUPATH: Density3 = (0.2159, 0.8012, 0.5581)
DAB: Density3 = (0.27, 0.57, 0.78)


def optical_density(rgb: NDArray[np.uint8], background: Rgb = WHITE) -> NDArray[np.float32]:
    """max(0, -log10(max(v, 1) / background)) of uint8 (h, w, 3): float32 (h, w, 3), 0 to 2.41.

    Pixels brighter than the background count as 0 (QuPath's rule). Raises RequestError for another array.

    >>> float(optical_density(np.full((1, 1, 3), 255, np.uint8)).max())
    0.0
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise RequestError(
            f"array {rgb.shape} {rgb.dtype}", "is no RGB image", "give uint8 (height, width, 3)"
        )
    if not rgb.size:
        return np.zeros(rgb.shape, np.float32)
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), _density_table(background)), np.float32)


def _density_table(background: Rgb) -> NDArray[np.float32]:
    """(1, 256, 3): the density of each of the 256 values a channel can have."""
    value = np.maximum(np.arange(256, dtype=np.float64), 1)[None, :, None]
    # adding 0.0 turns the -0.0 of the background value itself into 0.0
    return np.maximum(0, -np.log10(value / np.asarray(background, np.float64))).astype(np.float32) + 0.0


def light(density: NDArray[np.floating], background: Rgb = WHITE) -> NDArray[np.uint8]:
    """What passes a density (…, 3) on such glass: background × 10^−density, rounded and held in 0 to 255."""
    passed = np.exp(density.astype(np.float32, copy=False) * np.float32(-np.log(10)))
    passed *= np.asarray(background, np.float32)
    return np.clip(np.rint(passed, out=passed), 0, 255, out=passed).astype(np.uint8)


def to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE Lab of sRGB under D65: uint8 (h, w, 3) to float32, L 0 to 100, a and b about −127 to 127."""
    scaled = np.ascontiguousarray(rgb).astype(np.float32) / np.float32(255)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab), np.float32) if rgb.size else scaled


def from_lab(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB 0 to 255, not rounded, of float32 (h, w, 3); what sRGB cannot show is held at its edge."""
    rgb = np.asarray(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), np.float32) if lab.size else lab
    return np.clip(rgb, 0, 1) * np.float32(255)
