"""Where on a slide cells are stained most, and square fields that stand for parts of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.rules.ki67 import CountedField
from coverslip.wsi import Box, Mpp

# A hot spot's corner lies on multiples of this part of its side.
STEPS = 4


@dataclass(frozen=True, slots=True)
class FieldSettings:
    """`hotspot_mm2`: area of the square that is moved over the slide; 0.2 mm² is about a high-power field.
    `hotspot_cells`: nuclei it must hold. `field_mm2`: area of the square fields of the weighted index."""

    hotspot_mm2: float = 0.2
    hotspot_cells: int = 500
    field_mm2: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.hotspot_mm2 < 1e4 and 0 < self.field_mm2 < 1e4) or self.hotspot_cells < 1:
            raise RequestError("fields", "are out of range", "give areas above 0 mm² and at least 1 nucleus")


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Nuclei on a slide. `x`, `y`: level-0 pixels; `positive`: bool (n,); `scanned`: the part of level 0 that
    fields begin at the corner of; `mpp`: of level 0."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    positive: NDArray[np.bool_]
    scanned: Box
    mpp: Mpp

    def counts(self, side_um: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(positive, all) nuclei in squares of this side that cover the scan, int64 (rows, columns)."""
        down, across = self.scanned.height * self.mpp.y / side_um, self.scanned.width * self.mpp.x / side_um
        shape = (math.ceil(down - 1e-9), math.ceil(across - 1e-9))
        column = np.floor((self.x - self.scanned.x) * self.mpp.x / side_um).astype(np.int64)
        row = np.floor((self.y - self.scanned.y) * self.mpp.y / side_um).astype(np.int64)
        place = np.clip(row, 0, shape[0] - 1) * shape[1] + np.clip(column, 0, shape[1] - 1)
        squares = shape[0] * shape[1]
        everything = np.bincount(place, minlength=squares).reshape(shape)
        return np.bincount(place[self.positive], minlength=squares).reshape(shape), everything

    def corner(self, row: int, column: int, side_um: float) -> tuple[int, int]:
        """Of a square, (x, y) in level-0 pixels."""
        x, y = column * side_um / self.mpp.x, row * side_um / self.mpp.y
        return self.scanned.x + round(x), self.scanned.y + round(y)


@dataclass(frozen=True, slots=True)
class Field:
    """A square on the slide: corner (level-0 pixels), side (µm), and its nuclei."""

    x: int
    y: int
    side_um: float
    positive: int
    total: int

    @property
    def index(self) -> Fraction:
        return Fraction(100 * self.positive, self.total)


def hot_spot(places: Places, settings: FieldSettings) -> Field | None:
    """The square with the largest share of positive nuclei among those with enough of them; None without one.

    Every square of the scan on a grid of a quarter of its side is looked at; of equal ones the one with more
    nuclei, then the uppermost, then the leftmost counts.
    """
    side = math.sqrt(settings.hotspot_mm2) * 1000
    positive, total = (_windows(counts, STEPS) for counts in places.counts(side / STEPS))
    enough = total >= settings.hotspot_cells
    if not enough.any():
        return None
    share = np.where(enough, positive / np.maximum(total, 1), -1.0)
    best = np.flatnonzero(share.ravel() == share.max())
    # the first of the largest: numpy's argmax takes the earliest
    chosen = int(best[np.argmax(total.ravel()[best])])
    row, column = divmod(chosen, share.shape[1])
    x, y = places.corner(row, column, side / STEPS)
    return Field(x, y, side, int(positive[row, column]), int(total[row, column]))


def _windows(counts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Sums over all windows of so many squares a side; one where there are fewer squares."""
    rows, columns = (max(0, width - length) for length in counts.shape)
    total = np.pad(counts, ((1, rows), (1, columns))).cumsum(axis=0).cumsum(axis=1)
    return total[width:, width:] - total[:-width, width:] - total[width:, :-width] + total[:-width, :-width]


@dataclass(frozen=True, slots=True)
class Representative:
    """A field that stands for all of its level, with the level's share of the fields."""

    field: Field
    weight: Fraction

    @property
    def counted(self) -> CountedField:
        return CountedField(self.field.positive, self.field.total, self.weight)


def representatives(
    places: Places, settings: FieldSettings, levels: int, least_cells: int
) -> tuple[Representative, ...]:
    """One field for each level of staining, weighed by how many fields are of that level.

    The slide is cut into squares; those with enough nuclei are parted into levels of equal width between the
    smallest and the largest labelling index, and of each level the field of middle index stands for it.
    Levels without a field are left out. None where fewer squares than levels hold enough nuclei.
    """
    side = math.sqrt(settings.field_mm2) * 1000
    positive, total = places.counts(side)
    rows, columns = np.nonzero(total >= max(1, least_cells))
    fields = [
        Field(*places.corner(r, c, side), side, int(positive[r, c]), int(total[r, c]))
        for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    if len(fields) < max(1, levels):
        return ()
    low, high = min(f.index for f in fields), max(f.index for f in fields)
    groups: dict[int, list[Field]] = {}
    for found in fields:
        level = 0 if high == low else min(levels - 1, int(levels * (found.index - low) / (high - low)))
        groups.setdefault(level, []).append(found)
    chosen = []
    for _, group in sorted(groups.items()):
        ordered = sorted(group, key=lambda f: (f.index, f.y, f.x))
        chosen.append(Representative(ordered[len(ordered) // 2], Fraction(len(group), len(fields))))
    return tuple(chosen)
