"""Is a field in focus: how much fine detail it has for the coarse detail that it has.

Variance of the Laplacian (Pech-Pacheco et al. 2000, ICPR 3:314) tells blur only between pictures of the same
scene: fat has less of it in focus than a lymph node out of focus. Here the energy in a fine band is set
against that in the next coarser one, as in the no-reference measure of Crete et al. (2007, SPIE 6492:64920I):
blur takes the fine band first, whatever the tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError

# Standard deviations in pixels of the Gaussians between which the three bands lie: 1, 2 and 6 µm at 1 µm/px.
SCALES = (0.7, 1.5, 4.0, 12.0)


@dataclass(frozen=True, slots=True)
class FocusSettings:
    """`mpp`: resolution that fields are looked at, µm/px. At 1 a nuclear membrane still is a line, and blur
    is told from about 2 µm (standard deviation) up; coarser than 1.1 focus cannot be judged at all.

    Energies are grey levels squared, of 255. The figures were read from 131 sharp fields of known µm/px (H&E
    of three laboratories, IHC of three, blood) and the same blurred.
    """

    mpp: float = 1.0
    # Fine by middle energy: sharp fields lie at 0.178 and above, blurred by 3 µm at 0.067 and below; by 2 µm
    # at 0.056 to 0.17.
    least: float = 0.085
    # JPEG of quality 70 and rounding give as much to the fine band of a field without any detail.
    noise: float = 0.15
    # Less energy in the middle band than this is noise: then the coarse band says what should be there.
    faint: float = 1.0
    # Middle by coarse energy: sharp 0.34 and above, blurred by 6 µm 0.157 and below.
    least_middle: float = 0.16
    # Coarse energy below which a field has nothing to judge by: mucin, colloid, necrosis.
    flat: float = 2.0

    def __post_init__(self) -> None:
        if min(self.mpp, self.least, self.faint, self.least_middle, self.flat) <= 0 or self.noise < 0:
            raise RequestError("focus settings", "hold a value that is not above 0", "give positive values")


def detail(rgb: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Energy (mean square, grey levels squared) of the fine, middle and coarse band of uint8 (h, w, 3)."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).astype(np.float32)
    soft = [np.asarray(cv2.GaussianBlur(grey, (0, 0), scale), np.float32) for scale in SCALES]
    fine, middle, coarse = (float(np.square(a - b).mean()) for a, b in pairwise(soft))
    return fine, middle, coarse


def is_sharp(rgb: NDArray[np.uint8], settings: FocusSettings) -> bool | None:
    """Whether a field, uint8 (h, w, 3) at `settings.mpp`, is in focus; None where nothing tells."""
    fine, middle, coarse = detail(rgb)
    if middle >= settings.faint:
        return fine - settings.noise >= settings.least * middle
    if coarse < settings.flat:
        return None
    return middle >= settings.least_middle * coarse
