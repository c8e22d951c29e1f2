"""How the tiles of a plan are read: from which level, through what, at what scale of the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from coverslip.wsi.geometry import Level, Size
from coverslip.wsi.levels import level_for
from coverslip.wsi.slide import Slide
from coverslip.wsi.tiles import scales_of

# A factor is whole when a level says so to this; a stored level's own factor is exact or far from it.
WHOLE = 1e-6
# What must be left to average after a scaled decode where the factor is not whole. The DCT has thrown away
# what a shift by part of a pixel needs: on real tiles of H&E and IHC the picture at half scale, resampled by
# 1.0 to 1.3, is 35 to 38 dB from the exact one with any kernel, by 1.5 38.5, by 1.6 42 and more; at quarter
# scale 35 by 1.3, 39.5 by 2.25, 44 by 2.5. Whole factors and positions are 43 dB and more.
LEFT = {2: 1.6, 4: 2.5, 8: 2.5}


@dataclass(frozen=True, slots=True)
class Route:
    """`level`: the stored level that is read. `scale`: of the decoder, 1 when stored tiles are decoded in
    full, or 0 when the reader is asked for every tile."""

    level: int
    scale: int

    @property
    def text(self) -> str:
        """For provenance.

        >>> Route(1, 2).text
        'stored tiles of level 1, decoded at 1/2'
        """
        if not self.scale:
            return f"reader, level {self.level}"
        how = "in full" if self.scale == 1 else f"at 1/{self.scale}"
        return f"stored tiles of level {self.level}, decoded {how}"


def shrunk(level: Level, factor: int) -> Level:
    """A level made `factor` times smaller; a last row or column cut short is left out."""
    size = Size(max(1, level.size.width // factor), max(1, level.size.height // factor))
    return Level(size, level.downsample_x * factor, level.downsample_y * factor)


def choose_route(slide: Slide, mpp: float, *, exact: bool = False) -> Route:
    """For tiles of `mpp` µm/px.

    Stored tiles where the level `Slide.read_field` would read shows its own; through the reader elsewhere.
    With `exact` they are decoded in full, and pixels are those of `Slide.read_field`. Otherwise at the
    smallest scale that is not coarser than asked and stays within 40 dB (PSNR) of that.
    """
    number = level_for(slide.levels, slide.mpp, mpp)
    stored = slide.stored(number)
    if stored is None:
        return Route(number, 0)
    if exact:
        return Route(number, 1)
    level = slide.levels[number]
    factors = mpp / (slide.mpp.x * level.downsample_x), mpp / (slide.mpp.y * level.downsample_y)
    return Route(number, max(scale for scale in scales_of(stored) if _serves(scale, factors)))


def _serves(scale: int, factors: tuple[float, float]) -> bool:
    if scale == 1:
        return True
    left = [factor / scale for factor in factors]
    return min(left) >= LEFT[scale] or all(
        round(rest) >= 1 and abs(rest - round(rest)) < WHOLE for rest in left
    )
