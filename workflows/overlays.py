"""Label images of an OME-Zarr: where they lie on the slide, their colours and the names of their values.

OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org/0.5: the group `labels` lists its images, each a
multiscale image of integers with `image-label` metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from coverslip.errors import StoreIncompleteError
from coverslip.workflows.mosaic import TILE, Mosaic
from coverslip.wsi import Box

Rgba = tuple[int, int, int, int]
Pair = tuple[float, float]

AGAIN = "convert or run again, into an empty folder"
# A chunk is decoded whole, whatever its metadata promise: this is a square of 16384 labels of one byte.
LARGEST_CHUNK = 1 << 28
LARGEST_TILE = 2048
# More colours than these are not classes but one per object; they are not looked at one by one.
MOST_VALUES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class LabelImage:
    """Labels over a slide. Pairs are (y, x).

    `levels`: as stored, finest first. `scale`: level-0 pixels of the slide per label pixel; `translate`:
    from the centre of the slide's first pixel to that of the first label pixel, in level-0 pixels.
    """

    name: str
    levels: tuple[Mosaic, ...]
    scale: Pair
    translate: Pair
    colours: Mapping[int, Rgba] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """Scale and translation (y, x) of an image's first level, in its physical unit; None if not stated."""

    scale: Pair
    translate: Pair | None


def find_labels(folder: Path, pixel: Pair | None = None) -> tuple[LabelImage, ...]:
    """The label images of an OME-Zarr folder; none where there is no such folder.

    `pixel`: size (y, x) of the slide's level-0 pixel in the unit of the file (µm); by default that of the
    image in the same folder. Raises StoreIncompleteError when the metadata contradict themselves.
    """
    if not (folder / "labels").is_dir():
        return ()
    try:
        base = Placement(pixel, (0.0, 0.0)) if pixel else _placement(_ome(zarr.open_group(folder, mode="r")))
        group = zarr.open_group(folder / "labels", mode="r")
        return tuple(_label(group, str(name), base) for name in _ome(group)["labels"])
    except (KeyError, ValueError, TypeError, IndexError, OSError) as error:
        raise StoreIncompleteError(
            str(folder / "labels"), f"its labels cannot be read ({error!r})", AGAIN
        ) from error


def _ome(group: zarr.Group) -> Mapping[str, Any]:
    """Version 0.5 keeps everything under one key, 0.4 beside each other."""
    attributes = group.attrs.asdict()
    return cast(Mapping[str, Any], attributes.get("ome", attributes))


def _placement(ome: Mapping[str, Any]) -> Placement:
    """Of the finest level: its own scale and translation, then those of the whole pyramid."""
    whole = ome["multiscales"][0]
    chain = [
        *whole["datasets"][0].get("coordinateTransformations", ()),
        *whole.get("coordinateTransformations", ()),
    ]
    scale, translate, stated = np.ones(2), np.zeros(2), False
    for step in chain:
        value = np.asarray(step.get(step["type"], (1, 1)), float)[-2:]
        if step["type"] == "scale":
            scale, translate = scale * value, translate * value
        elif step["type"] == "translation":
            translate, stated = translate + value, True
    if not (np.isfinite(scale).all() and (scale > 0).all() and np.isfinite(translate).all()):
        raise ValueError(f"a scale of {scale.tolist()}")
    return Placement(_pair(scale), _pair(translate) if stated else None)


def _pair(values: NDArray) -> Pair:
    return float(values[0]), float(values[1])


def _label(group: zarr.Group, name: str, base: Placement) -> LabelImage:
    image = cast(zarr.Group, group[name])
    ome = _ome(image)
    own = _placement(ome)
    scale = np.asarray(own.scale) / np.asarray(base.scale)
    # without a translation, the corners of both images are the same
    translate = (scale - 1) / 2
    if own.translate is not None:
        translate = (np.asarray(own.translate) - np.asarray(base.translate or (0, 0))) / np.asarray(
            base.scale
        )
    said = ome.get("image-label", {})
    arrays = [cast(zarr.Array, image[level["path"]]) for level in ome["multiscales"][0]["datasets"]]
    return LabelImage(
        name=name,
        levels=tuple(_mosaic(array, arrays[0].shape[-2] / array.shape[-2]) for array in arrays),
        scale=_pair(scale),
        translate=_pair(translate),
        colours=_colours(said),
        names=_names(said),
    )


def _mosaic(array: zarr.Array, downsample: float) -> Mosaic:
    """The last two axes of an array; of those before (channel, plane) the first is shown."""
    if array.ndim < 2 or array.dtype.kind not in "uib":
        raise ValueError(f"{array.path} holds {array.ndim} axes of {array.dtype}, not labels")
    if prod(array.chunks) * array.dtype.itemsize > LARGEST_CHUNK:
        raise ValueError(f"{array.path} has chunks of {array.chunks}")
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else np.dtype(array.dtype)
    first = (0,) * (array.ndim - 2)

    def read(box: Box) -> NDArray:
        return np.asarray(array[(*first, *box.within(Box(0, 0, 1, 1)))]).astype(dtype, copy=False)

    side = max(array.chunks[-2:])
    tile = side if TILE // 2 <= side <= LARGEST_TILE else TILE
    return Mosaic((array.shape[-2], array.shape[-1]), dtype, read, downsample, tile)


def _colours(said: Mapping[str, Any]) -> dict[int, Rgba]:
    listed = said.get("colors", ())
    if len(listed) > MOST_VALUES:
        return {}
    return {int(item["label-value"]): _rgba(item["rgba"]) for item in listed if "rgba" in item}


def _rgba(values: list[float]) -> Rgba:
    red, green, blue, alpha = (min(255, max(0, int(value))) for value in values)
    return red, green, blue, alpha


def _names(said: Mapping[str, Any]) -> dict[int, str]:
    listed = said.get("properties", ())
    if len(listed) > MOST_VALUES:
        return {}
    return {
        int(item["label-value"]): str(item.get("name", item.get("class", item["label-value"])))
        for item in listed
    }
