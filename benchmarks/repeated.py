"""A slide of 10 gigapixels and a result of a million nuclei, made of one field of real tissue side by side.

The store is an ordinary lossless OME-Zarr 0.5 that any reader opens; its files (shards of 4096 px) are links
to one per level, so that it takes 130 MB of disk and a minute. No reader can tell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pyarrow as pa
import tifffile
import zarr
from numpy.typing import NDArray
from scipy.spatial import KDTree
from zarr.codecs import TransposeCodec, ZstdCodec

from benchmarks.process import ONE_THREAD
from benchmarks.recompute import repeated as many_fields
from benchmarks.slides import SHARED
from coverslip.tiling.ome_zarr import dataset, space_axes
from coverslip.workflows.cell_table import OUTLINE, pack_outlines
from coverslip.workflows.files import write_json, write_table
from coverslip.workflows.finders import ClassicalFinder
from coverslip.workflows.job import LAYOUT
from coverslip.workflows.layout import write_layout
from coverslip.workflows.outputs import RESULT, RULES, digests
from coverslip.workflows.palette import class_colours
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.recompute import recompute
from coverslip.wsi import Box, open_slide

SOURCE = SHARED / "data/ihc/OS-2-ndpi_Ki67.ome.tif"
MPP = 0.25
FIELD, CHUNK, SHARD, SMALLEST = 2048, 512, 4096, 1024
CLASSES = ("negative", "1+", "2+", "3+")


@dataclass(frozen=True, slots=True)
class Repeated:
    """`store`: the OME-Zarr with its labels; `result`: a result folder about it; both of `side` pixels."""

    store: Path
    result: Path
    side: int
    cells: int


def repeated(folder: Path, side: int = 100_352, cells: int = 1_000_000) -> Repeated:
    """Made on first use."""
    made = Repeated(folder / f"{side}.ome.zarr", folder / f"{side}-{cells}", side, cells)
    field, nuclei = _field()
    if not (made.store / "zarr.json").is_file():
        _write_store(made.store, side, field, nuclei.labels, nuclei.kind)
    if not (made.result / RESULT).is_file():
        _write_result(made, field, nuclei)
    return made


def _field() -> tuple[NDArray[np.uint8], _Nuclei]:
    """Real tissue whose left half is the right one's mirror image, as are top and bottom: it has no seams."""
    with open_slide(SOURCE) as slide:
        quarter = slide.read(0, Box(600, 600, FIELD // 2, FIELD // 2)).rgb
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    field = np.ascontiguousarray(np.concatenate([half, half[::-1]]))
    return field, _nuclei(field)


@dataclass(frozen=True, slots=True)
class _Nuclei:
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    outlines: list[NDArray[np.float32]]
    kind: NDArray[np.int64]
    labels: NDArray[np.int32]


def _nuclei(field: NDArray[np.uint8]) -> _Nuclei:
    found = ClassicalFinder().find(field)
    kind = np.arange(len(found)) * 7 % 11 % len(CLASSES)
    return _Nuclei(found.x, found.y, list(found.outlines), kind, found.labels)


def _write_store(store: Path, side: int, field: NDArray, labels: NDArray, kind: NDArray) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=3)
    factors = [2**n for n in range(20) if n == 0 or side / 2 ** (n - 1) > SMALLEST]
    channels = [
        {
            "label": name,
            "color": colour,
            "active": True,
            "window": dict(zip(WINDOW, (0, 255) * 2, strict=True)),
        }
        for name, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ]
    picture = np.moveaxis(field, -1, 0)
    for factor in factors:
        level = np.stack([_reduced(channel, factor) for channel in picture])
        _write_level(root, str(factors.index(factor)), level, -(-side // factor), (3, CHUNK, CHUNK))
    root.attrs["ome"] = _multiscales("image", factors, 1) | {"omero": {"channels": channels}}
    group = root.create_group("labels")
    image = group.create_group("nuclei")
    classes = np.concatenate([[0], kind + 1])[labels].astype(np.uint8)
    for factor in factors:
        level = _mirrored(classes, factor)
        _write_level(image, str(factors.index(factor)), level, -(-side // factor), (CHUNK, CHUNK))
    colours = class_colours(CLASSES)
    said = {
        "colors": [{"label-value": value, "rgba": list(rgba)} for value, (_, rgba) in colours.items()],
        "properties": [{"label-value": value, "name": name} for value, (name, _) in colours.items()],
        "source": {"image": "../../"},
    }
    image.attrs["ome"] = _multiscales("nuclei", factors) | {"image-label": said}
    group.attrs["ome"] = {"version": "0.5", "labels": ["nuclei"]}


WINDOW = ("min", "max", "start", "end")


def _reduced(channel: NDArray, factor: int) -> NDArray:
    side = max(1, FIELD // factor)
    return np.asarray(cv2.resize(channel, (side, side), interpolation=cv2.INTER_AREA))


def _mirrored(classes: NDArray, factor: int) -> NDArray:
    return classes[:: min(factor, FIELD), :: min(factor, FIELD)]


def _multiscales(name: str, factors: list[int], channels: int = 0) -> dict:
    """`channels`: 1 where there is an axis of channels before y and x."""
    first: list[dict[str, str]] = [{"name": "c", "type": "channel"}] * channels
    datasets = [
        dataset(
            str(n),
            [1.0] * channels + [factor * MPP] * 2,
            [0.0] * channels + [(factor - 1) / 2 * MPP] * 2,
        )
        for n, factor in enumerate(factors)
    ]
    axes = [*first, *space_axes()]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}


def _write_level(group: zarr.Group, name: str, period: NDArray, side: int, chunk: tuple[int, ...]) -> None:
    """`period` (…, p, p), repeated over (…, side, side): one shard, and links to it."""
    array = group.create_array(
        name,
        shape=(*period.shape[:-2], side, side),
        dtype="uint8",
        chunks=chunk,
        shards=(*chunk[:-2], SHARD, SHARD),
        filters=[TransposeCodec(order=(1, 2, 0))] if period.ndim == 3 else [],
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        dimension_names=("c", "y", "x")[-period.ndim :],
        config={"write_empty_chunks": True},
    )
    times = -(-SHARD // period.shape[-1])
    whole = np.tile(period, (times, times))
    array[..., :SHARD, :SHARD] = whole[..., : min(SHARD, side), : min(SHARD, side)]
    folder = Path(str(array.store.root)) / array.path / "c"  # type: ignore[attr-defined]
    folder = folder / "0" if period.ndim == 3 else folder
    count = -(-side // SHARD)
    for row in range(count):
        (folder / str(row)).mkdir(exist_ok=True)
        for column in range(count):
            if row or column:
                os.link(folder / "0" / "0", folder / str(row) / str(column))


def _write_result(made: Repeated, field: NDArray[np.uint8], nuclei: _Nuclei) -> None:
    """What a run finds in the field, over and over; whole, so that it can be reviewed and signed."""
    with TemporaryDirectory() as folder:
        base = _outlined(_of_field(Path(folder), field), nuclei, made)
        large = many_fields(base, made.cells)
        made.result.mkdir(parents=True, exist_ok=True)
        assert large.cells is not None
        assert large.layout is not None
        write_table(made.result / "cells.parquet", large.cells, "coverslip.cells/1")
        write_layout(made.result / LAYOUT, large.layout, base.result.provenance.request)
        shutil.copy(base.home / RULES, made.result / RULES)
    said = recompute(large, ())
    identity = {"path": str(made.store), "reader": "ome-zarr", "size": (made.side, made.side)}
    changes = {
        "slide": said.slide.model_copy(update=identity),
        "outputs": digests(made.result, ["cells.parquet", LAYOUT, RULES]),
    }
    write_json(made.result / RESULT, said.model_copy(update=changes).model_dump(mode="json"))


def _of_field(folder: Path, field: NDArray[np.uint8]) -> Base:
    """The base of a run over the field alone."""
    slide = folder / "field.tif"
    each = (1e4 / MPP, 1e4 / MPP)
    tifffile.imwrite(
        slide, field, photometric="rgb", tile=(256, 256), resolution=each, resolutionunit="CENTIMETER"
    )
    command = [sys.executable, "-m", "coverslip", "run", slide, "-o", folder / "out"]
    subprocess.run(
        [*map(str, command), "--workflow", "ihc", "--marker", "ki67"],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return read_base(next((folder / "out" / "slides").iterdir()))


def _outlined(base: Base, nuclei: _Nuclei, made: Repeated) -> Base:
    """As many of its cells as a field has of all, each with the outline of the nucleus it is."""
    cells = base.cells
    assert cells is not None
    each = min(len(cells), -(-made.cells // (made.side // FIELD) ** 2))
    chosen = cells.take(pa.array(np.linspace(0, len(cells) - 1, each).astype(int)))
    x, y = chosen["x"].to_numpy(), chosen["y"].to_numpy()
    _, nearest = KDTree(np.stack([nuclei.x, nuclei.y], axis=1)).query(np.stack([x, y], axis=1))
    rings = [
        nuclei.outlines[n] + (dx - nuclei.x[n], dy - nuclei.y[n])
        for n, dx, dy in zip(np.asarray(nearest).tolist(), x, y, strict=True)
    ]
    outlines = pack_outlines(rings, x, y)
    return replace(base, cells=chosen.append_column(OUTLINE, outlines))
