"""Label images beside a pyramid: tissue, quality, classes, nuclei, one unsigned number per pixel.

They lie in the store's group `labels`, each a pyramid of as many levels as the image's (NGFF demands it) at
its own resolution: a tissue mask at 16 µm/px stays that small, and its transformations say where it lies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from coverslip.errors import RequestError, SlideInformationError, StoreIncompleteError
from coverslip.ruo import RUO
from coverslip.tiling.ome_zarr import (
    StorePath,
    create_v2,
    dataset,
    open_array,
    space_axes,
    versioned,
    zstd,
)
from coverslip.tiling.pyramid import Ngff, halved, shards
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.mpp import GIVE_MPP
from coverslip.wsi.ngff import Image
from coverslip.wsi.source import Source
from coverslip.wsi.zarr_store import read_image

SCHEMA = "coverslip.label/1"
Rgba = tuple[int, int, int, int]
# What a value means and how it is shown.
Colours = Mapping[int, tuple[str, Rgba]]
Pair = tuple[float, float]
# Pixels a side that are halved at once: few calls for small shards, 16 MB of uint32.
AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """How a label image is laid out, in its own pixels.

    `chunk`: what a viewer fetches at once. `shard`: one file in OME-Zarr 0.5, a whole number of chunks;
    writers that work at once must not share one (in 0.4, where each chunk is a file, not a chunk).
    """

    chunk: int = 512
    shard: int = 2048

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.shard < self.chunk or self.shard % self.chunk:
            raise RequestError(
                f"chunk {self.chunk}, shard {self.shard}",
                "do not fit each other",
                "give a shard that is a whole number of chunks",
            )


def write_label(
    store: StorePath,
    name: str,
    array: NDArray[np.unsignedinteger],
    *,
    scale_um: Pair,
    translation_um: Pair | None = None,
    colours: Colours = MappingProxyType({}),
    settings: LabelSettings | None = None,
) -> None:
    """Write a whole label image that is in memory: `create_label`, its pixels, `finish_label`."""
    create_label(
        store,
        name,
        (array.shape[0], array.shape[1]),
        array.dtype,
        scale_um=scale_um,
        translation_um=translation_um,
        colours=colours,
        settings=settings,
    )
    write_label_region(store, name, 0, 0, array)
    finish_label(store, name)


def create_label(
    store: StorePath,
    name: str,
    shape: tuple[int, int],
    dtype: np.typing.DTypeLike,
    *,
    scale_um: Pair,
    translation_um: Pair | None = None,
    colours: Colours = MappingProxyType({}),
    settings: LabelSettings | None = None,
) -> None:
    """Make a label image, all 0, beside the image of an OME-Zarr store; what has its name is replaced.

    `shape`: (height, width). `dtype`: uint8, uint16 or uint32. `scale_um`: µm per pixel, (y, x).
    `translation_um`: (y, x) of the centre of its first pixel from the centre of the image's first pixel;
    by default that which lays its top-left corner on that of the image. `colours`: name and RGBA of each
    value. It is not listed, and viewers do not see it, until `finish_label`.

    Raises RequestError for a name, type, colour or scale that cannot be, SlideInformationError when the
    image does not say its µm/px.
    """
    _check(name, np.dtype(dtype), scale_um, colours)
    settings = settings or LabelSettings()
    image = _image(store)
    origin = _origin_um(image, scale_um, translation_um)
    root = zarr.open_group(os.fspath(store), mode="r+")
    ngff = _ngff(image)
    group = _labels_group(root, ngff).create_group(name, overwrite=True)
    _list_label(root, ngff, name, listed=False)
    content = {
        "multiscales": [_multiscales(name, scale_um, origin, len(image.paths))],
        "image-label": _image_label(colours),
    }
    ours = {"schema": SCHEMA, "use": RUO, "shard": settings.shard}
    group.attrs.put({**versioned(ngff, content), "coverslip": ours})
    size = Size(shape[1], shape[0])
    for number in range(len(image.paths)):
        _create_array(group, str(number), size, np.dtype(dtype), settings)
        size = halved(size)


def write_label_region(
    store: StorePath, name: str, y: int, x: int, block: NDArray[np.unsignedinteger]
) -> None:
    """Write part of a label image's finest level: `block` (height, width), its corner at row y, column x.

    Blocks that cover whole `label_regions` may be written at once by threads or processes, in any order and
    again. Blocks that share one must be written one after the other.
    Raises RequestError for a block that reaches outside or is of another type.
    """
    array = open_array(store, f"labels/{name}/0")
    height, width = array.shape
    inside = block.ndim == 2 and 0 <= y <= height - block.shape[0] and 0 <= x <= width - block.shape[1]
    if not inside or block.dtype != array.dtype:
        raise RequestError(
            f"block {block.shape} of {block.dtype} at y={y}, x={x}",
            f"does not fit the label image {name!r}, {array.shape} of {array.dtype}",
            "cut it at the edges and convert it first",
        )
    if block.size:
        array[y : y + block.shape[0], x : x + block.shape[1]] = block


def label_regions(store: StorePath, name: str) -> list[Box]:
    """Boxes of the finest level that share no file, row by row; they cover it once."""
    array, side = open_array(store, f"labels/{name}/0"), _shard(store, name)
    return list(shards(Size(array.shape[1], array.shape[0]), Size(side, side)))


def finish_label(store: StorePath, name: str) -> None:
    """Make the coarser levels from the finest, shard by shard, and list the label image.

    A pixel of the next level takes the value of the upper left of its 2×2 pixels: a mean of numbers that
    name things would name another thing, and this way the same object has the same value at every level.
    Objects of one pixel's width may vanish. It may run again, also after more regions were written; not
    while another label of the same store is finished, since both change the list.
    """
    arrays = _arrays(store, name)
    shard = _shard(store, name)
    side = shard * max(1, AT_ONCE // shard)
    for above, array in pairwise(arrays):
        for box in shards(Size(array.shape[1], array.shape[0]), Size(side, side)):
            rows, columns = slice(box.y * 2, box.bottom * 2, 2), slice(box.x * 2, box.right * 2, 2)
            array[box.y : box.bottom, box.x : box.right] = above[rows, columns]
    _list_label(zarr.open_group(os.fspath(store), mode="r+"), _ngff(_image(store)), name, listed=True)


def _check(name: str, dtype: np.dtype[Any], scale_um: Pair, colours: Colours) -> None:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise RequestError(f"label name {name!r}", "is not a plain name", "use letters, digits, - and _")
    if dtype.kind != "u" or dtype.itemsize > 4:
        raise RequestError(f"label type {dtype}", "is not written", "convert to uint8, uint16 or uint32")
    if not all(0 < side < np.inf for side in scale_um):
        raise RequestError(f"scale {scale_um} µm", "is not a resolution", "give µm per pixel above 0, (y, x)")
    largest = np.iinfo(dtype).max
    for value, (_, rgba) in colours.items():
        if not 0 <= value <= largest or len(rgba) != 4 or not all(0 <= part <= 255 for part in rgba):
            raise RequestError(
                f"colour {rgba} of label {value}",
                "cannot be",
                f"give values up to {largest} four numbers 0 to 255",
            )


def _image(store: StorePath) -> Image:
    path = os.fspath(store)
    if not Path(path).is_dir():
        raise StoreIncompleteError(path, "there is no such store", "make it with create_store first")
    return read_image(Source(path, is_folder=True))


def _ngff(image: Image) -> Ngff:
    return "0.4" if image.version == "0.4" else "0.5"


def _origin_um(image: Image, scale_um: Pair, translation_um: Pair | None) -> Pair:
    """The centre of the label's first pixel; corner on corner lies half the sides' difference away."""
    mpp = image.mpp()
    if mpp is None:
        raise SlideInformationError(image.name or "the image", "does not state its µm/px", GIVE_MPP)
    y, x = image.origin_um()
    down, right = translation_um or ((scale_um[0] - mpp.y) / 2, (scale_um[1] - mpp.x) / 2)
    return y + down, x + right


def _multiscales(name: str, scale_um: Pair, origin: Pair, levels: int) -> dict[str, Any]:
    factors = [2**n for n in range(levels)]
    return {
        "name": name,
        "axes": space_axes(),
        "datasets": [
            dataset(
                str(n),
                [side * factor for side in scale_um],
                [at + (factor - 1) / 2 * side for at, side in zip(origin, scale_um, strict=True)],
            )
            for n, factor in enumerate(factors)
        ],
        "type": "nearest",
        "metadata": {"description": "the upper left of each 2×2 pixels of the level above"},
    }


def _image_label(colours: Colours) -> dict[str, Any]:
    values = sorted(colours)
    return {
        "colors": [{"label-value": value, "rgba": list(colours[value][1])} for value in values],
        "properties": [{"label-value": value, "name": colours[value][0]} for value in values],
        "source": {"image": "../../"},
    }


def _create_array(
    group: zarr.Group, name: str, size: Size, dtype: np.dtype[Any], settings: LabelSettings
) -> zarr.Array:
    chunk = (settings.chunk, settings.chunk)
    if group.metadata.zarr_format == 2:
        return create_v2(group, name, size.shape, dtype.name, chunk, 0)
    return group.create_array(
        name,
        shape=size.shape,
        dtype=dtype.name,
        chunks=chunk,
        shards=(settings.shard, settings.shard),
        compressors=[zstd()],
        fill_value=0,
        dimension_names=("y", "x"),
        config={"write_empty_chunks": False},
    )


def _labels_group(root: zarr.Group, ngff: Ngff) -> zarr.Group:
    if "labels" not in root:
        root.create_group("labels").attrs.put(versioned(ngff, {"labels": []}))
    return _group(root, "labels")


def _group(root: zarr.Group, path: str) -> zarr.Group:
    try:
        found = root[path]
    except KeyError as error:
        raise StoreIncompleteError(
            str(root.store_path), f"has no group {path!r}", "make it with create_label first"
        ) from error
    assert isinstance(found, zarr.Group)
    return found


def _list_label(root: zarr.Group, ngff: Ngff, name: str, *, listed: bool) -> None:
    group = _group(root, "labels")
    attributes: Any = group.attrs.asdict()
    names = [other for other in attributes.get("ome", attributes).get("labels", []) if other != name]
    names += [name] if listed else []
    group.attrs.put(versioned(ngff, {"labels": sorted(names)}))


def _label(store: StorePath, name: str) -> zarr.Group:
    root = zarr.open_group(os.fspath(store), mode="r+")
    return _group(root, f"labels/{name}")


def _arrays(store: StorePath, name: str) -> Sequence[zarr.Array]:
    """All levels, finest first."""
    count = sum(1 for _ in _label(store, name).array_keys())
    return [open_array(store, f"labels/{name}/{n}") for n in range(count)]


def _shard(store: StorePath, name: str) -> int:
    ours: Any = _label(store, name).attrs["coverslip"]
    return int(ours["shard"])
