"""Is this an image of stained tissue before a lamp, or of light on a dark ground?"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# A pixel is dark when no channel reaches this of 255. On fluorescence images more than 90 % of the pixels
# are; on brightfield ones, crops of single hyperchromatic nuclei included, at most 66 %.
DARK = 64
DARK_SHARE = 0.8
# Light of a lamp reaches all three channels somewhere, even between the darkest cells (59 of 255 at least);
# a single fluorophore lights one or two, however brightly.
NO_LAMP = 30


def is_brightfield(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> bool:
    """False when the ground is dark: fluorescence or darkfield saved as RGB.

    `rgb`: uint8 (h, w, 3); `valid`: bool (h, w), pixels to judge by. True when there is none.
    """
    side = 256 / max(256, *valid.shape)
    shape = (max(1, round(valid.shape[1] * side)), max(1, round(valid.shape[0] * side)))
    small = np.asarray(cv2.resize(rgb, shape, interpolation=cv2.INTER_AREA))
    seen = np.asarray(cv2.resize(valid.astype(np.uint8) * 255, shape, interpolation=cv2.INTER_AREA)) >= 128
    if not seen.any():
        return True
    dark = float((small[seen].max(axis=1) < DARK).mean())
    palest = float(np.percentile(small[seen].min(axis=1), 99.5))
    return dark <= DARK_SHARE and palest >= NO_LAMP
