"""Sizes, boxes and resolutions: frozen values that check themselves once.

The one frame is level-0 pixels: (x, y), origin at the top-left corner of the file as OpenSlide sees it,
x to the right, y down. A `Box` counts whole pixels of one level, whose number is named beside it.
Arrays are (y, x) or (y, x, channel).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coverslip.errors import RequestError


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in whole pixels of one level, both at least 1.

    >>> Size(640, 480).shape
    (480, 640)
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise RequestError(f"size {self.width}×{self.height}", "is empty", "give at least 1×1 pixel")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), as numpy wants it."""
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def box(self) -> Box:
        """The box that covers all of it."""
        return Box(0, 0, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open rectangle of whole pixels of one level: x ≤ px < x + width. May reach outside.

    >>> Box(-2, 0, 5, 4).clip(Size(10, 3))
    Box(x=0, y=0, width=3, height=3)
    >>> Box(10, 0, 5, 4).clip(Size(10, 3)) is None
    True
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise RequestError(f"box {self.width}×{self.height}", "is empty", "give at least 1×1 pixel")

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.y + self.height

    def intersect(self, other: Box) -> Box | None:
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Box(x, y, right - x, bottom - y) if right > x and bottom > y else None

    def clip(self, size: Size) -> Box | None:
        """The part inside a level of that size; None when there is none."""
        return self.intersect(size.box)

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Where this box lies in an array that covers `outer`: (rows, columns)."""
        return (
            slice(self.y - outer.y, self.bottom - outer.y),
            slice(self.x - outer.x, self.right - outer.x),
        )


@dataclass(frozen=True, slots=True)
class Mpp:
    """Micrometres per level-0 pixel along x and y, and where the figure is from.

    >>> Mpp(0.25, 0.25, "openslide.mpp-x").mean
    0.25
    """

    x: float
    y: float
    source: str

    def __post_init__(self) -> None:
        if not (0 < self.x < math.inf and 0 < self.y < math.inf):
            raise RequestError(f"mpp {self.x}, {self.y}", "is not a resolution", "give µm per pixel above 0")

    @property
    def mean(self) -> float:
        """Geometric mean of x and y: the side of a square pixel of the same area."""
        return math.sqrt(self.x * self.y)


@dataclass(frozen=True, slots=True)
class Level:
    """One stored level: its size, how many level-0 pixels one of its pixels spans, its stored tile."""

    size: Size
    downsample_x: float
    downsample_y: float
    tile: Size | None = None

    @property
    def downsample(self) -> float:
        """Geometric mean of both downsamples."""
        return math.sqrt(self.downsample_x * self.downsample_y)


@dataclass(frozen=True, slots=True)
class Field:
    """A view of the glass at a stated resolution.

    `x`, `y`: top-left corner in level-0 pixels, may be fractional; `size`: pixels wanted;
    `mpp`: µm per wanted pixel, the same along x and y. It covers size × mpp µm of glass, exactly.
    """

    x: float
    y: float
    size: Size
    mpp: float

    def extent(self, slide_mpp: Mpp) -> tuple[float, float]:
        """Width and height in level-0 pixels (fractional).

        >>> Field(0, 0, Size(256, 256), 0.5).extent(Mpp(0.5, 0.25, "given"))
        (256.0, 512.0)
        """
        return self.size.width * self.mpp / slide_mpp.x, self.size.height * self.mpp / slide_mpp.y
