"""Outlines follow the mask exactly, and GeoJSON is what QuPath reads."""

from __future__ import annotations

import json
import uuid

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.geojson import (
    Feature,
    feature_json,
    polygon_area,
    tissue_features,
    write_geojson,
)
from coverslip.tiling.rings import Polygon, mask_polygons
from coverslip.tiling.tissue import TissueMask, TissueSettings
from coverslip.wsi.geometry import Box, Mpp

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))
SQUARE = (np.array([[0.0, 0.0], [10, 0], [10, 10], [0, 10]]),)


def parts(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1


def filled(polygons: list[Polygon], shape: tuple[int, int]) -> np.ndarray:
    """Which pixel centres lie inside."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        inside |= shapely.contains_xy(shapely.Polygon(polygon[0], polygon[1:]), x, y)
    return inside


@given(MASKS)
@settings(max_examples=400, deadline=None)
def test_filling_the_outlines_gives_the_mask_back(mask):
    polygons = mask_polygons(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert len(polygons) == parts(mask)
    assert sum(map(polygon_area, polygons)) == mask.sum()


@given(MASKS)
@settings(max_examples=400, deadline=None)
def test_outlines_are_valid_polygons_with_turned_holes_and_no_needless_point(mask):
    for polygon in mask_polygons(mask):
        assert shapely.Polygon(polygon[0], polygon[1:]).is_valid
        assert shapely.LinearRing(polygon[0]).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in polygon[1:])
        for ring in polygon:
            steps = np.diff(np.vstack([ring, ring[:1]]), axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert (np.abs(steps).argmax(axis=1) != np.roll(np.abs(steps).argmax(axis=1), 1)).all()


def test_outlines_are_scaled_per_axis():
    assert mask_polygons(np.ones((2, 3), bool), 10, 4)[0][0].max(axis=0).tolist() == [30, 8]


def test_a_large_mask_is_traced_in_time_that_grows_with_its_edge():
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random((1500, 1500)), 6) > 0.5
    polygons = mask_polygons(mask)
    assert sum(map(polygon_area, polygons)) == mask.sum()
    assert len(polygons) == parts(mask)


def tissue() -> TissueMask:
    mask, pen = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    mask[2:10, 3:12], mask[5:7, 5:8], mask[15, 20], pen[12:14, 1:9] = True, False, True, True
    mpp = Mpp(8.0, 8.0, "given")
    return TissueMask(mask, pen, 16.0, 16.0, mpp, Box(0, 0, 480, 320), TissueSettings(), 0.0)


def test_tissue_and_pen_become_locked_annotations_with_their_area(tmp_path):
    found = tissue_features(tissue())
    assert [one.classification for one in found] == ["Tissue", "Tissue", "Pen"]
    assert found[0].measurements["Area µm^2"] == (8 * 9 - 6) * 64
    count = write_geojson(tmp_path / "out" / "tissue.geojson", found, "sha256:1")
    data = json.loads((tmp_path / "out" / "tissue.geojson").read_text(encoding="utf-8"))
    assert count == len(data["features"]) == 3
    assert data["note"] == RUO
    first = data["features"][0]
    assert first["properties"]["classification"] == {"name": "Tissue", "color": [0, 160, 80]}
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["isLocked"] is True
    outline, hole = first["geometry"]["coordinates"]
    assert outline[0] == outline[-1] == [48, 32]
    assert shapely.geometry.shape(first["geometry"]).area == (8 * 9 - 6) * 256
    assert len(hole) == 5


def test_the_shape_is_that_of_a_file_qupath_wrote(shared, tmp_path):
    theirs = json.loads((shared / "annotations/qupath05.geojson").read_text(encoding="utf-8"))
    write_geojson(tmp_path / "a.geojson", tissue_features(tissue()))
    ours = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert ours["type"] == theirs["type"]
    mine, reference = ours["features"][0], theirs["features"][0]
    assert mine.keys() == reference.keys()
    assert mine["geometry"].keys() == reference["geometry"].keys()
    classified = [f for f in theirs["features"] if "classification" in f["properties"]]
    for one in classified:
        assert one["properties"]["classification"].keys() == mine["properties"]["classification"].keys()


def test_ids_are_stable_differ_between_slides_and_never_repeat(tmp_path):
    feature = Feature((SQUARE,), "Tumour", (200, 0, 0))
    assert feature_json(feature, "a")["id"] == feature_json(feature, "a")["id"]
    assert feature_json(feature, "a")["id"] != feature_json(feature, "b")["id"]
    assert uuid.UUID(feature_json(feature)["id"]).version == 5
    write_geojson(tmp_path / "a.geojson", [feature, feature, feature], "a")
    again = [item["id"] for item in json.loads((tmp_path / "a.geojson").read_text())["features"]]
    assert len(set(again)) == 3
    first = (tmp_path / "a.geojson").read_bytes()
    write_geojson(tmp_path / "a.geojson", [feature, feature, feature], "a")
    assert (tmp_path / "a.geojson").read_bytes() == first


def test_numbers_have_two_decimals_and_what_json_lacks_is_text():
    ring = np.array([[0.0, 0.126], [10.5, 0], [10, 10.0]])
    measurements = {"a": float("nan"), "b": float("-inf"), "c": 1.5}
    item = feature_json(Feature(((ring,), (ring + 20,)), object_type="detection", measurements=measurements))
    assert item["geometry"]["type"] == "MultiPolygon"
    assert item["geometry"]["coordinates"][0][0][:2] == [[0, 0.13], [10.5, 0]]
    assert item["properties"]["measurements"] == {"a": "NaN", "b": "-Infinity", "c": 1.5}
    assert "classification" not in item["properties"]


def test_shapes_that_are_none_are_refused():
    with pytest.raises(RequestError):
        Feature(())
    with pytest.raises(RequestError):
        Feature(((np.zeros((2, 2)),),))


def test_no_features_are_an_empty_collection(tmp_path):
    assert write_geojson(tmp_path / "a.geojson", iter(())) == 0
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_nothing_is_left_when_a_feature_fails(tmp_path):
    def broken():
        yield Feature((SQUARE,))
        raise RequestError("x", "fails", "do not")

    with pytest.raises(RequestError):
        write_geojson(tmp_path / "a.geojson", broken())
    assert list(tmp_path.iterdir()) == []
