"""Everything OpenSlide 4 opens."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import MappingProxyType

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError

from coverslip.errors import UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.digest import files_below
from coverslip.wsi.facts import WHITE, Facts
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.levels import build_levels
from coverslip.wsi.pixels import Raw, Rgb
from coverslip.wsi.source import Source
from coverslip.wsi.tiff_index import missing_fraction

# Formats that store only what was scanned: a pixel they lack was never there.
# https://openslide.org/formats/ ; Aperio's zero-length tiles are an encoder fault, not of this kind.
SPARSE_FORMATS = frozenset({"mirax", "leica", "philips", "ventana", "sakura", "zeiss"})
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
    return OpenSlideReader(entry, handle, source)


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
    """One OpenSlide handle, and a second one for places where the file is corrupt.

    An OpenSlide handle that met an error fails every later call, so it is replaced; the box is then read
    along the stored tiles, and those that fail are remembered as corrupt.
    """

    name = "openslide"
    version = f"{openslide.__version__} (libopenslide {openslide.__library_version__})"
    thread_safe = True

    def __init__(self, path: str, handle: OpenSlide, source: Source):
        self._path, self._handle = path, handle
        self._corrupt: set[tuple[int, int, int]] = set()
        self._repair = threading.Lock()
        self.facts = _facts(path, handle, source)

    def read(self, level: int, box: Box) -> Raw:
        if not self._corrupt:
            handle = self._handle
            try:
                return _raw(self._region(handle, level, box))
            except OpenSlideError:
                self._replace(handle)
        with self._repair:
            return self._read_around(level, box)

    def _region(self, handle: OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
        """RGBA (height, width, 4). OpenSlide takes the corner in level-0 pixels, rounded."""
        factor = handle.level_downsamples[level]
        corner = round(box.x * factor), round(box.y * factor)
        return np.asarray(handle.read_region(corner, level, (box.width, box.height)))

    def _replace(self, failed: OpenSlide) -> None:
        with self._repair:
            if self._handle is failed:
                self._handle = OpenSlide(self._path)

    def _read_around(self, level: int, box: Box) -> Raw:
        """Tile by tile, leaving out what cannot be decoded."""
        rgba = np.zeros((*box.size.shape, 4), np.uint8)
        corrupt = np.zeros(box.size.shape, bool)
        for column, row, part in self._tiles(level, box):
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
        try:
            return self._region(self._handle, level, box)
        except OpenSlideError:
            self._handle = OpenSlide(self._path)
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

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._handle.associated_images[name].convert("RGB"))
        except OpenSlideError as error:
            raise UnreadableSlideError(
                self._path, f"its image {name!r} is corrupt ({error})", "leave it out"
            ) from error

    def close(self) -> None:
        self._handle.close()


def _raw(rgba: NDArray[np.uint8]) -> Raw:
    alpha = rgba[..., 3]
    return Raw(rgba[..., :3], None if alpha.min() == 255 else alpha)


def _facts(path: str, handle: OpenSlide, source: Source) -> Facts:
    properties = dict(handle.properties)
    vendor = properties.get("openslide.vendor", "unknown")
    sizes = [Size(*dimensions) for dimensions in handle.level_dimensions]
    tiles = [_tile(properties, n) for n in range(len(sizes))]
    dicom_sparse = properties.get("dicom.DimensionOrganizationType") == "TILED_SPARSE"
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
        sparse_by_design=vendor in SPARSE_FORMATS or dicom_sparse,
        missing_fraction=missing_fraction(path) if source.is_tiff else None,
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
