"""Colours of a continuous quantity: cividis, from dark blue (0) to yellow (1).

Nuñez, Anderton & Renslow (2018, PLoS ONE 13:e0199239): perceived alike with and without colour-blindness, and
its lightness rises evenly, so that order shows also in grey. Neither end is a colour of the usual stains.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.palette import Rgba


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGB (height, width, 3) of values 0 to 1 (height, width), in 256 steps; what is beyond has the end's."""
    steps = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(
        np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_CIVIDIS), np.uint8)[..., ::-1]
    )


def heat_colours(count: int) -> tuple[Rgba, ...]:
    """So many colours, evenly from 0 to 1."""
    red, green, blue = heat(np.linspace(0, 1, count)[None])[0].astype(int).T.tolist()
    return tuple(zip(red, green, blue, [255] * count, strict=True))
