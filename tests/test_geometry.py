"""Boxes agree with a numpy model, levels are chosen by µm, and a field covers the glass it says."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coverslip.errors import RequestError
from coverslip.wsi import Box, Field, Level, Mpp, Size
from coverslip.wsi.levels import TOLERANCE, build_levels, level_for

sides = st.integers(1, 40)
corners = st.integers(-30, 60)
any_box = st.builds(Box, corners, corners, sides, sides)
any_size = st.builds(Size, sides, sides)


def painted(box: Box) -> np.ndarray:
    """The box as True pixels of a plane that starts at (-100, -100)."""
    plane = np.zeros((300, 300), bool)
    plane[box.y + 100 : box.bottom + 100, box.x + 100 : box.right + 100] = True
    return plane


@given(any_box, any_box)
def test_intersecting_boxes_is_intersecting_their_pixels(one, other):
    common = one.intersect(other)
    both = painted(one) & painted(other)
    assert (common is None) == (not both.any())
    if common is not None:
        assert (painted(common) == both).all()
        assert common == other.intersect(one)


@given(any_box, any_size)
def test_clipping_keeps_what_lies_in_the_level(box, size):
    clipped = box.clip(size)
    both = painted(box) & painted(size.box)
    assert (clipped is None) == (not both.any())
    if clipped is not None:
        assert (painted(clipped) == both).all()


@given(any_box, st.integers(-20, 20), st.integers(-20, 20), sides, sides)
def test_within_says_where_a_part_lies_in_its_whole(one, x, y, width, height):
    part = one.intersect(Box(one.x + x, one.y + y, width, height))
    assume(part is not None)
    assert part is not None
    rows, columns = part.within(one)
    plane = np.arange(300 * 300).reshape(300, 300)
    whole = plane[one.y + 100 : one.bottom + 100, one.x + 100 : one.right + 100]
    wanted = plane[part.y + 100 : part.bottom + 100, part.x + 100 : part.right + 100]
    assert (whole[rows, columns] == wanted).all()


@pytest.mark.parametrize("make", [lambda: Size(0, 1), lambda: Size(1, -1), lambda: Box(0, 0, 0, 3)])
def test_empty_sizes_are_refused(make):
    with pytest.raises(RequestError, match="empty"):
        make()


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf")])
def test_a_resolution_that_is_none_is_refused(value):
    with pytest.raises(RequestError, match="not a resolution"):
        Mpp(value, 0.5, "given")


def test_shapes_are_rows_then_columns():
    assert Size(640, 480).shape == (480, 640)
    assert Box(1, 2, 3, 4).size.shape == (4, 3)


@given(st.integers(64, 100_000), st.integers(64, 100_000), st.integers(1, 6), st.sampled_from([2, 4]))
def test_a_writer_that_halves_and_rounds_either_way_gives_whole_factors(width, height, count, factor):
    for rounded in (lambda side, by: max(1, side // by), lambda side, by: ceil(side / by)):
        sizes = [Size(rounded(width, factor**n), rounded(height, factor**n)) for n in range(count)]
        levels = build_levels(sizes, [None] * count)
        for number, level in enumerate(levels):
            if min(level.size.width, level.size.height) > 2 * factor**number:
                assert (level.downsample_x, level.downsample_y) == (factor**number, factor**number)


def test_a_level_that_is_no_whole_factor_keeps_its_ratio():
    levels = build_levels([Size(1000, 900), Size(300, 270)], [None, None])
    assert levels[1].downsample_x == pytest.approx(1000 / 300)
    assert levels[1].downsample == pytest.approx(10 / 3)


@given(
    st.lists(st.floats(1.2, 5), min_size=0, max_size=5),
    st.floats(0.05, 5),
    st.floats(0.05, 5),
    st.floats(0.05, 20),
)
def test_the_level_read_is_the_coarsest_that_is_fine_enough(steps, mpp_x, mpp_y, wanted):
    factors = np.cumprod([1.0, *steps])
    levels = [Level(Size(10, 10), float(factor), float(factor)) for factor in factors]
    chosen = level_for(levels, Mpp(mpp_x, mpp_y, "given"), wanted)
    coarse = [max(mpp_x, mpp_y) * factor for factor in factors]
    if coarse[0] > wanted * TOLERANCE:
        assert chosen == 0
    else:
        assert coarse[chosen] <= wanted * TOLERANCE
        assert all(um > wanted * TOLERANCE for um in coarse[chosen + 1 :])


@given(st.integers(1, 2048), st.floats(0.05, 10), st.floats(0.05, 10), st.floats(0.05, 10))
def test_a_field_covers_its_size_in_micrometres(side, mpp, slide_x, slide_y):
    width, height = Field(0, 0, Size(side, side), mpp).extent(Mpp(slide_x, slide_y, "given"))
    assert width * slide_x == pytest.approx(side * mpp)
    assert height * slide_y == pytest.approx(side * mpp)
