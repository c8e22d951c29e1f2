"""DICOM whole slide microscopy that OpenSlide refuses: other transfer syntaxes, focal planes, channels.

Through wsidicom (extra `dicom`). Frames whose place in the slide is not stated are not guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.extras import require
from coverslip.wsi.dicom_stored import stored_frames
from coverslip.wsi.facts import Facts, Kind
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.jpeg import stated_colour
from coverslip.wsi.levels import build_levels
from coverslip.wsi.pixels import Raw
from coverslip.wsi.ranges import open_ranges
from coverslip.wsi.source import Source, locate
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import fetch

if TYPE_CHECKING:
    from pydicom import Dataset
    from wsidicom import WsiDicom
    from wsidicom.group import Level as DicomLevel
    from wsidicom.instance import WsiDicomImageData

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
READ_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, NotImplementedError)
# A frame is decoded whole: 2**26 pixels are 200 MB of RGB.
LARGEST_FRAME = 1 << 26
# Steps between focal planes that differ by more than this share of them are not one spacing.
UNEVEN = 0.02


def claims(source: Source) -> bool:
    if source.is_folder:
        return any(_is_dicom(path) for path in Path(source.path).iterdir())
    return source.is_dicom


def _is_dicom(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 132 and locate(path).is_dicom


def open_reader(source: Source, z: int | None) -> DicomReader:
    """`z`: focal plane counted from 0, from the glass up; the middle one by default.

    Raises UnsupportedSlideError for DICOM that is no whole slide image or whose frames have no stated
    place, UnreadableSlideError for what cannot be read, MissingExtraError without wsidicom.
    """
    wsidicom = require("wsidicom")
    files = _series(source)
    _check(files[0], source)
    try:
        slide = wsidicom.WsiDicom.open([header.path for header in files])
    except (*READ_ERRORS, *_foreign_errors()) as error:
        raise UnsupportedSlideError(
            source.path,
            f"wsidicom does not open it ({error})",
            "export it again as a DICOM whole slide image",
        ) from error
    try:
        return DicomReader(slide, source, z, files)
    except BaseException:
        slide.close()
        raise


def _foreign_errors() -> tuple[type[Exception], ...]:
    """wsidicom's exceptions have no common base."""
    module = require("wsidicom.errors")
    return tuple(kind for name, kind in vars(module).items() if name.startswith("WsiDicom"))


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What is needed of one file's header; no value of it is trusted to be valid DICOM."""

    path: str
    sop_class: str
    sop_class_name: str
    instance: str
    series: str
    frame_pixels: int
    states_positions: bool
    is_sparse: bool
    objective: float | None
    icc: bytes | None
    properties: Mapping[str, str]


def _series(source: Source) -> list[Header]:
    """The files of one series, the given file (or a folder's first whole slide image) first.

    Only headers are read. A copy of an instance, under another name, is left out.
    """
    folder = Path(source.path) if source.is_folder else Path(source.path).parent
    headers = [_header(path) for path in sorted(folder.iterdir()) if _is_dicom(path)]
    found = [header for header in headers if header is not None]
    wanted = [
        header
        for header in found
        if (header.sop_class == WHOLE_SLIDE if source.is_folder else Path(header.path) == Path(source.path))
    ]
    if not wanted and (source.is_folder is False or not found):
        raise UnreadableSlideError(source.path, "is not whole DICOM", "copy it again")
    first = (wanted or found)[0]
    series = {first.instance: first}
    for header in found:
        if header.series == first.series:
            series.setdefault(header.instance, header)
    return list(series.values())


def _header(path: Path) -> Header | None:
    """None for a file that is cut off or no DICOM. Values are taken as they are; many break the rules."""
    pydicom = require("pydicom")
    with require("pydicom.config").disable_value_validation():
        try:
            return _parse(path, pydicom.dcmread(path, stop_before_pixels=True))
        except (*READ_ERRORS, EOFError):
            return None


def _parse(path: Path, data: Dataset) -> Header:
    optics = next(iter(data.get("OpticalPathSequence") or ()), {})
    sop_class = data.get("SOPClassUID")
    return Header(
        path=str(path),
        sop_class=str(sop_class),
        sop_class_name=str(getattr(sop_class, "name", "of unknown class")),
        instance=str(data.get("SOPInstanceUID")),
        series=str(data.get("SeriesInstanceUID")),
        frame_pixels=int(data.get("Rows") or 0) * int(data.get("Columns") or 0),
        states_positions="DimensionOrganizationType" in data or "PerFrameFunctionalGroupsSequence" in data,
        is_sparse=data.get("DimensionOrganizationType") == "TILED_SPARSE",
        objective=float(optics["ObjectiveLensPower"].value) if "ObjectiveLensPower" in optics else None,
        icc=optics["ICCProfile"].value if "ICCProfile" in optics else None,
        properties=MappingProxyType(_properties(data)),
    )


def _properties(data: Dataset) -> dict[str, str]:
    """The plain values, as `dicom.<keyword>`; no sequences, no bytes."""
    return {
        f"dicom.{element.keyword}": str(element.value)
        for element in data
        if element.keyword and element.VR not in {"SQ", "OB", "OW", "UN"}
    }


def _check(header: Header, source: Source) -> None:
    if header.sop_class != WHOLE_SLIDE:
        raise UnsupportedSlideError(
            source.path,
            f"is DICOM {header.sop_class_name}, not a whole slide image",
            "give the slide it belongs to",
        )
    if not 0 < header.frame_pixels <= LARGEST_FRAME:
        raise UnreadableSlideError(
            source.path, f"has frames of {header.frame_pixels} pixels", "export it again"
        )
    if not header.states_positions:
        raise UnsupportedSlideError(
            source.path,
            "does not state where its frames lie (no DimensionOrganizationType, no per-frame positions)",
            "convert the original slide again, for example with wsidicomizer",
        )


class DicomReader:
    """One thread at a time: wsidicom's frame cache is shared."""

    name = "wsidicom"
    thread_safe = False

    def __init__(self, slide: WsiDicom, source: Source, z: int | None, files: list[Header]):
        self.version = version("wsidicom")
        self._slide, self._subject = slide, source.path
        self._levels = [slide.levels[number] for number in range(len(slide.levels))]
        base = self._levels[0]
        planes = _focal_planes(base, source)
        plane = len(planes) // 2 if z is None else z
        if not 0 <= plane < len(planes):
            raise RequestError(
                f"z {z}", f"{source.path} has focal planes 0 to {len(planes) - 1}", "name one of these"
            )
        self._z = planes[plane]
        self._path = base.default_instance.default_path
        self.facts = _facts(slide, self._levels, (planes, plane), files)
        self._errors = (*READ_ERRORS, *_foreign_errors())
        self._series = files[0].series

    def read(self, level: int, box: Box) -> Raw:
        stored = self._levels[level]
        tile = Size(stored.tile_size.width, stored.tile_size.height)
        rgb = np.zeros((*box.size.shape, 3), np.uint8)
        holds, corrupt = np.ones(box.size.shape, bool), np.zeros(box.size.shape, bool)
        for row in range(box.y // tile.height, (box.bottom - 1) // tile.height + 1):
            for column in range(box.x // tile.width, (box.right - 1) // tile.width + 1):
                whole = Box(column * tile.width, row * tile.height, tile.width, tile.height)
                part = whole.intersect(box)
                assert part is not None
                at = part.within(box)
                try:
                    frame = self._frame(stored, column, row)
                except self._errors:
                    holds[at], corrupt[at] = False, True
                    continue
                if frame is None:
                    holds[at] = False
                else:
                    rgb[at] = frame[part.within(whole)]
        alpha = None if holds.all() else np.where(holds, 255, 0).astype(np.uint8)
        return Raw(rgb, alpha, corrupt if corrupt.any() else None)

    def _frame(self, level: DicomLevel, column: int, row: int) -> NDArray[np.uint8] | None:
        """RGB (tile height, tile width, 3); None where a sparse slide has no frame.

        Raises ValueError, through the assignment that follows, for a frame smaller than its part.
        """
        point = require("wsidicom.geometry").Point(column, row)
        z, path = self._z, self._path
        data = cast("WsiDicomImageData", level.get_instance(z, path).image_data)
        if data.is_sparse(point, z, path):
            return None
        return np.asarray(level.get_tile(point, z, path, crop_to_image_boundary=False))

    def stored(self, level: int) -> StoredLevel | None:
        return self._stored.get(level)

    @cached_property
    def _stored(self) -> dict[int, StoredLevel]:
        """Of JPEG, unless its first frame says that it is RGB and the file does not: wsidicom goes by it."""
        frames = stored_frames(self.facts.files, self._series)
        found = {
            n: frames.get((level.size, level.tile)) for n, level in enumerate(self.facts.levels) if level.tile
        }
        return {n: one for n, one in found.items() if one is not None and _colours_agree(one)}

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            image = self._slide.read_label() if name == "label" else self._slide.read_overview()
        except self._errors as error:
            raise UnreadableSlideError(
                self._subject, f"its image {name!r} is corrupt ({error})", "leave it out"
            ) from error
        return np.asarray(image.convert("RGB"))

    def close(self) -> None:
        self._slide.close()


def _colours_agree(level: StoredLevel) -> bool:
    if level.codec != "jpeg":
        return False
    ranges = open_ranges(level.path)
    try:
        first = fetch(level, ranges, [(0, 0)])[0]
        return level.colour == "rgb" or stated_colour(first) == "ycbcr"
    except ValueError:
        return False
    finally:
        ranges.close()


def _facts(
    slide: WsiDicom, levels: list[DicomLevel], planes: tuple[list[float], int], files: list[Header]
) -> Facts:
    """`planes`: where each focal plane lies in µm, lowest first; and the number of the one that is read."""
    places = planes[0]
    base = levels[0]
    header = files[0]
    channels, kind = _channels(base)
    return Facts(
        format="dicom",
        levels=build_levels(
            [Size(level.size.width, level.size.height) for level in levels],
            [Size(level.tile_size.width, level.tile_size.height) for level in levels],
        ),
        mpp=_mpp(base),
        objective=header.objective,
        icc=header.icc,
        z_planes=len(places),
        z_plane=planes[1],
        z_spacing_um=_even_spacing(places),
        channels=channels,
        kind=kind,
        associated=tuple(
            name for name, group in (("label", slide.labels), ("macro", slide.overviews)) if group
        ),
        sparse_by_design=header.is_sparse,
        files=tuple(sorted(file.path for file in files)),
        properties=header.properties,
    )


def _focal_planes(base: DicomLevel, source: Source) -> list[float]:
    """Where each lies, µm, lowest first. Raises UnsupportedSlideError where the file does not say."""
    try:
        return sorted(base.focal_planes)
    except ValueError as error:
        raise UnsupportedSlideError(
            source.path,
            "holds several focal planes and does not state how far apart (SpacingBetweenSlices)",
            "convert the original slide again, for example with wsidicomizer",
        ) from error


def _even_spacing(places: list[float]) -> float | None:
    """From one focal plane to the next, µm; None with one plane, or where they are not evenly apart."""
    steps = np.diff(places)
    if not len(steps) or np.ptp(steps) > UNEVEN * steps.mean():
        return None
    return float(steps.mean())


def _channels(base: DicomLevel) -> tuple[tuple[str, ...], Kind]:
    data = base.default_instance.image_data
    if data.samples_per_pixel == 3 and data.bits == 8 and len(base.optical_paths) == 1:
        return ("R", "G", "B"), "brightfield"
    return tuple(f"optical path {name} ({data.bits}-bit)" for name in base.optical_paths), "multichannel"


def _mpp(base: DicomLevel) -> Mpp | None:
    spacing = base.pixel_spacing
    if spacing is None or not (spacing.width > 0 and spacing.height > 0):
        return None
    return Mpp(float(spacing.width) * 1000, float(spacing.height) * 1000, "dicom PixelSpacing")
