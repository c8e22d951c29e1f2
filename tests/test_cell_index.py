"""Positions asked for by box, point and polygon give what looking at each of them gives."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from coverslip.errors import RequestError
from coverslip.workflows.cell_index import CellIndex
from coverslip.wsi import Box

# Whole numbers and quarters: points on the edges of boxes and of each other are common.
PLACE = st.integers(0, 400).map(lambda n: n / 4)
CORNER = st.integers(-80, 880).map(lambda n: n / 8)
PLACES = st.lists(st.tuples(PLACE, PLACE), max_size=120)


def index_of(places) -> tuple[CellIndex, np.ndarray]:
    at = np.array(places, float).reshape(-1, 2)
    return CellIndex(at[:, 0], at[:, 1]), at


@given(PLACES, st.integers(-20, 110), st.integers(-20, 110), st.integers(1, 130), st.integers(1, 130))
@settings(deadline=None)
def test_a_box_holds_what_lies_in_it_with_its_left_and_top_edge(places, x, y, width, height):
    index, at = index_of(places)
    inside = (at[:, 0] >= x) & (at[:, 0] < x + width) & (at[:, 1] >= y) & (at[:, 1] < y + height)
    np.testing.assert_array_equal(index.within(Box(x, y, width, height)), np.flatnonzero(inside))


@given(PLACES, PLACE, PLACE, st.floats(0.1, 150))
@settings(deadline=None)
def test_the_nearest_is_the_first_of_the_least_distance_within_reach(places, x, y, reach):
    index, at = index_of(places)
    squared = ((at - (x, y)) ** 2).sum(axis=1)
    expected = int(squared.argmin()) if len(at) and squared.min() <= reach**2 else None
    assert index.nearest(x, y, reach) == expected


@given(PLACES, st.lists(st.tuples(CORNER, CORNER), min_size=3, max_size=8))
@settings(deadline=None)
def test_a_polygon_holds_what_shapely_says_also_when_it_crosses_itself(places, ring):
    index, at = index_of(places)
    area = shapely.make_valid(shapely.Polygon(ring))
    expected = np.flatnonzero(shapely.contains_xy(area, at[:, 0], at[:, 1])) if len(at) else []
    np.testing.assert_array_equal(index.inside(ring), expected)


def test_a_hole_is_not_inside():
    index, _ = index_of([(5, 5), (2, 2)])
    area = shapely.box(0, 0, 10, 10) - shapely.box(4, 4, 6, 6)
    assert index.inside(area).tolist() == [1]


def test_cells_in_one_place_or_one_line_are_all_found():
    for places in ([(3.0, 3.0)] * 1000, [(n / 7, 3.0) for n in range(1000)]):
        index, _ = index_of(places)
        assert len(index.within(Box(-1, -1, 200, 200))) == 1000
    assert index.nearest(30.0, 3.0, 1.0) == 210


def test_a_million_cells_are_indexed_and_asked_by_looking_at_few():
    at = np.random.default_rng(0).uniform(0, 1e5, (2, 1_000_000))
    index = CellIndex(*at)
    near = index.near(5e4, 5e4, 5.05e4, 5.05e4)
    assert 0 < len(near) < 200
    row = index.nearest(5e4, 5e4, 500)
    assert row == int(((at.T - 5e4) ** 2).sum(axis=1).argmin())


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([[1.0]], [[1.0]])])
def test_what_is_no_list_of_places_is_refused(x, y):
    with pytest.raises(RequestError):
        CellIndex(x, y)


def test_two_corners_are_no_polygon():
    with pytest.raises(RequestError, match="polygon"):
        index_of([(1, 1)])[0].inside([(0, 0), (1, 1)])
