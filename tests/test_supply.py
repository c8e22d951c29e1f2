"""The supply gives what reading each tile by itself gives, in order, a few batches at a time."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import corrupt_tiles, tissue, write_tiff, zero_tiles

from coverslip.errors import RequestError, UnreadableSlideError
from coverslip.tiling import strips
from coverslip.tiling import supply as module
from coverslip.tiling.plan import TilePlan, plan_tiles
from coverslip.tiling.route import choose_route
from coverslip.tiling.supply import SupplySettings, read_tile, supply
from coverslip.tiling.tissue import find_tissue
from coverslip.wsi import Box, Slide, open_slide
from coverslip.wsi.pixels import Raw
from coverslip.wsi.slide import SlideRef
from coverslip.wsi.source import locate


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_tiff(tmp_path_factory.mktemp("s") / "a.tif", tissue(900, 700), 0.5, compression="deflate")
    with open_slide(path) as opened:
        yield opened


def everywhere(slide: Slide, mpp: float, size: int) -> TilePlan:
    """Every tile of the grid that holds any tissue."""
    return plan_tiles(slide, find_tissue(slide), mpp=mpp, size=size, min_tissue=0.0)


@pytest.fixture(scope="module")
def plan(slide: Slide) -> TilePlan:
    return everywhere(slide, 0.5, 64)


def supply_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("supply")]


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_batches_are_the_tiles_read_one_by_one_in_order(slide: Slide, plan: TilePlan, data) -> None:
    start = data.draw(st.integers(0, len(plan)), "start")
    rows = range(start, data.draw(st.integers(start, min(len(plan), start + 40)), "stop"))
    asked = SupplySettings(data.draw(st.integers(1, 50)), data.draw(st.integers(0, 3)))
    batches = list(supply(slide, plan, rows, asked))
    assert [len(batch) for batch in batches[:-1]] == [asked.batch] * (len(batches) - 1)
    assert [row for batch in batches for row in batch.rows] == list(rows)
    for batch in batches:
        for n, row in enumerate(batch.rows):
            tile = slide.read_field(plan.field(row))
            assert np.array_equal(batch.pixels[n], tile.rgb)
            assert np.array_equal(batch.valid[n], tile.valid)
            assert (batch.x[n], batch.y[n]) == (plan.x[row], plan.y[row])


def test_shapes_types_and_frame(slide: Slide, plan: TilePlan) -> None:
    (batch,) = supply(slide, plan, range(3, 8), SupplySettings(batch=8, halo=5))
    assert (batch.pixels.shape, batch.pixels.dtype) == ((5, 74, 74, 3), np.uint8)
    assert (batch.valid.shape, batch.damaged.shape, batch.valid.dtype) == ((5, 74, 74), (5, 74, 74), bool)
    assert (batch.rows.dtype, batch.x.dtype, len(batch), batch.halo) == (np.int64, np.int64, 5, 5)


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_the_core_is_the_tile_without_halo(slide: Slide, mpp: float) -> None:
    plan = everywhere(slide, mpp, 80)
    rows = range(min(6, len(plan)))
    (with_halo,) = supply(slide, plan, rows, SupplySettings(halo=17))
    (without,) = supply(slide, plan, rows, SupplySettings())
    for name in ("pixels", "valid", "damaged"):
        assert np.array_equal(getattr(with_halo, name)[:, *with_halo.core], getattr(without, name))


def test_at_a_fractional_factor_the_core_differs_only_where_the_filter_sees_the_halo(slide: Slide) -> None:
    plan = everywhere(slide, 0.77, 80)
    with_halo, without = read_tile(slide, plan, 4, 16), read_tile(slide, plan, 4)
    apart = np.abs(with_halo.rgb[16:-16, 16:-16].astype(int) - without.rgb)
    assert apart[2:-2, 2:-2].max() <= 1
    assert apart.max() < 32


def test_outside_the_slide_is_background_not_valid_and_not_damaged(slide: Slide, plan: TilePlan) -> None:
    corner = replace(
        plan, x=np.array([0, slide.size.width - 32]), y=np.array([0, 0]), tissue=np.ones(2, np.float32)
    )
    (batch,) = supply(slide, corner, range(2), SupplySettings(halo=10))
    assert not batch.valid[0, :10].any()
    assert not batch.valid[0, :, :10].any()
    assert batch.valid[0, 10:, 10:].all()
    assert not batch.valid[1, :, 10 + 32 :].any()
    assert (batch.pixels[~batch.valid] == slide.background).all()
    assert batch.damaged_pixels == 0


@pytest.fixture(params=["corrupt", "absent"])
def torn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slide]:
    """Stored tile (1, 2) of 256 px cannot be had."""
    path = write_tiff(tmp_path / "t.tif", tissue(1024, 768), 0.5)
    (corrupt_tiles if request.param == "corrupt" else zero_tiles)(path, [1 * 4 + 2])
    with open_slide(path) as opened:
        yield opened


def test_damage_is_carried_and_counted_in_the_core_alone(torn: Slide) -> None:
    plan = everywhere(torn, 0.5, 128)
    inside = {(x, y) for x in (512, 640) for y in (256, 384)}
    seen = 0
    for batch in supply(torn, plan, range(len(plan)), SupplySettings(batch=1, halo=20)):
        place = int(batch.x[0]), int(batch.y[0])
        assert batch.damaged_pixels == (128 * 128 if place in inside else 0)
        assert not (batch.valid & batch.damaged).any()
        assert (batch.pixels[batch.damaged] == torn.background).all()
        seen += batch.damaged[0].any() and place not in inside
    assert seen, "no halo reached the damage"


def test_an_abandoned_supply_leaves_no_thread(slide: Slide, plan: TilePlan) -> None:
    for batch in supply(slide, plan, range(len(plan)), SupplySettings(batch=2, ahead=3)):
        assert len(batch) == 2
        assert supply_threads()
        break
    gc.collect()
    assert supply_threads() == []


class Failing:
    """A reader whose file ends, as it were, below a row of level 0: the seam every reader implements."""

    name, version, thread_safe = "failing", "1", False

    def __init__(self, whole: Slide, row: int):
        self._whole, self._row, self.facts = whole, row, whole.facts

    def read(self, level: int, box: Box) -> Raw:
        if box.y >= self._row:
            raise UnreadableSlideError(self._whole.path, "ends early", "copy it again")
        return Raw(self._whole.read(level, box).rgb)

    def read_associated(self, name: str) -> np.ndarray:
        return self._whole.read_associated(name)

    def close(self) -> None:
        """The whole slide is somebody else's."""


def test_an_error_is_raised_where_its_batch_is_asked_for(slide: Slide, plan: TilePlan) -> None:
    failing = Slide(Failing(slide, 400), SlideRef(slide.path), locate(slide.path))
    good = int((plan.y < 400).sum())
    assert 0 < good < len(plan)
    stream = supply(failing, plan, range(len(plan)), SupplySettings(batch=1, ahead=4))
    for row in range(good):
        assert next(stream).rows.tolist() == [row]
    with pytest.raises(UnreadableSlideError, match="ends early"):
        next(stream)
    assert supply_threads() == []


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_than_ahead_and_two_batches_are_alive(
    slide: Slide, plan: TilePlan, monkeypatch, ahead
) -> None:
    """Watched from within: the real reading, and how many of its batches still live when one is made."""
    born: list[weakref.ref] = []
    most = []
    real = module.empty_batch

    def watched(*arguments):
        batch = real(*arguments)
        born.append(weakref.ref(batch.pixels))
        most.append(sum(ref() is not None for ref in born))
        return batch

    monkeypatch.setattr(module, "empty_batch", watched)
    for batch in supply(slide, plan, range(24), SupplySettings(batch=2, ahead=ahead)):
        time.sleep(0.005)
        assert batch.pixels.any()
    assert len(most) == 12
    assert max(most) <= ahead + 2
    assert max(most) > ahead


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": -1}, {"ahead": -1}, {"halo": -1}, {"threads": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RequestError):
        SupplySettings(**wrong)


@pytest.mark.parametrize(
    "rows", [range(0, 10, 2), range(-3, 2), range(5, 100_000), range(9, 3), range(9, 3, -1)]
)
def test_rows_the_plan_does_not_have_are_refused_at_once(slide: Slide, plan: TilePlan, rows: range) -> None:
    with pytest.raises(RequestError):
        supply(slide, plan, rows, SupplySettings())


def test_no_rows_give_no_batches(slide: Slide, plan: TilePlan) -> None:
    assert list(supply(slide, plan, range(4, 4), SupplySettings())) == []


# ---- stored tiles


def at_mpp(slide: Slide, mpp: float, size: int, step: int = 1) -> TilePlan:
    """Tiles over the whole slide, also over its edges, from a corner that no stored tile begins at."""
    side = round(size * mpp / slide.mpp.x)
    x, y = np.meshgrid(np.arange(step, slide.size.width, side), np.arange(2 * step, slide.size.height, side))
    n = x.size
    return TilePlan(
        slide.name, slide.digest, slide.size, slide.mpp, mpp, size, 0,
        x.ravel().astype(np.int64), y.ravel().astype(np.int64), np.ones(n, np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_tiff(tmp_path_factory.mktemp("j") / "a.tif", tissue(1500, 1200), 0.25)
    with open_slide(path) as opened:
        yield opened


@given(
    st.sampled_from([0.25, 0.5, 0.77, 1.0, 1.3, 2.0]),
    st.integers(20, 180),
    st.integers(0, 7),
    st.integers(0, 30),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_exact_tiles_are_those_read_one_by_one(jpeg: Slide, mpp, size, step, halo, threads) -> None:
    plan = at_mpp(jpeg, mpp, size, step)
    asked = SupplySettings(batch=7, halo=halo, exact=True, threads=threads)
    rows = range(min(len(plan), 30))
    assert choose_route(jpeg, mpp, exact=True).scale == 1
    for batch in supply(jpeg, plan, rows, asked):
        for n, row in enumerate(batch.rows):
            tile = read_tile(jpeg, plan, row, halo)
            assert np.array_equal(batch.pixels[n], tile.rgb)
            assert np.array_equal(batch.valid[n], tile.valid)
            assert np.array_equal(batch.damaged[n], tile.damaged)


@pytest.mark.parametrize(
    ("factor", "scale"),
    [
        *[(1.0, 1), (1.5, 1), (1.999, 1), (2.0, 2), (2.01, 1), (2.6, 1), (3.0, 1), (3.3, 2)],
        *[(4.0, 4), (4.5, 2), (6.0, 2), (8.0, 8), (8.5, 2), (16.0, 8), (24.0, 8)],
    ],
)
def test_the_decoder_s_scale_is_the_largest_that_keeps_the_picture(tmp_path, factor, scale) -> None:
    path = write_tiff(tmp_path / "one.tif", tissue(600, 600), 0.25, levels=1)
    with open_slide(path) as slide:
        assert choose_route(slide, 0.25 * factor).scale == scale
        assert choose_route(slide, 0.25 * factor, exact=True).scale == 1


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean((one.astype(float) - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 100.0


@pytest.mark.parametrize(
    "name", ["wsi/derived/cmu1_generic_pyramid.tif", "wsi/aperio-svs/CMU-1-Small-Region.svs",
             "wsi/ome-tiff/OS-1-detail.ome.tif"]
)  # fmt: skip
@pytest.mark.parametrize("factor", [2.0, 2.0016, 2.25, 3.0, 3.25, 3.7, 4.0, 5.0, 5.1, 7.0, 8.0, 8.6, 9.0])
def test_scaled_tiles_are_within_40_db_of_the_exact_ones(shared: Path, name: str, factor: float) -> None:
    with open_slide(shared / name, mpp=0.25, reader=None) as slide:
        plan = at_mpp(slide, 0.25 * factor, 96, step=0 if factor % 2 == 0 else 3)
        inside = (plan.x + plan.extent[0] < slide.size.width) & (plan.y + plan.extent[1] < slide.size.height)
        plan = replace(plan, x=plan.x[inside], y=plan.y[inside], tissue=plan.tissue[inside])
        rows = range(min(len(plan), 60))
        scaled, exact = (
            np.concatenate([batch.pixels for batch in supply(slide, plan, rows, SupplySettings(exact=exact))])
            for exact in (False, True)
        )
    assert psnr(scaled, exact) >= 40


@pytest.mark.parametrize(("mpp", "size"), [(0.5, 128), (0.5, 100), (1.0, 64)])
def test_exact_tiles_from_averaged_stored_tiles_are_those_read_one_by_one(jpeg: Slide, mpp, size) -> None:
    plan = at_mpp(jpeg, mpp, size, step=0)
    for batch in supply(jpeg, plan, range(len(plan)), SupplySettings(batch=9, exact=True)):
        for n, row in enumerate(batch.rows):
            assert np.array_equal(batch.pixels[n], read_tile(jpeg, plan, row).rgb)


def test_each_stored_tile_is_decoded_once_where_tiles_line_up(jpeg: Slide, monkeypatch) -> None:
    seen = []
    real = strips.decode
    monkeypatch.setattr(strips, "decode", lambda *given: seen.append(bytes(given[1])) or real(*given))
    plan = at_mpp(jpeg, 0.5, 128, step=0)
    list(supply(jpeg, plan, range(len(plan)), SupplySettings(batch=3)))
    assert len(set(seen)) == len(seen) == 20


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_strips_stay_narrow_and_tiles_whole_in_whatever_order_a_plan_has(jpeg, widest, batch, seed) -> None:
    plan = at_mpp(jpeg, 0.5, 60, step=3)
    order = np.random.default_rng(seed).permutation(len(plan))[:40]
    plan = replace(plan, x=plan.x[order], y=plan.y[order], tissue=plan.tissue[order])
    real, wide = strips.Strip, []

    def counted(columns: range, tile: tuple[int, int]) -> strips.Strip:
        wide.append(len(columns))
        return real(columns, tile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDEST", widest)
        patch.setattr(strips, "Strip", counted)
        batches = list(supply(jpeg, plan, range(len(plan)), SupplySettings(batch=batch, exact=True)))
    # Tiles of 120 px at corners no further apart than `widest` of them, over stored tiles of 256.
    assert max(wide) <= -(-(widest + 1) * 120 // 256) + 1
    for part in batches:
        for n, row in enumerate(part.rows):
            assert np.array_equal(part.pixels[n], read_tile(jpeg, plan, row).rgb)


def test_a_plan_for_tiles_over_lost_stored_tiles_says_so_on_both_ways(torn: Slide) -> None:
    plan = at_mpp(torn, 1.0, 100, step=5)
    rows = range(len(plan))
    exact, scaled = (
        list(supply(torn, plan, rows, SupplySettings(batch=5, exact=exact))) for exact in (True, False)
    )
    for one, other in zip(exact, scaled, strict=True):
        assert np.array_equal(one.valid, other.valid)
        assert np.array_equal(one.damaged, other.damaged)
    assert sum(batch.damaged_pixels for batch in exact) == pytest.approx(128 * 128, rel=0.02)
