"""OME-Zarr stores: opened for reading, with names, codecs and sizes checked before memory is taken.

What a store says is not trusted: names may not lead out of it, and codecs that run code are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import ShardingCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata import ArrayV2Metadata
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from coverslip.errors import UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.geometry import Box
from coverslip.wsi.jpeg_codec import make_known
from coverslip.wsi.ngff import CONVERT, COPY_AGAIN, Image, demand, parse_image
from coverslip.wsi.source import Source

# The largest scanners give 300,000 pixels a side.
LARGEST_SIDE = 1 << 22
# A chunk is decoded whole: 2**28 bytes is a 9,000-pixel square of RGB.
LARGEST_CHUNK = 1 << 28
# The index of a shard is read whole, 16 bytes a chunk.
MOST_CHUNKS_PER_SHARD = 1 << 20
LARGEST_METADATA = 1 << 24
# Codecs that only move and compress numbers; numcodecs also has `pickle`, which runs what it reads.
CODECS = frozenset(
    {
        *("bytes", "transpose", "sharding_indexed", "zstd", "gzip", "blosc", "zlib", "bz2", "lzma", "lz4"),
        *("crc32c", "crc32", "adler32", "fletcher32", "delta", "shuffle", "imagecodecs_jpeg"),
    }
)
# What zarr raises for metadata it does not understand.
METADATA_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    OverflowError,
    OSError,
)


def read_image(source: Source) -> Image:
    """What the metadata say of the image that `open_reader` would open; raises as it does."""
    return _find_image(source)[1]


def _find_image(source: Source) -> tuple[zarr.Group, Image]:
    group = _image_group(source, _open_group(source, ""))
    return group, parse_image(source.path, _ome(source.path, group))


def open_arrays(source: Source) -> tuple[Image, tuple[zarr.Array, ...]]:
    """The image and the arrays of its levels, largest first.

    Raises UnsupportedSlideError and UnreadableSlideError as `open_reader` of the reader says.
    """
    group, image = _find_image(source)
    arrays = tuple(_open_array(source, group, path, len(image.axes)) for path in image.paths)
    _check_levels(source.path, image, arrays)
    return image, arrays


def read_rgb(array: zarr.Array, axes: Sequence[str], z: int, box: Box) -> NDArray[np.uint8]:
    """The first three channels of a box, at time 0 and plane `z`: uint8 (height, width, 3).

    Zarr fills the result through a view in the array's own axis order, so nothing is copied twice.
    """
    wanted = {
        "x": slice(box.x, box.right),
        "y": slice(box.y, box.bottom),
        "c": slice(0, 3),
        "z": slice(z, z + 1),
        "t": slice(0, 1),
    }
    rgb = np.empty((*box.size.shape, 3), np.uint8)
    kept = [axis for axis in axes if axis in "yxc"]
    planes = rgb.transpose(["yxc".index(axis) for axis in kept])
    view: Any = np.expand_dims(planes, [n for n, axis in enumerate(axes) if axis not in "yxc"])
    array.get_basic_selection(tuple(wanted[axis] for axis in axes), out=NDBuffer.from_ndarray_like(view))
    return rgb


class _Whole(WrapperStore[Store]):
    """A chunk of no bytes is a broken copy; zarr would take it for one that was left out on purpose."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await self._store.get(key, prototype, byte_range)
        if value is not None and not len(value):
            raise ValueError(f"{key} is empty")
        return value


def _store(source: Source) -> Store:
    if source.is_url:
        return _Whole(FsspecStore.from_url(source.path, read_only=True))
    return _Whole(LocalStore(source.path, read_only=True))


def _open_group(source: Source, path: str) -> zarr.Group:
    """A group of the store. Consolidated metadata are a copy that may be stale, and are not read."""
    _check_metadata_size(source, path)
    make_known()
    try:
        return zarr.open_group(_store(source), path=path, mode="r", use_consolidated=False)
    except METADATA_ERRORS as error:
        raise _not_opened(source.path, error) from error


def _not_opened(subject: str, error: Exception) -> UnreadableSlideError:
    return UnreadableSlideError(subject, f"is not a readable Zarr store ({error})", COPY_AGAIN)


def _check_metadata_size(source: Source, path: str) -> None:
    if source.is_url:
        return
    for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"):
        file = Path(source.path, path, name)
        if file.is_file() and os.path.getsize(file) > LARGEST_METADATA:
            raise UnreadableSlideError(source.path, f"{file.name} is implausibly large", COPY_AGAIN)


def _attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Where NGFF lies: under `ome` in Zarr v3, at the top in v2."""
    attributes = group.attrs.asdict()
    ome = attributes.get("ome") if group.metadata.zarr_format == 3 else attributes
    return ome if isinstance(ome, dict) else {}


def _image_group(source: Source, root: zarr.Group) -> zarr.Group:
    """The root, or the first series of what bioformats2raw wrote (its layout 3)."""
    attributes = _attributes(root)
    if "plate" in attributes or "well" in attributes:
        raise UnsupportedSlideError(
            source.path, "is a plate of several images", "open one of them: the folder of a field of a well"
        )
    if "multiscales" in attributes or "bioformats2raw.layout" not in attributes:
        return root
    return _open_group(source, "0")


def _ome(subject: str, group: zarr.Group) -> Mapping[str, Any]:
    """The NGFF attributes with the version, and ours beside them."""
    attributes = _attributes(group)
    scales = attributes.get("multiscales")
    if not scales:
        raise UnsupportedSlideError(subject, "is a Zarr store without an OME-Zarr image", CONVERT)
    demand(isinstance(scales, list) and isinstance(scales[0], dict), subject, "its multiscales are no list")
    is_v3 = group.metadata.zarr_format == 3
    version = str(attributes.get("version") if is_v3 else scales[0].get("version", "0.4"))
    if not re.fullmatch(r"0\.5(\.\d+)?" if is_v3 else r"0\.4", version):
        raise UnsupportedSlideError(
            subject, f"is OME-Zarr {version[:20]} on Zarr v{group.metadata.zarr_format}", CONVERT
        )
    return {**attributes, "version": version, "coverslip": group.attrs.asdict().get("coverslip")}


def _open_array(source: Source, group: zarr.Group, path: str, rank: int) -> zarr.Array:
    _check_metadata_size(source, f"{group.path}/{path}".lstrip("/"))
    try:
        array = group[path]
    except METADATA_ERRORS as error:
        raise _not_opened(f"{source.path}, level {path}", error) from error
    demand(isinstance(array, zarr.Array), source.path, f"{path!r} is no array")
    assert isinstance(array, zarr.Array)
    sides = array.ndim == rank and all(0 < side <= LARGEST_SIDE for side in array.shape)
    demand(sides, source.path, f"level {path!r} is of shape {str(array.shape)[:80]}")
    _check_codecs(source.path, array)
    _check_chunks(source.path, array)
    return array


def _check_codecs(subject: str, array: zarr.Array) -> None:
    unknown = sorted(name for name in _codec_names(array) if name not in CODECS)
    if unknown or array.dtype.hasobject:
        raise UnsupportedSlideError(
            subject,
            f"is compressed with {', '.join(unknown)[:80] or 'objects'}, which is not read here",
            "write it again with zstd, blosc or gzip",
        )


def _codec_names(array: zarr.Array) -> Iterator[str]:
    metadata = array.metadata
    if isinstance(metadata, ArrayV2Metadata):
        codecs = (*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else []))
        yield from (str(codec.get_config()["id"]) for codec in codecs)
    else:
        yield from _v3_names(metadata.to_dict()["codecs"])


def _v3_names(codecs: Any) -> Iterator[str]:
    """Names of codecs, and of those inside a shard."""
    for codec in codecs:
        yield str(codec["name"]).removeprefix("numcodecs.")
        inner = codec.get("configuration", {})
        yield from _v3_names([*inner.get("codecs", ()), *inner.get("index_codecs", ())])


def _check_chunks(subject: str, array: zarr.Array) -> None:
    """What has to be decoded at once must fit in memory."""
    outer = array.shards or array.chunks
    metadata = array.metadata
    alone = not isinstance(metadata, ArrayV2Metadata) and (
        len(metadata.codecs) == 1 and isinstance(metadata.codecs[0], ShardingCodec)
    )
    at_once = prod(array.chunks if alone else outer) * array.dtype.itemsize
    demand(at_once <= LARGEST_CHUNK, subject, f"a chunk of {str(array.chunks)[:80]} is implausibly large")
    inner = prod(outer) // max(1, prod(array.chunks))
    demand(inner <= MOST_CHUNKS_PER_SHARD, subject, "a shard has implausibly many chunks")


def _check_levels(subject: str, image: Image, arrays: Sequence[zarr.Array]) -> None:
    """Largest first, all with the same channels and planes."""
    rest = [axis for axis in image.axes if axis not in "yx"]
    for before, after in pairwise(arrays):
        for n, axis in enumerate(image.axes):
            fits = before.shape[n] == after.shape[n] if axis in rest else before.shape[n] >= after.shape[n]
            demand(fits, subject, f"its levels do not belong together along {axis}")
    demand(len({array.dtype for array in arrays}) == 1, subject, "its levels are of different types")
