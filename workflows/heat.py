"""Colours of a continuous quantity: cividis, from dark blue (0) to yellow (1).

Nuñez, Anderton & Renslow (2018, PLoS ONE 13:e0199239): perceived alike with and without colour-blindness, and
its lightness rises evenly, so that order shows also in grey. Neither end is a colour of the usual stains.
"""

from __future__ import annotations

from collections.abc import Mapping

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


# Of attention: the name says how the values are made from the weights, wherever it is shown.
LAYER = "attention_rank"
MEANING = "where the model looked, not what is there"
# Values of a heat map's labels: 1 is 0, 255 is 1, 0 is where nothing was looked at.
STEPS = 255


def heat_steps(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """0 to 1 as labels 1 to 255; 0 for NaN.

    >>> heat_steps(np.array([0.0, 0.5, 1.0, np.nan])).tolist()
    [1, 128, 255, 0]
    """
    known = np.isfinite(values)
    steps = 1 + np.rint((STEPS - 1) * np.clip(np.where(known, values, 0), 0, 1))
    return np.where(known, steps, 0).astype(np.uint8)


def above(colours: Mapping[int, Rgba], threshold: float) -> dict[int, Rgba]:
    """The colours of labels 1 to 255, those of less than `threshold` (0 to 1) invisible.

    >>> above({1: (9, 9, 9, 255), 255: (8, 8, 8, 255)}, 0.5)
    {1: (9, 9, 9, 0), 255: (8, 8, 8, 255)}
    """
    return {
        value: colour if (value - 1) / (STEPS - 1) >= threshold else (*colour[:3], 0)
        for value, colour in colours.items()
    }
