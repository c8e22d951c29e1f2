"""Slides and result folders the viewer's tests look at: small, generated, of known content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import zarr
from numpy.typing import NDArray

GLASS = (240, 240, 242)
MPP = 0.5
# A label of 16 level-0 pixels per pixel: coarse enough that half a pixel amiss is seen.
FACTOR = 16


def write_slide(
    path: Path, picture: NDArray[np.uint8], mpp: float | None = MPP, levels: tuple[int, ...] = ()
) -> Path:
    """A tiled TIFF that OpenSlide opens, with the µm/px in its resolution, and levels at these factors."""
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, *levels):
            tif.write(
                np.ascontiguousarray(picture[::factor, ::factor]),
                photometric="rgb",
                tile=(256, 256),
                subfiletype=int(factor > 1),
                metadata=None,
                **(resolution if factor == 1 else {}),
            )
    return path


def square_picture(side: int = 2048, corner: int = 512, square: int = 512) -> NDArray[np.uint8]:
    """Glass with a red square; sides are multiples of `FACTOR`."""
    picture = np.full((side, side, 3), GLASS, np.uint8)
    picture[corner : corner + square, corner : corner + square] = (200, 30, 60)
    return picture


def is_square(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(picture[..., 1] < 120)


def write_result(
    folder: Path,
    slide: Path,
    labels: dict[str, tuple[NDArray, int]],
    cells: list[tuple[float, float, str]] | None = None,
    *,
    size: tuple[int, int] = (2048, 2048),
    mpp: float = MPP,
) -> Path:
    """A result folder. `labels`: name to (array (height, width), level-0 pixels per label pixel)."""
    folder.mkdir(parents=True)
    identity = {
        "path": str(slide),
        "reader": "openslide",
        "mpp": {"x": mpp, "y": mpp, "source": "test"},
        "size": size,
    }
    document = {"schema": "coverslip.slide-result", "slide": identity, "workflow": "ihc"}
    (folder / "result.json").write_text(json.dumps(document))
    write_labels(folder / "slide.ome.zarr", labels, mpp)
    if cells is not None:
        columns = dict(zip(("x", "y", "class"), map(list, zip(*cells, strict=True)), strict=True))
        pq.write_table(pa.table(columns), folder / "cells.parquet")
    return folder


MEANINGS = {
    "classes": {1: ("stroma", (0, 114, 178, 255)), 2: ("tumour", (230, 159, 0, 255))},
    "nuclei": {1: ("negative", (0, 114, 178, 255)), 4: ("positive", (213, 94, 0, 255))},
}


def write_labels(store: Path, labels: dict[str, tuple[NDArray, int]], mpp: float) -> None:
    root = zarr.open_group(store, mode="a", zarr_format=3)
    group = root.require_group("labels")
    group.attrs["ome"] = {"version": "0.5", "labels": list(labels)}
    for name, (array, factor) in labels.items():
        image = group.create_group(name)
        image.create_array("0", data=array[None], chunks=(1, 256, 256))
        meant = MEANINGS.get(name, {})
        said = {
            "version": "0.5",
            "colors": [{"label-value": value, "rgba": rgba} for value, (_, rgba) in meant.items()],
            "properties": [{"label-value": value, "name": text} for value, (text, _) in meant.items()],
        }
        offset = (factor - 1) / 2 * mpp
        transformations = [
            {"type": "scale", "scale": [1.0, factor * mpp, factor * mpp]},
            {"type": "translation", "translation": [0.0, offset, offset]},
        ]
        image.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [
                {
                    "name": name,
                    "axes": [
                        {"name": "c", "type": "channel"},
                        {"name": "y", "type": "space", "unit": "micrometer"},
                        {"name": "x", "type": "space", "unit": "micrometer"},
                    ],
                    "datasets": [{"path": "0", "coordinateTransformations": transformations}],
                }
            ],
            "image-label": said,
        }
