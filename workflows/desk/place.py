"""Rectangles of the slide, and where the camera has to be to show one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coverslip.workflows.result import Finding, TileReference

# Share of the canvas left free around what is framed, on each side.
MARGIN = 0.12
# A cell by itself is shown with this much around it, and its pixels at most so many times enlarged.
AROUND_CELL_UM, ENLARGED = 90.0, 3.0
# What a 10× objective is called: 1 µm per pixel of the screen.
TEN_UM = 10.0

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle: top-left corner and extent, level-0 pixels. `single`: it is one cell."""

    x: float
    y: float
    width: float
    height: float
    single: bool = False

    @property
    def middle(self) -> Pair:
        """x, y."""
        return self.x + self.width / 2, self.y + self.height / 2

    def holds(self, x: float, y: float) -> bool:
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


@dataclass(frozen=True, slots=True)
class World:
    """The viewer's coordinates: `pixel` is the size (y, x) of a level-0 pixel in its unit.

    The centre of the first pixel is at 0. `um`: whether the unit is µm; without, a pixel counts as one.
    """

    pixel: Pair
    um: bool = True

    def point(self, x: float, y: float) -> Pair:
        """World (y, x) of a place in level-0 pixels."""
        return (y - 0.5) * self.pixel[0], (x - 0.5) * self.pixel[1]

    def place(self, y: float, x: float) -> Pair:
        """Level-0 pixels (x, y) of a point of the world."""
        return x / self.pixel[1] + 0.5, y / self.pixel[0] + 0.5

    def corners(self, place: Place) -> list[Pair]:
        """The four corners in the world, (y, x)."""
        right, bottom = place.x + place.width, place.y + place.height
        at = ((place.x, place.y), (right, place.y), (right, bottom), (place.x, bottom))
        return [self.point(x, y) for x, y in at]


@dataclass(frozen=True, slots=True)
class Aim:
    """`centre`: of the camera, world (y, x). `zoom`: pixels of the screen per unit of the world."""

    centre: Pair
    zoom: float


def aim(place: Place, canvas: tuple[int, int], world: World) -> Aim:
    """All of a place with a margin around it, never beyond one screen pixel per level-0 pixel.

    A single cell is shown with what is around it, up to `ENLARGED` times. `canvas`: width, height in pixels.
    """
    height, width = place.height * world.pixel[0], place.width * world.pixel[1]
    finest = 1 / min(world.pixel)
    if place.single:
        around = AROUND_CELL_UM if world.um else AROUND_CELL_UM * 4
        height, width, finest = max(height, around), max(width, around), ENLARGED * finest
    free = 1 - 2 * MARGIN
    zoom = min(canvas[0] * free / max(width, 1e-9), canvas[1] * free / max(height, 1e-9), finest)
    return Aim(world.point(*place.middle), zoom)


def around(places: Sequence[Place]) -> Place:
    """The smallest place that holds all of them. Raises ValueError for none."""
    if len(places) == 1:
        return places[0]
    left, top = min(place.x for place in places), min(place.y for place in places)
    right = max(place.x + place.width for place in places)
    bottom = max(place.y + place.height for place in places)
    return Place(left, top, right - left, bottom - top)


def of_tile(tile: TileReference, single_px: float = 0.0) -> Place:
    """`single_px`: what is smaller than this many level-0 pixels is one cell."""
    single = max(tile.width, tile.height) < single_px
    return Place(tile.x, tile.y, tile.width, tile.height, single)


def of_finding(finding: Finding, single_px: float = 0.0) -> tuple[Place, ...]:
    return tuple(of_tile(tile, single_px) for tile in finding.tiles)


def magnification(zoom: float) -> float:
    """The objective that shows as much, where a 10× objective gives 1 µm per pixel of the screen.

    >>> magnification(4.0)
    40.0
    """
    return TEN_UM * zoom


def as_times(value: float) -> str:
    """
    >>> as_times(19.98), as_times(1.25), as_times(0.33)
    ('20×', '1.2×', '0.33×')
    """
    return f"{value:.0f}×" if value >= 9.5 else f"{value:.2g}×"
