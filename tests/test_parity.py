"""Our readers against OpenSlide itself, to the byte; every known difference is listed with its reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from slides import tissue, write_svs, write_tiff, zero_tiles

from coverslip.wsi import Box, Slide, open_slide

FILES = (
    "wsi/aperio-svs/CMU-1-Small-Region.svs",
    "wsi/derived/cmu1_generic_pyramid.tif",
    "wsi/derived/cmu1_jp2k_nompp.svs",
    "wsi/derived/cmu1_dicom_wsm/volume_2220x2967.dcm",
    "wsi/dicom/openslide-boxes/boxes_0.dcm",
    "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi",
    "wsi/tiff/boxes.tiff",
    "wsi/tiff/rgba_geotiff.tiff",
    "wsi/tiff/test_orient1.tif",
    "wsi/tiff/yb10kx5k.zstd.tiff",
    "malformed/corrupted.svs",
    "malformed/derived/gray8_tiled.tif",
    "malformed/derived/planar_separate.tif",
    "malformed/derived/rgb16_tiled.tif",
    "malformed/derived/rgba_tiled.tif",
    "malformed/derived/sparse_pyramid_1_16.tif",
    "malformed/derived/sparse_zero_tiles.svs",
    "malformed/small_la.tiff",
)
# TiffSlide's reader shows these otherwise than OpenSlide, by up to so many grey values in any pixel.
TIFFSLIDE_DIFFERS = {
    "wsi/tiff/rgba_geotiff.tiff": (1, "OpenSlide multiplies by alpha in 8 bits and divides again"),
}
# Not opened or not shown as a slide by it.
NOT_BY_TIFFSLIDE = {
    "malformed/small_la.tiff": "grey with a second sample of no stated meaning; OpenSlide drops it",
}
quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_openslide(handle: openslide.OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
    """What OpenSlide shows, over its background colour, as its documentation advises."""
    factor = handle.level_downsamples[level]
    corner = round(box.x * factor), round(box.y * factor)
    region = handle.read_region(corner, level, (box.width, box.height))
    background = handle.properties.get("openslide.background-color", "ffffff")
    canvas = Image.new("RGB", region.size, f"#{background}")
    canvas.paste(region, mask=region)
    return np.asarray(canvas)


def is_whole(handle: openslide.OpenSlide, level: int) -> bool:
    return handle.level_downsamples[level].is_integer()


@cache
def opened(path: str) -> tuple[Slide, openslide.OpenSlide]:
    return open_slide(path, reader="openslide"), openslide.OpenSlide(path)


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end():
    yield
    opened.cache_clear()


def draw_level_and_box(data: st.DataObject, slide: Slide, overhang: int) -> tuple[int, Box]:
    """Any level; a box of up to 300 pixels that may reach outside by up to `overhang`."""
    level = data.draw(st.integers(0, len(slide.levels) - 1), "level")
    size = slide.levels[level].size
    width, height = data.draw(st.integers(1, 300), "width"), data.draw(st.integers(1, 300), "height")
    x = data.draw(st.integers(-overhang, size.width - 1 + overhang), "x")
    y = data.draw(st.integers(-overhang, size.height - 1 + overhang), "y")
    return level, Box(x, y, width, height)


@given(data=st.data())
@quick
def test_any_box_of_any_level_is_what_openslide_shows(shared, data):
    path = str(shared / data.draw(st.sampled_from(FILES), "file"))
    slide, handle = opened(path)
    level, box = draw_level_and_box(data, slide, 400)
    if not is_whole(handle, level):
        # There OpenSlide rounds the corner to level-0 pixels and shifts by the rest, smoothing; the box is
        # clipped to the level first, so that what lies outside is never part of the smoothing.
        clipped = box.clip(slide.levels[level].size)
        if clipped is None:
            assert not slide.read(level, box).valid.any()
            return
        box = clipped
        if slide.stored(level) is not None:
            # Stored tiles are never shifted, nor is what OpenSlide shows from the level's own corner.
            whole = Box(0, 0, box.right, box.bottom)
            assert (slide.read(level, box).rgb == by_openslide(handle, level, whole)[box.within(whole)]).all()
            return
    seen, pixels = by_openslide(handle, level, box), slide.read(level, box)
    assert (pixels.rgb == seen).all()


@given(data=st.data())
@quick
def test_pixels_outside_a_level_are_background_and_not_valid(shared, data):
    path = str(shared / data.draw(st.sampled_from(FILES), "file"))
    slide, _ = opened(path)
    level, box = draw_level_and_box(data, slide, 400)
    pixels = slide.read(level, box)
    inside = np.zeros(box.size.shape, bool)
    clipped = box.clip(slide.levels[level].size)
    if clipped is not None:
        inside[clipped.within(box)] = True
    assert not pixels.valid[~inside].any()
    assert not pixels.damaged[~inside].any()
    assert (pixels.rgb[~inside] == slide.background).all()


TIFFS = tuple(file for file in FILES if not file.endswith(".dcm") and file not in NOT_BY_TIFFSLIDE)


@pytest.mark.parametrize("file", TIFFS, ids=lambda file: Path(file).name)
def test_tiffslides_reader_agrees_with_openslide(shared, file):
    allowed, _reason = TIFFSLIDE_DIFFERS.get(file, (0, ""))
    ours, handle = opened(str(shared / file))
    with open_slide(shared / file, reader="tiffslide") as slide:
        assert slide.facts.kind == ours.facts.kind
        assert slide.facts.mpp == ours.facts.mpp
        assert slide.facts.objective == ours.facts.objective
        assert slide.facts.missing_fraction == ours.facts.missing_fraction
        assert set(slide.facts.associated) == set(ours.facts.associated)
        for level in range(len(slide.levels)):
            assert slide.levels[level].size == ours.levels[level].size
            if not is_whole(handle, level):
                continue  # OpenSlide smooths there, see above; this reader gives the pixels stored
            size = slide.levels[level].size
            box = Box(0, 0, min(size.width, 1500), min(size.height, 1500))
            other, own = slide.read(level, box), ours.read(level, box)
            assert np.abs(other.rgb.astype(int) - own.rgb).max() <= allowed
            assert (other.valid == own.valid).all()
            assert (other.damaged == own.damaged).all()


def test_tiffslides_reader_has_only_the_stored_levels_of_ndpi(shared):
    path = shared / "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi"
    with open_slide(path, reader="tiffslide") as slide, open_slide(path) as ours:
        # OpenSlide adds three that libjpeg makes while decoding
        assert (len(slide.levels), len(ours.levels)) == (4, 7)


@pytest.mark.parametrize("file", sorted(NOT_BY_TIFFSLIDE))
def test_what_tiffslides_reader_leaves_to_openslide(shared, file):
    with open_slide(shared / file, reader="tiffslide") as slide:
        assert slide.facts.kind == "multichannel"


@pytest.mark.parametrize(
    "file",
    [
        "wsi/derived/cmu1_dicom_wsm",
        "wsi/dicom/wsi2dcm_jpeg.dcm",
        "wsi/dicom/wsi2dcm_raw.dcm",
        "wsi/dicom/highdicom-sm/sm_image.dcm",
        "wsi/dicom/openslide-boxes/boxes_0.dcm",
    ],
)
def test_wsidicoms_reader_agrees_with_openslide(shared, file):
    with open_slide(shared / file, reader="wsidicom") as slide, open_slide(shared / file) as ours:
        assert ours.reader == "openslide"
        assert [level.size for level in slide.levels] == [level.size for level in ours.levels]
        assert slide.facts.objective == ours.facts.objective
        assert slide.facts.mpp is not None
        assert ours.facts.mpp is not None
        assert slide.facts.mpp.x == pytest.approx(ours.facts.mpp.x)
        assert (slide.read(0, slide.size.box).rgb == ours.read(0, ours.size.box).rgb).all()


def test_zeroed_tiles_show_as_openslide_shows_them_at_every_level(tmp_path):
    rgb = tissue(1536, 1536)
    paths = [write_tiff(tmp_path / "a.tiff", rgb, levels=3), write_svs(tmp_path / "a.svs", rgb)]
    for path in paths:
        zero_tiles(path, [1, 7, 8])
        # the second pyramid level of either file; Aperio's gap is filled from level 0, other TIFF's is not
        zero_tiles(path, [0], page=1 if path.suffix == ".tiff" else 2)
        with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
            for level, stored in enumerate(slide.levels):
                whole = slide.read(level, stored.size.box)
                assert (whole.rgb == by_openslide(handle, level, stored.size.box)).all()
                for y in range(0, stored.size.height, 128):
                    for x in range(0, stored.size.width, 128):
                        box = Box(x, y, 128, 128)
                        assert (slide.read(level, box).rgb == by_openslide(handle, level, box)).all()
