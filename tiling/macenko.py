"""Two dyes by the angles of colours in their plane: Macenko et al. (2009), ISBI, 1107."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.dyes import Dyes, chosen_pixels, dyes_of, stained_density, too_few
from coverslip.tiling.stain import H_E, TAIL, StainVectors
from coverslip.tiling.unfitted import Unfitted


def fit_macenko(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, default: StainVectors = H_E
) -> Dyes | Unfitted:
    """The dyes of uint8 (h, w, 3) or (n, h, w, 3). `mask`: bool of that shape without its last axis, which
    pixels to look at. `default`: which two stains, on which background.

    In the plane of the two largest principal axes of the stained densities the directions are taken that 1 %
    of the pixels lie beyond on either side. Unfitted, with the reason, where there is too little stain.
    Raises RequestError for arrays that do not go together.
    """
    density = stained_density(chosen_pixels(rgb, mask), default.background)
    return too_few(len(density)) or dyes_of(_ends(density), density, default)


def _ends(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3): unit directions in the plane of the stains, tails left out."""
    axes = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    flat = density @ axes
    middle = flat.mean(axis=0) / max(float(np.linalg.norm(flat.mean(axis=0))), 1e-12)
    across = np.array([-middle[1], middle[0]])
    # angles from the mean direction, so that none wraps around
    angle = np.percentile(np.arctan2(flat @ across, flat @ middle), [100 * TAIL, 100 * (1 - TAIL)])
    return (np.cos(angle)[:, None] * middle + np.sin(angle)[:, None] * across) @ axes.T
