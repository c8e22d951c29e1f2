"""Tiles and cells of a result as things a person points at: what lies where, and what is known of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from coverslip.workflows.cell_index import CellIndex
from coverslip.workflows.desk.place import Place
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import Objects
from coverslip.workflows.review.recompute import labels_of

# A cell whose size the table does not say.
NOMINAL_UM2 = 80.0
PROBABILITY = "p_"
# Words of a table that people read otherwise; the rest have their blanks back.
NAMES = {"area_um2": "area", "dab_od_mean": "DAB", "haematoxylin_od_mean": "haematoxylin"}
UNITS = {"area_um2": "µm²", "dab_od_mean": "OD", "haematoxylin_od_mean": "OD"}
# Already said, or for programs.
SILENT = {"x", "y", "class", "call", "outline", "kind", "plane"}
MOST_FACTS = 8
RANKED = ("suspicion", "score", "dab_od_mean", "area_um2")


@dataclass(frozen=True, slots=True)
class Target:
    """One row of `cells.parquet` or `tiles.parquet`."""

    of: Objects
    row: int


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of one object. `likely`: classes with their probability, the largest first."""

    title: str
    facts: tuple[tuple[str, str], ...]
    likely: tuple[tuple[str, float], ...]


class Known:
    """The tables of a base, asked for one row or for what lies at a place; level-0 pixels.

    What the workflow gives no class to is not pointed at. `cells`: an index of the cells where one was made
    already.
    """

    def __init__(self, base: Base, cells: CellIndex | None = None):
        self.base, self.kinds = base, kinds_of(base)
        self.cells = cells or (_index(base.cells) if base.cells is not None else None)
        self.tile_size = tile_size(base)
        self._tiles = corners_of(base.tiles) if self.tile_size else None

    def place(self, target: Target) -> Place:
        """The square a cell fills, by its area; the tile."""
        if target.of == "tiles":
            assert self._tiles is not None
            assert self.tile_size is not None
            x, y = self._tiles[target.row]
            return Place(float(x), float(y), *self.tile_size)
        table = self.base.cells
        assert table is not None
        x, y = (float(table[axis][target.row].as_py()) for axis in ("x", "y"))
        mpp = self.base.result.slide.mpp
        area = table["area_um2"][target.row].as_py() if "area_um2" in table.column_names else None
        side = 1.5 * math.sqrt(area or NOMINAL_UM2)
        width, height = side / mpp.x, side / mpp.y
        return Place(x - width / 2, y - height / 2, width, height, single=True)

    def at(self, x: float, y: float, reach: float) -> Target | None:
        """The cell next to a place, else the tile that holds it; None for none."""
        if "cells" in self.kinds and self.cells is not None:
            row = self.cells.nearest(x, y, reach)
            if row is not None:
                return Target("cells", row)
        row = self._tile_at(x, y) if "tiles" in self.kinds else None
        return None if row is None else Target("tiles", row)

    def inside(self, of: Objects, ring: NDArray[np.floating]) -> tuple[int, ...]:
        """Rows whose middle is within a ring, (k, 2) level-0 pixels x, y; ascending."""
        if of == "cells":
            found = () if self.cells is None else np.sort(self.cells.inside(ring)).tolist()
            return tuple(found)
        if self._tiles is None or self.tile_size is None:
            return ()
        x, y = (self._tiles + np.array(self.tile_size) / 2).T
        return tuple(np.flatnonzero(shapely.contains_xy(shapely.Polygon(ring), x, y)).tolist())

    def _tile_at(self, x: float, y: float) -> int | None:
        """Of tiles that overlap, the one whose middle is nearest."""
        if self._tiles is None or self.tile_size is None or not len(self._tiles):
            return None
        off = np.array([x, y]) - self._tiles
        inside = np.flatnonzero(((off >= 0) & (off < self.tile_size)).all(axis=1))
        if not len(inside):
            return None
        far = np.abs(off[inside] - np.array(self.tile_size) / 2).max(axis=1)
        return int(inside[far.argmin()])

    def card(self, target: Target, now: str | None) -> Card:
        """`now`: the class that stands, None for none."""
        row = self._table(target.of).slice(target.row, 1).to_pylist()[0]
        said = row.get("class", row.get("call"))
        title = f"{target.of[:-1].capitalize()} {target.row + 1}: {now or said or 'no class'}"
        facts: list[tuple[str, str]] = []
        if now and said and now != said:
            facts.append(("machine's class", str(said)))
        if row.get("kind"):
            facts.append(("kind", str(row["kind"])))
        facts += [
            (NAMES.get(str(name), str(name).replace("_", " ")), _shown(value, UNITS.get(str(name), "")))
            for name, value in row.items()
            if name not in SILENT and not name.startswith(PROBABILITY) and value is not None
        ]
        likely = [
            (name.removeprefix(PROBABILITY), float(value))
            for name, value in row.items()
            if name.startswith(PROBABILITY) and value is not None
        ]
        likely.sort(key=lambda one: -one[1])
        return Card(title, tuple(facts[:MOST_FACTS]), tuple(likely))

    def of_class(self, of: Objects, label: int, standing: NDArray[np.int32], most: int) -> list[Target]:
        """Rows that have a class now, those first that show it most."""
        rows = np.flatnonzero(standing == label)
        table = self._table(of)
        by = next((name for name in RANKED if name in table.column_names), None)
        if by is not None and len(rows):
            values = np.nan_to_num(np.asarray(table[by].take(pa.array(rows)), np.float64))
            rows = rows[np.argsort(-values, kind="stable")]
        return [Target(of, row) for row in rows[:most].tolist()]

    def _table(self, of: Objects) -> pa.Table:
        table = self.base.cells if of == "cells" else self.base.tiles
        assert table is not None
        return table


def kinds_of(base: Base) -> tuple[Objects, ...]:
    """What a reviewer can give classes to; cells where there is nothing, to be pointed at all the same."""
    return tuple(of for of in get_args(Objects) if labels_of(base, of)) or ("cells",)


def tile_size(base: Base) -> tuple[float, float] | None:
    """Width and height of the tiles in level-0 pixels; None where no finding and no setting tells it."""
    settings, mpp = base.result.provenance.settings, base.result.slide.mpp
    grid = settings.get("grid", {})
    if "size" in grid and "mpp" in grid:
        um = grid["size"] * grid["mpp"]
        return um / mpp.x, um / mpp.y
    if base.cells is None and base.tiles is not None:
        shown = [tile for finding in base.result.findings for tile in finding.tiles]
        if shown:
            return shown[0].width, shown[0].height
    return None


def _index(table: pa.Table) -> CellIndex:
    return CellIndex(table["x"].to_numpy(), table["y"].to_numpy())


def corners_of(table: pa.Table | None) -> NDArray[np.float64] | None:
    """Of tiles, (n, 2) level-0 pixels x, y; None where the table does not tell."""
    if table is None or not {"x", "y"} <= set(table.column_names):
        return None
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1).astype(np.float64)


def _shown(value: object, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g} {unit}".rstrip()
    return str(value)
