"""THE TABLE: every real slide beside the project, what is expected of it, and its pixels as others read them.

A file that is on disk but not in the table, or in the table but not on disk, fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import pydicom
import pytest
import tifffile
import wsidicom
import zarr
from numpy.typing import NDArray

from coverslip.errors import (
    CoverslipError,
    NotBrightfieldError,
    SlideInformationError,
    UnreadableSlideError,
    UnsupportedSlideError,
)
from coverslip.wsi import Box, open_slide

Oracle = Callable[[Path], NDArray[np.uint8]]
# Larger levels are looked at in their first 2048 × 2048 pixels.
WHOLE = 4e7


@dataclass(frozen=True)
class Row:
    """One slide. `opens`: reader, format, level sizes; or the error. `tolerance`: grey values, any pixel."""

    path: str
    opens: tuple[str, str, list[tuple[int, int]]] | type[CoverslipError]
    mpp: tuple[float, float, str] | type[CoverslipError] | None = None
    says: str = ""
    oracle: Oracle | None = None
    tolerance: int = 0
    why: str = ""
    kind: str = "brightfield"
    channels: tuple[str, ...] = ("R", "G", "B")
    damage: float = 0.0
    missing: float | None = None
    objective: float | None = None
    associated: tuple[str, ...] = ()


def by_tifffile(page: int = 0) -> Oracle:
    def read(path: Path) -> NDArray[np.uint8]:
        pixels = tifffile.imread(path, key=page)
        if pixels.ndim == 2:
            return np.repeat(pixels[..., None], 3, axis=2)
        return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels

    return read


def by_tifffile_16(path: Path) -> NDArray[np.uint8]:
    return np.round(tifffile.imread(path, key=0) * (255 / 65535)).astype(np.uint8)


def by_tifffile_grey_alpha(path: Path) -> NDArray[np.uint8]:
    return np.repeat(tifffile.imread(path)[..., :1], 3, axis=2)


def by_tifffile_rgba(path: Path) -> NDArray[np.uint8]:
    rgba = tifffile.imread(path, key=0).astype(float)
    alpha = rgba[..., 3:] / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def by_openslide(path: Path) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def by_wsidicom(path: Path) -> NDArray[np.uint8]:
    with wsidicom.WsiDicom.open(path) as slide:
        size = slide.size
        return np.asarray(slide.read_region((0, 0), 0, (size.width, size.height)).convert("RGB"))


def by_pydicom(path: Path) -> NDArray[np.uint8]:
    """Frames of a fully tiled image, laid row by row."""
    data = pydicom.dcmread(path)
    frames = data.pixel_array
    frames = frames[None] if frames.ndim == 3 else frames
    across = -(-data.TotalPixelMatrixColumns // data.Columns)
    rows = [np.concatenate(list(frames[n : n + across]), axis=1) for n in range(0, len(frames), across)]
    return np.concatenate(rows)[: data.TotalPixelMatrixRows, : data.TotalPixelMatrixColumns]


def by_zarr(path: Path) -> NDArray[np.uint8]:
    pixels = np.asarray(zarr.open_array(str(path / "0"), mode="r"))
    return pixels[0, :, 0].transpose(1, 2, 0)


def half(width: int, height: int, levels: int) -> list[tuple[int, int]]:
    return [(width >> n, height >> n) for n in range(levels)]


NO_MPP = SlideInformationError
A0499 = (0.499, 0.499, "aperio.MPP")
T0499 = (0.499, 0.499, "tiff.XResolution")
D0499 = (0.499, 0.499, "dicom PixelSpacing")
CMU = [(2220, 2967)]
CMU4 = [(2220, 2967), (1110, 1483), (555, 741), (277, 370)]
NDPI7 = half(3968, 4864, 7)
SVS_IMAGES = ("label", "macro", "thumbnail")
NOT_A_SLIDE = UnreadableSlideError

TABLE = (
    Row(
        "wsi/akoya-qptiff/small_vectra.qptiff",
        ("tiffslide", "qptiff", [(1920, 1440)]),
        (0.4965346, 0.4965346, "tiff.XResolution"),
        kind="multichannel",
        channels=("DAPI", "FITC", "Cy3"),
        missing=0,
        associated=("thumbnail",),
    ),
    Row(
        "wsi/aperio-svs/CMU-1-Small-Region.svs",
        ("openslide", "aperio", CMU),
        A0499,
        oracle=by_tifffile(),
        missing=0,
        objective=20,
        associated=SVS_IMAGES,
    ),
    Row("wsi/derived/MANIFEST.sha256", NOT_A_SLIDE, says="not a slide"),
    Row(
        "wsi/derived/cmu1_crop_v04.ome.zarr",
        ("ome-zarr", "ome-zarr", half(1024, 1024, 3)),
        (0.499, 0.499, "ome-zarr scale"),
        oracle=by_zarr,
    ),
    Row(
        "wsi/derived/cmu1_crop_v05.ome.zarr",
        ("ome-zarr", "ome-zarr", half(1024, 1024, 3)),
        (0.499, 0.499, "ome-zarr scale"),
        oracle=by_zarr,
    ),
    Row("wsi/derived/cmu1_dicom_wsm", ("openslide", "dicom", CMU4), D0499, oracle=by_wsidicom),
    Row(
        "wsi/derived/cmu1_generic_pyramid.tif",
        ("openslide", "generic-tiff", CMU4),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/derived/cmu1_jp2k_nompp.svs",
        ("openslide", "aperio", half(1024, 1024, 2)),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/derived/cmu1_subifd_pyramid.ome.tif",
        ("tiffslide", "ome-tiff", CMU4),
        (0.499, 0.499, "ome PhysicalSize"),
        oracle=by_openslide,
        missing=0,
    ),
    *(
        Row(f"wsi/dicom/highdicom-sm/seg_image_sm_{n}.dcm", UnsupportedSlideError, says="Segmentation")
        for n in ("control", "dots", "dots_tiled_full")
    ),
    Row("wsi/dicom/highdicom-sm/sm_annotations.dcm", UnsupportedSlideError, says="Annotations"),
    Row("wsi/dicom/highdicom-sm/sm_image.dcm", ("openslide", "dicom", [(50, 50)]), D0499, oracle=by_pydicom),
    Row(
        "wsi/dicom/highdicom-sm/sm_image_control.dcm",
        ("openslide", "dicom", [(50, 50)]),
        D0499,
        oracle=by_pydicom,
    ),
    Row(
        "wsi/dicom/highdicom-sm/sm_image_dots.dcm",
        ("openslide", "dicom", [(50, 50)]),
        D0499,
        oracle=by_pydicom,
    ),
    Row(
        "wsi/dicom/highdicom-sm/sm_image_grayscale.dcm",
        ("wsidicom", "dicom", [(50, 50)]),
        D0499,
        kind="multichannel",
        channels=("optical path 1 (16-bit)",),
    ),
    Row(
        "wsi/dicom/highdicom-sm/sm_image_jpegls.dcm",
        ("wsidicom", "dicom", [(50, 50)]),
        D0499,
        oracle=lambda path: by_pydicom(path.with_name("sm_image.dcm")),
        why="lossless: the same pixels as the uncompressed instance",
    ),
    Row(
        "wsi/dicom/openslide-boxes",
        ("openslide", "dicom", [(16, 16)]),
        D0499,
        oracle=by_wsidicom,
        objective=20,
        associated=("thumbnail",),
    ),
    Row(
        "wsi/dicom/pathml_small_dicom.dcm",
        UnsupportedSlideError,
        says="where its frames lie",
        why="its frames lie column by column, against the standard, and nothing in the file says so",
    ),
    Row(
        "wsi/dicom/wsi2dcm_jpeg.dcm",
        ("openslide", "dicom", [(957, 715)]),
        NO_MPP,
        oracle=by_wsidicom,
    ),
    Row("wsi/dicom/wsi2dcm_raw.dcm", ("openslide", "dicom", [(957, 715)]), NO_MPP, oracle=by_wsidicom),
    Row(
        "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi",
        ("openslide", "hamamatsu", NDPI7),
        (0.2281751, 0.2281751, "tiff.XResolution"),
        oracle=by_tifffile(),
        kind="fluorescence",
        missing=0,
        objective=40,
        associated=("macro",),
    ),
    Row(
        "wsi/olympus-vsi/_vsi-ets-test-jpg2k_/stack1/frame_t_0.ets", UnsupportedSlideError, says="Olympus VSI"
    ),
    Row("wsi/olympus-vsi/vsi-ets-test-jpg2k.vsi", UnsupportedSlideError, says="Olympus VSI"),
    Row(
        "wsi/ome-tiff/OS-1-detail.ome.tif",
        ("tiffslide", "ome-tiff", [(1101, 1101)]),
        (0.2270972, 0.2271024, "ome PhysicalSize"),
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/ome-tiff/cells-2c.ome.tif",
        ("tiffslide", "ome-tiff", [(93, 131)]),
        (0.25, 0.25, "ome PhysicalSize"),
        kind="multichannel",
        channels=("channel 1", "channel 2"),
        missing=0,
    ),
    Row(
        "wsi/ome-tiff/cells.ome.tif",
        ("tiffslide", "ome-tiff", [(93, 131)]),
        (0.25, 0.25, "ome PhysicalSize"),
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/ome-tiff/viv-multi-channel.ome.tif",
        ("tiffslide", "ome-tiff", [(439, 167)]),
        NO_MPP,
        kind="multichannel",
        channels=("channel 1", "channel 2", "channel 3"),
        missing=0,
    ),
    Row(
        "wsi/tiff/CMU-1-Small-Region-page-1.tif",
        ("tiffslide", "aperio", [(574, 768)]),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
        objective=20,
        why='its description says "2220x2967 -> 574x768" and the µm/px of the 2220 pixels',
    ),
    Row(
        "wsi/tiff/CMU-1-Small-Region-page-3.tif",
        ("tiffslide", "aperio", [(1280, 431)]),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/tiff/boxes.tiff",
        ("openslide", "generic-tiff", [(300, 250), (150, 125), (75, 62), (37, 31)]),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/tiff/grey10kx5k.tif",
        ("tiffslide", "generic-tiff", [(10000, 5000)]),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "wsi/tiff/rgba_geotiff.tiff",
        ("openslide", "generic-tiff", half(600, 600, 2)),
        NO_MPP,
        oracle=by_tifffile_rgba,
        tolerance=1,
        why="OpenSlide premultiplies with 8 bits and divides again; declared transparent is no damage",
        missing=0,
    ),
    Row(
        "wsi/tiff/test_orient1.tif",
        ("openslide", "generic-tiff", [(120, 180), (60, 90), (30, 45)]),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    *(
        Row(
            f"wsi/tiff/test_orient{n}.tif",
            ("tiffslide", "generic-tiff", [(120, 180), (60, 90), (30, 45)]),
            NO_MPP,
            oracle=by_tifffile(),
            missing=0,
            why="OpenSlide turns every tile by itself, so it is not used; rows and columns are those stored",
        )
        for n in (3, 6)
    ),
    Row(
        "wsi/tiff/yb10kx5k.zstd.tiff",
        ("openslide", "generic-tiff", half(10000, 5000, 5)),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row("wsi/zeiss-czi/RGB-8bit.czi", UnsupportedSlideError, says="convert it to OME-TIFF"),
    Row("wsi/zeiss-czi/RGB-multichannel.czi", UnsupportedSlideError, says="convert it to OME-TIFF"),
    Row("malformed/broken.svs", NOT_A_SLIDE, says="not a slide"),
    Row("malformed/corrupted.czi", UnreadableSlideError, says="cut off"),
    Row(
        "malformed/corrupted.svs",
        ("openslide", "generic-tiff", [(54007, 39429)]),
        NO_MPP,
        damage=(2048**2 - 256**2) / 2048**2,
        missing=32704 / 32705,
    ),
    Row("malformed/derived/MANIFEST.sha256", NOT_A_SLIDE, says="not a slide"),
    Row(
        "malformed/derived/all_white.tif",
        ("openslide", "generic-tiff", half(1024, 1024, 3)),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/corrupt_tiles.svs",
        ("openslide", "aperio", CMU),
        A0499,
        damage=3 * 240**2 / (2220 * 2967),
        missing=0,
        objective=20,
        associated=SVS_IMAGES,
    ),
    Row(
        "malformed/derived/dicom_wsm_undersized_edge_frames",
        ("openslide", "dicom", [(1110, 1484), (555, 742), (278, 371)]),
        (0.998, 0.998, "dicom PixelSpacing"),
        damage=1110 * (1484 - 6 * 240) / (1110 * 1484),
        why="the last row's frames hold fewer rows than they say; OpenSlide refuses each of them",
    ),
    Row("malformed/derived/empty.svs", UnreadableSlideError, says="empty"),
    Row(
        "malformed/derived/gray8_tiled.tif",
        ("openslide", "generic-tiff", half(1024, 1024, 3)),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row("malformed/derived/html_error_page.svs", UnreadableSlideError, says="web page"),
    Row(
        "malformed/derived/missing_mpp.tif",
        ("openslide", "generic-tiff", half(1024, 1024, 3)),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/nonsense_mpp_72dpi.tif",
        ("openslide", "generic-tiff", half(1024, 1024, 3)),
        NO_MPP,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/nonsquare_mpp.tif",
        ("openslide", "generic-tiff", half(1024, 1024, 3)),
        (0.5, 0.25, "tiff.XResolution"),
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/planar_separate.tif",
        ("openslide", "generic-tiff", [(512, 512)]),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/rgb16_tiled.tif",
        ("openslide", "generic-tiff", [(512, 512)]),
        T0499,
        oracle=by_tifffile_16,
        missing=0,
    ),
    Row(
        "malformed/derived/rgba_tiled.tif",
        ("openslide", "generic-tiff", half(512, 512, 2)),
        T0499,
        oracle=by_tifffile_rgba,
        missing=0,
    ),
    Row(
        "malformed/derived/single_level_striped_deflate.tif",
        ("tiffslide", "generic-tiff", [(1024, 1024)]),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/sparse_pyramid_1_16.tif",
        ("openslide", "generic-tiff", [(2048, 2048), (128, 128)]),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/derived/sparse_zero_tiles.svs",
        ("openslide", "aperio", CMU),
        A0499,
        damage=0.2545842,
        missing=32 / 130,
        objective=20,
        associated=SVS_IMAGES,
    ),
    Row("malformed/derived/truncated_1k.svs", UnreadableSlideError, says="cut off"),
    Row("malformed/derived/truncated_60pct.svs", UnreadableSlideError, says="cut off"),
    Row(
        "malformed/derived/ünïcode näme — slide 7 (копия).tif",
        ("openslide", "generic-tiff", half(512, 512, 2)),
        T0499,
        oracle=by_tifffile(),
        missing=0,
    ),
    Row(
        "malformed/small.svs",
        ("openslide", "aperio", [(16, 16)]),
        A0499,
        oracle=by_tifffile(),
        missing=0,
        objective=20,
        associated=("thumbnail",),
    ),
    Row(
        "malformed/small_la.tiff",
        ("openslide", "generic-tiff", [(2, 1)]),
        NO_MPP,
        oracle=by_tifffile_grey_alpha,
        missing=0,
    ),
    Row("malformed/unopenable.tiff", UnsupportedSlideError, says="52479"),
    Row(
        "malformed/unreadable.svs",
        ("openslide", "aperio", [(16, 16)]),
        A0499,
        damage=1,
        missing=0,
        objective=20,
        associated=("thumbnail",),
    ),
    Row("malformed/zero_gi.tif", UnreadableSlideError, says="2×0 pixels"),
)
OPENING = tuple(row for row in TABLE if isinstance(row.opens, tuple))
READABLE = tuple(row for row in OPENING if row.kind != "multichannel")
each = pytest.mark.parametrize


def name(row: Row) -> str:
    return Path(row.path).name


def test_every_file_on_disk_is_in_the_table_once(shared):
    on_disk = {
        path.relative_to(shared).as_posix()
        for folder in ("wsi", "malformed")
        for path in (shared / folder).rglob("*")
        if path.is_file()
    }
    rows = [row.path for row in TABLE]
    assert len(rows) == len(set(rows))
    unlisted = {path for path in on_disk if not any(f"{path}/".startswith(f"{row}/") for row in rows)}
    assert not unlisted
    assert not {row for row in rows if not (shared / row).exists()}


@each("row", [row for row in TABLE if not isinstance(row.opens, tuple)], ids=name)
def test_what_does_not_open_says_why_and_what_to_do(shared, row):
    assert isinstance(row.opens, type)
    with pytest.raises(row.opens) as caught:
        open_slide(shared / row.path)
    assert type(caught.value) is row.opens
    assert row.says in str(caught.value)
    assert caught.value.subject == str(shared / row.path)
    assert caught.value.remedy


@each("row", OPENING, ids=name)
def test_what_opens_is_described_as_it_is(shared, row):
    reader, format_, sizes = row.opens
    with open_slide(shared / row.path) as slide:
        assert (slide.reader, slide.facts.format) == (reader, format_)
        assert [(level.size.width, level.size.height) for level in slide.levels] == sizes
        assert (slide.facts.kind, slide.facts.channels) == (row.kind, row.channels)
        assert slide.facts.objective == row.objective
        assert set(slide.facts.associated) == set(row.associated)
        assert slide.facts.missing_fraction == (None if row.missing is None else pytest.approx(row.missing))


@each("row", OPENING, ids=name)
def test_its_resolution_is_known_or_asked_for(shared, row):
    with open_slide(shared / row.path) as slide:
        if isinstance(row.mpp, tuple):
            x, y, source = row.mpp
            assert (slide.mpp.x, slide.mpp.y) == (pytest.approx(x, abs=1e-6), pytest.approx(y, abs=1e-6))
            assert slide.mpp.source == source
        else:
            assert row.mpp is SlideInformationError
            with pytest.raises(SlideInformationError, match="µm/px"):
                _ = slide.mpp


@each("row", [row for row in OPENING if row.kind == "multichannel"], ids=name)
def test_channels_are_not_shown_as_a_stained_slide(shared, row):
    with (
        open_slide(shared / row.path) as slide,
        pytest.raises(NotBrightfieldError, match=row.channels[0][:7]),
    ):
        slide.read(0, Box(0, 0, 8, 8))


@each("row", READABLE, ids=name)
def test_its_pixels_are_those_another_program_reads(shared, row):
    with open_slide(shared / row.path) as slide:
        area = slide.size.box if slide.size.area <= WHOLE else Box(0, 0, 2048, 2048)
        pixels = slide.read(0, area)
        assert pixels.damaged.mean() == pytest.approx(row.damage, abs=1e-6)
        assert (pixels.rgb[pixels.damaged] == slide.background).all()
    if row.oracle is None:
        assert row.damage, "a whole slide needs an independent look at its pixels"
        return
    seen = row.oracle(shared / row.path)[: area.height, : area.width].astype(int)
    assert np.abs(pixels.rgb - seen).max() <= row.tolerance


@each("row", [row for row in READABLE if row.associated and row.damage < 1], ids=name)
def test_its_associated_images_can_be_looked_at(shared, row):
    with open_slide(shared / row.path) as slide:
        for image in slide.facts.associated:
            pixels = slide.read_associated(image)
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3


def test_an_associated_image_that_is_corrupt_is_an_error_of_its_own(shared):
    with open_slide(shared / "malformed" / "unreadable.svs") as slide:
        for _ in range(2):
            with pytest.raises(UnreadableSlideError, match="thumbnail"):
                slide.read_associated("thumbnail")
