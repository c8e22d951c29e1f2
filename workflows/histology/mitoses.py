"""Mitoses per mm²: from tiles of that class, or one by one where a finder of cells knows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import chi2

from coverslip.errors import RequestError
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.canvas import cells_of
from coverslip.workflows.cell_table import OUTLINE
from coverslip.workflows.cells import CellFinding
from coverslip.workflows.finders import open_finder
from coverslip.workflows.foci import find_foci
from coverslip.workflows.histology.reading import ClassedTiles, Reading, lacking
from coverslip.workflows.histology.roles import recognised
from coverslip.workflows.result import Finding, Interval, Measurement, TileReference
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.mitoses import elston_score, per_fields, per_mm2
from coverslip.workflows.workflow import Grid
from coverslip.wsi import Slide

MITOSES = "mitoses"
CELLS, LOOKED, TILE = "cells", "looked_for_cells", "tile"
LEVEL = 0.95
NOWHERE = "there is nothing to look for them in"
# A side of what is shown of a cell: three of its widths.
SHOWN_UM = 40.0
CELL = pa.struct(
    [
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("area_um2", pa.float64()),
        ("score", pa.float32()),
        ("class", pa.string()),
        ("outline", OUTLINE.type),
    ]
)
# "element" is what Parquet calls it when the column is read again.
CELLS_OF_TILE = pa.list_(pa.field("element", CELL))


@dataclass(frozen=True, slots=True)
class MitosisRules:
    """What is told of cells by their class. `classes`: the finder's; `names`: those that are mitoses;
    `finder`: its name."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    finder: str


@dataclass(frozen=True, slots=True)
class MitosisFinder:
    """A finder of cells, and the names of its classes that are mitoses. Make one with `mitosis_finder`."""

    cells: CellFinding
    names: tuple[str, ...]

    @property
    def rules(self) -> MitosisRules:
        finder = self.cells.model.name if self.cells.model else self.cells.finder
        return MitosisRules(self.cells.classes, self.names, finder)

    def look(
        self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range, wanted: NDArray[np.bool_]
    ) -> tuple[pa.Array, pa.Array]:
        """The cells of each tile of `rows`, a list of `CELL`, and whether it was looked at.

        `wanted`: which of them to look at, bool (len(rows),).
        """
        fine = self._fine(plan)
        found: list[pa.StructArray] = []
        for row, look in zip(rows, wanted, strict=True):
            one = range(row, row + 1)
            found.append(_structs(self.cells.score(slide, fine, tissue, one).table if look else None))
        ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(ends), pa.concat_arrays(found), type=CELLS_OF_TILE)
        return lists, pa.array(wanted)

    def _fine(self, plan: TilePlan) -> TilePlan:
        """The same tiles in the finder's pixels."""
        return replace(plan, mpp=self.cells.mpp, size=round(plan.size * plan.mpp / self.cells.mpp))


def _structs(cells: pa.Table | None) -> pa.StructArray:
    """Rows of the workflow `cells` as `CELL`, stain amounts left out."""
    if cells is None or not len(cells):
        return pa.array([], CELL)
    schema = pa.schema(list(CELL))
    return cells.select(schema.names).cast(schema).combine_chunks().to_struct_array().combine_chunks()


def mitosis_finder(cells: CellFinding, grid: Grid, names: Iterable[str]) -> MitosisFinder:
    """`names`: usual names of mitoses, or the finder's own.

    Raises RequestError for a finder that knows no mitosis, or whose pixels do not fill the grid's tiles.
    """
    known = recognised(cells.classes, tuple(names))
    if not known:
        raise RequestError(
            f"the finder {cells.finder}",
            f"has no class for mitosis: its classes are {', '.join(cells.classes)}",
            "name another with --set mitosis_finder=…, or its class with --set mitosis_classes=[…]",
        )
    size = grid.size * grid.mpp / cells.mpp
    step = open_finder(cells.finder).step
    if abs(size - round(size)) > 1e-6 or round(size) % step:
        raise RequestError(
            f"the finder {cells.finder}",
            f"works on steps of {step} px at {cells.mpp:g} µm/px, which do not fill tiles of "
            f"{grid.size * grid.mpp:g} µm",
            "name another, or a model with other tiles",
        )
    return MitosisFinder(cells, known)


@dataclass(frozen=True, slots=True, eq=False)
class Mitoses:
    """Mitoses of a slide: their number in each tile, (n,), and which tiles they were looked for in.

    `how` says how they were found; `evidence` shows some.
    """

    counts: NDArray[np.int64]
    looked: NDArray[np.bool_]
    how: str
    evidence: tuple[TileReference, ...]

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def cells_by_tile(table: pa.Table) -> pa.Table:
    """The cells in the column that `MitosisFinder.look` gave, for `cells.parquet`; `tile`: the row of each
    one's tile."""
    lists = table[CELLS].combine_chunks()
    owner = np.repeat(np.arange(len(table)), lists.value_lengths().to_numpy(zero_copy_only=False))
    cells = pa.Table.from_struct_array(lists.flatten())
    return cells.append_column(TILE, pa.array(owner, pa.int64()))


def mitoses_by_finder(
    rules: MitosisRules, plan: TilePlan, cells: pa.Table, looked: NDArray[np.bool_], examples: int
) -> Mitoses:
    """From the cells of all tiles, as `cells_by_tile` gives them. `looked`: tiles that count, (n,)."""
    owner = cells[TILE].to_numpy()
    is_one = np.isin(cells["class"].to_numpy(zero_copy_only=False).astype(object), rules.names)
    is_one &= looked[owner]
    counts = np.bincount(owner[is_one], minlength=len(plan))
    shown = cells.filter(pa.array(is_one))
    scores = shown["score"].to_numpy().astype(np.float64)
    order = np.argsort(-np.nan_to_num(scores, nan=0.0), kind="stable")[:examples]
    evidence = tuple(_around(plan, shown, int(row)) for row in order)
    how = f"objects of class {', '.join(rules.names)} found by {rules.finder}"
    return Mitoses(counts, looked, how, evidence)


def _around(plan: TilePlan, cells: pa.Table, row: int) -> TileReference:
    """A square of glass with the cell in its middle."""
    width, height = SHOWN_UM / plan.slide_mpp.x, SHOWN_UM / plan.slide_mpp.y
    x, y, score = (cells[name][row].as_py() for name in ("x", "y", "score"))
    return TileReference(
        x=round(x - width / 2),
        y=round(y - height / 2),
        width=width,
        height=height,
        score=0.0 if score is None or np.isnan(score) else score,
    )


def mitoses_by_tiles(
    tiles: ClassedTiles, names: tuple[str, ...], among: NDArray[np.bool_], examples: int
) -> Mitoses:
    """Of a model with a tile class for mitosis: tiles that touch count as one, in its surest tile.

    `among`: tiles of tumour; those of mitosis are looked at, too.
    """
    there, chance, plan = tiles.of(names), tiles.chance(names), tiles.plan
    surest = [int(focus.rows[chance[focus.rows].argmax()]) for focus in find_foci(plan, there, plan.tissue)]
    counts = np.zeros(len(plan), np.int64)
    counts[surest] = 1
    width, height = plan.extent
    shown = sorted(surest, key=lambda row: (-chance[row], row))[:examples]
    evidence = tuple(
        TileReference(
            x=int(plan.x[row]), y=int(plan.y[row]), width=width, height=height, score=min(1.0, chance[row])
        )
        for row in shown
    )
    how = f"tiles of class {', '.join(names)}, those that touch counted as one, so several in one count once"
    return Mitoses(counts, among | there, how, evidence)


def read_mitoses(
    mitoses: Mitoses | None,
    plan: TilePlan,
    where: str,
    *,
    hot_spot_mm2: float,
    field_mm: float | None,
    elston: bool,
    rules: Guideline,
) -> Reading:
    """Density in all that was looked at, and in the densest square; `where` says what was looked at.

    `mitoses`: None where nothing can find them. `field_mm`: a microscope's field, to count per ten of.
    `elston`: score the densest square.
    """
    if mitoses is None:
        return lacking("mitoses per mm²", "mitosis, and no finder of cells was named that has one")
    side = plan.size * plan.mpp / 1000
    areas = np.where(mitoses.looked, plan.tissue.astype(np.float64), 0.0) * side**2
    method = f"{mitoses.how}; in {where}"
    spot = densest_square(plan, mitoses.counts, areas, sqrt(hot_spot_mm2) / side)
    measured = [
        Measurement(name=MITOSES, value=mitoses.total, unit="1", method=method, n=int(mitoses.looked.sum())),
        _density(f"{MITOSES} per area", mitoses.total, float(areas.sum()), method),
    ]
    if spot is not None:
        count, area = spot
        square = f"{method}; in the square of about {hot_spot_mm2:g} mm² that holds most"
        densest = _density(f"{MITOSES} per area, densest square", count, area, square, hot_spot_mm2 / 2)
        measured += [densest, *_in_fields(densest, field_mm, elston, rules)]
    found = Finding(name=MITOSES, text=f"{mitoses.total} in {where}", tiles=mitoses.evidence)
    return Reading(tuple(measured), (found,), guidelines=(rules.use(),))


def _density(name: str, count: int, area: float, method: str, least_mm2: float = 0.0) -> Measurement:
    """Not evaluable on less than `least_mm2`, where one mitosis more or less would decide."""
    if not area or area < least_mm2:
        why = f"{count} in {area:.2g} mm² looked at, less than {least_mm2:g} mm²" if area else NOWHERE
        return Measurement(name=name, value=None, unit="/mm2", method=method, note=why)
    low, high = (bound / area for bound in poisson_interval(count, LEVEL))
    return Measurement(
        name=name,
        value=per_mm2(count, area),
        unit="/mm2",
        method=f"{count} in {area:.3g} mm²: {method}",
        n=count,
        interval=Interval(low=low, high=high, level=LEVEL, method="Poisson"),
    )


def _in_fields(
    density: Measurement, field_mm: float | None, elston: bool, rules: Guideline
) -> list[Measurement]:
    found = []
    if field_mm is not None and density.value is not None:
        fields = f"of {rules['fields']} fields {field_mm:g} mm wide"
        value, method = per_fields(density.value, field_mm, rules), f"densest square, times the area {fields}"
        found.append(
            Measurement(name=f"{MITOSES} per {rules['fields']} fields", value=value, unit="1", method=method)
        )
    if elston and density.value is not None:
        low, high = rules["elston"]
        method = (
            f"densest square, per {rules['fields']} fields of {rules['elston_diameter_mm']:g} mm: "
            f"below {low} is 1, to {high} is 2, above is 3"
        )
        value = elston_score(density.value, rules)
        found.append(Measurement(name="mitotic score (Elston)", value=value, unit="1", method=method))
    return found


def poisson_interval(count: int, level: float) -> tuple[float, float]:
    """Exact, of a Poisson mean (Garwood 1936, Biometrika 28:437).

    >>> [round(bound, 3) for bound in poisson_interval(12, 0.95)]
    [6.201, 20.962]
    """
    tail = (1 - level) / 2
    low = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2


def densest_square(
    plan: TilePlan, counts: NDArray[np.int64], areas: NDArray[np.float64], across: float
) -> tuple[int, float] | None:
    """Mitoses and area looked at of the square of `across` tiles, rounded, that holds most mitoses.

    Of squares with as many, the one of most area looked at; None where nothing was.
    """
    if not areas.sum():
        return None
    cells, side = cells_of(plan), max(1, round(across))
    number, area = (np.zeros(cells.shape) for _ in range(2))
    np.add.at(number, (cells.rows, cells.columns), counts)
    np.add.at(area, (cells.rows, cells.columns), areas)
    sums = [_windows(grid, side) for grid in (number, area)]
    best = np.lexsort((sums[1].ravel(), sums[0].ravel()))[-1]
    return round(float(sums[0].ravel()[best])), float(sums[1].ravel()[best])


def _windows(grid: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Sums over all squares of `side` that lie in the grid; over the grid where it is smaller."""
    height, width = (min(side, length) for length in grid.shape)
    sums = np.pad(grid, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
