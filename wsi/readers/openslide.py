"""Everything OpenSlide 4 opens."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from math import floor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError

from coverslip.errors import UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.dicom_stored import stored_frames
from coverslip.wsi.digest import files_below
from coverslip.wsi.facts import LARGEST_ASSOCIATED, WHITE, Facts
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.levels import build_levels
from coverslip.wsi.pixels import Raw, Rgb
from coverslip.wsi.scn import scn_levels
from coverslip.wsi.source import Source
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiff_index import TiffIndex, read_index
from coverslip.wsi.tiff_pages import LARGEST_SEGMENT

# Formats that store only what was scanned: a pixel they lack was never there.
# https://openslide.org/formats/ ; Aperio's zero-length tiles are an encoder fault, not of this kind.
SPARSE_FORMATS = frozenset({"mirax", "leica", "philips", "ventana", "sakura", "zeiss"})
# TIFF formats whose levels are one plain grid of tiles from the corner, without overlap or offsets.
PLAIN_GRID = frozenset({"generic-tiff", "hamamatsu", "ventana"})
MPP_KEYS = MappingProxyType(
    {
        "aperio": "aperio.MPP",
        "generic-tiff": "tiff.XResolution",
        "hamamatsu": "tiff.XResolution",
        "dicom": "dicom PixelSpacing",
        "philips": "philips.DICOM_PIXEL_SPACING",
        "mirax": "mirax MICROMETER_PER_PIXEL",
        "leica": "leica sizeX/viewSizeX",
        "ventana": "ventana.ScanRes",
        "trestle": "trestle resolution",
        "sakura": "sakura.NominalLensMagnification",
    }
)


def claims(source: Source) -> bool:
    return not source.is_url and _entry(source) is not None


def _entry(source: Source) -> str | None:
    """The file to hand to OpenSlide: the file itself, or the first DICOM file of a folder."""
    if not source.is_folder:
        return source.path if OpenSlide.detect_format(source.path) else None
    for path in sorted(Path(source.path).iterdir()):
        if path.is_file() and OpenSlide.detect_format(path) == "dicom":
            return str(path)
    return None


def open_reader(source: Source, z: int | None) -> OpenSlideReader:
    """`z` is ignored: OpenSlide shows one plane."""
    entry = _entry(source)
    assert entry is not None
    index = read_index(entry) if source.is_tiff else None
    if index is not None and index.largest_segment > LARGEST_SEGMENT * 4:
        # OpenSlide ends the whole process when it cannot have the memory for one.
        raise UnsupportedSlideError(
            source.path, "is stored in pieces too large for OpenSlide", "use tiffslide"
        )
    try:
        handle = OpenSlide(entry)
    except OpenSlideError as error:
        raise _refusal(source, str(error)) from error
    if "<OME " in handle.properties.get("tiff.ImageDescription", "")[:4096]:
        handle.close()
        # As generic TIFF it would lose the pyramid in its SubIFDs and the µm/px in its XML.
        raise UnsupportedSlideError(
            source.path, "is an OME-TIFF, which OpenSlide does not know", "use tiffslide"
        )
    if index is not None and index.orientation != 1:
        handle.close()
        # It would turn each stored tile by itself and leave them in their places: a jumbled picture.
        raise UnsupportedSlideError(
            source.path, f"has TIFF orientation {index.orientation}, which OpenSlide jumbles", "use tiffslide"
        )
    return OpenSlideReader(entry, handle, source, index)


def _refusal(source: Source, said: str) -> UnreadableSlideError | UnsupportedSlideError:
    said = said.replace(f"{source.path}: ", "").replace(f" {source.path}", " it")
    if "Short read" in said or "end of file" in said.lower():
        return UnreadableSlideError(source.path, f"is cut off ({said})", "copy it again from the scanner")
    return UnsupportedSlideError(
        source.path,
        f"OpenSlide does not open it ({said})",
        "convert it to OME-TIFF or DICOM, for example with QuPath or bfconvert",
    )


class OpenSlideReader:
    """One OpenSlide handle for all threads, and a second one that only looks into damage.

    A handle that met an error fails every later call of every thread, so it is replaced; threads that still
    hold it keep it alive until they return. Which stored tile is corrupt is judged with a handle that one
    thread uses at a time, since a shared one may fail through another thread's tile.
    """

    name = "openslide"
    version = f"{openslide.__version__} (libopenslide {openslide.__library_version__})"
    thread_safe = True

    def __init__(self, path: str, handle: OpenSlide, source: Source, index: TiffIndex | None):
        self._path, self._handle = path, handle
        self._probe: OpenSlide | None = None
        self._corrupt: set[tuple[int, int, int]] = set()
        self._swap, self._inspection = threading.Lock(), threading.Lock()
        self.facts = _facts(path, handle, source, index)
        self._absent = _absent(self.facts, index)
        self._index = index

    def read(self, level: int, box: Box) -> Raw:
        tiles = self._tiles(level, box)
        absent = self._absent.get(level)
        if absent is not None and all(absent[row, column] for column, row, _ in tiles):
            return _nothing(box.size)
        if not self._corrupt.intersection((level, column, row) for column, row, _ in tiles):
            handle = self._handle
            try:
                return _raw(_region(handle, level, box))
            except OpenSlideError:
                self._replace(handle)
        with self._inspection:
            return self._read_around(level, box, tiles)

    def _replace(self, failed: OpenSlide) -> None:
        with self._swap:
            if self._handle is failed:
                self._handle = _open(self._path)

    def _read_around(self, level: int, box: Box, tiles: list[tuple[int, int, Box]]) -> Raw:
        """Tile by tile, leaving out what cannot be decoded."""
        rgba = np.zeros((*box.size.shape, 4), np.uint8)
        corrupt = np.zeros(box.size.shape, bool)
        absent = self._absent.get(level)
        for column, row, part in tiles:
            if absent is not None and absent[row, column]:
                continue
            at = part.within(box)
            pixels = None if (level, column, row) in self._corrupt else self._try(level, part)
            if pixels is None:
                self._corrupt.add((level, column, row))
                corrupt[at] = True
            else:
                rgba[at] = pixels
        raw = _raw(rgba)
        return Raw(raw.rgb, raw.alpha, corrupt if corrupt.any() else None)

    def _try(self, level: int, box: Box) -> NDArray[np.uint8] | None:
        if self._probe is None:
            self._probe = _open(self._path)
        try:
            return _region(self._probe, level, box)
        except OpenSlideError:
            self._probe = None
            return None

    def _tiles(self, level: int, box: Box) -> list[tuple[int, int, Box]]:
        tile = self.facts.levels[level].tile or Size(256, 256)
        found = []
        for row in range(box.y // tile.height, (box.bottom - 1) // tile.height + 1):
            for column in range(box.x // tile.width, (box.right - 1) // tile.width + 1):
                part = Box(column * tile.width, row * tile.height, tile.width, tile.height).intersect(box)
                if part is not None:
                    found.append((column, row, part))
        return found

    def stored(self, level: int) -> StoredLevel | None:
        return self._stored.get(level)

    @cached_property
    def _stored(self) -> dict[int, StoredLevel]:
        return _stored(self.facts, self._index)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        handle = self._handle
        width, height = (
            _number(dict(self.facts.properties), f"openslide.associated.{name}.{side}") or 0
            for side in ("width", "height")
        )
        if width * height > LARGEST_ASSOCIATED:
            raise UnreadableSlideError(self._path, f"its image {name!r} claims to be huge", "leave it out")
        try:
            return np.asarray(handle.associated_images[name].convert("RGB"))
        except OpenSlideError as error:
            self._replace(handle)
            raise UnreadableSlideError(
                self._path, f"its image {name!r} is corrupt ({error})", "leave it out"
            ) from error

    def close(self) -> None:
        self._handle.close()
        if self._probe is not None:
            self._probe.close()


def _open(path: str) -> OpenSlide:
    """Open again what was open before."""
    try:
        return OpenSlide(path)
    except (OpenSlideError, FileNotFoundError) as error:
        raise UnreadableSlideError(
            path, f"cannot be opened again ({error})", "keep it in its place"
        ) from error


def _region(handle: OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
    """RGBA (height, width, 4). OpenSlide takes the corner in level-0 pixels, rounded."""
    factor = handle.level_downsamples[level]
    corner = round(box.x * factor), round(box.y * factor)
    return np.asarray(handle.read_region(corner, level, (box.width, box.height)))


def _nothing(size: Size) -> Raw:
    return Raw(np.zeros((*size.shape, 3), np.uint8), np.zeros(size.shape, np.uint8))


def _raw(rgba: NDArray[np.uint8]) -> Raw:
    alpha = rgba[..., 3]
    return Raw(rgba[..., :3], None if alpha.min() == 255 else alpha)


def _absent(facts: Facts, index: TiffIndex | None) -> dict[int, NDArray[np.bool_]]:
    """Tiles of each level that hold no bytes and that OpenSlide leaves transparent.

    In the formats whose tiles lie on a plain grid; of Aperio's only level 0, since OpenSlide fills a gap in
    a coarser level from the finer one.
    """
    if index is None or facts.format not in {"aperio", "generic-tiff"}:
        return {}
    levels = facts.levels[:1] if facts.format == "aperio" else facts.levels
    grids = {number: index.grid(level.size, level.tile) for number, level in enumerate(levels)}
    return {number: grid.absent for number, grid in grids.items() if grid is not None and grid.absent.any()}


def _stored(facts: Facts, index: TiffIndex | None) -> dict[int, StoredLevel]:
    """Of the formats whose tiles lie on a plain grid, and are shown as they decode.

    Not of Ventana's BIF, whose tiles lie at the mean of all overlaps and are smoothed between pixels; nor
    of MIRAX, which places parts of its tiles so.
    """
    if facts.format == "dicom":
        frames = stored_frames(facts.files, facts.properties.get("dicom.SeriesInstanceUID", ""))
        found = {
            n: frames.get((level.size, level.tile)) for n, level in enumerate(facts.levels) if level.tile
        }
    elif index is None:
        return {}
    elif facts.format in GRIDS:
        found = dict(enumerate(GRIDS[facts.format](facts, index)))
    elif facts.format in PLAIN_GRID:
        grids = {n: index.grid(level.size, level.tile) for n, level in enumerate(facts.levels)}
        found = {n: grid.stored for n, grid in grids.items() if grid is not None}
    else:
        return {}
    return {n: stored for n, stored in found.items() if stored is not None}


def _philips(facts: Facts, index: TiffIndex) -> Iterator[StoredLevel | None]:
    """Its tiled images are its levels, in order; coarser ones claim the padding of level 0 too."""
    grids = index.grids if len(index.grids) == len(facts.levels) else ()
    for level, grid in zip(facts.levels, grids, strict=False):
        whole = grid.size.box.intersect(level.size.box) == level.size.box
        yield grid.stored.cut(level.size) if grid.stored and whole and grid.tile == level.tile else None


def _aperio(facts: Facts, index: TiffIndex) -> Iterator[StoredLevel | None]:
    """A tile made of one that is missing counts as missing itself: Aperio's encoder leaves it corrupt, and
    OpenSlide shows the finer level in its place (openslide-vendor-aperio.c, propagate_missing_tile)."""
    finer = None
    for level in facts.levels:
        grid = index.grid(level.size, level.tile)
        if grid is None:
            return
        absent = grid.absent if finer is None else grid.absent | _made_of(finer, grid.absent.shape)
        finer = absent
        yield grid.stored and replace(grid.stored, counts=np.where(absent, 0, grid.stored.counts))


def _made_of(absent: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which of a coarser level's (rows, columns) of tiles absent ones lie in, as OpenSlide counts."""
    rows, columns = (floor(fine / coarse + 0.5) for fine, coarse in zip(absent.shape, shape, strict=True))
    at = np.argwhere(absent) // (max(1, rows), max(1, columns))
    numbers = at[:, 0] * shape[1] + at[:, 1]
    found = np.zeros(shape, bool)
    found.flat[numbers[numbers < found.size]] = True
    return found


def _leica(facts: Facts, index: TiffIndex) -> Iterator[StoredLevel | None]:
    """One area, somewhere on the slide."""
    levels = scn_levels(index.description)
    for level in levels if len(levels) == len(facts.levels) else ():
        grid = index.grid_of(level.size)
        yield grid and grid.stored and replace(grid.stored, origin=level.origin)


GRIDS = MappingProxyType({"aperio": _aperio, "leica": _leica, "philips": _philips})


def _facts(path: str, handle: OpenSlide, source: Source, index: TiffIndex | None) -> Facts:
    properties = dict(handle.properties)
    vendor = properties.get("openslide.vendor", "unknown")
    sizes = [Size(*dimensions) for dimensions in handle.level_dimensions]
    tiles = [_tile(properties, n) for n in range(len(sizes))]
    dicom_sparse = properties.get("dicom.DimensionOrganizationType") == "TILED_SPARSE"
    has_alpha = index is not None and index.has_alpha  # declared transparent is no damage
    return Facts(
        format=vendor,
        levels=build_levels(sizes, tiles),
        mpp=_mpp(properties, vendor),
        objective=_number(properties, "openslide.objective-power"),
        bounds=_bounds(properties),
        background=_background(properties),
        icc=_icc(handle),
        kind="fluorescence" if _is_fluorescence(properties) else "brightfield",
        associated=tuple(handle.associated_images),
        sparse_by_design=vendor in SPARSE_FORMATS or dicom_sparse or has_alpha,
        missing_fraction=None if index is None else index.missing_fraction,
        files=_files(path, vendor, properties, source),
        properties=MappingProxyType(properties),
    )


def _number(properties: dict[str, str], key: str) -> float | None:
    try:
        return float(properties[key])
    except (KeyError, ValueError):
        return None


def _tile(properties: dict[str, str], level: int) -> Size | None:
    width = _number(properties, f"openslide.level[{level}].tile-width")
    height = _number(properties, f"openslide.level[{level}].tile-height")
    return Size(int(width), int(height)) if width and height else None


def _mpp(properties: dict[str, str], vendor: str) -> Mpp | None:
    x, y = _number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y")
    if not x or not y or x < 0 or y < 0:
        return None
    return Mpp(x, y, MPP_KEYS.get(vendor, "openslide.mpp-x"))


def _bounds(properties: dict[str, str]) -> Box | None:
    x, y, width, height = (
        _number(properties, f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")
    )
    if x is None or y is None or not width or not height:
        return None
    return Box(int(x), int(y), int(width), int(height))


def _background(properties: dict[str, str]) -> Rgb:
    text = properties.get("openslide.background-color", "")
    if len(text) != 6:
        return WHITE
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def _icc(handle: OpenSlide) -> bytes | None:
    try:
        profile = handle.color_profile
    except OpenSlideError:
        return None
    return None if profile is None else profile.tobytes()


def _is_fluorescence(properties: dict[str, str]) -> bool:
    """Hamamatsu's shading data name the filter cube; an emission wavelength is one of fluorescence only."""
    shading = (text for key, text in properties.items() if key.startswith("hamamatsu.;NDP Shading Data"))
    return any(re.search(r"EmissionWaveLength=[1-9]", text) for text in shading)


def _files(path: str, vendor: str, properties: dict[str, str], source: Source) -> tuple[str, ...]:
    if source.is_folder:
        return files_below(source.path)
    if vendor == "mirax":
        return (path, *files_below(str(Path(path).with_suffix(""))))
    if vendor == "dicom":
        return _series(path, properties.get("dicom.SeriesInstanceUID", ""))
    return (path,)


def _series(path: str, uid: str) -> tuple[str, ...]:
    """The DICOM files beside `path` that hold the same series: OpenSlide reads them together."""
    needle = uid.encode()
    files = (file for file in Path(path).parent.iterdir() if file.is_file())
    return tuple(sorted({path, *(str(file) for file in files if needle and _mentions(file, needle))}))


def _mentions(file: Path, needle: bytes) -> bool:
    with file.open("rb") as handle:
        head = handle.read(1 << 16)
    return head[128:132] == b"DICM" and needle in head
