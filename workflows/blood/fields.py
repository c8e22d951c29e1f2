"""Counts per field of view: squares of one area, side by side over the smear, as a person moves the stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.plan import tissue_share
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.blood.cells import RED, SCHISTOCYTES, SmearCells
from coverslip.workflows.result import Measurement
from coverslip.wsi import Mpp


@dataclass(frozen=True, slots=True)
class FieldSettings:
    """`area_mm2`: of a field. A 100× objective with an eyepiece of field number 22 shows π · 0.11² mm² =
    0.038 mm². `cover`: least share of a field that is cells, so that glass beside the smear is no field."""

    area_mm2: float = 0.038
    cover: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """Corners `x`, `y` of the fields that are counted, level-0 pixels, and `counts` of each: name → (n,)."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    cover: NDArray[np.float64]
    counts: dict[str, NDArray[np.int64]]
    settings: FieldSettings

    def __len__(self) -> int:
        return len(self.x)

    def table(self) -> pa.Table:
        return pa.table({"x": self.x, "y": self.y, "cover": self.cover, **self.counts})

    def measurements(self) -> tuple[Measurement, ...]:
        return tuple(self._measure(name, values) for name, values in self.counts.items())

    def _measure(self, name: str, values: NDArray[np.int64]) -> Measurement:
        area, cover = self.settings.area_mm2, self.settings.cover
        method = f"mean of whole fields of {area:g} mm² of which cells cover {cover:.0%} or more"
        if not len(self):
            return Measurement(
                name=f"{name} per field",
                value=None,
                unit="1",
                method=method,
                n=0,
                note="no whole field has enough cells",
            )
        return Measurement(
            name=f"{name} per field",
            value=float(values.mean()),
            unit="1",
            method=method,
            n=len(self),
            note=f"median {np.median(values):g}, from {values.min()} to {values.max()}",
        )


def count_fields(tissue: TissueMask, mpp: Mpp, cells: SmearCells, settings: FieldSettings) -> Fields:
    """Every whole field of a grid from the corner of the scanned part. A cell counts where its centroid is.

    White cells are those not called platelets or erythroblasts, also unsure ones. `mpp`: of level 0.
    """
    side_um = 1000 * sqrt(settings.area_mm2)
    width, height = side_um / mpp.x, side_um / mpp.y
    bounds = tissue.bounds
    across, down = floor(bounds.width / width), floor(bounds.height / height)
    columns, rows = np.tile(np.arange(across), down), np.repeat(np.arange(down), across)
    x = np.rint(bounds.x + columns * width).astype(np.int64)
    y = np.rint(bounds.y + rows * height).astype(np.int64)
    cover = tissue_share(tissue, x, y, (width, height)) if len(x) else np.zeros(0)
    kept = np.flatnonzero(cover >= settings.cover)
    column = np.floor((cells.table["x"].to_numpy() - bounds.x) / width).astype(np.int64)
    row = np.floor((cells.table["y"].to_numpy() - bounds.y) / height).astype(np.int64)
    inside = (column >= 0) & (column < across) & (row >= 0) & (row < down)
    counts = {}
    for name, chosen in (
        ("white cells", cells.leukocytes),
        ("red cells", np.isin(cells.kind, (RED, SCHISTOCYTES))),
        ("platelets", cells.platelets),
    ):
        at = (row * across + column)[inside & chosen]
        counts[name] = np.bincount(at, minlength=across * down)[kept].astype(np.int64)
    return Fields(x[kept], y[kept], cover[kept], counts, settings)
