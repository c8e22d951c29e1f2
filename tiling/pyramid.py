"""The plan of a pyramid: which levels it has, where each is from, how each is stored and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

import numpy as np

from coverslip.errors import RequestError
from coverslip.wsi.facts import WHITE
from coverslip.wsi.geometry import Box, Level, Mpp, Size
from coverslip.wsi.pixels import Rgb
from coverslip.wsi.slide import Slide
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import decode

Ngff = Literal["0.5", "0.4"]
# How a level's chunks are stored: the slide's own JPEG tiles, JPEG of ours, or lossless.
Coding = Literal["tiles", "jpeg", "lossless"]
# A stored level counts as the factor of two it is within this many level-0 pixels per pixel.
FACTOR_TOLERANCE = 1e-9


# A stored tile is a chunk of its own within these sides: smaller ones would be mostly index, larger ones
# more than a viewer wants at once.
LEAST_TILE, LARGEST_TILE = 64, 2048
# Tiles of a slide that are decoded to see whether it can be passed through.
TRIED = 8
CHUNK = Size(512, 512)


@dataclass(frozen=True, slots=True)
class PyramidSettings:
    """How a pyramid is laid out; all lengths in pixels.

    `portable`: lossless zstd, which every Zarr v3 library opens; else the rule of `passes_through` holds. It
    is off, since it takes ten times the disk and thirty times the work, and Coverslip does without.
    `chunk`: what a viewer fetches at once; 512 is 0.75 MB of RGB. It is rounded to whole stored tiles, so
    that each is decoded once; tiles that are passed through are chunks themselves.
    `shard`: what is written at once and is one file in OME-Zarr 0.5 (0.4 has no shards: each chunk is a
    file). It has a power of two of chunks a side, so that levels made from it are written along with it. A
    worker holds the compressed bytes of one and a chunk of each level: 2 to 50 MB for 4096.
    `ngff`: 0.5 on Zarr v3, or 0.4 on Zarr v2, which is what QuPath reads and is always lossless.
    `halvings`: every factor of two, instead of the slide's stored levels.
    `smallest`: levels are added until the longer side is no longer than this.
    """

    chunk: int = 512
    shard: int = 4096
    ngff: Ngff = "0.5"
    halvings: bool = False
    smallest: int = 1024
    portable: bool = False

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
    `coding`: "tiles" and "jpeg" are JPEG, of the slide and of ours. `chunk`: pixels; `per_shard`: chunks
    along a side of a shard, a power of two. `along`: it is written along with the level above it.
    """

    size: Size
    downsample_x: float
    downsample_y: float
    stored: int | None
    coding: Coding = "lossless"
    chunk: Size = CHUNK
    per_shard: int = 8
    along: bool = False

    @property
    def shard(self) -> Size:
        """Pixels of a shard; those at the right and lower edges reach over the level."""
        return Size(self.chunk.width * self.per_shard, self.chunk.height * self.per_shard)


@dataclass(frozen=True, slots=True)
class PyramidPlan:
    """What will be written, before anything is read: data that can be pickled, counted, shared out."""

    levels: tuple[PyramidLevel, ...]
    mpp: Mpp
    background: Rgb
    settings: PyramidSettings

    @property
    def passes(self) -> bool:
        """Whether the slide's stored tiles are passed through."""
        return self.levels[0].coding == "tiles"

    @property
    def text(self) -> str:
        """How the pixels are stored, what decided it, and who can open them: plain words."""
        if self.passes:
            return (
                "JPEG tiles copied as the slide stores them, read by napari and zarr-python where Coverslip "
                "is installed (other programs: portable)"
            )
        if self.settings.ngff == "0.4":
            return "lossless (blosc), read by QuPath and whatever reads OME-Zarr 0.4"
        why = "as asked" if self.settings.portable else "the slide stores no plain grid of JPEG tiles"
        return f"lossless (zstd; {why}), read by whatever reads OME-Zarr 0.5"

    @property
    def fill_value(self) -> int:
        """What a chunk that was left out is read as: one number for all channels.

        Where the background is a grey or white it is that, and wholly empty glass takes no space; a coloured
        background has no such number, and its glass is stored.
        """
        return self.background[0] if len(set(self.background)) == 1 else WHITE[0]

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
        """Boxes of that level's pixels, one per shard, row by row: they cover it once. None for a level that
        is written along with the one above it.
        """
        of = self.levels[level]
        return [] if of.along else list(shards(of.size, of.shard))

    def is_copied(self, level: int) -> bool:
        """Whether the level is the slide's own tiles, and no other is made from it while they pass."""
        return self.levels[level].coding == "tiles" and len(self.chain(level)) == 1

    def chain(self, level: int) -> range:
        """The level and those that are written along with it."""
        last = level + 1
        while last < len(self.levels) and self.levels[last].along:
            last += 1
        return range(level, last)

    @property
    def pixels(self) -> int:
        """Pixels to write, all levels."""
        return sum(level.size.area for level in self.levels)


def shards(size: Size, shard: Size) -> Iterator[Box]:
    """Boxes of that size over a level, row by row, cut at its right and lower edges.

    >>> [box.width for box in shards(Size(5, 2), Size(2, 2))]
    [2, 2, 1]
    """
    for y in range(0, size.height, shard.height):
        for x in range(0, size.width, shard.width):
            yield Box(x, y, min(shard.width, size.width - x), min(shard.height, size.height - y))


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
    passing = passes_through(slide, settings)
    levels: list[PyramidLevel] = []
    for level in walk:
        levels.append(_laid_out(level, levels[-1] if levels else None, slide, settings, passing))
        if max(level.size.width, level.size.height) <= settings.smallest:
            break
    return PyramidPlan(tuple(levels), slide.mpp, slide.background, settings)


def passes_through(slide: Slide, settings: PyramidSettings) -> bool:
    """The rule: the tiles of a slide are passed through where its level 0 is stored as a plain grid of JPEG
    tiles of 64 to 2048 pixels a side, unless OME-Zarr 0.4 or a portable pyramid is asked for.

    Then each level the slide stores this way is copied byte by byte, and levels that are made are JPEG too.
    """
    if settings.ngff != "0.5" or settings.portable:
        return False
    stored = slide.stored(0)
    return _is_passable(stored) and _decodes(slide, stored)


def _is_passable(stored: StoredLevel | None) -> TypeGuard[StoredLevel]:
    if stored is None or stored.codec != "jpeg":
        return False
    return all(LEAST_TILE <= side <= LARGEST_TILE for side in stored.tile.shape)


def _decodes(slide: Slide, stored: StoredLevel) -> bool:
    """Whether any of a few tiles over the slide decodes without a fault: what some writers' tiles all have
    would be a fault of each copy."""
    held = np.argwhere(stored.counts)
    tried = [(int(row), int(column)) for row, column in held[:: max(1, len(held) // TRIED)]]
    return any(decode(stored, data) is not None for data in slide.fetch(0, tried))


def _laid_out(
    level: PyramidLevel, above: PyramidLevel | None, slide: Slide, settings: PyramidSettings, passing: bool
) -> PyramidLevel:
    """The level with its coding, chunks and shards."""
    if level.stored is None:
        assert above is not None
        coding: Coding = "lossless" if above.coding == "lossless" else "jpeg"
        chunk = above.chunk
        if above.per_shard > 1 and not (chunk.width % 2 or chunk.height % 2):
            return replace(level, coding=coding, chunk=chunk, per_shard=above.per_shard // 2, along=True)
    else:
        stored = slide.stored(level.stored) if passing else None
        coding = "tiles" if _is_passable(stored) else "lossless"
        chunk = _chunk(settings.chunk, slide.levels[level.stored].tile)
        chunk = stored.tile if stored is not None and coding == "tiles" else chunk
    return replace(level, coding=coding, chunk=chunk, per_shard=_per_shard(settings.shard, chunk))


def _chunk(side: int, tile: Size | None) -> Size:
    """About the side asked for, in whole tiles where these are no larger than a few chunks."""
    if tile is None or max(tile.shape) > 2 * side:
        return Size(side, side)
    return Size(*(max(1, round(side / of)) * of for of in (tile.width, tile.height)))


def _per_shard(shard: int, chunk: Size) -> int:
    """The largest power of two of chunks that fits.

    >>> _per_shard(4096, Size(240, 240))
    16
    """
    return 1 << max(0, (shard // max(chunk.shape)).bit_length() - 1)


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
