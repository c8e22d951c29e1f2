"""Colours of classes: distinguishable by people with colour-blindness."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

Rgba = tuple[int, int, int, int]

# Okabe and Ito (2008), "Color universal design"; black is left out, it hides the image.
OKABE_ITO: tuple[Rgba, ...] = (
    (0, 114, 178, 255),
    (230, 159, 0, 255),
    (0, 158, 115, 255),
    (213, 94, 0, 255),
    (86, 180, 233, 255),
    (204, 121, 167, 255),
    (240, 228, 66, 255),
)
TISSUE: Rgba = (0, 158, 115, 255)
PEN: Rgba = (204, 121, 167, 255)
DARK: Rgba = (90, 90, 90, 255)
# From blue through yellow to vermilion: order shows also in grey.
INTENSITY = MappingProxyType(
    {
        1: ("negative", (0, 114, 178, 255)),
        2: ("1+", (240, 228, 66, 255)),
        3: ("2+", (230, 159, 0, 255)),
        4: ("3+", (213, 94, 0, 255)),
    }
)


def class_colours(classes: Sequence[str]) -> dict[int, tuple[str, Rgba]]:
    """Label value (1 for the first class) → name and colour; colours repeat, darker, after seven.

    >>> class_colours(["a", "b"])[2]
    ('b', (230, 159, 0, 255))
    """
    return {number + 1: (name, _colour(number)) for number, name in enumerate(classes)}


def _colour(number: int) -> Rgba:
    red, green, blue, alpha = OKABE_ITO[number % len(OKABE_ITO)]
    shade = 0.6 ** (number // len(OKABE_ITO))
    return round(red * shade), round(green * shade), round(blue * shade), alpha
