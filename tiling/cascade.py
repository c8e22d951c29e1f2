"""The pixels of a pyramid: a region of one level, and of the levels made from it, chunk by chunk.

A chunk of the coarsest level asks for the four above it, each of these for its own four, up to the level that
is copied. So every pixel is read and decoded once, a chunk of each level is in memory at a time, and nothing
that was written is read back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Protocol

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray

from coverslip.errors import RequestError, StoreIncompleteError
from coverslip.tiling.chunk import checksum, encoder
from coverslip.tiling.passthrough import Inspector, chunk_of, plain_tile
from coverslip.tiling.pyramid import PyramidLevel, PyramidPlan
from coverslip.tiling.shard import Chunks, open_chunks
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.jpeg_codec import make_known
from coverslip.wsi.pixels import Pixels
from coverslip.wsi.slide import Slide
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import Place, decode
from coverslip.wsi.zarr_store import read_rgb

StorePath = str | os.PathLike[str]
Rgb = NDArray[np.uint8]
AXES = ("c", "y", "x")
# Pixels a side that are asked of a reader at once: it may have to decode whole strips or tiles for each.
BLOCK = 2048


class PixelSource(Protocol):
    """What stored levels are read from: a `Slide`, or whatever gives the same pixels."""

    def read(self, level: int, box: Box) -> Pixels:
        """As `Slide.read`; called from several threads at once."""
        ...


def write_region(slide: PixelSource, plan: PyramidPlan, store: StorePath, level: int, box: Box) -> int:
    """Write one of `plan.regions(level)`, and what lies under it of the levels that are written along.

    Returns how many of the level's pixels the slide should hold and does not.

    A stored level is that of the slide; pixels it does not hold become the background colour, and those
    that are damage are counted. Any other level is the mean of 2×2 pixels of the level above:
    (a + b + c + d + 2) // 4, halves rounded up; an odd last row or column counts twice. Under a level whose
    tiles are passed through it is what their decoder gives at half size, which is that mean within a PSNR of
    about 42 dB. A level that is not written along is made from the level above in the store, which has to be
    whole by then. Damage of a level that is made is that of the level it is made from, and not counted again.

    Regions do not share a file, so any of a level may be written at once, by threads or processes, in any
    order, and again: the bytes are the same. Raises RequestError for a box that is no region of the plan.
    """
    if box not in plan.regions(level):
        raise RequestError(f"{box}", f"is not a region of level {level}", "take one from plan.regions(level)")
    path = os.fspath(store)
    if not os.path.isdir(os.path.join(path, str(level))):
        raise StoreIncompleteError(path, f"has no array {level}", "create it first")
    with ExitStack() as stack:
        chain = plan.chain(level)
        chunks = [stack.enter_context(open_chunks(path, plan, n, _below(box, n - level))) for n in chain]
        if plan.is_copied(level):
            return _passed(slide, plan, level, chunks[0]).write_rows(box)
        last = _chain(slide, plan, path, chain, box, chunks)
        parts = _in_blocks(_below(box, len(chain) - 1), plan.levels[level].chunk, len(chain))
        return sum(map(last.write, parts))


def _in_blocks(box: Box, chunk: Size, levels: int) -> Iterator[Box]:
    """The chunks of a chain's last level, so that those of its first come block by block."""
    times = max(1, BLOCK // max(chunk.shape) >> (levels - 1))
    for block in grid(box, Size(chunk.width * times, chunk.height * times)):
        yield from grid(block, chunk)


def grid(box: Box, cell: Size) -> Iterator[Box]:
    """A box cut along a grid that starts at the level's corner, row by row."""
    for y in range(box.y // cell.height * cell.height, box.bottom, cell.height):
        for x in range(box.x // cell.width * cell.width, box.right, cell.width):
            part = Box(x, y, cell.width, cell.height).intersect(box)
            if part is not None:
                yield part


def halve(rgb: Rgb, out: Rgb | None = None) -> Rgb:
    """The mean of 2×2 pixels: uint8 (ceil(height / 2), ceil(width / 2), 3), in `out` if given.

    See `write_region`.

    >>> halve(np.array([[[0], [1]], [[1], [0]]], np.uint8))[0, 0].item()
    1
    """
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = (width + 1) // 2, (height + 1) // 2
    half = cv2.resize(rgb, size, dst=out, interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.uint8).reshape((height + 1) // 2, (width + 1) // 2, rgb.shape[2])


def _below(box: Box, steps: int) -> Box:
    """The same region after so many halvings."""
    factor = 1 << steps
    right, bottom = -(-box.right // factor), -(-box.bottom // factor)
    return Box(box.x // factor, box.y // factor, right - box.x // factor, bottom - box.y // factor)


class _Head(Protocol):
    """The level a chain begins with. Boxes are its chunks, cut at its edges; each is asked for once."""

    def write(self, box: Box) -> int:
        """Put the chunk; how many of its pixels are damaged."""
        ...

    def half(self, box: Box, out: Rgb) -> int:
        """The same; and lay its pixels, halved, into `out`: uint8 (ceil(height / 2), ceil(width / 2), 3)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A level that is written along: `above` is the one it is made from."""

    size: Size
    chunk: Size
    above: _Head
    above_size: Size
    put: Callable[[Box, Rgb], None]
    canvas: Rgb

    def write(self, box: Box) -> int:
        """From the up to four chunks above: all chunks of a chain are of one size."""
        source = Box(box.x * 2, box.y * 2, box.width * 2, box.height * 2).clip(self.above_size)
        assert source is not None
        rgb = self.canvas[: box.height, : box.width]
        parts = grid(source, self.chunk)
        damaged = sum(self.above.half(part, rgb[_below(part, 1).within(box)]) for part in parts)
        self.put(box, rgb)
        return damaged

    def half(self, box: Box, out: Rgb) -> int:
        damaged = self.write(box)
        halve(self.canvas[: box.height, : box.width], out)
        return damaged


@dataclass(frozen=True, slots=True, eq=False)
class _Copied:
    """A level of pixels, from wherever `read` has them."""

    read: Callable[[Box], tuple[Rgb, int]]
    put: Callable[[Box, Rgb], None]

    def write(self, box: Box) -> int:
        rgb, damaged = self.read(box)
        self.put(box, rgb)
        return damaged

    def half(self, box: Box, out: Rgb) -> int:
        rgb, damaged = self.read(box)
        self.put(box, rgb)
        halve(rgb, out)
        return damaged


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """A level whose tiles are passed through. `data`: the region's tiles, where they are halved too."""

    slide: Slide
    number: int
    stored: StoredLevel
    chunks: Chunks
    inspector: Inspector
    fill: int
    data: Mapping[Place, memoryview] = field(default_factory=dict)

    def write_rows(self, region: Box) -> int:
        """A whole region, row by row of tiles, so that their bytes are still in the processor's cache; from a
        URL in as few requests as can be.
        """
        rows, columns = self.stored.under(region)
        if "://" in self.stored.path:
            return self._write(list(product(rows, columns)))
        return sum(self._write([(row, column) for column in columns]) for row in rows)

    def _write(self, places: Sequence[Place]) -> int:
        damaged = 0
        for place, view in zip(places, self.slide.fetch(self.number, places), strict=True):
            data = bytes(view)
            if self.inspector.accepts(data):
                self._put(place, chunk_of(self.stored, data))
            else:
                damaged += self._stand_in(place)[1]
        return damaged

    def write(self, box: Box) -> int:
        return self._write([self._place(box)])

    def half(self, box: Box, out: Rgb) -> int:
        place = self._place(box)
        data = self.data[place]
        if self._halve(data, box, out):
            self._put(place, chunk_of(self.stored, bytes(data)))
            return 0
        rgb, damaged = self._stand_in(place)
        halve(rgb, out)
        return damaged

    def _put(self, place: Place, chunk: bytes) -> None:
        self.chunks.put(*place, chunk, checksum(chunk))

    def _place(self, box: Box) -> Place:
        return box.y // self.stored.tile.height, box.x // self.stored.tile.width

    def _halve(self, data: memoryview, box: Box, out: Rgb) -> bool:
        """In the DCT; in full where the level ends within a pair of pixels: nothing beyond it counts.

        False for a tile that does not decode.
        """
        even = not (box.width % 2 or box.height % 2)
        rgb = decode(self.stored, data, 2) if even else decode(self.stored, data)
        if rgb is None:
            return False
        if even:
            out[:] = rgb[: box.height // 2, : box.width // 2]
        else:
            halve(rgb[: box.height, : box.width], out)
        return True

    def _stand_in(self, place: Place) -> tuple[Rgb, int]:
        """What the slide shows for a tile that is absent or no JPEG; nothing where that is the fill value."""
        wide, high = self.stored.tile.width, self.stored.tile.height
        box = Box(place[1] * wide, place[0] * high, wide, high).clip(self.stored.size)
        assert box is not None
        pixels = self.slide.read(self.number, box)
        if (pixels.rgb != self.fill).any():
            self._put(place, plain_tile(self.stored, pixels.rgb))
        return pixels.rgb, int(np.count_nonzero(pixels.damaged))


def _chain(
    slide: PixelSource, plan: PyramidPlan, store: str, numbers: range, box: Box, chunks: Sequence[Chunks]
) -> _Head:
    """The last level of a chain; it has the others write themselves."""
    level = plan.levels[numbers[0]]
    head: _Head
    if level.coding == "tiles":
        head = _passed(slide, plan, numbers[0], chunks[0])
        head = replace(head, data=_fetch(head.slide, head.number, head.stored, box))
    else:
        head = _Copied(_reads(slide, plan, store, numbers[0], box), _puts(plan, numbers[0], chunks[0]))
    for number, files in zip(numbers[1:], chunks[1:], strict=True):
        above, level = level, plan.levels[number]
        head = _Made(level.size, level.chunk, head, above.size, _puts(plan, number, files), _canvas(level))
    return head


def _canvas(level: PyramidLevel) -> Rgb:
    """Where a region's chunks are put together: fresh memory for each would cost as much as filling it."""
    return np.empty((*level.chunk.shape, 3), np.uint8)


def _puts(plan: PyramidPlan, number: int, chunks: Chunks) -> Callable[[Box, Rgb], None]:
    chunk, encode = plan.levels[number].chunk, encoder(plan, number)

    def put(box: Box, rgb: Rgb) -> None:
        data = encode(rgb)
        if data is not None:
            chunks.put(box.y // chunk.height, box.x // chunk.width, data)

    return put


def _passed(slide: PixelSource, plan: PyramidPlan, number: int, chunks: Chunks) -> _Passed:
    level = plan.levels[number]
    stored = _stored(slide, level)
    if stored is None or level.stored is None or not isinstance(slide, Slide):
        raise RequestError("this slide", "shows no stored tiles to pass through", "plan a portable pyramid")
    return _Passed(slide, level.stored, stored, chunks, Inspector(stored), plan.fill_value)


def _stored(slide: PixelSource, level: PyramidLevel) -> StoredLevel | None:
    return slide.stored(level.stored) if isinstance(slide, Slide) and level.stored is not None else None


def _fetch(slide: Slide, number: int, stored: StoredLevel, box: Box) -> dict[Place, memoryview]:
    rows, columns = stored.under(box)
    places = [(row, column) for row in rows for column in columns]
    return dict(zip(places, slide.fetch(number, places), strict=True))


def _reads(
    slide: PixelSource, plan: PyramidPlan, store: str, number: int, box: Box
) -> Callable[[Box], tuple[Rgb, int]]:
    """Where the pixels of a level that is not passed through are from."""
    level = plan.levels[number]
    if level.stored is None:
        return partial(_made_from_store, _open(store, number - 1), plan.levels[number - 1].size)
    stored = _stored(slide, level)
    if stored is not None and isinstance(slide, Slide) and _fits(level.chunk, stored.tile):
        data = _fetch(slide, level.stored, stored, box)
        return partial(_decoded, slide, level.stored, stored, data, _canvas(level))
    return _Blocks(slide, level.stored, box, level.chunk).read


def _fits(chunk: Size, tile: Size) -> bool:
    return not (chunk.width % tile.width or chunk.height % tile.height)


def _decoded(
    slide: Slide,
    number: int,
    stored: StoredLevel,
    data: Mapping[Place, memoryview],
    canvas: Rgb,
    box: Box,
) -> tuple[Rgb, int]:
    """A chunk of whole stored tiles, on the canvas; what stands for one that cannot be had is the slide's to
    say.
    """
    wide, high, damaged = stored.tile.width, stored.tile.height, 0
    rows, columns = stored.under(box)
    for row, column in product(rows, columns):
        pixels = decode(stored, data[row, column])
        x, y = column * wide - box.x, row * high - box.y
        if pixels is None:
            part = Box(column * wide, row * high, wide, high).intersect(box)
            assert part is not None
            shown = slide.read(number, part)
            pixels = shown.rgb
            damaged += int(np.count_nonzero(shown.damaged))
        canvas[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return canvas[: box.height, : box.width], damaged


class _Blocks:
    """A level read through the slide's reader, a block at a time: the last one is kept."""

    def __init__(self, slide: PixelSource, number: int, region: Box, chunk: Size):
        self._slide, self._number, self._region = slide, number, region
        times = max(1, BLOCK // max(chunk.shape))
        self._size = Size(chunk.width * times, chunk.height * times)
        self._read: tuple[Box, Pixels] | None = None

    def read(self, box: Box) -> tuple[Rgb, int]:
        if self._read is None or self._read[0].intersect(box) != box:
            wide, high = self._size.width, self._size.height
            block = Box(box.x // wide * wide, box.y // high * high, wide, high).intersect(self._region)
            assert block is not None
            self._read = block, self._slide.read(self._number, block)
        block, pixels = self._read
        at = box.within(block)
        return pixels.rgb[at], int(np.count_nonzero(pixels.damaged[at]))


def _made_from_store(above: zarr.Array, size: Size, box: Box) -> tuple[Rgb, int]:
    source = Box(box.x * 2, box.y * 2, box.width * 2, box.height * 2).clip(size)
    assert source is not None
    return halve(read_rgb(above, AXES, 0, source)), 0


def _open(store: str, number: int) -> zarr.Array:
    make_known()
    return zarr.open_array(store, path=str(number), mode="r")
