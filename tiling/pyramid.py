"""The plan of a pyramid: which levels it has, where each is from, and where each lies on the glass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from coverslip.errors import RequestError
from coverslip.wsi.geometry import Box, Level, Mpp, Size
from coverslip.wsi.pixels import Rgb
from coverslip.wsi.slide import Slide

Ngff = Literal["0.5", "0.4"]
# A stored level counts as the factor of two it is within this many level-0 pixels per pixel.
FACTOR_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class PyramidSettings:
    """How a pyramid is laid out; all lengths in pixels.

    `chunk`: what a viewer fetches at once; 512 is 0.75 MB of RGB. `shard`: what is written at once and is
    one file in OME-Zarr 0.5 (0.4 has no shards: each chunk is a file); a worker holds about ten bytes per
    pixel of it, so 2048 costs 42 MB and 4096 would cost four times that. `ngff`: 0.5 on Zarr v3, or 0.4
    on Zarr v2, which is what QuPath reads. `halvings`: every factor of two, instead of the slide's stored
    levels. `smallest`: levels are added until the longer side is no longer than this.
    """

    chunk: int = 512
    shard: int = 2048
    ngff: Ngff = "0.5"
    halvings: bool = False
    smallest: int = 1024

    def __post_init__(self) -> None:
        if self.chunk < 16 or self.chunk % 2 or self.shard < self.chunk or self.shard % self.chunk:
            raise RequestError(
                f"chunk {self.chunk}, shard {self.shard}",
                "do not fit each other",
                "give an even chunk of at least 16 and a shard that is a whole number of chunks",
            )
        if self.ngff not in ("0.5", "0.4"):
            raise RequestError(f"OME-Zarr {self.ngff}", "is not written", "choose 0.5 or 0.4")
        if self.smallest < 1:
            raise RequestError(f"smallest level {self.smallest}", "is empty", "give at least 1 pixel")


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One level to write. `downsample`: level-0 pixels per pixel, along x and y.

    `stored`: the slide's level it is copied from; None when it is the halving of the level above it.
    """

    size: Size
    downsample_x: float
    downsample_y: float
    stored: int | None


@dataclass(frozen=True, slots=True)
class PyramidPlan:
    """What will be written, before anything is read: data that can be pickled, counted, shared out."""

    levels: tuple[PyramidLevel, ...]
    mpp: Mpp
    background: Rgb
    settings: PyramidSettings

    def scale_um(self, level: int) -> tuple[float, float]:
        """µm per pixel of that level, (y, x): mpp × downsample, not rounded."""
        of = self.levels[level]
        return self.mpp.y * of.downsample_y, self.mpp.x * of.downsample_x

    def translation_um(self, level: int) -> tuple[float, float]:
        """Where the centre of the level's first pixel lies, (y, x) µm from that of level 0.

        A pixel that spans f level-0 pixels has its centre (f - 1) / 2 of them further on. NGFF puts the
        origin of a pixel at its centre (section "coordinateTransformations"; napari does the same).
        """
        of = self.levels[level]
        return (of.downsample_y - 1) / 2 * self.mpp.y, (of.downsample_x - 1) / 2 * self.mpp.x

    def regions(self, level: int) -> list[Box]:
        """Boxes of that level's pixels, one per shard, row by row; they cover it once."""
        return list(shards(self.levels[level].size, self.settings.shard))

    @property
    def pixels(self) -> int:
        """Pixels to write, all levels."""
        return sum(level.size.area for level in self.levels)


def shards(size: Size, side: int) -> Iterator[Box]:
    """Squares of that side over a level, row by row, cut at its right and lower edges.

    >>> [box.width for box in shards(Size(5, 2), 2)]
    [2, 2, 1]
    """
    for y in range(0, size.height, side):
        for x in range(0, size.width, side):
            yield Box(x, y, min(side, size.width - x), min(side, size.height - y))


def halved(size: Size) -> Size:
    """Half the size; an odd last row or column is kept.

    >>> halved(Size(5, 4))
    Size(width=3, height=2)
    """
    return Size((size.width + 1) // 2, (size.height + 1) // 2)


def plan_pyramid(slide: Slide, settings: PyramidSettings | None = None) -> PyramidPlan:
    """Plan a pyramid of a slide.

    By default its stored levels as they are (factors of 1, 4 and 16 are a pyramid too), then halvings of
    the last; with `settings.halvings` every factor of two, from the stored level that has it when there
    is one. It ends with the first level whose longer side is at most `settings.smallest`.

    Raises SlideInformationError when the µm/px is not known: a pyramid without it could not say its scale.
    """
    settings = settings or PyramidSettings()
    walk = _every_factor(slide.levels) if settings.halvings else _as_stored(slide.levels)
    levels: list[PyramidLevel] = []
    for level in walk:
        levels.append(level)
        if max(level.size.width, level.size.height) <= settings.smallest:
            break
    return PyramidPlan(tuple(levels), slide.mpp, slide.background, settings)


def _as_stored(stored: tuple[Level, ...]) -> Iterator[PyramidLevel]:
    last = _copy(stored[0], 0)
    yield last
    for number, level in enumerate(stored[1:], 1):
        # A level no smaller than the one before it would not be a step of a pyramid.
        if level.size.width < last.size.width and level.size.height < last.size.height:
            last = _copy(level, number)
            yield last
    yield from _halvings(last)


def _every_factor(stored: tuple[Level, ...]) -> Iterator[PyramidLevel]:
    last = _copy(stored[0], 0)
    while True:
        yield last
        half = _halving(last)
        number = _equal(stored, half)
        last = half if number is None else _copy(stored[number], number)


def _equal(stored: tuple[Level, ...], wanted: PyramidLevel) -> int | None:
    """The stored level with the wanted factor along both axes."""
    for number, level in enumerate(stored):
        off_x = abs(level.downsample_x - wanted.downsample_x)
        off_y = abs(level.downsample_y - wanted.downsample_y)
        if max(off_x, off_y) <= FACTOR_TOLERANCE * wanted.downsample_x:
            return number
    return None


def _halvings(level: PyramidLevel) -> Iterator[PyramidLevel]:
    while True:
        level = _halving(level)
        yield level


def _halving(level: PyramidLevel) -> PyramidLevel:
    return PyramidLevel(halved(level.size), level.downsample_x * 2, level.downsample_y * 2, None)


def _copy(level: Level, number: int) -> PyramidLevel:
    return PyramidLevel(level.size, level.downsample_x, level.downsample_y, number)
