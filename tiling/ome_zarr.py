"""A slide's pyramid as OME-Zarr: the metadata, the arrays, and the pixels, region by region.

Pixels are lossless and read by stock Zarr libraries. Axes are c, y, x with three uint8 channels. In OME-Zarr
0.5 a chunk holds its pixels interleaved (y, x, c) through the `transpose` codec, which compresses faster
and smaller than planes; readers see c, y, x. OME-Zarr 0.4 has no such codec: its chunks are planar.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import TransposeCodec, ZstdCodec

from coverslip.errors import RequestError, StoreIncompleteError
from coverslip.ruo import RUO
from coverslip.tiling.pyramid import Ngff, PyramidPlan
from coverslip.wsi.facts import WHITE
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.pixels import Pixels, Rgb
from coverslip.wsi.slide import Slide
from coverslip.wsi.zarr_store import read_rgb

SCHEMA = "coverslip.pyramid/1"
AXES = ("c", "y", "x")
CHANNELS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
# Levels above 1 cost several times the time and make H&E no smaller.
ZSTD_LEVEL = 1

StorePath = str | os.PathLike[str]


class PixelSource(Protocol):
    """What stored levels are read from: a `Slide`, or whatever gives the same pixels faster."""

    def read(self, level: int, box: Box) -> Pixels:
        """As `Slide.read`; called from several threads at once."""
        ...


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
    for number, level in enumerate(plan.levels):
        create_array(root, str(number), (3, *level.size.shape), plan, fill_value=_fill_value(plan.background))


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
    made = [
        "2×2 mean of the level above" if level.stored is None else f"level {level.stored} of the slide"
        for level in plan.levels
    ]
    return {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *space_axes()],
        "datasets": datasets,
        "type": "mean",
        "metadata": {
            "description": "the slide's levels copied; others the mean of 2×2 pixels, halves rounded up",
            "method": "cv2.resize",
            "version": cv2.__version__,
            "kwargs": {"interpolation": "INTER_AREA"},
            "levels": made,
        },
    }


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
        "background": list(plan.background),
        "damaged_pixels": None,
    }


def _fill_value(background: Rgb) -> int:
    """What a chunk that was left out is read as: one number for all channels.

    Where the background is a grey or white it is that, and wholly empty glass takes no space; a coloured
    background has no such number, and its glass is stored.
    """
    return background[0] if len(set(background)) == 1 else WHITE[0]


def create_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], plan: PyramidPlan, *, fill_value: int
) -> zarr.Array:
    """An RGB array (3, height, width) of the pyramid."""
    settings = plan.settings
    chunk = (3, settings.chunk, settings.chunk)
    if settings.ngff == "0.4":
        return create_v2(group, name, shape, "uint8", chunk, fill_value)
    return group.create_array(
        name,
        shape=shape,
        dtype="uint8",
        chunks=chunk,
        shards=(3, settings.shard, settings.shard),
        filters=[TransposeCodec(order=(1, 2, 0))],
        compressors=[zstd()],
        fill_value=fill_value,
        dimension_names=AXES,
        config={"write_empty_chunks": False},
    )


def zstd() -> ZstdCodec:
    """With zstd's own checksum, so that a flipped bit is an error and not another pixel."""
    return ZstdCodec(level=ZSTD_LEVEL, checksum=True)


def create_v2(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, chunk: tuple[int, ...], fill_value: int
) -> zarr.Array:
    """An array of OME-Zarr 0.4: Zarr v2, "/" between chunk numbers.

    JZarr, through which QuPath and Bio-Formats read, knows blosc, zlib and no compression, but not bare
    zstd. Of these blosc with lz4 is three times as fast as blosc with zstd and a tenth larger. Shuffling
    bytes helps where a number has several.
    """
    shuffle = numcodecs.Blosc.SHUFFLE if np.dtype(dtype).itemsize > 1 else numcodecs.Blosc.NOSHUFFLE
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunk,
        compressors=numcodecs.Blosc(cname="lz4", clevel=5, shuffle=shuffle),
        fill_value=fill_value,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )


def write_region(slide: PixelSource, plan: PyramidPlan, store: StorePath, level: int, box: Box) -> int:
    """Write one of `plan.regions(level)`; returns how many of its pixels the slide should hold and does not.

    A stored level is read from the slide; pixels it does not hold become the background colour, and those
    that are damage are counted. Any other level is the mean of 2×2 pixels of the level above in the
    store, which has to be whole by then: (a + b + c + d + 2) // 4, halves rounded up; an odd last row or
    column counts twice. Its damage is that of the level it is made from, and not counted again.

    Regions do not share a file, so any of a level may be written at once, by threads or processes, in any
    order, and again: the bytes are the same. Raises RequestError for a box that is no region of the plan.
    """
    if box not in plan.regions(level):
        raise RequestError(f"{box}", f"is not a region of level {level}", "take one from plan.regions(level)")
    stored = plan.levels[level].stored
    if stored is None:
        rgb, damaged = _halve(open_array(store, str(level - 1)), plan.levels[level - 1].size, box, plan), 0
    else:
        pixels = slide.read(stored, box)
        rgb, damaged = pixels.rgb, int(np.count_nonzero(pixels.damaged))
    array = _for_pixels(open_array(store, str(level)), rgb, plan.settings.chunk)
    array[:, box.y : box.bottom, box.x : box.right] = rgb.transpose(2, 0, 1)
    return damaged


def open_array(store: StorePath, path: str) -> zarr.Array:
    """An array of the store to write to; StoreIncompleteError when it was not created."""
    try:
        array = zarr.open_array(os.fspath(store), path=path, mode="r+")
    except FileNotFoundError as error:
        raise StoreIncompleteError(os.fspath(store), f"has no array {path}", "create it first") from error
    # The setting belongs to the open array, not to the store: without it, empty glass would be written.
    return array.with_config({"write_empty_chunks": False})


def _for_pixels(array: zarr.Array, rgb: NDArray[np.uint8], chunk: int) -> zarr.Array:
    """The array, set to look for empty chunks only where the corner pixel of one is the fill value.

    Zarr compares every pixel with it, which costs half as much as reading them; tissue rarely has one.
    """
    corners = rgb[::chunk, ::chunk] == array.fill_value
    return array.with_config({"write_empty_chunks": not corners.all(axis=-1).any()})


def _halve(above: zarr.Array, size: Size, box: Box, plan: PyramidPlan) -> NDArray[np.uint8]:
    """Half of what lies above a box, a shard of the level above at a time: uint8 (height, width, 3)."""
    rgb = np.empty((*box.size.shape, 3), np.uint8)
    side = plan.settings.shard // 2
    for y in range(box.y, box.bottom, side):
        for x in range(box.x, box.right, side):
            part = Box(x, y, side, side).intersect(box)
            assert part is not None
            source = Box(part.x * 2, part.y * 2, part.width * 2, part.height * 2).clip(size)
            assert source is not None
            rgb[part.within(box)] = halve(read_rgb(above, AXES, 0, source))
    return rgb


def halve(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean of 2×2 pixels: uint8 (ceil(height / 2), ceil(width / 2), 3); see `write_region`.

    >>> halve(np.array([[[0], [1]], [[1], [0]]], np.uint8))[0, 0].item()
    1
    """
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    half = cv2.resize(rgb, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.uint8).reshape((height + 1) // 2, (width + 1) // 2, rgb.shape[2])


def finish_store(path: StorePath, damaged: Sequence[int]) -> None:
    """Write how many pixels of each level were damaged; the last thing written."""
    root = zarr.open_group(os.fspath(path), mode="r+")
    provenance = root.attrs["coverslip"]
    assert isinstance(provenance, dict)
    root.attrs["coverslip"] = {**provenance, "damaged_pixels": list(damaged)}
