"""How a model does on its test part under another stain or scanner: changes known to the digit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coverslip.models.document import ChangedFigure

# What optical density is multiplied by in red, green and blue: more than one laboratory's batches differ by,
# and about as much as two laboratories' or two scanners' do.
CHANGES: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "a quarter paler": (0.75, 0.75, 0.75),
        "a quarter darker": (1.25, 1.25, 1.25),
        "redder": (0.85, 1.0, 1.15),
        "bluer": (1.15, 1.0, 0.85),
    }
)


def restained(pixels: NDArray[np.uint8], change: str) -> NDArray[np.uint8]:
    """RGB uint8 (..., 3) as that change would have it: I → 255 (I / 255)^a by channel (Beer and Lambert)."""
    grey = np.arange(256) / 255
    out = np.empty_like(pixels)
    for channel, power in enumerate(CHANGES[change]):
        table = np.rint(255 * grey**power).astype(np.uint8)
        out[..., channel] = table[pixels[..., channel]]
    return out


def figures(found: Mapping[str, float]) -> tuple[ChangedFigure, ...]:
    """For the document, by the change's name."""
    return tuple(ChangedFigure(change=change, figure=figure) for change, figure in found.items())
