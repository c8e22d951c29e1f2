"""What a histology report is made from: the tiles of a slide by class, and what each part of it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.plan import TilePlan
from coverslip.workflows.canvas import cells_of
from coverslip.workflows.result import Abstention, Finding, GuidelineUse, Measurement

WEIGHED = "tiles of these classes, each weighted by its share of tissue"


@dataclass(frozen=True, slots=True, eq=False)
class ClassedTiles:
    """Tiles with the class of each, in the plan's order.

    `classes`: the model's; `best`: number of the most probable class, (n,); `probabilities`: (n, classes).
    `sets`: which classes are in each tile's prediction set, bool (n, classes), None where the model gives
    none.
    """

    plan: TilePlan
    classes: tuple[str, ...]
    best: NDArray[np.intp]
    probabilities: NDArray[np.floating]
    sets: NDArray[np.bool_] | None = None

    @property
    def side_mm(self) -> float:
        return self.plan.size * self.plan.mpp / 1000

    @property
    def weights(self) -> NDArray[np.float64]:
        return self.plan.tissue.astype(np.float64)

    def numbers(self, names: Collection[str]) -> list[int]:
        return [number for number, name in enumerate(self.classes) if name in names]

    def of(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Which tiles have one of these classes, (n,)."""
        return np.isin(self.best, self.numbers(names))

    def chance(self, names: Collection[str]) -> NDArray[np.float64]:
        """Probability that a tile has one of these classes, (n,)."""
        return self.probabilities[:, self.numbers(names)].sum(axis=1, dtype=np.float64)

    def area_mm2(self, inside: NDArray[np.bool_]) -> float:
        return float(self.weights[inside].sum() * self.side_mm**2)

    def grid(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The tiles that are inside, on their grid (rows, columns)."""
        cells = cells_of(self.plan)
        found = np.zeros(cells.shape, bool)
        found[cells.rows[inside], cells.columns[inside]] = True
        return found

    def on_grid(self, grid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which tiles lie where the grid (rows, columns) is True, (n,)."""
        cells = cells_of(self.plan)
        return np.asarray(grid[cells.rows, cells.columns])


def classed_tiles(plan: TilePlan, classes: Sequence[str], tiles: pa.Table) -> ClassedTiles:
    """From the table `tiles.parquet` of the workflow `tiles`."""
    probabilities = np.stack([tiles[f"p_{name}"].to_numpy() for name in classes], axis=1)
    sets = None
    if "set" in tiles.column_names:
        held = tiles["set"].to_pylist()
        sets = np.array([[name in row for name in classes] for row in held]).reshape(len(held), len(classes))
    return ClassedTiles(plan, tuple(classes), probabilities.argmax(axis=1), probabilities, sets)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one part of the report says; readings add up in order."""

    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    abstentions: tuple[Abstention, ...] = ()
    guidelines: tuple[GuidelineUse, ...] = ()

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            self.measurements + other.measurements,
            self.findings + other.findings,
            self.abstentions + other.abstentions,
            self.guidelines + other.guidelines,
        )


def lacking(what: str, *roles: str) -> Reading:
    """For a model without classes for these."""
    why = f"not assessed: the model has no class for {' or '.join(roles)}"
    return Reading(abstentions=(Abstention(what=what, why=why),))
