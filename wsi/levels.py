"""How the stored levels relate to level 0, and which of them serves a resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

from coverslip.wsi.geometry import Box, Field, Level, Mpp, Size

# A level whose µm/px is this much coarser than asked still counts as reaching it: files round the
# resolution they state, and 0.2% is less than half a pixel over a tile of 224.
TOLERANCE = 1.002


def build_levels(sizes: Sequence[Size], tiles: Sequence[Size | None]) -> tuple[Level, ...]:
    """Levels from their sizes, largest first."""
    return tuple(
        Level(size, *_downsamples(sizes[0], size), tile) for size, tile in zip(sizes, tiles, strict=True)
    )


def _downsamples(base: Size, size: Size) -> tuple[float, float]:
    """Level-0 pixels per pixel, along x and y.

    Writers halve and drop or pad the odd last row, so 2967 rows become 1483 or 1484: the factor is 2, not
    2.0007. Where one whole factor explains both sides to within a pixel it is that; else the ratio.
    """
    for factor in {round(base.width / size.width), round(base.height / size.height)}:
        if abs(base.width / factor - size.width) < 1 and abs(base.height / factor - size.height) < 1:
            return float(factor), float(factor)
    return base.width / size.width, base.height / size.height


def level_for(levels: Sequence[Level], slide_mpp: Mpp, mpp: float) -> int:
    """The coarsest level not coarser than `mpp` along either axis; 0 when even level 0 is coarser."""
    fits = [
        n
        for n, level in enumerate(levels)
        if max(level.downsample_x * slide_mpp.x, level.downsample_y * slide_mpp.y) <= mpp * TOLERANCE
    ]
    return max(fits, key=lambda n: levels[n].downsample, default=0)


def pixels_under(field: Field, slide_mpp: Mpp, level: Level) -> tuple[Box, tuple[float, float, float, float]]:
    """Which pixels of a level a field is made of: their box, and the field's window in it.

    The window is left, top, right, bottom in pixels from the box's corner, fractional.
    """
    width, height = field.extent(slide_mpp)
    left, top = field.x / level.downsample_x, field.y / level.downsample_y
    right, bottom = left + width / level.downsample_x, top + height / level.downsample_y
    box = _cover(left, top, right, bottom)
    window = (left - box.x, top - box.y, min(right - box.x, box.width), min(bottom - box.y, box.height))
    return box, (max(0.0, window[0]), max(0.0, window[1]), *window[2:])


def _cover(left: float, top: float, right: float, bottom: float) -> Box:
    """Smallest box of whole pixels around a fractional one; 1e-6 px forgives floating point."""
    x, y = floor(left + 1e-6), floor(top + 1e-6)
    return Box(x, y, max(1, ceil(right - 1e-6) - x), max(1, ceil(bottom - 1e-6) - y))
