"""Label images of a result: tissue, the class map, and those that shards paint while they score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.labels import LabelSettings, create_label, finish_label, write_label, write_label_region
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.quality import QualityMap
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.palette import PEN, TISSUE
from coverslip.workflows.quality import COLOURS as QUALITY
from coverslip.workflows.workflow import Canvas, ClassMap


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Where the plan's tiles lie on their regular grid: column and row of each, from the outermost tiles."""

    columns: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the smallest grid that holds all tiles."""
        return int(self.rows.max(initial=-1)) + 1, int(self.columns.max(initial=-1)) + 1


def cells_of(plan: TilePlan) -> Cells:
    """Tiles sit on a grid whose corners were rounded to whole level-0 pixels, so this rounding is exact."""
    if not len(plan):
        return Cells(np.empty(0, np.int64), np.empty(0, np.int64))
    step_x, step_y = plan.step
    columns = np.rint((plan.x - plan.x.min()) / step_x).astype(np.int64)
    rows = np.rint((plan.y - plan.y.min()) / step_y).astype(np.int64)
    return Cells(columns, rows)


def _origin_um(plan: TilePlan, scale_um: float) -> tuple[float, float]:
    """(y, x) centre of the grid's first pixel from the centre of the slide's first, as NGFF wants it."""
    mpp = plan.slide_mpp
    return (
        float(plan.y.min()) * mpp.y + (scale_um - mpp.y) / 2,
        float(plan.x.min()) * mpp.x + (scale_um - mpp.x) / 2,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Painter:
    """Writes a canvas tile by tile: a tile's block is a file of its own, so tasks never share one."""

    canvas: Canvas
    store: Path
    plan: TilePlan

    @staticmethod
    def of(canvas: Canvas | None, store: Path, plan: TilePlan) -> Painter | None:
        """None where there is nothing to paint on."""
        return Painter(canvas, store, plan) if canvas is not None and len(plan) else None

    def create(self) -> None:
        rows, columns = cells_of(self.plan).shape
        side = self.plan.size
        create_label(
            self.store,
            self.canvas.name,
            (rows * side, columns * side),
            np.uint8,
            scale_um=(self.plan.mpp, self.plan.mpp),
            translation_um=_origin_um(self.plan, self.plan.mpp),
            colours=self.canvas.colours,
            settings=LabelSettings(chunk=_chunk(side), shard=side),
        )

    def paint(self, blocks: Mapping[int, NDArray[np.uint8]]) -> None:
        """`blocks`: row of the plan → uint8 (size, size)."""
        cells, side = cells_of(self.plan), self.plan.size
        for row, block in blocks.items():
            y, x = int(cells.rows[row]) * side, int(cells.columns[row]) * side
            write_label_region(self.store, self.canvas.name, y, x, block)

    def finish(self) -> None:
        finish_label(self.store, self.canvas.name)


def _chunk(side: int) -> int:
    """Largest whole part of a tile's side that viewers fetch at ease, 128 to 1024 pixels; else all of it."""
    whole = (side // n for n in range(ceil(side / 1024), side // 128 + 1) if side % n == 0)
    return next(whole, side)


def write_tissue(store: Path, tissue: TissueMask) -> None:
    """Label `tissue`: 1 tissue, 2 pen marking."""
    values = tissue.mask.astype(np.uint8)
    values[tissue.pen] = 2
    write_label(
        store,
        "tissue",
        values,
        scale_um=(tissue.mpp.y, tissue.mpp.x),
        colours={1: ("tissue", TISSUE), 2: ("pen", PEN)},
    )


def write_quality(store: Path, quality: QualityMap, tissue: TissueMask) -> None:
    """Label `quality`, on the grid of `tissue`; see `coverslip.tiling.quality.ARTEFACTS` for its values."""
    scale = tissue.mpp.y, tissue.mpp.x
    write_label(store, "quality", quality.values, scale_um=scale, colours=QUALITY)


def write_class_map(store: Path, classes: ClassMap, plan: TilePlan) -> None:
    """One pixel per tile."""
    write_label(
        store,
        classes.name,
        classes.values,
        scale_um=(classes.scale_um, classes.scale_um),
        translation_um=_origin_um(plan, classes.scale_um),
        colours=classes.colours,
    )
