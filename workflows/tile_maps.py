"""What a result says of its tiles, as heat maps: how probable each class is, tile by tile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.errors import StoreIncompleteError
from coverslip.workflows.heat import STEPS, heat_colours, heat_steps
from coverslip.workflows.overlays import Pair, Rgba

PROBABILITY = "p_"
# One pixel per tile; more mean a table whose tiles do not lie on one grid.
MOST_PIXELS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """`values`: uint8 (rows, columns), a pixel per tile, 0 without one, else 1 (least) to 255 (most).

    `scale`: level-0 pixels per pixel, (y, x); `corner`: its upper left corner, level-0 pixels (y, x).
    """

    name: str
    values: NDArray[np.uint8]
    scale: Pair
    corner: Pair

    @property
    def colours(self) -> dict[int, Rgba]:
        return dict(enumerate(heat_colours(STEPS), 1))

    @property
    def names(self) -> dict[int, str]:
        """Label value → what it means, for who points at it."""
        return {step + 1: f"{self.name} {100 * step / (STEPS - 1):.1f} %" for step in range(STEPS)}


def probability_maps(folder: Path) -> tuple[HeatMap, ...]:
    """A map for each column `p_CLASS` of a result's `tiles.parquet`, in the table's order; often none.

    Raises StoreIncompleteError where there are such columns, but no grid on which the tiles lie.
    """
    file = folder / "tiles.parquet"
    if not file.is_file():
        return ()
    try:
        with pq.ParquetFile(file) as parquet:
            classes = [name for name in parquet.schema_arrow.names if name.startswith(PROBABILITY)]
            if not classes or not parquet.metadata.num_rows:
                return ()
            table = parquet.read(["x", "y", *classes])
        step = _step(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        return tuple(_map(name, table, step) for name in classes)
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise StoreIncompleteError(
            str(file), f"is no table of tiles on a grid ({error!r})", "run the workflow again"
        ) from error


def _step(result: Mapping[str, Any]) -> Pair:
    """Level-0 pixels from a tile to the next, (y, x)."""
    grid, mpp = result["provenance"]["settings"]["grid"], result["slide"]["mpp"]
    length = (grid["size"] - grid["overlap"]) * grid["mpp"]
    return length / mpp["y"], length / mpp["x"]


def _map(column: str, table: pa.Table, step: Pair) -> HeatMap:
    places = [np.asarray(table[axis], np.float64) for axis in ("y", "x")]
    corner = float(places[0].min()), float(places[1].min())
    # tiles sit on a grid whose corners were rounded to whole level-0 pixels
    rows, columns = (
        np.rint((place - first) / side).astype(np.int64)
        for place, first, side in zip(places, corner, step, strict=True)
    )
    shape = int(rows.max()) + 1, int(columns.max()) + 1
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(f"{shape[0]} × {shape[1]} tiles")
    values = np.zeros(shape, np.uint8)
    values[rows, columns] = heat_steps(np.asarray(table[column], np.float64))
    return HeatMap(f"probability of {column.removeprefix(PROBABILITY)}", values, step, corner)
