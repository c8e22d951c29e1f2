"""Focal planes: the sharpest one, one picture of all, the same wherever tiles end, and what is recorded."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slides import tissue

from coverslip.errors import RequestError, UnsupportedSlideError
from coverslip.tiling.focus_stack import (
    FocusMeasure,
    best_focus,
    focus_of,
    fuse,
    fusion_reach,
    local_sharpness,
    sharpest_about,
    supply_stacks,
)
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.supply import SupplySettings
from coverslip.tiling.tissue import find_tissue
from coverslip.wsi import open_slide
from coverslip.wsi.planes import open_planes

MPP = 0.5
BEST = (3, 0, 2)
PLANES = 5
BAND = 160


def blurred(rgb: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return rgb if sigma == 0 else np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.uint8)


@pytest.fixture(scope="module")
def field() -> NDArray[np.uint8]:
    """A real field in which there is structure everywhere."""
    return tissue(1024, 1024)[200:456, 200 : 200 + 3 * BAND]


@pytest.fixture(scope="module")
def stack(field: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The field in five planes; its three bands are sharp in planes `BEST`, one pixel of blur more per plane
    away from that."""
    planes = []
    for z in range(PLANES):
        plane = np.empty_like(field)
        for band, best in enumerate(BEST):
            columns = slice(band * BAND, (band + 1) * BAND)
            plane[:, columns] = blurred(field, float(abs(z - best)))[:, columns]
        planes.append(plane)
    return np.stack(planes)


@pytest.mark.parametrize("measure", ["laplacian", "tenengrad"])
@pytest.mark.parametrize("best", range(PLANES))
def test_the_sharpest_plane_is_found(field: NDArray[np.uint8], best: int, measure: FocusMeasure) -> None:
    planes = np.stack([blurred(field, float(abs(z - best))) for z in range(PLANES)])
    assert best_focus(planes, measure) == best
    figures = focus_of(planes, measure)
    assert (np.diff(figures[: best + 1]) > 0).all()
    assert (np.diff(figures[best:]) < 0).all()


def test_each_region_is_taken_from_its_own_plane(field: NDArray, stack: NDArray) -> None:
    fused = fuse(stack, MPP)
    for band, best in enumerate(BEST):
        inside = slice(band * BAND + 12, (band + 1) * BAND - 12)
        assert (fused.plane[:, inside] == best).mean() > 0.95
    error = np.abs(fused.rgb.astype(int) - field).mean()
    alone = min(np.abs(plane.astype(int) - field).mean() for plane in stack)
    assert error < 0.15 * alone


def test_every_pixel_is_one_that_a_plane_has(stack: NDArray) -> None:
    fused = fuse(stack, MPP)
    rows, columns = np.indices(fused.plane.shape)
    np.testing.assert_array_equal(fused.rgb, stack[fused.plane, rows, columns])


def test_a_part_with_its_halo_is_fused_as_within_the_whole(stack: NDArray) -> None:
    whole, reach = fuse(stack, MPP), fusion_reach(MPP)
    top, left, side = 60, 130, 96
    part = fuse(stack[:, top - reach : top + side + reach, left - reach : left + side + reach], MPP)
    core = slice(reach, reach + side)
    np.testing.assert_array_equal(part.rgb[core, core], whole.rgb[top : top + side, left : left + side])
    less = fuse(stack[:, top : top + side, left : left + side], MPP)
    assert (less.plane != whole.plane[top : top + side, left : left + side]).any()


def test_a_cell_is_looked_at_in_the_plane_sharpest_about_it(stack: NDArray) -> None:
    x = np.array([(band + 0.5) * BAND for band in range(3)])
    found = sharpest_about(local_sharpness(stack, MPP), x, np.full(3, 128.0), 20)
    assert tuple(found) == BEST


def test_planes_alike_give_the_first(field: NDArray) -> None:
    fused = fuse(np.stack([field, field]), MPP)
    assert not fused.plane.any()
    np.testing.assert_array_equal(fused.rgb, field)


@pytest.mark.parametrize("shape", [(256, 256, 3), (0, 8, 8, 3), (2, 8, 8, 4)])
def test_what_is_no_stack_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="focal planes"):
        fuse(np.zeros(shape, np.uint8), MPP)


@pytest.fixture(scope="module")
def stacked(stack: NDArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stack") / "stack.ome.tif"
    sizes = {f"PhysicalSize{axis}": MPP for axis in "XY"}
    tifffile.imwrite(
        path,
        stack,
        photometric="rgb",
        tile=(128, 128),
        compression="deflate",
        metadata={"axes": "ZYXS", "PhysicalSizeZ": 1.5, **sizes},
    )
    return path


def test_planes_of_a_slide_are_opened_in_order_with_their_spacing(stacked: Path, stack: NDArray) -> None:
    with open_slide(stacked) as slide, open_planes(slide) as planes:
        assert slide.facts.z_spacing_um == 1.5
        assert [plane.facts.z_plane for plane in planes] == list(range(PLANES))
        assert planes[slide.facts.z_plane] is slide
        for plane, pixels in zip(planes, stack, strict=True):
            np.testing.assert_array_equal(plane.read(0, plane.size.box).rgb, pixels)


def write_dicom(
    source: Path, target: Path, spacing_mm: float | None, offsets_um: tuple[float, ...] | None
) -> None:
    """A real DICOM slide in three planes, each a fifth darker than the first, frames in the standard's order.

    `spacing_mm`: stated as SpacingBetweenSlices; `offsets_um`: stated for each frame instead.
    """
    pydicom, encaps = pytest.importorskip("pydicom"), pytest.importorskip("pydicom.encaps")
    data = pydicom.dcmread(source)
    stored = list(encaps.generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))
    frames = []
    for plane in range(3):
        for frame in stored:
            pixels = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"))
            made = io.BytesIO()
            darker = Image.fromarray((pixels * (1 - 0.2 * plane)).astype(np.uint8))
            darker.save(made, "JPEG", quality=90)
            frames.append(made.getvalue())
    data.TotalPixelMatrixFocalPlanes, data.NumberOfFrames = 3, len(frames)
    data.PixelData = encaps.encapsulate(frames)
    if spacing_mm is not None:
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = spacing_mm
    if offsets_um is not None:
        data.DimensionOrganizationType = "TILED_SPARSE"
        across = -(-data.TotalPixelMatrixColumns // data.Columns)
        groups = []
        for number in range(len(frames)):
            plane, at = divmod(number, len(stored))
            position = pydicom.Dataset()
            position.ColumnPositionInTotalImagePixelMatrix = 1 + at % across * data.Columns
            position.RowPositionInTotalImagePixelMatrix = 1 + at // across * data.Rows
            position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = 0
            position.ZOffsetInSlideCoordinateSystem = offsets_um[plane]
            group = pydicom.Dataset()
            group.PlanePositionSlideSequence = [position]
            groups.append(group)
        data.PerFrameFunctionalGroupsSequence = groups
    data.save_as(target)


@pytest.mark.parametrize(
    ("spacing_mm", "offsets_um", "spacing_um"),
    [(0.0015, None, 1.5), (None, (0.0, 0.5, 1.0), 0.5), (None, (0.0, 1.0, 3.0), None)],
)
def test_dicom_says_how_far_apart_its_planes_are(
    shared: Path,
    tmp_path: Path,
    spacing_mm: float | None,
    offsets_um: tuple[float, ...] | None,
    spacing_um: float | None,
) -> None:
    """By SpacingBetweenSlices (mm) or by each frame's offset (µm); planes unevenly apart have none."""
    source = shared / "wsi/derived/cmu1_dicom_wsm/volume_277x370.dcm"
    write_dicom(source, tmp_path / "stack.dcm", spacing_mm, offsets_um)
    with open_slide(tmp_path) as slide, open_planes(slide) as planes:
        assert (slide.reader, slide.facts.z_planes, slide.facts.z_plane) == ("wsidicom", 3, 1)
        assert slide.facts.z_spacing_um == (None if spacing_um is None else pytest.approx(spacing_um))
        means = [plane.read(0, plane.size.box).rgb.mean() for plane in planes]
    assert means[1] / means[0] == pytest.approx(0.8, abs=0.01)
    assert means[2] / means[0] == pytest.approx(0.6, abs=0.01)


def test_dicom_with_planes_at_unknown_places_is_refused(shared: Path, tmp_path: Path) -> None:
    write_dicom(shared / "wsi/derived/cmu1_dicom_wsm/volume_277x370.dcm", tmp_path / "a.dcm", None, None)
    with pytest.raises(UnsupportedSlideError, match="SpacingBetweenSlices"):
        open_slide(tmp_path)


def test_tiles_come_with_all_planes(stacked: Path, stack: NDArray) -> None:
    with open_slide(stacked) as slide, open_planes(slide) as planes:
        plan = plan_tiles(slide, find_tissue(slide), mpp=MPP, size=128, min_tissue=1e-6)
        reading = SupplySettings(batch=1, exact=True)
        seen = list(supply_stacks(planes, plan, range(len(plan)), reading))
        assert len(seen) == len(plan) >= 6
        for batch, tile in seen:
            x, y = int(batch.x[0]), int(batch.y[0])
            inside = stack[:, y : y + 128, x : x + 128]
            np.testing.assert_array_equal(tile[:, : inside.shape[1], : inside.shape[2]], inside)
        with pytest.raises(RequestError, match="one place"):
            next(supply_stacks(planes, plan, range(len(plan)), SupplySettings(batch=2)))
