"""The figures of all tiles of a slide: a Zarr store that tasks fill side by side, and the same as HDF5."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from coverslip.atomic import replacing
from coverslip.tiling.coords import add_coords
from coverslip.tiling.plan import TilePlan
from coverslip.workflows.workflow import Vectors
from coverslip.wsi import Slide

SCHEMA = "coverslip.features/1"


@dataclass(frozen=True, slots=True, eq=False)
class VectorStore:
    """Zarr 3 with `features` float32 (tiles, width) and `coords` int64 (tiles, 2): x, y of top-left corners,
    level-0 pixels; tiles in the plan's order.

    A chunk holds `rows` tiles and is a file of its own, written whole or not at all. Nothing is compressed:
    figures of a network hardly can be.
    """

    width: int
    folder: Path
    plan: TilePlan
    rows: int
    encoder: str = ""
    weights_sha256: str = ""

    @staticmethod
    def of(vectors: Vectors | None, folder: Path, plan: TilePlan, rows: int) -> VectorStore | None:
        """None where the workflow gives no figures."""
        if vectors is None:
            return None
        return VectorStore(vectors.width, folder, plan, rows, vectors.encoder, vectors.weights_sha256)

    def create(self) -> None:
        """Empty, but for the positions."""
        plan = self.plan
        root = zarr.open_group(os.fspath(self.folder), mode="w", zarr_format=3)
        root.attrs.update(
            {
                "schema": SCHEMA,
                "slide_mpp": [plan.slide_mpp.x, plan.slide_mpp.y],
                "tile_mpp": plan.mpp,
                "tile_size": plan.size,
                "tile_overlap": plan.overlap,
                "tile_extent_level0": list(plan.extent),
                "encoder": self.encoder,
                "encoder_sha256": self.weights_sha256,
            }
        )
        shape = (len(plan), self.width)
        options: dict[str, Any] = {"compressors": None, "fill_value": np.nan}
        root.create_array("features", shape=shape, chunks=(self.rows, self.width), dtype="float32", **options)
        coords = np.stack([plan.x, plan.y], axis=1).astype(np.int64)
        places = root.create_array(
            "coords", shape=coords.shape, chunks=(max(1, len(plan)), 2), dtype="int64", compressors=None
        )
        places[:] = coords

    def put(self, rows: range, values: NDArray[np.float32]) -> None:
        """The figures (len(rows), width) of these tiles, the first of which begins a chunk."""
        _features(self.folder)[rows.start : rows.stop] = values


def write_h5(store: Path, plan: TilePlan, slide: Slide, path: Path) -> None:
    """A finished store as HDF5 for CLAM and TRIDENT: `features` float32 (tiles, width), and `coords` with the
    attributes of `coverslip.tiling.coords.write_coords`. Those of `features` say which encoder made them of
    which tiles. No more than a chunk is held."""
    figures = _features(store)
    count, width = figures.shape
    step = figures.chunks[0]
    with replacing(path) as part, h5py.File(part, "w") as file:
        data = file.create_dataset(
            "features", (count, width), "float32", maxshape=(None, width), chunks=(step, width)
        )
        for start in range(0, count, step):
            data[start : start + step] = figures[start : start + step]
        data.attrs.update(_made_by(store, plan))
        add_coords(file, plan, slide, path.parent.name)


def read_vectors(store: Path) -> NDArray[np.float32]:
    """All figures of a finished store, (tiles, width)."""
    return np.asarray(_features(store)[...], np.float32)


def _made_by(store: Path, plan: TilePlan) -> dict[str, Any]:
    """The attributes that `coverslip.models.bag` reads."""
    stated = zarr.open_group(os.fspath(store), mode="r").attrs
    made = {key: stated.get(key, "") for key in ("encoder", "encoder_sha256")}
    return {**made, "tile_mpp": plan.mpp, "tile_size": plan.size} if made["encoder"] else {}


def _features(folder: Path) -> zarr.Array:
    return cast(zarr.Array, zarr.open_array(os.fspath(folder), path="features", mode="r+"))
