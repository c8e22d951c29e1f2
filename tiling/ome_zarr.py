"""A slide's pyramid as OME-Zarr: the metadata and the arrays; `cascade` writes the pixels.

Axes are c, y, x with three uint8 channels. In OME-Zarr 0.5 a chunk holds its pixels interleaved (y, x, c)
through the `transpose` codec: JPEG is so, and zstd compresses it faster and smaller than planes; readers see
c, y, x. Chunks are zstd, which stock Zarr libraries read, or JPEG, which those with the codec
`imagecodecs_jpeg` read (`coverslip.wsi.jpeg_codec`). OME-Zarr 0.4 has no `transpose`: its chunks are planar.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from coverslip.errors import StoreIncompleteError
from coverslip.ruo import RUO
from coverslip.tiling import chunk
from coverslip.tiling.passthrough import codec_of
from coverslip.tiling.pyramid import Ngff, PyramidLevel, PyramidPlan
from coverslip.wsi.jpeg_codec import JpegCodec
from coverslip.wsi.slide import Slide

SCHEMA = "coverslip.pyramid/1"
AXES = ("c", "y", "x")
CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))

StorePath = str | os.PathLike[str]


def create_store(path: StorePath, plan: PyramidPlan, slide: Slide, name: str | None = None) -> None:
    """Make the store: its metadata and all its arrays, which are still empty.

    `name` is the image's name in the metadata, by default that of the store. The slide's own name is not
    written, since a laboratory's file names may identify a patient; its digest is. What is there is
    replaced.
    """
    name = name or image_name(path)
    root = zarr.open_group(os.fspath(path), mode="w", zarr_format=zarr_format(plan.settings.ngff))
    content: dict[str, Any] = {"multiscales": [_multiscales(plan, name)], "omero": _omero()}
    root.attrs.put({**versioned(plan.settings.ngff, content), "coverslip": _provenance(plan, slide)})
    for number in range(len(plan.levels)):
        _create_array(root, number, plan, slide)


def image_name(path: StorePath) -> str:
    """The store's name without its ending.

    >>> image_name("out/slide.ome.zarr")
    'slide'
    """
    return Path(path).name.removesuffix(".zarr").removesuffix(".ome")


def zarr_format(ngff: Ngff) -> Any:
    """OME-Zarr 0.5 is Zarr v3, 0.4 is Zarr v2."""
    return 3 if ngff == "0.5" else 2


def versioned(ngff: Ngff, content: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a group: under `ome` with one version in 0.5, at the top with one each in 0.4."""
    if ngff == "0.5":
        return {"ome": {"version": ngff, **content}}
    parts = {
        key: [{**part, "version": ngff} for part in value]
        for key, value in content.items()
        if key == "multiscales"
    }
    single = {key: {**content[key], "version": ngff} for key in ("omero", "image-label") if key in content}
    return {**content, **parts, **single}


def _multiscales(plan: PyramidPlan, name: str) -> dict[str, Any]:
    datasets = [
        dataset(str(n), (1.0, *plan.scale_um(n)), (0.0, *plan.translation_um(n)))
        for n in range(len(plan.levels))
    ]
    return {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *space_axes()],
        "datasets": datasets,
        "type": "mean",
        "metadata": {
            "description": "the slide's levels copied; others the mean of 2×2 pixels, halves rounded up, "
            "or what the decoder of JPEG tiles gives at half size",
            "levels": [how_made(plan, n) for n in range(len(plan.levels))],
            "method": "cv2.resize",
            "version": cv2.__version__,
            "kwargs": {"interpolation": "INTER_AREA"},
        },
    }


def how_made(plan: PyramidPlan, level: int) -> str:
    """Where a level's pixels are from and how they are stored, in words."""
    of = plan.levels[level]
    if of.stored is not None:
        how = "JPEG tiles as they are stored" if of.coding == "tiles" else "lossless"
        return f"level {of.stored} of the slide, {how}"
    if of.along and plan.levels[level - 1].coding == "tiles":
        made = "tiles of the level above decoded at half size"
    else:
        made = "2×2 mean of the level above"
    quality = f"JPEG of quality {chunk.MADE.level}" if of.coding == "jpeg" else "lossless"
    return f"{made}, {quality}"


def space_axes() -> list[dict[str, str]]:
    return [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]


def dataset(path: str, scale: Sequence[float], translation: Sequence[float]) -> dict[str, Any]:
    """One level of a multiscale: scale, then translation, in the order of the axes."""
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": list(scale)},
            {"type": "translation", "translation": list(translation)},
        ],
    }


def _omero() -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": color, "active": True, "window": window} for label, color in CHANNELS
    ]
    return {"channels": channels, "rdefs": {"model": "color", "defaultT": 0, "defaultZ": 0}}


def _provenance(plan: PyramidPlan, slide: Slide) -> dict[str, Any]:
    """What the pyramid was made from. `damaged_pixels` is filled in by `finish_store`."""
    return {
        "schema": SCHEMA,
        "use": RUO,
        "source": {
            "digest": slide.digest,
            "format": slide.facts.format,
            "reader": slide.reader,
            "reader_version": slide.reader_version,
            "mpp": [plan.mpp.x, plan.mpp.y],
            "mpp_source": plan.mpp.source,
            "objective": slide.facts.objective,
        },
        "pass_through": plan.passes,
        "portable": plan.settings.portable,
        "background": list(plan.background),
        "damaged_pixels": None,
    }


def _create_array(group: zarr.Group, number: int, plan: PyramidPlan, slide: Slide) -> None:
    """An RGB array (3, height, width) of the pyramid."""
    level = plan.levels[number]
    shape, chunk = (3, *level.size.shape), (3, *level.chunk.shape)
    if plan.settings.ngff == "0.4":
        create_v2(group, str(number), shape, "uint8", chunk, plan.fill_value)
        return
    group.create_array(
        str(number),
        shape=shape,
        dtype="uint8",
        chunks=chunk,
        shards=(3, *level.shard.shape),
        filters=[TransposeCodec(order=(1, 2, 0))],
        serializer=_serializer(level, slide),
        compressors=[zstd() if level.coding == "lossless" else Crc32cCodec()],
        fill_value=plan.fill_value,
        dimension_names=AXES,
    )


def _serializer(level: PyramidLevel, slide: Slide) -> BytesCodec | JpegCodec:
    if level.coding == "lossless":
        return BytesCodec()
    if level.coding == "jpeg" or level.stored is None:
        return chunk.MADE
    stored = slide.stored(level.stored)
    assert stored is not None
    return codec_of(stored)


def zstd() -> ZstdCodec:
    """As `chunk.zstd`."""
    return ZstdCodec(level=chunk.ZSTD_LEVEL, checksum=True)


def create_v2(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...], fill_value: int
) -> zarr.Array:
    """An array of OME-Zarr 0.4: Zarr v2, "/" between chunk numbers."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        compressors=chunk.blosc(np.dtype(dtype).itemsize),
        fill_value=fill_value,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )


def open_array(store: StorePath, path: str) -> zarr.Array:
    """An array of the store to write to; StoreIncompleteError when it was not created."""
    try:
        array = zarr.open_array(os.fspath(store), path=path, mode="r+")
    except FileNotFoundError as error:
        raise StoreIncompleteError(os.fspath(store), f"has no array {path}", "create it first") from error
    # The setting belongs to the open array, not to the store: without it, empty glass would be written.
    return array.with_config({"write_empty_chunks": False})


def finish_store(path: StorePath, damaged: Sequence[int]) -> None:
    """Write how many pixels of each level were damaged; the last thing written."""
    root = zarr.open_group(os.fspath(path), mode="r+")
    provenance = root.attrs["coverslip"]
    assert isinstance(provenance, dict)
    root.attrs["coverslip"] = {**provenance, "damaged_pixels": list(damaged)}
