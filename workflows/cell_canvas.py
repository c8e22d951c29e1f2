"""A million cells as a label pyramid that is drawn where somebody looks, in the classes that hold now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coverslip.errors import RequestError
from coverslip.workflows.cell_index import CellIndex
from coverslip.workflows.cell_rows import CellRows
from coverslip.workflows.cell_table import PARTS
from coverslip.workflows.mosaic import COARSEST, TILE, Key, Mosaic, Shown, TileCache
from coverslip.workflows.painted_cells import PaintedCells
from coverslip.workflows.palette import DARK, Rgba, class_colours
from coverslip.wsi import Box, Size

Said = TypeVar("Said")

# A nucleus of 8 µm, where the table does not say how large a cell is; and its pixels without µm/px.
NOMINAL_UM2, NOMINAL_PX2 = 50.0, 300.0
# Narrower than this on a level, an outline is a smear: a dot says as much and costs nothing.
LEAST_OUTLINED_PX = 6.0
# Wider than this, a dot is three pixels wide.
LEAST_DOT_PX = 3.0
# A drawn outline takes 4 µs. More in one tile than fit beside each other lie on top of each other.
MOST_DRAWN = 8000
# From its centre a cell reaches so many radii of the disc of its area: an ellipse of 1 : 6.
REACH = 2.5
# Cells that touch are told apart by one of so many values of the same colour.
TINTS = 16
CORNERS = 20
SHIFT = 4
# Class of a cell that does not count.
NONE = -1
NOT_COUNTED = "not counted"


@dataclass(frozen=True, slots=True)
class Code:
    """How a class and a tint make a label value: 1 + class + tint × (classes and one more)."""

    names: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Classes, and one for what does not count."""
        return len(self.names) + 1

    @property
    def tints(self) -> int:
        return TINTS if self.steps * TINTS < 1 << 16 else 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.steps * self.tints < 1 << 8 else np.uint16)

    def values(self, classes: NDArray[np.integer], tints: NDArray[np.integer]) -> NDArray:
        steps = np.where(classes < 0, self.steps - 1, classes)
        return (1 + steps + self.steps * (tints % self.tints)).astype(self.dtype)

    def class_of(self, value: int) -> int | None:
        """The class a label value stands for; NONE for what does not count, None for background.

        >>> code = Code(("a", "b"))
        >>> [code.class_of(value) for value in (0, 1, 2, 3, 4)]
        [None, 0, 1, -1, 0]
        """
        if value < 1:
            return None
        step = (value - 1) % self.steps
        return NONE if step == self.steps - 1 else step

    def spread(self, of_class: Mapping[int, Said]) -> dict[int, Said]:
        """Label value → what is said of its class."""
        every = range(1, self.steps * self.tints + 1)
        classes = ((value, self.class_of(value)) for value in every)
        return {value: of_class[of] for value, of in classes if of is not None and of in of_class}


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """Size in pixels, level-0 pixels per pixel, whether cells are outlines, and how far one reaches."""

    number: int
    size: Size
    downsample: int
    outlined: bool
    dot: int
    reach: float


class CellCanvas:
    """All cells of a table over a slide of `size`, as labels: a value per class (and tint), 0 between cells.

    Near, each cell is its outline, filled (where the table has none its patch in `painted`, the label image
    of its finder, or else a disc of its area): a viewer's contour draws its rim, and cells that touch have
    different values of one colour. Where cells are narrower than 6 pixels they are dots, and where several
    share a pixel it has the commonest class among them. Tiles are drawn when they are looked at and live in
    `cache` under numbers from `number` on; outlines are read then.

    `mpp`: µm per level-0 pixel, None without. `names`: classes that cells can be given; those of the table
    that are not among them come after. `colours`: by class; the palette's in order for others. Safe for
    threads; `recolour` from one.
    """

    def __init__(
        self,
        cells: CellRows,
        size: Size,
        mpp: float | None,
        *,
        names: Sequence[str] = (),
        colours: Mapping[str, Rgba] | None = None,
        painted: PaintedCells | None = None,
        cache: TileCache | None = None,
        number: int = 0,
    ):
        self.names = (*names, *(name for name in cells.names if name not in names))
        self.code = Code(self.names)
        self.cells, self.size = cells, size
        self._painted = painted if cells.outlines is None else None
        self.index = CellIndex(cells.x, cells.y)
        known, palette = dict(colours or {}), class_colours(self.names)
        self.colours: dict[str, Rgba] = {
            name: known.get(name, palette[n + 1][1]) for n, name in enumerate(self.names)
        }
        self._cache, self._number = cache or TileCache(), number
        place = np.array([self.names.index(name) for name in cells.names] + [NONE], np.int16)
        self._classes = place[cells.classes]
        self._radius = _radii(cells, mpp)
        self._tint = _scattered(len(cells))
        self._levels = self._pyramid()

    @property
    def classes(self) -> NDArray[np.int16]:
        """The class each row has now, as place in `names`; -1 does not count. Read only."""
        view = self._classes.view()
        view.flags.writeable = False
        return view

    @property
    def levels(self) -> tuple[Shown, ...]:
        """Finest first, each half as large as the one before, (height, width); nothing is drawn yet."""
        return tuple(
            Shown(self.mosaic(level.number), self._number + level.number, self._cache)
            for level in self._levels
        )

    @property
    def value_colours(self) -> dict[int, Rgba]:
        """Label value → colour."""
        by_class = {n: self.colours[name] for n, name in enumerate(self.names)} | {NONE: DARK}
        return self.code.spread(by_class)

    @property
    def value_names(self) -> dict[int, str]:
        """Label value → class."""
        return self.code.spread(dict(enumerate(self.names)) | {NONE: NOT_COUNTED})

    def mosaic(self, number: int) -> Mosaic:
        """One level, without cache."""
        level = self._levels[number]
        return Mosaic(
            level.size.shape,
            self.code.dtype,
            lambda box: self._draw(level, box),
            level.downsample,
            stored=False,
        )

    def recolour(self, rows: ArrayLike, classes: ArrayLike) -> tuple[Key, ...]:
        """Give rows these classes (one for all, or one each; -1 does not count); their tiles are redrawn.

        Gives the tiles that were dropped; a viewer has to be told to look again. Raises RequestError for
        classes that are not in `names`, or rows that are not in the table.
        """
        where = np.atleast_1d(np.asarray(rows, np.int64))
        given = np.broadcast_to(np.asarray(classes, np.int16), where.shape)
        if len(where) and (where.min() < 0 or where.max() >= len(self.cells)):
            raise RequestError("rows", "are not in the table", f"give 0 to {len(self.cells) - 1}")
        if len(given) and (given.min() < NONE or given.max() >= len(self.names)):
            raise RequestError("classes", "are not known", f"give 0 to {len(self.names) - 1}, or -1")
        changed = where[self._classes[where] != given]
        self._classes[where] = given
        return self._cache.drop(key for level in self._levels for key in self._tiles_of(level, changed))

    def outline(self, row: int) -> NDArray[np.float64]:
        """Corners (k, 2) of one cell in level-0 pixels, x, y; of its disc where the table has no outline."""
        place = np.array([self.cells.x[row], self.cells.y[row]])
        return np.asarray(self._shape(np.array([row]))[0] + place, np.float64)

    def _pyramid(self) -> tuple[_Level, ...]:
        typical = float(np.median(self._radius)) if len(self._radius) else 1.0
        reach = min(REACH * float(self._radius.max(initial=0)), TILE / 2)
        found, size, downsample = [], self.size, 1
        while True:
            wide = 2 * typical / downsample
            outlined = wide >= LEAST_OUTLINED_PX
            dot = 0 if wide < LEAST_DOT_PX else 1
            found.append(
                _Level(len(found), size, downsample, outlined, dot, reach if outlined else 2.0 * downsample)
            )
            if max(size.width, size.height) <= COARSEST:
                return tuple(found)
            downsample *= 2
            size = Size(-(-self.size.width // downsample), -(-self.size.height // downsample))

    def _tiles_of(self, level: _Level, rows: NDArray[np.int64]) -> set[Key]:
        """Keys of the tiles that these cells may have a pixel in."""
        side = TILE * level.downsample
        lines, columns = (-(-length // TILE) for length in level.size.shape)
        found: set[Key] = set()
        for down in (-level.reach, level.reach):
            line = np.clip((self.cells.y[rows] + down) // side, 0, lines - 1)
            for right in (-level.reach, level.reach):
                column = np.clip((self.cells.x[rows] + right) // side, 0, columns - 1)
                for tile in np.unique((line * columns + column).astype(np.int64)).tolist():
                    found.add((self._number + level.number, tile // columns, tile % columns))
        return found

    def _draw(self, level: _Level, box: Box) -> NDArray:
        """The pixels of a box of a level."""
        d, reach = level.downsample, level.reach
        rows = self.index.near(
            box.x * d - reach, box.y * d - reach, box.right * d + reach, box.bottom * d + reach
        )
        x, y = self.cells.x[rows] / d - box.x, self.cells.y[rows] / d - box.y
        far = reach / d
        seen = (x >= -far) & (x < box.width + far) & (y >= -far) & (y < box.height + far)
        rows, x, y = rows[seen], x[seen], y[seen]
        if level.outlined and len(rows) <= MOST_DRAWN:
            order = np.argsort(rows)
            rows, x, y = rows[order], x[order], y[order]
            if self._painted is not None:
                return self._from_painted(self._painted, rows, x, y, level, box)
            return self._outlined(rows, x, y, d, box.size)
        return self._dotted(rows, x, y, level, box)

    def _outlined(
        self,
        rows: NDArray[np.int32],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        d: int,
        size: Size,
    ) -> NDArray:
        """Filled outlines; of those that overlap the last row is on top."""
        picture = np.zeros(size.shape, self.code.dtype)
        values = self.code.values(self._classes[rows], self._tint[rows]).tolist()
        # cv2 counts from the centre of the first pixel, in parts of 2 ** -SHIFT
        at = (np.stack([x, y], axis=1) - 0.5) * (1 << SHIFT)
        for place, points, value in zip(at, self._shape(rows), values, strict=True):
            corners = np.rint(points * ((1 << SHIFT) / d) + place).astype(np.int32)
            cv2.fillPoly(picture, [corners], value, cv2.LINE_8, SHIFT)
        return picture

    def _from_painted(
        self,
        painted: PaintedCells,
        rows: NDArray[np.int32],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        level: _Level,
        box: Box,
    ) -> NDArray:
        values = self.code.values(self._classes[rows], self._tint[rows])
        far = math.ceil(level.reach / level.downsample)
        return painted.draw(values, x, y, box, level.downsample, far)

    def _shape(self, rows: NDArray[np.integer]) -> Sequence[NDArray[np.floating]]:
        """Corners of each from its centre, level-0 pixels."""
        radii = self._radius[rows]
        if self.cells.outlines is None:
            return list(radii[:, None, None] * _CIRCLE)
        found = self.cells.outlines.of(rows)
        return [
            points / PARTS if len(points) > 2 else radius * _CIRCLE
            for points, radius in zip(found, radii.tolist(), strict=True)
        ]

    def _dotted(
        self, rows: NDArray[np.int32], x: NDArray[np.float64], y: NDArray[np.float64], level: _Level, box: Box
    ) -> NDArray:
        """A dot per cell, the commonest class where some share a pixel, of equals the first; dots of two or
        three pixels: a viewer that shows every second pixel shows them all."""
        before, after = (1, level.dot) if level.dot else (1, 0)
        width, height = box.width + before + after, box.height + before + after
        column, line = (np.floor(v).astype(np.int32) + before for v in (x, y))
        inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
        classes = self._classes[rows[inside]]
        steps = np.where(classes < 0, self.code.steps - 1, classes)
        pixel = line[inside] * width + column[inside]
        commonest = _commonest(pixel, steps, width * height, self.code.steps).reshape(height, width)
        commonest = _widened(commonest, before, after)
        tint = np.arange(box.width)[None] + box.x + 4 * (np.arange(box.height)[:, None] + box.y)
        picture = self.code.values(commonest, tint)
        picture[commonest < 0] = 0
        return picture


_TURNS = 2 * np.pi * np.arange(CORNERS) / CORNERS
# Of a polygon with the area of a disc of radius 1.
_CIRCLE = np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1) * math.sqrt(
    2 * math.pi / (CORNERS * math.sin(2 * math.pi / CORNERS))
)


def _radii(cells: CellRows, mpp: float | None) -> NDArray[np.float32]:
    """Of the disc of each cell's area, level-0 pixels."""
    if mpp is None:
        return np.full(len(cells), math.sqrt(NOMINAL_PX2 / math.pi), np.float32)
    area = np.full(len(cells), NOMINAL_UM2, np.float32) if cells.area_um2 is None else cells.area_um2
    known = np.maximum(np.nan_to_num(area, nan=NOMINAL_UM2), 0)
    return (np.sqrt(known / math.pi) / mpp).astype(np.float32)


def _scattered(count: int) -> NDArray[np.uint8]:
    """A tint for each row, so that rows next to each other, and most that are not, differ (Knuth 1998,
    "Sorting and searching", 6.4: multiplicative hashing)."""
    rows = np.arange(count, dtype=np.uint32) * np.uint32(2654435769)
    return (rows >> np.uint32(28)).astype(np.uint8)


def _commonest(
    pixel: NDArray[np.int32], steps: NDArray[np.integer], pixels: int, classes: int
) -> NDArray[np.int16]:
    """(pixels,) the step most of the cells on each pixel have; -1 where there is none."""
    best, most = np.full(pixels, -1, np.int16), np.zeros(pixels, np.int64)
    for step in np.flatnonzero(np.bincount(steps, minlength=classes)).tolist():
        counts = np.bincount(pixel[steps == step], minlength=pixels)
        more = counts > most
        best[more], most[more] = step, counts[more]
    return best


def _widened(values: NDArray[np.int16], before: int, after: int) -> NDArray[np.int16]:
    """Each value also on the empty pixels next to it to the right and below, and with `after` on all sides;
    without the margins."""
    height, width = values.shape[0] - before - after, values.shape[1] - before - after
    wide = values[before : before + height, before : before + width].copy()
    reach = range(-1, after + 1)
    for down in reach:
        for right in reach:
            other = values[before + down : before + down + height, before + right : before + right + width]
            np.copyto(wide, other, where=(wide < 0))
    return wide
