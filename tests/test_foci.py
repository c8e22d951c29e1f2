"""Foci on a grid of tiles: which tiles are one, how large it is, and how far that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from coverslip.tiling.plan import TilePlan
from coverslip.workflows.foci import find_foci, greatest_distance, major_axis
from coverslip.wsi import Mpp, Size

SIDE_MM = 0.112


def plan_of(shape: tuple[int, int], *, order: NDArray | None = None, mpp: float = 0.25) -> TilePlan:
    """All tiles of a grid (rows, columns) of 224 px at 0.5 µm/px, on a slide of `mpp`."""
    rows, columns = np.indices(shape).reshape(2, -1)
    if order is not None:
        rows, columns = rows[order], columns[order]
    step = 112 / mpp
    x, y = 1000 + np.rint(columns * step).astype(np.int64), 500 + np.rint(rows * step).astype(np.int64)
    weights = np.ones(len(x), np.float32)
    return TilePlan("s", "d", Size(10**6, 10**6), Mpp(mpp, mpp, "given"), 0.5, 224, 0, x, y, weights)


def foci_of(picture: str, weights: NDArray | None = None):
    """Foci of the tiles marked #, one line per row."""
    grid = np.array([[mark == "#" for mark in line] for line in picture.split()])
    plan = plan_of(grid.shape)
    return find_foci(plan, grid.ravel(), plan.tissue if weights is None else weights)


def test_tiles_that_touch_by_a_corner_are_one_focus():
    (focus,) = foci_of("#... .#.. ..#.")
    assert focus.rows.tolist() == [0, 5, 10]
    assert focus.extent_mm == pytest.approx((2 * np.sqrt(2) + 1) * SIDE_MM)


def test_tiles_apart_are_foci_of_their_own_and_the_widest_comes_first():
    foci = foci_of("##.##.... ##.##.... ......... ####.#### ......... #........")
    assert [len(focus.rows) for focus in foci] == [4, 4, 4, 4, 1]
    assert [focus.rows[0] for focus in foci] == [27, 32, 0, 3, 45]
    assert foci[0].extent_mm == pytest.approx(4 * SIDE_MM)
    assert foci[2].extent_mm == pytest.approx((np.sqrt(2) + 1) * SIDE_MM)


@pytest.mark.parametrize("tiles", [1, 2, 17, 62])
def test_a_row_of_tiles_is_as_long_as_it_is_give_or_take_a_tile(tiles: int):
    (focus,) = foci_of("." * 70 + " " + "#" * tiles + "." * (70 - tiles))
    assert focus.extent_mm == pytest.approx(tiles * SIDE_MM)
    assert (focus.low_mm, focus.high_mm) == pytest.approx(((tiles - 1) * SIDE_MM, (tiles + 1) * SIDE_MM))
    assert focus.area_mm2 == pytest.approx(tiles * SIDE_MM**2)


def test_one_tile_may_hold_next_to_nothing_and_cannot_be_told_from_more_than_a_fifth_of_a_millimetre():
    (focus,) = foci_of("... .#. ...")
    assert focus.low_mm == 0
    assert focus.high_mm == pytest.approx(0.224)


def test_area_counts_the_tissue_of_each_tile():
    weights = np.linspace(0, 1, 12)
    (focus,) = foci_of("##.. ##.. ....", weights)
    assert focus.area_mm2 == pytest.approx(weights[[0, 1, 4, 5]].sum() * SIDE_MM**2)


def test_the_centre_is_in_level_0_pixels():
    (focus,) = foci_of(".... .##. ....")
    assert (focus.x, focus.y) == (1000 + 2 * 448, 500 + 1.5 * 448)


def test_no_tile_is_no_focus():
    assert foci_of("... ...") == ()


def test_an_empty_plan_has_none():
    plan = plan_of((2, 2))
    nothing = np.zeros(0, np.int64)
    empty = TilePlan(
        "s", "d", plan.slide_size, plan.slide_mpp, 0.5, 224, 0, nothing, nothing, np.zeros(0, np.float32)
    )
    assert find_foci(empty, np.zeros(0, bool), np.zeros(0)) == ()


@given(
    grid=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    seed=st.integers(0, 2**32 - 1),
    mpp=st.sampled_from([0.25, 0.2271, 0.37]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_the_order_of_the_plan_every_tile_is_in_one_focus_and_measures_agree_with_scikit_image(
    grid: NDArray[np.bool_], seed: int, mpp: float
):
    """Of a plan whose corners had to be rounded, too."""
    from skimage.measure import label, regionprops

    order = np.random.default_rng(seed).permutation(grid.size)
    plan = plan_of(grid.shape, order=order, mpp=mpp)
    inside = grid.ravel()[order]
    foci = find_foci(plan, inside, plan.tissue)
    rows = np.concatenate([focus.rows for focus in foci]) if foci else np.zeros(0, int)
    assert sorted(rows.tolist()) == np.flatnonzero(inside).tolist()
    theirs = regionprops(label(grid, connectivity=2))
    assert sorted(len(focus.rows) for focus in foci) == sorted(int(part.area) for part in theirs)
    mine = sorted(focus.major_axis_mm / SIDE_MM for focus in foci)
    assert mine == pytest.approx(sorted(part.axis_major_length for part in theirs))
    extents = [focus.extent_mm for focus in foci]
    assert extents == sorted(extents, reverse=True)


@given(places=arrays(np.int64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(0, 30)))
@settings(max_examples=40, deadline=None)
def test_the_greatest_distance_is_that_of_any_two(places: NDArray[np.int64]):
    brute = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2)).max()
    assert greatest_distance(places) == pytest.approx(brute)


@given(
    first=st.floats(0, 3),
    length=st.floats(0.5, 8),
)
@settings(max_examples=80, deadline=None)
def test_a_stroke_of_known_length_lies_within_what_is_said_of_it(first: float, length: float):
    """Of tiles that hold it along at least half of their side, as a class by majority would."""
    last = first + length
    tiles = [n for n in range(14) if min(last, n + 1) - max(first, n) >= 0.5]
    if not tiles:
        return
    places = np.array([[n, 0] for n in tiles])
    extent = greatest_distance(places) + 1
    assert max(0, extent - 1) - 1e-9 <= length <= extent + 1 + 1e-9


def test_a_disc_has_its_diameter_as_extent_and_major_axis():
    y, x = np.mgrid[:61, :61] - 30
    places = np.argwhere(x**2 + y**2 <= 25**2)
    assert greatest_distance(places) + 1 == pytest.approx(51, abs=0.1)
    assert major_axis(places) == pytest.approx(50, abs=0.5)
