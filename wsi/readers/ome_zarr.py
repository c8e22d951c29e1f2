"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3): a folder, or a URL that ends in `.zarr`.

Specifications: https://ngff.openmicroscopy.org/0.4/ and /0.5/. What a store says is not trusted: names may
not lead out of it, codecs that run code are refused, and sizes are checked before memory is taken.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path, PurePosixPath
from types import MappingProxyType
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

from coverslip.errors import NotBrightfieldError, RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.digest import files_below
from coverslip.wsi.facts import WHITE, Facts, Kind
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.levels import build_levels
from coverslip.wsi.pixels import Raw, Rgb
from coverslip.wsi.source import Source

# UDUNITS names NGFF recommends, in µm.
UM_PER = MappingProxyType(
    {
        "angstrom": 1e-4,
        "picometer": 1e-6,
        "nanometer": 1e-3,
        "micrometer": 1.0,
        "millimeter": 1e3,
        "centimeter": 1e4,
        "decimeter": 1e5,
        "meter": 1e6,
        "inch": 25400.0,
    }
)
# The largest scanners give 300,000 pixels a side.
LARGEST_SIDE = 1 << 22
# A chunk is decoded whole: 2**28 bytes is a 9,000-pixel square of RGB.
LARGEST_CHUNK = 1 << 28
# The index of a shard is read whole, 16 bytes a chunk.
MOST_CHUNKS_PER_SHARD = 1 << 20
LARGEST_METADATA = 1 << 24
# Beyond this a length in any unit is nonsense; NaN fails the comparison too.
LARGEST_NUMBER = 1e15
MOST_LEVELS = 64
MOST_CHANNELS = 1024
# Codecs that only move and compress numbers; numcodecs also has `pickle`, which runs what it reads.
CODECS = frozenset(
    {
        *("bytes", "transpose", "sharding_indexed", "zstd", "gzip", "blosc", "zlib", "bz2", "lzma", "lz4"),
        *("crc32c", "crc32", "adler32", "fletcher32", "delta", "shuffle"),
    }
)
# What zarr and its codecs raise for bytes they cannot decode, besides MemoryError for a promise of too many.
DECODE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, EOFError, MemoryError, zlib.error)
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
COPY_AGAIN = "copy it again, or write it again with the program that made it"
CONVERT = "convert it to OME-Zarr 0.4 or 0.5 with the program that made it"


def claims(source: Source) -> bool:
    if source.is_url:
        return source.path.rstrip("/").lower().endswith(".zarr")
    return source.is_folder and any((Path(source.path) / name).is_file() for name in ("zarr.json", ".zattrs"))


def open_reader(source: Source, z: int | None) -> OmeZarrReader:
    """`z`: focal plane, by default the middle one; of several times the first is taken.

    Raises UnsupportedSlideError for a Zarr store that is no OME-Zarr 0.4 or 0.5 image, for a plate, and for
    codecs other than `CODECS`; UnreadableSlideError where the metadata contradict the specification;
    RequestError for a plane that does not exist.
    """
    group, image = _find_image(source)
    arrays = tuple(_open_array(source, group, path, len(image.axes)) for path in image.paths)
    _check_levels(source.path, image, arrays)
    return OmeZarrReader(source, image, arrays, z)


def read_image(source: Source) -> Image:
    """What the metadata say of the image that `open_reader` would open; raises as it does."""
    return _find_image(source)[1]


def _find_image(source: Source) -> tuple[zarr.Group, Image]:
    group = _image_group(source, _open_group(source, ""))
    return group, _parse(source.path, _ome(source.path, group))


@dataclass(frozen=True, slots=True)
class Image:
    """One multiscale image as its metadata state it.

    `scale`, `translation`: of level 0, in the order of `axes` and in `units`; `scale` is None when the
    file states none. `paths`: of the levels, inside the store. `ours`: what Coverslip wrote beside it.
    """

    version: str
    name: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scale: tuple[float, ...] | None
    translation: tuple[float, ...]
    channels: tuple[str, ...]
    colors: tuple[str, ...]
    ours: Mapping[str, Any]

    def mpp(self) -> Mpp | None:
        """None unless both axes state a scale and a unit of length."""
        um_x, um_y = (UM_PER.get(self.units[self.axes.index(axis)] or "") for axis in "xy")
        if self.scale is None or um_x is None or um_y is None:
            return None
        x, y = (self.scale[self.axes.index(axis)] for axis in "xy")
        return Mpp(x * um_x, y * um_y, "ome-zarr scale")

    def origin_um(self) -> tuple[float, float]:
        """Where the centre of the first pixel lies, (y, x) µm; meaningless where `mpp` is None."""
        at = (self.axes.index("y"), self.axes.index("x"))
        y, x = (self.translation[n] * UM_PER.get(self.units[n] or "", 1.0) for n in at)
        return y, x


class OmeZarrReader:
    """One image of an OME-Zarr store."""

    name = "ome-zarr"
    version = f"zarr {zarr.__version__}"
    # Arrays are only read, and zarr runs every read on its own event loop.
    thread_safe = True

    def __init__(self, source: Source, image: Image, arrays: tuple[zarr.Array, ...], z: int | None):
        self._path, self._image, self._arrays = source.path, image, arrays
        self.facts = _facts(source, image, arrays, z)

    def read(self, level: int, box: Box) -> Raw:
        """A chunk the store does not hold is the array's fill value, and valid: so Zarr defines it."""
        if self.facts.kind != "brightfield":
            raise NotBrightfieldError(
                self._path, "its channels are not red, green and blue", "choose an RGB image"
            )
        try:
            return Raw(self._rgb(level, box))
        except DECODE_ERRORS:
            return self._read_around(level, box)
        except OSError as error:
            raise self._unreadable(error) from error

    def _rgb(self, level: int, box: Box) -> NDArray[np.uint8]:
        return read_rgb(self._arrays[level], self._image.axes, self.facts.z_plane, box)

    def _read_around(self, level: int, box: Box) -> Raw:
        """Chunk by chunk, leaving out what cannot be decoded."""
        rgb = np.zeros((*box.size.shape, 3), np.uint8)
        alpha = np.full(box.size.shape, 255, np.uint8)
        corrupt = np.zeros(box.size.shape, bool)
        tile = self.facts.levels[level].tile
        assert tile is not None
        for part in _parts(box, tile):
            at = part.within(box)
            try:
                rgb[at] = self._rgb(level, part)
            except DECODE_ERRORS:
                alpha[at], corrupt[at] = 0, True
            except OSError as error:
                raise self._unreadable(error) from error
        return Raw(rgb, alpha, corrupt)

    def _unreadable(self, error: OSError) -> UnreadableSlideError:
        return UnreadableSlideError(self._path, f"cannot be read ({error})", "check the disk or connection")

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        raise RequestError(f"associated image {name!r}", "OME-Zarr has none", "leave it out")

    def close(self) -> None:
        """Nothing is held open between reads."""


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


def _parts(box: Box, tile: Size) -> Iterator[Box]:
    """The box cut along the stored chunks."""
    for y in range(box.y // tile.height * tile.height, box.bottom, tile.height):
        for x in range(box.x // tile.width * tile.width, box.right, tile.width):
            part = Box(x, y, tile.width, tile.height).intersect(box)
            if part is not None:
                yield part


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
    _demand(isinstance(scales, list) and isinstance(scales[0], dict), subject, "its multiscales are no list")
    is_v3 = group.metadata.zarr_format == 3
    version = str(attributes.get("version") if is_v3 else scales[0].get("version", "0.4"))
    if not re.fullmatch(r"0\.5(\.\d+)?" if is_v3 else r"0\.4", version):
        raise UnsupportedSlideError(
            subject, f"is OME-Zarr {version[:20]} on Zarr v{group.metadata.zarr_format}", CONVERT
        )
    return {**attributes, "version": version, "coverslip": group.attrs.asdict().get("coverslip")}


def _demand(condition: bool, subject: str, problem: str) -> None:
    if not condition:
        raise UnreadableSlideError(subject, f"is not valid OME-Zarr: {problem}", COPY_AGAIN)


def _parse(subject: str, ome: Mapping[str, Any]) -> Image:
    scales = ome["multiscales"][0]
    axes, units = _axes(subject, scales.get("axes"))
    datasets = scales.get("datasets")
    _demand(
        isinstance(datasets, list)
        and 0 < len(datasets) <= MOST_LEVELS
        and all(isinstance(entry, dict) for entry in datasets),
        subject,
        "its datasets are no list of levels",
    )
    steps = [*_transforms(datasets[0]), *_transforms(scales)]
    scale, translation = _placement(subject, len(axes), steps)
    names, colors = _channels(ome.get("omero"))
    ours = ome.get("coverslip")
    return Image(
        version=ome["version"],
        name=str(scales.get("name", ""))[:256],
        axes=axes,
        units=units,
        paths=tuple(_inner_path(subject, entry.get("path")) for entry in datasets),
        scale=scale if any(step.get("type") == "scale" for step in steps) else None,
        translation=translation,
        channels=names,
        colors=colors,
        ours=ours if isinstance(ours, dict) else {},
    )


def _axes(subject: str, axes: Any) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Names and units of the axes, each of t, c, z, y, x at most once, y and x always."""
    _demand(
        isinstance(axes, list) and all(isinstance(axis, dict) for axis in axes), subject, "it has no axes"
    )
    names = tuple(str(axis.get("name")) for axis in axes)
    known = set(names) <= set("tczyx") and len(set(names)) == len(names) and {"y", "x"} <= set(names)
    _demand(known, subject, f"its axes are {', '.join(names)[:80]}")
    units = (axis.get("unit") for axis in axes)
    return names, tuple(unit if isinstance(unit, str) else None for unit in units)


def _transforms(holder: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = holder.get("coordinateTransformations")
    return [step for step in found if isinstance(step, dict)] if isinstance(found, list) else []


def _placement(
    subject: str, rank: int, steps: Sequence[Mapping[str, Any]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of level 0 after all steps: its own, then those of the whole image."""
    scale, translation = np.ones(rank), np.zeros(rank)
    for step in steps:
        value = step.get(str(step.get("type")))
        if step.get("type") == "scale":
            factor = _numbers(subject, rank, value, positive=True)
            scale, translation = scale * factor, translation * factor
        elif step.get("type") == "translation":
            translation = translation + _numbers(subject, rank, value, positive=False)
    return tuple(scale.tolist()), tuple(translation.tolist())


def _numbers(subject: str, rank: int, value: Any, *, positive: bool) -> NDArray[np.float64]:
    fits = isinstance(value, list) and len(value) == rank and all(_is_number(part) for part in value)
    fits = fits and (not positive or all(part > 0 for part in value))
    _demand(fits, subject, "a transformation is not one possible number for each axis")
    return np.array(value, np.float64)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER


def _inner_path(subject: str, path: Any) -> str:
    """A path inside the store, or an error: it comes from the file and may point anywhere."""
    text = path if isinstance(path, str) else ""
    parts = PurePosixPath(text).parts
    safe = (
        bool(parts) and not text.startswith("/") and ".." not in parts and not re.search(r"[\\:\0?#]", text)
    )
    _demand(safe, subject, f"the path {str(path)[:80]!r} of a level leads out of it")
    return text


def _channels(omero: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of the channels as `omero` states them; both empty when it does not."""
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(channel, dict) for channel in channels):
        return (), ()
    names = tuple(str(channel.get("label", n))[:80] for n, channel in enumerate(channels[:MOST_CHANNELS]))
    colors = tuple(str(channel.get("color", "")).upper()[:8] for channel in channels[:MOST_CHANNELS])
    return names, colors


def _open_array(source: Source, group: zarr.Group, path: str, rank: int) -> zarr.Array:
    _check_metadata_size(source, f"{group.path}/{path}".lstrip("/"))
    try:
        array = group[path]
    except METADATA_ERRORS as error:
        raise _not_opened(f"{source.path}, level {path}", error) from error
    _demand(isinstance(array, zarr.Array), source.path, f"{path!r} is no array")
    assert isinstance(array, zarr.Array)
    sides = array.ndim == rank and all(0 < side <= LARGEST_SIDE for side in array.shape)
    _demand(sides, source.path, f"level {path!r} is of shape {str(array.shape)[:80]}")
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
    _demand(at_once <= LARGEST_CHUNK, subject, f"a chunk of {str(array.chunks)[:80]} is implausibly large")
    inner = prod(outer) // max(1, prod(array.chunks))
    _demand(inner <= MOST_CHUNKS_PER_SHARD, subject, "a shard has implausibly many chunks")


def _check_levels(subject: str, image: Image, arrays: Sequence[zarr.Array]) -> None:
    """Largest first, all with the same channels and planes."""
    rest = [axis for axis in image.axes if axis not in "yx"]
    for before, after in pairwise(arrays):
        for n, axis in enumerate(image.axes):
            fits = before.shape[n] == after.shape[n] if axis in rest else before.shape[n] >= after.shape[n]
            _demand(fits, subject, f"its levels do not belong together along {axis}")
    _demand(len({array.dtype for array in arrays}) == 1, subject, "its levels are of different types")


def _facts(source: Source, image: Image, arrays: Sequence[zarr.Array], z: int | None) -> Facts:
    x, y = image.axes.index("x"), image.axes.index("y")
    lengths = dict(zip(image.axes, arrays[0].shape, strict=True))
    count = lengths.get("c", 1)
    names = (
        image.channels
        if len(image.channels) == count
        else tuple(str(n) for n in range(min(count, MOST_CHANNELS)))
    )
    kind = _kind(image, count, arrays[0].dtype)
    return Facts(
        format="ome-zarr",
        levels=build_levels(
            [Size(array.shape[x], array.shape[y]) for array in arrays],
            [Size(array.chunks[x], array.chunks[y]) for array in arrays],
        ),
        mpp=image.mpp(),
        objective=_objective(image.ours),
        background=_background(image.ours),
        z_planes=lengths.get("z", 1),
        z_plane=_plane(lengths.get("z", 1), z),
        channels=("R", "G", "B") if kind == "brightfield" else names,
        kind=kind,
        files=() if source.is_url else files_below(source.path),
        properties=_properties(image, arrays[0]),
    )


def _kind(image: Image, channels: int, dtype: np.dtype[Any]) -> Kind:
    """RGB is three channels of bytes; where colours are stated, red, green and blue in this order."""
    rgb = channels == 3 and dtype == np.uint8 and "c" in image.axes
    stated = len(image.colors) == 3 and all(image.colors)
    return (
        "brightfield"
        if rgb and (not stated or image.colors == ("FF0000", "00FF00", "0000FF"))
        else "multichannel"
    )


def _plane(planes: int, z: int | None) -> int:
    if z is None:
        return planes // 2
    if not 0 <= z < planes:
        raise RequestError(f"focal plane {z}", f"there are planes 0 to {planes - 1}", "name one of these")
    return z


def _objective(ours: Mapping[str, Any]) -> float | None:
    source = ours.get("source")
    value = source.get("objective") if isinstance(source, dict) else None
    return float(value) if isinstance(value, int | float) and 0 < value < LARGEST_NUMBER else None


def _background(ours: Mapping[str, Any]) -> Rgb:
    """What Coverslip wrote beside the image; NGFF has no place for it."""
    value = ours.get("background")
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return WHITE


def _properties(image: Image, array: zarr.Array) -> Mapping[str, str]:
    return MappingProxyType(
        {
            "ome-zarr.version": image.version,
            "ome-zarr.name": image.name,
            "ome-zarr.axes": "".join(image.axes),
            "ome-zarr.shape": "×".join(str(side) for side in array.shape),
        }
    )
