"""How much tumour there is, in how many foci, and how far the largest reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.geojson import Feature
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.rings import Polygon, mask_polygons
from coverslip.workflows.foci import Focus, find_foci
from coverslip.workflows.histology.reading import WEIGHED, ClassedTiles, Reading, lacking
from coverslip.workflows.histology.roles import Roles
from coverslip.workflows.palette import class_colours
from coverslip.workflows.result import Finding, Measurement, TileReference
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.nodes import possible_categories, stage_of

EXTENT = (
    "greatest distance between the centres of the focus's tiles (largest Feret diameter), plus one tile's "
    "side; tiles touch by sides or corners"
)


@dataclass(frozen=True, slots=True, eq=False)
class Tumour:
    """Tumour on a slide: `inside` says which tiles, (n,); `foci`, those of largest extent first."""

    tiles: ClassedTiles
    roles: Roles
    inside: NDArray[np.bool_]
    foci: tuple[Focus, ...]

    @property
    def area_mm2(self) -> float:
        return self.tiles.area_mm2(self.inside)

    @property
    def chance(self) -> NDArray[np.float64]:
        """Probability of tumour of each tile, (n,)."""
        return self.tiles.chance(self.roles.tumour)

    @property
    def tissue_mm2(self) -> float:
        """Tissue without tiles of background classes."""
        return self.tiles.area_mm2(~self.tiles.of(self.roles.background))

    @property
    def fraction(self) -> float | None:
        return self.area_mm2 / self.tissue_mm2 if self.tissue_mm2 else None


def find_tumour(tiles: ClassedTiles, roles: Roles, least_tiles: int) -> Tumour:
    """Foci of fewer than `least_tiles` tiles are none, and their tiles no tumour."""
    called = tiles.of(roles.tumour)
    foci = [
        focus for focus in find_foci(tiles.plan, called, tiles.plan.tissue) if len(focus.rows) >= least_tiles
    ]
    inside = np.zeros(len(tiles.plan), bool)
    for focus in foci:
        inside[focus.rows] = True
    return Tumour(tiles, roles, inside, tuple(foci))


def read_tumour(tumour: Tumour, examples: int) -> Reading:
    """Area, fraction, foci, the largest one's extent; the surest tile of each of the largest as evidence."""
    if not tumour.roles.tumour:
        return lacking("tumour area, fraction and foci", "tumour")
    names = ", ".join(tumour.roles.tumour)
    how, n = f"{WEIGHED}: {names}", int(tumour.inside.sum())
    fraction = tumour.fraction
    measurements = [
        Measurement(name="tumour area", value=tumour.area_mm2, unit="mm2", method=how, n=n),
        Measurement(
            name="tumour fraction",
            value=None if fraction is None else 100 * fraction,
            unit="%",
            method=f"tumour area per area of tissue{_without(tumour.roles)}; of area, not of cells",
            n=n,
            note=_undecided(tumour) if fraction is not None else "there is no tissue but background",
        ),
        Measurement(
            name="tumour foci",
            value=len(tumour.foci),
            unit="1",
            method="tiles that touch by sides or corners",
        ),
    ]
    if tumour.foci:
        measurements += _largest(tumour.foci[0])
    return Reading(tuple(measurements), (_evidence(tumour, examples),) if tumour.foci else ())


def _without(roles: Roles) -> str:
    return f" without {', '.join(roles.background)}" if roles.background else ""


def _undecided(tumour: Tumour) -> str | None:
    """The fraction if all tiles that might be tumour were, and if those that might be something else were
    not."""
    tiles = tumour.tiles
    if tiles.sets is None or not tumour.tissue_mm2:
        return None
    numbers = tiles.numbers(tumour.roles.tumour)
    others = [number for number in range(len(tiles.classes)) if number not in numbers]
    may = tiles.sets[:, numbers].any(axis=1)
    must = may & ~tiles.sets[:, others].any(axis=1)
    low, high = (100 * tiles.area_mm2(np.asarray(part)) / tumour.tissue_mm2 for part in (must, may))
    return (
        f"{low:.1f} % if only tiles count whose prediction set holds nothing but tumour, "
        f"{high:.1f} % if all count whose set holds it"
    )


def _largest(focus: Focus) -> list[Measurement]:
    n = len(focus.rows)
    return [
        Measurement(
            name="largest focus, extent",
            value=focus.extent_mm,
            unit="mm",
            method=EXTENT,
            n=n,
            note=known(focus),
        ),
        Measurement(name="largest focus, area", value=focus.area_mm2, unit="mm2", method=WEIGHED, n=n),
    ]


def known(focus: Focus) -> str:
    """How well the extent is known.

    A row of one tile of 0.112 mm: "± 0.112 mm, one tile: 0 to 0.224 mm".
    """
    return f"± {focus.resolution_mm:.3g} mm, one tile: {focus.low_mm:.3g} to {focus.high_mm:.3g} mm"


def _evidence(tumour: Tumour, examples: int) -> Finding:
    plan, chance = tumour.tiles.plan, tumour.chance
    width, height = plan.extent
    surest = [int(focus.rows[chance[focus.rows].argmax()]) for focus in tumour.foci[:examples]]
    tiles = tuple(
        TileReference(
            x=int(plan.x[row]), y=int(plan.y[row]), width=width, height=height, score=min(1.0, chance[row])
        )
        for row in surest
    )
    first, count = tumour.foci[0], len(tumour.foci)
    many = f"{count} foci, the largest" if count > 1 else "one focus,"
    text = f"{many} {first.extent_mm:.3g} mm across ({known(first)}), {first.area_mm2:.3g} mm²"
    shown = f"; shown is the surest tile of each of the {len(tiles)} largest" if count > 1 else ""
    return Finding(name="tumour foci", text=text + shown, tiles=tiles)


def read_deposits(tumour: Tumour, rules: Guideline) -> Reading:
    """For a lymph node: the category of the largest deposit, by its size alone."""
    if not tumour.foci:
        return Reading(guidelines=(rules.use(),))
    first = tumour.foci[0]
    categories = deposit_categories(first, rules)
    text = " or ".join(f"{name} ({stage_of(name, rules)})" for name in categories)
    why = f"{first.extent_mm:.3g} mm, {known(first)}; cells were not counted; deposits are not added up"
    return Reading(
        findings=(Finding(name="largest deposit", text=f"{text}: {why}"),), guidelines=(rules.use(),)
    )


def deposit_categories(focus: Focus, rules: Guideline) -> tuple[str, ...]:
    """Every category that the focus can have, as far as its tiles tell."""
    return possible_categories(focus.low_mm, focus.high_mm, rules)


def foci_table(tumour: Tumour) -> pa.Table:
    """A row for each focus, the largest first; `focus` counts from 1."""
    foci, chance = tumour.foci, tumour.chance
    return pa.table(
        {
            "focus": pa.array(range(1, len(foci) + 1), pa.int32()),
            "x": pa.array([focus.x for focus in foci], pa.float64()),
            "y": pa.array([focus.y for focus in foci], pa.float64()),
            "tiles": pa.array([len(focus.rows) for focus in foci], pa.int32()),
            "area_mm2": pa.array([focus.area_mm2 for focus in foci], pa.float64()),
            "extent_mm": pa.array([focus.extent_mm for focus in foci], pa.float64()),
            "extent_low_mm": pa.array([focus.low_mm for focus in foci], pa.float64()),
            "extent_high_mm": pa.array([focus.high_mm for focus in foci], pa.float64()),
            "major_axis_mm": pa.array([focus.major_axis_mm for focus in foci], pa.float64()),
            "probability": pa.array([chance[focus.rows].max() for focus in foci], pa.float64()),
        }
    )


def focus_of_each_tile(plan: TilePlan, foci: Sequence[Focus]) -> pa.Array:
    """The number of its focus, 0 for none, of each tile of the plan."""
    numbers = np.zeros(len(plan), np.int32)
    for number, focus in enumerate(foci, 1):
        numbers[focus.rows] = number
    return pa.array(numbers)


def focus_features(tumour: Tumour) -> tuple[Feature, ...]:
    """Outlines of the foci along their tiles, with the colour that the class map gives to tumour."""
    if not tumour.foci:
        return ()
    tiles = tumour.tiles
    colour = class_colours(tiles.classes)[tiles.numbers(tumour.roles.tumour)[0] + 1][1][:3]
    return tuple(
        Feature(
            _outlines(tiles.plan, focus),
            "Tumor",  # as QuPath calls it
            colour,
            f"focus {number}",
            measurements={"Area mm^2": focus.area_mm2, "Extent mm": focus.extent_mm},
            locked=True,
        )
        for number, focus in enumerate(tumour.foci, 1)
    )


def _outlines(plan: TilePlan, focus: Focus) -> tuple[Polygon, ...]:
    """Along the tiles' sides, level-0 pixels; parts that touch by corners only are polygons of their own."""
    x, y = plan.x[focus.rows], plan.y[focus.rows]
    columns, rows = (
        np.rint((a - a.min()) / step).astype(int) for a, step in zip((x, y), plan.step, strict=True)
    )
    grid = np.zeros((rows.max() + 1, columns.max() + 1), bool)
    grid[rows, columns] = True
    corner = np.array([x.min(), y.min()], np.float64)
    return tuple(tuple(ring + corner for ring in polygon) for polygon in mask_polygons(grid, *plan.step))
