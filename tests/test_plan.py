"""Tile plans: exact on the glass, complete, deterministic, the same after a trip to disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coverslip.errors import RequestError, StoreIncompleteError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.tiling.coords import write_coords
from coverslip.tiling.overlay import draw_plan, draw_tissue, with_notice, write_png
from coverslip.tiling.plan import TilePlan, check_tiles, plan_tiles, tile_positions, tissue_share
from coverslip.tiling.planfile import read_plan, write_plan
from coverslip.tiling.tissue import TissueMask, TissueSettings, find_tissue
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.slide import open_slide


def mask_of(mask: np.ndarray, scale_x: float, scale_y: float) -> TissueMask:
    bounds = Box(0, 0, round(mask.shape[1] * scale_x), round(mask.shape[0] * scale_y))
    none = np.zeros_like(mask)
    return TissueMask(mask, none, scale_x, scale_y, Mpp(1, 1, "test"), bounds, TissueSettings(), 0.0)


def plan_of(count: int = 7) -> TilePlan:
    numbers = np.arange(count, dtype=np.int64)
    share = np.linspace(0.1, 1, count, dtype=np.float32)
    return TilePlan(
        "ä.svs",
        "sha256:1",
        Size(9000, 8000),
        Mpp(0.5, 0.25, "given"),
        0.5,
        256,
        32,
        numbers * 224,
        numbers,
        share,
    )


@pytest.fixture(scope="module")
def tiff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1500 × 1100 px of glass with a pink rectangle, x 300 to 1000 and y 200 to 900."""
    rgb = np.full((1100, 1500, 3), 240, np.uint8)
    rgb[200:900, 300:1000] = (205, 130, 175)
    path = tmp_path_factory.mktemp("slide") / "pink.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(256, 256))
    return path


# ---- positions


@given(st.integers(1, 50_000), st.floats(1, 3000), st.floats(0, 0.9))
@settings(deadline=None)
def test_tiles_in_a_row_cover_it_and_nothing_is_left_over(length, extent, shared_part):
    step = extent * (1 - shared_part)
    if length / step > 1e6:
        return
    starts = tile_positions(length, step, extent)
    assert starts[0] == 0
    assert starts[-1] + extent >= length - 0.51
    assert len(starts) == 1 or starts[-2] + extent < length + 0.51
    assert np.abs(starts - np.arange(len(starts)) * step).max() <= 0.5


@given(st.integers(1, 40_000), st.floats(2, 3000))
@settings(deadline=None)
def test_without_overlap_neighbours_touch_within_a_pixel(length, extent):
    starts = tile_positions(length, extent, extent)
    gaps = np.diff(starts) - extent
    assert np.abs(gaps).max(initial=0) < 1


# ---- tissue share


@given(
    st.integers(0, 2**31),
    st.floats(0.7, 9),
    st.floats(0.7, 9),
    st.tuples(st.integers(-20, 120), st.integers(-20, 120)),
    st.tuples(st.floats(0.5, 90), st.floats(0.5, 90)),
)
@settings(deadline=None)
def test_the_tissue_share_is_the_exact_area(seed, scale_x, scale_y, corner, extent):
    mask = np.random.default_rng(seed).random((9, 11)) > 0.5
    (x, y), (width, height) = corner, extent
    columns, rows = np.arange(11), np.arange(9)
    across = np.clip(
        np.minimum(x + width, (columns + 1) * scale_x) - np.maximum(x, columns * scale_x), 0, None
    )
    down = np.clip(np.minimum(y + height, (rows + 1) * scale_y) - np.maximum(y, rows * scale_y), 0, None)
    expected = float((np.outer(down, across) * mask).sum()) / (width * height)
    found = tissue_share(mask_of(mask, scale_x, scale_y), np.array([x]), np.array([y]), extent)
    assert found[0] == pytest.approx(expected, abs=1e-8)


# ---- plans of slides


@given(
    st.floats(0.2, 1.1),
    st.floats(0.2, 1.1),
    st.floats(1.0, 4.0),
    st.integers(16, 300),
    st.sampled_from([0, 0, 1, 15]),
)
@settings(max_examples=40, deadline=None)
def test_tiles_cover_the_tissue_whatever_the_resolution(tiff, mpp_x, mpp_y, factor, size, overlap):
    mpp = max(mpp_x, mpp_y) * factor
    with open_slide(tiff, mpp=(mpp_x, mpp_y)) as slide:
        mask = np.zeros((110, 150), bool)
        mask[20:90, 30:100] = True
        tissue = replace(mask_of(mask, 10.0, 10.0), bounds=slide.bounds)
        plan = plan_tiles(slide, tissue, mpp=mpp, size=size, overlap=overlap, min_tissue=0)
        width, height = plan.extent
        assert width * slide.mpp.x == pytest.approx(size * mpp)
        assert height * slide.mpp.y == pytest.approx(size * mpp)
        times = np.zeros((1100, 1500), np.int32)
        for x, y in zip(plan.x, plan.y, strict=True):
            times[y : y + round(height), x : x + round(width)] += 1
        if overlap == 0 and min(width, height) > 4:
            once = times[200:900, 300:1000] == 1
            # Rounding leaves or doubles at most one line of pixels between neighbours.
            assert once.mean() >= 1 - 2.2 / width - 2.2 / height
        assert lies_in_blocks(plan)
        assert plan.tissue.min() > 0
        assert [field.x for field in plan.fields()] == plan.x.tolist()
        assert plan.field(0).extent(slide.mpp) == plan.extent


def lies_in_blocks(plan: TilePlan) -> bool:
    """Blocks of 32 × 16 places row by row, and so within each."""
    columns = np.rint(plan.x / plan.step[0]).astype(int)
    rows = np.rint(plan.y / plan.step[1]).astype(int)
    keys = list(zip(rows // 16, columns // 32, rows, columns, strict=True))
    return keys == sorted(set(keys))


def test_min_tissue_leaves_out_tiles_that_hold_less(tiff):
    with open_slide(tiff, mpp=0.5) as slide:
        tissue = find_tissue(slide)
        loose = plan_tiles(slide, tissue, mpp=0.5, size=128, min_tissue=0.01)
        tight = plan_tiles(slide, tissue, mpp=0.5, size=128, min_tissue=0.9)
        nothing = plan_tiles(slide, replace(tissue, mask=np.zeros_like(tissue.mask)), mpp=0.5, size=128)
        edge = plan_tiles(
            slide, replace(tissue, mask=np.ones_like(tissue.mask)), mpp=0.5, size=256, min_tissue=0.2
        )
    assert len(tight) == 4 * 5
    assert tight.tissue.min() >= 0.9
    assert len(loose) == 6 * 7
    assert len(nothing) == 0
    assert edge.x.max() + 256 > 1500
    assert len(edge) == 6 * 5
    assert edge.tissue.min() < 0.9


def test_the_grid_starts_at_the_scanned_part(tiff):
    with open_slide(tiff, mpp=0.5) as slide:
        plan = plan_tiles(slide, find_tissue(slide), mpp=1.0, size=100, overlap=50, min_tissue=0.5)
        assert plan.digest == slide.digest
        assert plan.slide_size == slide.size
    assert set(plan.x % 100) == {slide.bounds.x}
    assert plan.extent == (200.0, 200.0)


def test_the_same_request_gives_the_same_plan(tiff):
    with open_slide(tiff, mpp=0.5) as slide:
        first, second = (plan_tiles(slide, find_tissue(slide), mpp=0.7, size=64) for _ in range(2))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.tissue, second.tissue)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"overlap": 256},
        {"overlap": -1},
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"min_tissue": 1.5},
        {"min_tissue": float("nan")},
    ],
)
def test_requests_that_make_no_sense_are_refused(wrong):
    with pytest.raises(RequestError):
        check_tiles(**({"mpp": 0.5, "size": 256, "overlap": 0, "min_tissue": 0.1} | wrong))


def test_tiles_finer_than_the_slide_are_refused_by_its_resolution(tiff):
    with open_slide(tiff, mpp=0.5) as slide:
        tissue = find_tissue(slide)
        with pytest.raises(RequestError, match=r"0\.5 × 0\.5 µm/px"):
            plan_tiles(slide, tissue, mpp=0.25, size=256)
        assert len(plan_tiles(slide, tissue, mpp=0.25, size=256, allow_upsampling=True)) > 0
        assert len(plan_tiles(slide, tissue, mpp=0.48, size=256)) > 0


@given(st.integers(0, 500), st.integers(1, 60))
def test_shards_cut_a_plan_without_loss(count, shard_size):
    plan = plan_of(count)
    parts = plan.shards(shard_size)
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(count))
    assert all(plan.shard(k, shard_size) == part for k, part in enumerate(parts))
    with pytest.raises(RequestError):
        plan.shard(len(parts), shard_size)


# ---- on disk


def test_a_plan_read_back_is_the_plan_and_its_bytes_do_not_change(tmp_path):
    plan = plan_of()
    write_plan(plan, tmp_path / "a" / "plan.parquet")
    write_plan(plan, tmp_path / "b.parquet")
    back = read_plan(tmp_path / "b.parquet")
    assert (tmp_path / "a" / "plan.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    for name in ("slide", "digest", "slide_size", "slide_mpp", "mpp", "size", "overlap"):
        assert getattr(back, name) == getattr(plan, name)
    for name in ("x", "y", "tissue"):
        assert np.array_equal(getattr(back, name), getattr(plan, name))
        assert getattr(back, name).dtype == getattr(plan, name).dtype
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.parquet"]


def test_an_empty_plan_is_a_plan(tmp_path):
    write_plan(plan_of(0), tmp_path / "plan.parquet")
    assert len(read_plan(tmp_path / "plan.parquet")) == 0


def test_files_that_are_no_plan_are_refused_by_what_they_are(tmp_path):
    with pytest.raises(StoreIncompleteError):
        read_plan(tmp_path / "missing.parquet")
    write_plan(plan_of(), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    with pytest.raises(StoreIncompleteError):
        read_plan(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StoreVersionError, match="not a tile plan"):
        read_plan(tmp_path / "other.parquet")
    later = pa.table({"x": [1]}).replace_schema_metadata(
        {"coverslip": '{"schema":"coverslip.tile-plan","version":2}'}
    )
    pq.write_table(later, tmp_path / "later.parquet")
    with pytest.raises(StoreVersionError, match="version 2"):
        read_plan(tmp_path / "later.parquet")


# ---- CLAM and TRIDENT


def test_coords_carry_what_clam_and_trident_read(tiff, tmp_path):
    with open_slide(tiff, mpp=0.5) as slide:
        plan = plan_tiles(slide, find_tissue(slide), mpp=0.5, size=128, overlap=16)
        write_coords(plan, slide, tmp_path / "20x" / "pink.h5")
    with h5py.File(tmp_path / "20x" / "pink.h5") as file:
        data = cast(h5py.Dataset, file["coords"])
        attributes, coords = cast(dict[str, Any], dict(data.attrs)), data[:]
    assert np.array_equal(coords, np.stack([plan.x, plan.y], 1))
    assert coords.dtype == np.int64
    expected = {
        "patch_size": 128,
        "patch_size_level0": 128,
        "patch_level": 0,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 16,
        "level0_width": 1500,
        "level0_height": 1100,
        "name": "pink",
        "savetodir": "20x",
    }
    assert {name: attributes[name] for name in expected} == expected
    assert attributes["level_dim"].tolist() == [1500, 1100]


def test_coords_between_levels_name_no_level_so_that_nothing_wrong_is_read(tiff, tmp_path):
    with open_slide(tiff, mpp=0.3) as slide:
        plan = plan_tiles(slide, find_tissue(slide), mpp=0.5, size=128)
        write_coords(plan, slide, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        attributes = cast(dict[str, Any], dict(file["coords"].attrs))
    assert "patch_level" not in attributes
    # TRIDENT reads round(patch_size × level0_magnification / target_magnification) level-0 pixels.
    ratio = attributes["level0_magnification"] / attributes["target_magnification"]
    assert attributes["patch_size"] * ratio == pytest.approx(plan.extent[0])
    assert attributes["patch_size_level0"] == 213


def test_coords_refuse_pixels_that_are_not_square(tiff, tmp_path):
    with open_slide(tiff, mpp=(0.5, 0.25)) as slide:
        plan = plan_tiles(slide, find_tissue(slide), mpp=0.5, size=64)
        with pytest.raises(RequestError, match="not square"):
            write_coords(plan, slide, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


# ---- pictures


def test_pictures_show_tissue_tiles_and_the_notice(tiff, tmp_path):
    with open_slide(tiff, mpp=0.5) as slide:
        tissue = find_tissue(slide)
        plan = plan_tiles(slide, tissue, mpp=0.5, size=128)
        overview = slide.overview(0.5)
    rgb = overview.pixels.rgb
    drawn = draw_tissue(rgb, tissue.mask, tissue.pen)
    assert drawn.shape[0] > rgb.shape[0]
    assert np.array_equal(drawn[:100, :100], rgb[:100, :100])
    assert not np.array_equal(drawn[300:400, 400:500], rgb[300:400, 400:500])
    tiles = draw_plan(rgb, plan, (overview.scale_x, overview.scale_y))
    first = (int(plan.y[0]), int(plan.x[0]))
    assert tiles[first].tolist() != rgb[first].tolist()
    assert not np.array_equal(with_notice(rgb), with_notice(rgb, "a line"))
    assert (with_notice(rgb)[rgb.shape[0] :] == 0).any()
    write_png(tmp_path / "plan.png", tiles)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "plan.png")), tiles)
    assert RUO.startswith("For Research Use Only")


def test_masks_of_another_size_are_refused():
    with pytest.raises(RequestError):
        draw_tissue(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), bool), np.zeros((5, 4), bool))


def test_a_real_slide_is_planned(shared):
    with open_slide(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs") as slide:
        tissue = find_tissue(slide)
        plan = plan_tiles(slide, tissue, mpp=0.5, size=256, min_tissue=0.25)
        fine = plan_tiles(slide, tissue, mpp=1.0, size=64, overlap=0, min_tissue=0)
    assert 30 < len(plan) < 110
    # All tiles that hold any tissue hold all of it.
    area = float((fine.tissue.astype(float) * (64 * 1.0) ** 2).sum()) / 1e6
    assert area == pytest.approx(tissue.area_mm2, rel=0.02)
