"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3): a folder, or a URL that ends in `.zarr`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from coverslip.errors import NotBrightfieldError, RequestError, UnreadableSlideError
from coverslip.wsi.digest import files_below
from coverslip.wsi.facts import WHITE, Facts, Kind
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.levels import build_levels
from coverslip.wsi.ngff import LARGEST_NUMBER, MOST_CHANNELS, Image
from coverslip.wsi.pixels import Raw, Rgb
from coverslip.wsi.source import Source
from coverslip.wsi.zarr_store import open_arrays, read_rgb

# What zarr and its codecs raise for bytes they cannot decode, besides MemoryError for a promise of too many.
DECODE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, EOFError, MemoryError, zlib.error)


def claims(source: Source) -> bool:
    if source.is_url:
        return source.path.rstrip("/").lower().endswith(".zarr")
    return source.is_folder and any((Path(source.path) / name).is_file() for name in ("zarr.json", ".zattrs"))


def open_reader(source: Source, z: int | None) -> OmeZarrReader:
    """`z`: focal plane, by default the middle one; of several times the first is taken.

    Raises UnsupportedSlideError for a Zarr store that is no OME-Zarr 0.4 or 0.5 image, for a plate, and for
    codecs other than `zarr_store.CODECS`; UnreadableSlideError where the metadata contradict the
    specification; RequestError for a plane that does not exist.
    """
    return OmeZarrReader(source, *open_arrays(source), z)


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


def _parts(box: Box, tile: Size) -> Iterator[Box]:
    """The box cut along the stored chunks."""
    for y in range(box.y // tile.height * tile.height, box.bottom, tile.height):
        for x in range(box.x // tile.width * tile.width, box.right, tile.width):
            part = Box(x, y, tile.width, tile.height).intersect(box)
            if part is not None:
                yield part


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
        z_spacing_um=image.z_um() if lengths.get("z", 1) > 1 else None,
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
