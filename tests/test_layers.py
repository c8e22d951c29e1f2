"""What a viewer is given: levels read tile by tile, places in µm, colours and names. No window is opened."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import FACTOR, MPP, is_square, square_picture, write_labels, write_result, write_slide

from coverslip.errors import (
    NotBrightfieldError,
    RequestError,
    StoreIncompleteError,
    UnreadableSlideError,
)
from coverslip.tiling.labels import write_label
from coverslip.tiling.stain import H_DAB
from coverslip.workflows.convert import convert
from coverslip.workflows.heat import above
from coverslip.workflows.layers import KnownCells, LayerSpec, Scene, describe
from coverslip.workflows.mosaic import COARSEST, STEP, Mosaic, Shown, TileCache, halved, pyramid, refined
from coverslip.workflows.overlays import find_labels
from coverslip.workflows.palette import OKABE_ITO
from coverslip.wsi import Box, open_slide


class Counted:
    """A level of known pixels that remembers which boxes were read of it."""

    def __init__(self, shape: tuple[int, ...], tile: int = 16, downsample: float = 1.0):
        self.pixels = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
        self.boxes: list[Box] = []
        self.mosaic = Mosaic(shape, np.dtype(np.uint8), self.read, downsample, tile)

    def read(self, box: Box) -> np.ndarray:
        self.boxes.append(box)
        return self.pixels[box.within(Box(0, 0, 1, 1))]


def layer(scene: Scene, name: str) -> LayerSpec:
    return next(layer for layer in scene.layers if layer.name == name)


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    tile=st.integers(1, 33),
    ends=st.tuples(*[st.floats(0, 1)] * 4),
    channels=st.booleans(),
)
@settings(deadline=None)
def test_any_part_of_a_lazy_level_is_that_part_of_its_pixels(shape, tile, ends, channels):
    level = Counted((*shape, 3) if channels else shape, tile)
    array = Shown(level.mosaic, 0, TileCache())
    y0, y1 = sorted(round(end * shape[0]) for end in ends[:2])
    x0, x1 = sorted(round(end * shape[1]) for end in ends[2:])
    np.testing.assert_array_equal(array[y0:y1, x0:x1], level.pixels[y0:y1, x0:x1])


@given(
    part=st.tuples(st.one_of(st.slices(50), st.integers(0, 49)), st.one_of(st.slices(70), st.integers(0, 69)))
)
@settings(deadline=None)
def test_any_index_gives_what_numpy_gives(part):
    level = Counted((50, 70))
    shown = Shown(level.mosaic, 0, TileCache())
    np.testing.assert_array_equal(shown[part], level.pixels[part])


def test_only_the_tiles_under_a_part_are_read_and_each_once():
    level = Counted((100, 100, 3))
    array = Shown(level.mosaic, 0, TileCache())
    assert level.boxes == []
    for _ in range(2):
        _ = array[20:40, 0:16]
    assert sorted(level.boxes, key=lambda box: box.y) == [Box(0, 16, 16, 16), Box(0, 32, 16, 16)]


def test_a_tile_at_the_edge_is_smaller_and_reaches_nowhere_outside():
    level = Counted((20, 37, 3))
    np.asarray(Shown(level.mosaic, 0, TileCache()))
    assert max(box.right for box in level.boxes) == 37
    assert max(box.bottom for box in level.boxes) == 20


def test_the_cache_holds_what_was_used_last_and_never_more_than_its_limit():
    cache = TileCache(limit=3 * 16 * 16 * 3)
    level = Counted((160, 160, 3))
    Shown(level.mosaic, 0, cache).pixels(Box(0, 0, 160, 160))
    assert cache.bytes == 3 * 16 * 16 * 3
    assert cache.held() == ((0, 9, 7), (0, 9, 8), (0, 9, 9))


def test_the_cache_keeps_its_count_when_threads_read_the_same_tiles():
    cache = TileCache(limit=5 * 100)
    barrier = threading.Barrier(4)

    def use() -> None:
        barrier.wait()
        for n in range(400):
            assert cache.get((0, 0, n % 9), lambda: np.zeros(100, np.uint8)).nbytes == 100

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == 100 * len(cache.held()) <= 500


def test_levels_between_and_above_the_stored_ones_are_made_by_halving():
    stored = [Counted((8192, 8192, 3), 512), Counted((512, 512, 3), 512, 16.0)]
    levels = pyramid([level.mosaic for level in stored], TileCache())
    assert [level.shape[0] for level in levels] == [8192, 4096, 2048, 1024, 512]
    assert not stored[0].boxes
    assert not stored[1].boxes


@given(
    side=st.integers(1, 400_000),
    other=st.integers(1, 400_000),
    factors=st.lists(st.sampled_from([1.5, 2, 3, 4, 10, 16]), max_size=4),
)
@settings(deadline=None)
def test_a_pyramid_decreases_in_small_steps_to_a_level_that_is_quick_to_read(side, other, factors):
    def read(box: Box) -> np.ndarray:
        raise AssertionError("nothing may be read")

    sizes, downsample = [(1.0, (side, other))], 1.0
    for factor in factors:
        downsample *= factor
        sizes.append((downsample, (max(1, int(side / downsample)), max(1, int(other / downsample)))))
    stored = [Mosaic((*size, 3), np.dtype(np.uint8), read, factor) for factor, size in sizes]
    shapes = [level.shape[:2] for level in pyramid(stored, TileCache())]
    assert shapes[0] == (side, other)
    assert max(shapes[-1]) <= COARSEST
    for fine, coarse in itertools.pairwise(shapes):
        assert coarse != fine
        assert all(c <= f for f, c in zip(fine, coarse, strict=True))
        assert max(fine) <= STEP * max(coarse) + STEP


def test_a_halved_image_is_the_mean_of_four_pixels_also_at_an_odd_edge():
    level = Counted((33, 47, 3))
    half = halved(Shown(level.mosaic, 0, TileCache()))
    assert half.shape == (17, 24, 3)
    padded = np.pad(level.pixels, ((0, 1), (0, 1), (0, 0)), mode="edge").astype(float)
    expected = padded.reshape(17, 2, 24, 2, 3).mean((1, 3))
    got = np.concatenate(
        [half.read(Box(0, 0, 24, 16)), half.read(Box(0, 16, 24, 1))],
    )
    assert np.abs(got - expected).max() <= 0.5


def test_halved_labels_hold_no_value_that_was_not_there():
    level = Counted((33, 47))
    half = halved(Shown(level.mosaic, 0, TileCache()))
    np.testing.assert_array_equal(half.read(Box(0, 0, 24, 17)), level.pixels[::2, ::2])


@given(x=st.integers(0, 40), y=st.integers(0, 40), width=st.integers(1, 20), height=st.integers(1, 20))
def test_refined_labels_repeat_each_pixel(x, y, width, height):
    level = Counted((15, 15))
    fine = refined(level.mosaic, 4)
    expected = np.kron(level.pixels, np.ones((4, 4), np.uint8))
    np.testing.assert_array_equal(
        fine.read(Box(x, y, width, height)), expected[y : y + height, x : x + width]
    )


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "a.tif", square_picture())


def test_a_slide_is_one_image_in_µm_whose_pixels_are_those_of_the_slide(slide):
    scene = describe(slide)
    (image,) = scene.layers
    assert (scene.title, scene.unit, scene.notes) == ("a.tif", "µm", ())
    assert (image.kind, image.scale, image.translate) == ("image", (MPP, MPP), (0.0, 0.0))
    assert [level.shape for level in image.levels] == [(2048, 2048, 3), (1024, 1024, 3)]
    with open_slide(slide) as same:
        np.testing.assert_array_equal(
            np.asarray(image.levels[0][500:530, 600:650]), same.read(0, Box(600, 500, 50, 30)).rgb
        )


def test_opening_reads_no_pixels(slide):
    assert describe(slide).cache.held() == ()


def test_looking_at_a_corner_reads_its_tiles_only(slide):
    scene = describe(slide)
    np.asarray(scene.layers[0].levels[0][:300, :300])
    assert scene.cache.held() == ((0, 0, 0),)


def test_without_µm_per_pixel_the_scene_is_in_pixels_and_says_so(tmp_path):
    scene = describe(write_slide(tmp_path / "a.tif", square_picture(), mpp=None))
    assert scene.unit == "pixel"
    assert scene.layers[0].scale == (1.0, 1.0)
    assert "no µm/px" in scene.title
    assert "no µm/px" in scene.notes[0]


def test_given_µm_per_pixel_win(tmp_path):
    scene = describe(write_slide(tmp_path / "a.tif", square_picture(), mpp=None), mpp=(0.25, 0.5))
    assert (scene.unit, scene.layers[0].scale) == ("µm", (0.5, 0.25))


def extent(spec: LayerSpec) -> np.ndarray:
    """Outer corners in the world, rows (top, left) and (bottom, right): half a pixel beyond the centres."""
    shape = np.array(spec.levels[0].shape[:2])
    corners = np.array([np.full(2, -0.5), shape - 0.5])
    return corners * spec.scale + spec.translate


def mask_in_world(spec: LayerSpec, points: np.ndarray) -> np.ndarray:
    """The label at points (n, 2) of the world: that of the pixel whose centre is nearest."""
    at = np.rint((points - spec.translate) / spec.scale).astype(int)
    return np.asarray(spec.levels[0])[at[:, 0], at[:, 1]]


@pytest.mark.parametrize("name", ["tissue", "classes", "quality"])
def test_a_coarse_mask_lies_exactly_on_what_it_marks(tmp_path, slide, name):
    picture = square_picture()
    mask = is_square(picture)[::FACTOR, ::FACTOR].astype(np.uint8)
    scene = describe(write_result(tmp_path / "out", slide, {name: (mask, FACTOR)}))
    image, label = scene.layers
    np.testing.assert_allclose(extent(label), extent(image), atol=1e-9)
    centres = np.argwhere(np.ones(picture.shape[:2], bool))[:: 7 * 13]
    world = centres * image.scale + image.translate
    np.testing.assert_array_equal(mask_in_world(label, world) > 0, is_square(picture).ravel()[:: 7 * 13])


def test_a_mask_without_translation_lies_corner_on_corner(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {"classes": (np.ones((128, 128), np.uint8), FACTOR)})
    file = folder / "slide.ome.zarr/labels/classes/zarr.json"
    document = json.loads(file.read_text())
    del document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]
    file.write_text(json.dumps(document))
    scene = describe(folder)
    np.testing.assert_allclose(extent(layer(scene, "classes")), extent(scene.layers[0]))


def test_a_mask_that_begins_elsewhere_lies_where_it_says(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {"classes": (np.ones((32, 32), np.uint8), FACTOR)})
    file = folder / "slide.ome.zarr/labels/classes/zarr.json"
    text = file.read_text()
    document = json.loads(text)
    steps = document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    # its corner on level-0 pixel (x, y) = (512, 256)
    steps[1]["translation"] = [0, (256 + (FACTOR - 1) / 2) * MPP, (512 + (FACTOR - 1) / 2) * MPP]
    file.write_text(json.dumps(document))
    top_left = extent(layer(describe(folder), "classes"))[0]
    np.testing.assert_allclose(top_left, [(256 - 0.5) * MPP, (512 - 0.5) * MPP])


def test_the_layers_of_a_result_from_below_with_colours_and_names(tmp_path, slide):
    ones = np.ones((128, 128), np.uint8)
    labels = {
        "nuclei": (np.ones((2048, 2048), np.uint8), 1),
        "classes": (ones, FACTOR),
        "tissue": (ones, FACTOR),
    }
    cells = [(100.5, 200.5, "positive"), (300.0, 20.0, "negative"), (3.0, 2.0, "odd")]
    scene = describe(write_result(tmp_path / "out", slide, labels, cells))
    assert [spec.name for spec in scene.layers] == ["a.tif", "tissue", "classes", "nuclei as found", "cells"]
    assert layer(scene, "classes").names == {1: "stroma", 2: "tumour"}
    assert layer(scene, "classes").colours[2] == (230, 159, 0, 255)
    assert layer(scene, "tissue").outline > 0
    assert scene.cells is not None
    assert scene.cells.names == ("positive", "negative", "odd")
    # the colours of the nuclei's labels, and one of the palette for what these do not name
    colours = {"positive": (213, 94, 0, 255), "negative": (0, 114, 178, 255), "odd": OKABE_ITO[2]}
    assert scene.cells.colours == colours
    cells = layer(scene, "cells")
    assert cells.visible
    assert not layer(scene, "nuclei as found").visible
    value = int(np.asarray(cells.levels[0][20:21, 300:301])[0, 0])
    assert cells.names[value] == "negative"
    assert cells.colours[value] == colours["negative"]
    assert {spec.role for spec in scene.layers} == {"slide", "mask", "classes", "painted", "cells"}


def test_cells_are_drawn_where_no_labels_show_them_and_can_be_given_other_classes(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {}, [(50.0, 60.0, "a")])
    scene = describe(folder, known=KnownCells(("c", "b")))
    assert scene.cells is not None
    assert scene.cells.names == ("c", "b", "a")
    spec = layer(scene, "cells")
    np.testing.assert_allclose(extent(spec), extent(scene.layers[0]))
    before = int(spec.levels[0][60, 50])
    assert spec.names[before] == "a"
    scene.cells.recolour([0], 1)
    assert spec.names[int(spec.levels[0][60, 50])] == "b"


def result_with(folder: Path, **provenance) -> None:
    document = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**document, "provenance": provenance}))


def test_probabilities_of_tiles_are_heat_maps_on_their_tiles(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {})
    result_with(folder, settings={"grid": {"size": 256, "overlap": 0, "mpp": 1.0}})
    tiles = {"x": [512, 1024, 512], "y": [512, 512, 1024], "p_tumour": [0.0, 1.0, 0.5], "tissue": [1.0] * 3}
    pq.write_table(pa.table(tiles), folder / "tiles.parquet")
    scene = describe(folder)
    heat = layer(scene, "probability of tumour")
    assert (heat.role, heat.visible) == ("heat", False)
    np.testing.assert_array_equal(heat.levels[0], [[1, 255], [128, 0]])
    np.testing.assert_allclose(extent(heat), (np.array([[512, 512], [1536, 1536]]) - 0.5) * MPP)
    assert heat.names[128] == "probability of tumour 50.0 %"
    shown = above(heat.colours, 0.4)
    assert [shown[value][3] for value in (1, 128, 255)] == [0, 255, 255]
    # without the tiles' grid nobody knows where they lie
    result_with(folder)
    with pytest.raises(StoreIncompleteError, match="tiles"):
        describe(folder)


def test_each_stain_alone_is_computed_where_it_is_looked_at(tmp_path):
    amounts = np.zeros((2048, 2048, 3))
    amounts[:1024, :, 0], amounts[:, :1024, 1] = 0.6, 0.9
    density = amounts @ np.asarray(H_DAB.rows)
    picture = np.rint(255 * 10**-density).astype(np.uint8)
    folder = write_result(tmp_path / "out", write_slide(tmp_path / "a.tif", picture), {})
    result_with(folder, derived={"stain_vectors": asdict(H_DAB)})
    scene = describe(folder)
    assert [spec.name for spec in scene.layers[1:]] == ["haematoxylin alone", "DAB alone"]
    assert not any(spec.visible for spec in scene.layers[1:])
    for stain, spec in enumerate(scene.layers[1:]):
        expected = 255 * 10 ** -(amounts[1000:1048, 1000:1048, stain, None] * np.asarray(H_DAB.rows[stain]))
        np.testing.assert_allclose(spec.levels[0][1000:1048, 1000:1048], expected, atol=4)
    assert len([key for key in scene.cache.held() if key[0] == 0]) == 9 - 5
    result_with(folder, derived={"quality": {"stain_kind": "H&E"}})
    assert [spec.name for spec in describe(folder).layers[1:]] == ["haematoxylin alone", "eosin alone"]


def test_given_µm_per_pixel_move_the_labels_of_a_result_with_its_slide(tmp_path, slide):
    ones = np.ones((128, 128), np.uint8)
    scene = describe(write_result(tmp_path / "out", slide, {"classes": (ones, FACTOR)}), mpp=0.125)
    assert scene.layers[0].scale == (0.125, 0.125)
    np.testing.assert_allclose(extent(layer(scene, "classes")), extent(scene.layers[0]))


def test_a_run_with_one_result_stands_for_it_and_one_with_several_names_them(tmp_path, slide):
    write_result(tmp_path / "out/slides/one", slide, {})
    assert describe(tmp_path / "out").title == "a.tif"
    write_result(tmp_path / "out/slides/two", slide, {})
    with pytest.raises(RequestError, match=r"2 results.*one, .*two"):
        describe(tmp_path / "out")


def test_a_run_without_results_says_so(tmp_path):
    (tmp_path / "slides").mkdir()
    with pytest.raises(RequestError, match="no result"):
        describe(tmp_path)


def test_what_is_no_slide_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("no slide")
    with pytest.raises(UnreadableSlideError):
        describe(tmp_path / "a.txt")
    with pytest.raises(UnreadableSlideError):
        describe(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"slide": {"size": [1], "mpp": {"x": 1, "y": 1}, "path": "a"}}']
)
def test_a_broken_result_names_its_file(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(StoreIncompleteError, match=r"result\.json"):
        describe(tmp_path)


def test_a_result_whose_slide_is_gone_and_without_copy_says_where_the_slide_was(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {})
    slide.unlink()
    with pytest.raises(StoreIncompleteError, match=r"a\.tif"):
        describe(folder)


def test_another_slide_of_the_same_name_is_not_shown_as_that_of_the_result(tmp_path, slide):
    folder = write_result(tmp_path / "out", slide, {}, size=(2047, 2048))
    with pytest.raises(StoreIncompleteError):
        describe(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multiscales", []),
        ("multiscales", [{"datasets": [{"path": "7"}]}]),
        (
            "multiscales",
            [
                {
                    "datasets": [
                        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0, 0, 0]}]}
                    ]
                }
            ],
        ),
        ("multiscales", [{"datasets": [{"path": "../../../secret"}]}]),
        ("image-label", {"colors": [{"label-value": 1, "rgba": "red"}]}),
    ],
)
def test_labels_with_broken_metadata_are_named(tmp_path, slide, key, value):
    folder = write_result(tmp_path / "out", slide, {"classes": (np.ones((8, 8), np.uint8), 256)})
    file = folder / "slide.ome.zarr/labels/classes/zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["ome"][key] = value
    file.write_text(json.dumps(document))
    with pytest.raises(StoreIncompleteError, match="labels"):
        describe(folder)


def test_labels_of_floats_are_no_labels(tmp_path):
    write_labels(tmp_path / "a.ome.zarr", {"classes": (np.ones((8, 8), np.float32), 1)}, MPP)
    with pytest.raises(StoreIncompleteError, match="float32"):
        find_labels(tmp_path / "a.ome.zarr", (MPP, MPP))


def test_labels_whose_chunks_would_fill_the_memory_are_refused(tmp_path):
    import zarr

    write_labels(tmp_path / "a.ome.zarr", {"classes": (np.ones((8, 8), np.uint8), 1)}, MPP)
    group = zarr.open_group(tmp_path / "a.ome.zarr/labels/classes", mode="a")
    group.create_array(
        "0", shape=(1, 1 << 17, 1 << 17), chunks=(1, 1 << 17, 1 << 17), dtype="u1", overwrite=True
    )
    with pytest.raises(StoreIncompleteError, match="chunks"):
        find_labels(tmp_path / "a.ome.zarr", (MPP, MPP))


def test_many_colours_are_those_of_objects_and_are_left_to_the_viewer(tmp_path, monkeypatch):
    monkeypatch.setattr("coverslip.workflows.overlays.MOST_VALUES", 1)
    write_labels(tmp_path / "a.ome.zarr", {"classes": (np.ones((8, 8), np.uint8), 1)}, MPP)
    (label,) = find_labels(tmp_path / "a.ome.zarr", (MPP, MPP))
    assert (label.colours, label.names) == ({}, {})


def test_a_result_whose_slide_is_gone_shows_its_copy_with_labels_in_place(tmp_path, slide):
    square = is_square(square_picture())
    folder = write_result(tmp_path / "out", slide, {})
    shutil.rmtree(folder / "slide.ome.zarr")
    with open_slide(slide) as source:
        convert(source, folder / "slide.ome.zarr")
    mask = square[::FACTOR, ::FACTOR].astype(np.uint8)
    write_label(folder / "slide.ome.zarr", "classes", mask, scale_um=(FACTOR * MPP, FACTOR * MPP))
    slide.unlink()
    scene = describe(folder)
    image, classes = scene.layers
    assert "not there" in scene.notes[0]
    np.testing.assert_allclose(extent(classes), extent(image), atol=1e-9)
    np.testing.assert_array_equal(np.asarray(image.levels[0]), square_picture())
    alone = describe(folder / "slide.ome.zarr")
    np.testing.assert_allclose(extent(alone.layers[1]), extent(alone.layers[0]), atol=1e-9)


def test_importing_brings_no_viewer():
    import subprocess

    code = "import sys, coverslip.workflows.layers, coverslip.workflows.napari_plugin as p; "
    code += "sys.exit(any(name in sys.modules for name in ('napari', 'qtpy', 'PySide6', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_real_slide_is_shown_with_its_stored_level(shared):
    path = shared / "wsi/aperio-svs/CMU-1-Small-Region.svs"
    scene = describe(path)
    assert scene.layers[0].scale == (0.499, 0.499)
    assert [level.shape[:2] for level in scene.layers[0].levels] == [(2967, 2220), (1484, 1110), (742, 555)]
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(742)
    small = np.asarray(scene.layers[0].levels[-1])
    assert np.abs(small[5:-5, 5:-5].astype(int) - thumbnail[5:-5, 5:-5]).mean() < 3


def test_fluorescence_of_several_channels_is_refused(shared):
    with pytest.raises(NotBrightfieldError):
        describe(shared / "wsi/akoya-qptiff/small_vectra.qptiff")
