"""OME-TIFF, TIFF that OpenSlide refuses, and TIFF at a URL.

TiffSlide opens the file (local, http, s3, … through fsspec) and states Aperio's metadata; tiles are fetched
and decoded one by one, so that a missing or corrupt one costs only itself. Rows and columns are those
stored: a TIFF Orientation tag is kept in the properties and not applied.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tiffslide import TiffSlide

from coverslip.errors import CoverslipError, RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.unheard import unheard
from coverslip.wsi.facts import LARGEST_ASSOCIATED, Facts, Kind
from coverslip.wsi.geometry import Box, Mpp
from coverslip.wsi.levels import build_levels
from coverslip.wsi.ome_xml import OmeImage, read_ome, refuse_entities
from coverslip.wsi.pixels import Raw
from coverslip.wsi.source import Source
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiff_colour import has_alpha, is_brightfield
from coverslip.wsi.tiff_index import INDEX_ERRORS, absent_share, orientation_of
from coverslip.wsi.tiff_pages import StoredImage, stored_image
from coverslip.wsi.tiff_stored import stored_level

# µm per TIFF 6.0 ResolutionUnit; 1 means "no absolute unit".
UM_PER_UNIT = MappingProxyType({2: 25400.0, 3: 10000.0})
# Formats whose tiles do not lie on one plain grid; only OpenSlide puts them together.
OPENSLIDE_ONLY = ("is_scn", "is_bif", "is_philips")
OUTSIDE = "download it: local files of this format are read by OpenSlide"
CUT_OFF = "copy it again from the scanner"


def claims(source: Source) -> bool:
    return source.is_tiff


def open_reader(source: Source, z: int | None) -> TiffReader:
    """`z`: focal plane counted from 0; the middle one by default.

    Raises UnreadableSlideError when the index is lost or senseless, UnsupportedSlideError for what is not
    decoded here, RequestError for a plane that does not exist.
    """
    if source.name.lower().endswith(".vsi"):
        raise UnsupportedSlideError(
            source.path,
            "is an Olympus VSI: its pixels lie in the .ets files beside it, which no reader here opens",
            "convert it to OME-TIFF, for example with: bfconvert -bigtiff IN.vsi OUT.ome.tif, or QuPath",
        )
    with unheard("tifffile"):  # it logs of what is broken, and the error says it
        return _open_quietly(source, z)


def _open_quietly(source: Source, z: int | None) -> TiffReader:
    slide = _open(source)
    try:
        return TiffReader(slide, source, z)
    except CoverslipError:
        slide.close()
        raise
    except INDEX_ERRORS as error:
        slide.close()
        raise UnreadableSlideError(
            source.path, f"its TIFF index makes no sense ({type(error).__name__}: {error})", CUT_OFF
        ) from error


def _open(source: Source) -> TiffSlide:
    try:
        # Never follow the names of other files that an OME-TIFF may state.
        return TiffSlide(source.path, tifffile_options={"_multifile": False})
    except ImportError as error:
        raise UnsupportedSlideError(
            source.path,
            f"its store needs a package ({error})",
            "pip install 'coverslip[remote]' or download it",
        ) from error
    except INDEX_ERRORS as error:
        raise UnreadableSlideError(
            source.path, f"cannot be opened as TIFF ({error})", "check that it is there and whole"
        ) from error


class TiffReader:
    """Safe to read from several threads: the file is read under a lock, tiles are decoded outside it."""

    name = "tiffslide"
    version = f"{version('tiffslide')} (tifffile {version('tifffile')})"
    thread_safe = True

    def __init__(self, slide: TiffSlide, source: Source, z: int | None):
        self._slide, self._subject = slide, source.path
        tif = slide.ts_tifffile
        self._io = threading.Lock()
        layout = _layout(tif, source.path, z)
        self._images = tuple(
            stored_image(page, self._fetch, tif.filehandle.size, source.path) for page in layout.pages
        )
        end = tif.filehandle.size
        self._stored = tuple(stored_level(page, source.path, end, trust_jfif=True) for page in layout.pages)
        self._associated = layout.associated
        self.facts = _facts(slide, layout, self._images, source)

    def _fetch(self, offset: int, count: int) -> bytes:
        handle = self._slide.ts_tifffile.filehandle
        with self._io:
            handle.seek(offset)
            data = handle.read(count)
        if len(data) != count:
            raise OSError(f"{len(data)} of {count} bytes at {offset}")
        return data

    def read(self, level: int, box: Box) -> Raw:
        return self._images[level].read(box)

    def stored(self, level: int) -> StoredLevel | None:
        return self._stored[level]

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            raw = self._image(name)
        except CoverslipError:
            raise
        except INDEX_ERRORS as error:
            raise self._corrupt(name) from error
        if raw.corrupt is not None and raw.corrupt.all():
            raise self._corrupt(name)
        return raw.rgb

    def _image(self, name: str) -> Raw:
        page = self._associated[name]
        image = stored_image(page, self._fetch, self._slide.ts_tifffile.filehandle.size, self._subject)
        if not is_brightfield(page) or image.size.area > LARGEST_ASSOCIATED:
            raise self._corrupt(name)
        return image.read(image.size.box)

    def _corrupt(self, name: str) -> UnreadableSlideError:
        return UnreadableSlideError(self._subject, f"its image {name!r} is corrupt", "leave it out")

    def close(self) -> None:
        self._slide.close()


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which images of the file are what. `pages`: the levels, largest first."""

    format: str
    pages: tuple[tifffile.TiffPage, ...]
    channels: tuple[str, ...]
    kind: Kind
    associated: Mapping[str, tifffile.TiffPage]
    ome: OmeImage | None = None
    z_planes: int = 1
    z_plane: int = 0


def _layout(tif: tifffile.TiffFile, subject: str, z: int | None) -> Layout:
    if not len(tif.pages):
        raise UnreadableSlideError(subject, "is cut off: its index lay behind the end of the file", CUT_OFF)
    for flag in OPENSLIDE_ONLY:
        if getattr(tif, flag):
            raise UnsupportedSlideError(subject, f"is a {flag[3:]} TIFF", OUTSIDE)
    refuse_entities(_page(tif.pages[0]).description, subject)
    if tif.is_ome:
        return _ome_layout(tif, subject, z)
    if z not in (None, 0):
        raise RequestError(f"z {z}", f"{subject} has one focal plane", "leave z out")
    if tif.is_qpi:
        return _qptiff_layout(tif)
    pages = [_page(page) for page in tif.pages]
    if tif.is_ndpi:
        return _ndpi_layout(tif)
    levels = (pages[0], *(page for page in pages[1:] if _is_level(page, pages[0], svs=tif.is_svs)))
    associated = _aperio_associated(pages) if tif.is_svs else {}
    return Layout("aperio" if tif.is_svs else "generic-tiff", levels, *_channels(levels[0]), associated)


def _page(page: Any) -> tifffile.TiffPage:
    """tifffile gives the later pages as frames that lack their own tags."""
    whole = page.aspage()
    assert isinstance(whole, tifffile.TiffPage)
    return whole


def _is_level(page: tifffile.TiffPage, base: tifffile.TiffPage, *, svs: bool) -> bool:
    """OpenSlide's rule (openslide.org/formats): Aperio's levels are its tiled images, other TIFF's those
    tiled and marked as reduced; here they must also be the base made smaller, to within a pixel."""
    if page.is_tiled != base.is_tiled or not (svs or page.is_reduced):
        return False
    if (page.photometric, page.samplesperpixel, page.dtype) != (
        base.photometric,
        base.samplesperpixel,
        base.dtype,
    ):
        return False
    factor = base.imagewidth / page.imagewidth
    return (
        factor > 1
        and page.is_tiled
        and abs(base.imagelength / factor - page.imagelength) <= 1 + page.imagelength / page.imagewidth
    )


def _aperio_associated(pages: Iterable[tifffile.TiffPage]) -> dict[str, tifffile.TiffPage]:
    """OpenSlide's names: the second image is the thumbnail, the others are named in the second line."""
    found = {}
    for number, page in enumerate(pages):
        if number == 0 or page.is_tiled:
            continue
        second = [*page.description.splitlines(), "", ""][1].split(" ")[0]
        name = "thumbnail" if number == 1 else second
        if name:
            found[name] = page
    return found


def _channels(page: tifffile.TiffPage) -> tuple[tuple[str, ...], Kind]:
    if is_brightfield(page):
        return ("R", "G", "B"), "brightfield"
    names = ("R", "G", "B") if page.samplesperpixel > 3 else ()
    rest = (f"sample {n + 1} ({page.dtype})" for n in range(len(names), page.samplesperpixel))
    return (*names, *rest), "multichannel"


def _ndpi_layout(tif: tifffile.TiffFile) -> Layout:
    """Hamamatsu: fluorescence is known by the emission wavelength in its shading data, as in OpenSlide's
    properties; the `map` of focal points is not shown."""
    levels = tuple(_page(level.pages[0]) for level in tif.series[0].levels)
    associated = {one.name.lower(): _page(one.pages[0]) for one in tif.series[1:] if one.name == "Macro"}
    texts = (tag.value for tag in levels[0].tags if isinstance(tag.value, str))
    channels, kind = _channels(levels[0])
    if any(re.search(r"EmissionWaveLength=[1-9]", text) for text in texts):
        kind = "fluorescence"
    return Layout("hamamatsu", levels, channels, kind, associated)


def _qptiff_layout(tif: tifffile.TiffFile) -> Layout:
    """PerkinElmer/Akoya: brightfield as RGB, or one grey image per stain, named in each one's XML."""
    series = tif.series[0]
    levels = tuple(_page(level.pages[0]) for level in series.levels)
    associated = {one.name.lower(): _page(one.pages[0]) for one in tif.series[1:] if one.name}
    if is_brightfield(levels[0]) and levels[0].samplesperpixel == 3:
        return Layout("qptiff", levels, ("R", "G", "B"), "brightfield", associated)
    names = tuple(_between(_page(page).description, "Name") for page in series.levels[0].pages)
    numbered = tuple(name or f"channel {n + 1}" for n, name in enumerate(names))
    return Layout("qptiff", levels, numbered, "multichannel", associated)


def _between(text: str, tag: str) -> str:
    return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0][:64]


def _ome_layout(tif: tifffile.TiffFile, subject: str, z: int | None) -> Layout:
    number = max(range(len(tif.series)), key=lambda n: _area(tif.series[n]))
    series = tif.series[number]
    ome = read_ome(tif.ome_metadata or "", number, subject)
    planes = series.shape[series.axes.index("Z")] if "Z" in series.axes else 1
    plane = planes // 2 if z is None else z
    if not 0 <= plane < planes:
        raise RequestError(f"z {z}", f"{subject} has focal planes 0 to {planes - 1}", "name one of these")
    levels = tuple(_plane(level, plane) for level in series.levels)
    channels, kind = _ome_channels(ome, levels[0])
    associated = {
        name: _page(one.pages[0])
        for n, one in enumerate(tif.series)
        for name in ("label", "macro", "thumbnail")
        if n != number and name in one.name.lower()
    }
    return Layout("ome-tiff", levels, channels, kind, associated, ome, planes, plane)


def _area(series: tifffile.TiffPageSeries) -> int:
    page = _page(series.pages[0])
    return page.imagewidth * page.imagelength


def _plane(level: tifffile.TiffPageSeries, z: int) -> tifffile.TiffPage:
    """The page of that focal plane, first time point and channel; pages lie in C order of the other axes."""
    first = _page(level.pages[0])
    count = len(level.axes) - len(first.axes)
    axes, shape = level.axes[:count], level.shape[:count]
    at = 0
    for axis, length in zip(axes, shape, strict=True):
        at = at * length + (z if axis == "Z" else 0)
    return _page(level.pages[at])


def _ome_channels(ome: OmeImage, page: tifffile.TiffPage) -> tuple[tuple[str, ...], Kind]:
    """RGB is one channel of three samples, in whatever planar configuration."""
    if ome.size_c == page.samplesperpixel and page.samplesperpixel >= 3 and is_brightfield(page):
        return ("R", "G", "B"), "brightfield"
    names = ome.channels or ("",) * ome.size_c
    return tuple(name or f"channel {n + 1}" for n, name in enumerate(names)), "multichannel"


def _facts(slide: TiffSlide, layout: Layout, images: tuple[StoredImage, ...], source: Source) -> Facts:
    base = layout.pages[0]
    stated = _stated(slide, layout, base)
    profile = base.tags.get(34675)
    return Facts(
        format=layout.format,
        levels=build_levels([image.size for image in images], [image.tile for image in images]),
        mpp=_mpp(layout, base, stated),
        objective=_objective(layout, stated),
        icc=profile.value if profile is not None and isinstance(profile.value, bytes) else None,
        z_planes=layout.z_planes,
        z_plane=layout.z_plane,
        z_spacing_um=layout.ome.z_um if layout.ome and layout.z_planes > 1 else None,
        channels=layout.channels,
        kind=layout.kind,
        associated=tuple(layout.associated),
        missing_fraction=absent_share(
            base.dataoffsets, base.databytecounts, slide.ts_tifffile.filehandle.size
        ),
        sparse_by_design=has_alpha(base),  # declared transparent is no damage
        files=() if source.is_url else (source.path,),
        properties=MappingProxyType(stated),
    )


def _stated(slide: TiffSlide, layout: Layout, base: tifffile.TiffPage) -> dict[str, str]:
    """Everything the file says, as text, under OpenSlide's names where it has them."""
    stated = {"tiff.ImageDescription": base.description, "tiff.Orientation": str(orientation_of(base))}
    for tag in ("XResolution", "YResolution", "ResolutionUnit", "Make", "Model", "Software", "DateTime"):
        if tag in base.tags:
            stated[f"tiff.{tag}"] = str(base.tags[tag].value)
    if layout.format == "aperio":
        known = slide.properties.items()
        stated |= {key: str(value) for key, value in known if key.startswith("aperio.")}
    if layout.format == "hamamatsu" and 65421 in base.tags:
        stated["hamamatsu.SourceLens"] = str(base.tags[65421].value)
    return stated


def _objective(layout: Layout, stated: Mapping[str, str]) -> float | None:
    if layout.ome is not None:
        return layout.ome.objective
    try:
        return float(stated.get("aperio.AppMag") or stated["hamamatsu.SourceLens"])
    except (KeyError, ValueError):
        return None


def _mpp(layout: Layout, base: tifffile.TiffPage, stated: Mapping[str, str]) -> Mpp | None:
    if layout.format == "aperio":
        # OpenSlide takes Aperio's own figure only: its resolution tags are those of the program.
        try:
            value = float(stated["aperio.MPP"])
        except (KeyError, ValueError):
            return None
        if not 0 < value < float("inf") or _is_scaled_copy(base.description):
            return None
        return Mpp(value, value, "aperio.MPP")
    if layout.ome is not None:
        return layout.ome.mpp
    return _resolution(base)


def _is_scaled_copy(description: str) -> bool:
    """A thumbnail saved as a file says "2220x2967 -> 574x768" and still the µm/px of the original."""
    found = re.search(r"(\d+)x(\d+) -> (\d+)x(\d+)", description)
    return found is not None and found.group(1, 2) != found.group(3, 4)


def _resolution(page: tifffile.TiffPage) -> Mpp | None:
    """From the TIFF tags, as OpenSlide takes them: only with a unit."""
    try:
        unit = UM_PER_UNIT[int(page.tags[296].value)]
        x, y = (unit * page.tags[tag].value[1] / page.tags[tag].value[0] for tag in (282, 283))
    except (KeyError, TypeError, ZeroDivisionError, IndexError):
        return None
    return Mpp(x, y, "tiff.XResolution") if x > 0 and y > 0 else None
