"""Real windows: what is on the screen is where it should be, and no more is read than is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from desks import settle
from numpy.typing import NDArray
from PIL import Image
from scenes import FACTOR, MPP, is_square, square_picture, write_result, write_slide
from xvfb import screen  # noqa: F401  # a fixture

from coverslip.errors import MissingExtraError, RequestError, UnreadableSlideError
from coverslip.ruo import RUO
from coverslip.tiling.ome_zarr import dataset, space_axes
from coverslip.workflows.layers import Scene, describe
from coverslip.workflows.mosaic import TILE, TileCache
from coverslip.workflows.screen import virtual_screen
from coverslip.workflows.view import magnification, open_viewer, show, take_picture

if TYPE_CHECKING:
    from napari import Viewer

window = pytest.mark.window


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "a.tif", square_picture())


@pytest.fixture
def result(tmp_path: Path, slide: Path) -> Path:
    square = is_square(square_picture())
    coarse = square[::FACTOR, ::FACTOR].astype(np.uint8)
    nuclei = np.zeros((2048, 2048), np.uint8)
    nuclei[1600:1700, 1600:1700] = 4
    labels = {"tissue": (coarse, FACTOR), "classes": (coarse * 2, FACTOR), "nuclei": (nuclei, 1)}
    return write_result(tmp_path / "out", slide, labels, [(1650.0, 1650.0, "positive")])


@pytest.fixture
def viewer_of(screen, request) -> Iterator:  # noqa: F811
    """A function that opens a viewer on a scene; all are closed at the end."""
    opened: list[tuple[Viewer, Scene]] = []

    def open_(path: Path) -> tuple[Viewer, Scene]:
        scene = describe(path)
        opened.append((open_viewer(scene), scene))
        return opened[-1]

    yield open_
    for viewer, scene in opened:
        viewer.close()
        scene.close()


def text_of(viewer: Any) -> str:
    """What is written in the corner of the screen."""
    return viewer.canvas.overlays.text.text


def canvas_of(viewer: Viewer, tmp_path: Path) -> NDArray[np.uint8]:
    take_picture(viewer, tmp_path / "canvas.png", canvas_only=True)
    return np.asarray(Image.open(tmp_path / "canvas.png").convert("RGB"))


def on_canvas(viewer: Viewer, canvas: NDArray, level0_x: float, level0_y: float) -> NDArray[np.uint8]:
    """The colour on the screen of a level-0 pixel: the camera looks at `center` with `zoom` px per µm."""
    world = np.array([level0_y, level0_x]) * MPP
    offset = (world - np.asarray(viewer.scene.camera.center[-2:])) * viewer.scene.camera.zoom
    ratio = canvas.shape[0] / viewer.window._qt_viewer.canvas.size[0]
    y, x = (np.asarray(canvas.shape[:2]) / 2 + offset * ratio).round().astype(int)
    return canvas[y, x]


@window
def test_a_slide_is_drawn_where_the_camera_says_with_scale_bar_and_notice(viewer_of, slide, tmp_path):
    viewer, _ = viewer_of(slide)
    canvas = canvas_of(viewer, tmp_path)
    assert np.abs(on_canvas(viewer, canvas, 768, 768).astype(int) - (200, 30, 60)).max() < 12
    assert np.abs(on_canvas(viewer, canvas, 200, 200).astype(int) - (240, 240, 242)).max() < 12
    assert RUO in viewer.title
    zoom = viewer.scene.camera.zoom
    assert text_of(viewer).splitlines() == [magnification(1 / zoom), RUO]
    assert viewer.canvas.overlays.scale_bar.visible
    assert tuple(map(str, viewer.layers[0].units)) == ("micrometer", "micrometer")
    assert tuple(viewer.layers[0].scale) == (MPP, MPP)
    notice, bar = canvas[:40, :120], canvas[-60:, -120:]
    for corner in (notice, bar):  # light writing on the dark canvas beside the square slide
        assert (corner.min(axis=2) > 180).any()
        assert (corner.max(axis=2) < 80).mean() > 0.5


@window
def test_labels_are_drawn_over_what_they_mark_and_nowhere_else(viewer_of, result, tmp_path):
    viewer, _ = viewer_of(result)
    canvas = canvas_of(viewer, tmp_path)
    for labels in viewer.layers[1:]:
        labels.visible = False
    bare = viewer.screenshot(flash=False)[..., :3]
    inside, outside = on_canvas(viewer, canvas, 768, 768), on_canvas(viewer, canvas, 1300, 1300)
    expected = 0.75 * np.array((200, 30, 60)) + 0.25 * np.array((230, 159, 0))
    assert np.abs(inside - expected).max() < 12
    assert np.abs(outside.astype(int) - (240, 240, 242)).max() < 12
    assert bare.shape == canvas.shape
    changed = np.abs(canvas.astype(int) - bare).max(axis=2) > 8
    rows, columns = np.nonzero(changed)
    # the square and its outline, and the nucleus to its lower right
    scale = viewer.scene.camera.zoom * MPP
    assert (rows.max() - rows.min()) == pytest.approx((1700 - 512) * scale, abs=4)
    assert (columns.max() - columns.min()) == pytest.approx((1700 - 512) * scale, abs=4)


@window
def test_world_and_data_agree_between_labels_and_slide(viewer_of, result):
    viewer, _ = viewer_of(result)
    image, tissue, classes, nuclei, cells = viewer.layers
    assert cells.contour == 1
    corner = image.data_to_world((511.5, 511.5))  # the outer corner of the square
    for labels, factor in ((tissue, 1), (classes, FACTOR), (nuclei, 1)):
        np.testing.assert_allclose(np.add(labels.world_to_data(corner), 0.5), 512 / factor)
    assert (tissue.contour, classes.contour, nuclei.contour) == (2, 0, 1)


@window
def test_the_status_names_the_class_under_the_cursor(viewer_of, result):
    viewer, _ = viewer_of(result)
    assert viewer.layers.selection.active is viewer.layers["cells"]
    classes = viewer.layers["classes"]
    at = viewer.layers[0].data_to_world((700, 700))
    assert "class: tumour" in classes.get_status(at, world=True)["value"]


@window
def test_zooming_reads_the_tiles_in_view_and_nothing_of_a_whole_level(viewer_of, tmp_path):
    rng = np.random.default_rng(0)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (256, 256, 3), np.uint8), 32, 0), 32, 1)
    viewer, scene = viewer_of(write_slide(tmp_path / "big.tif", picture, levels=(4, 16)))
    canvas_of(viewer, tmp_path)
    tiles = (-(-scene.layers[0].levels[0].shape[0] // TILE)) ** 2
    first = scene.cache.held()
    assert not [key for key in first if key[0] == 0], "the whole is drawn without the finest level"
    viewer.scene.camera.zoom, viewer.scene.camera.center = 4.0, (0, 1000 * MPP, 3000 * MPP)
    for _ in range(3):
        viewer.screenshot(flash=False)
    finest = [key for key in scene.cache.held() if key[0] == 0]
    assert 0 < len(finest) <= 12 < tiles
    assert all(0 <= row <= 3 and 4 <= column <= 8 for _, row, column in finest)


def empty_store(store: Path, side: int) -> Path:
    """An OME-Zarr of so many pixels whose chunks are all missing, which is all of one grey."""
    root = zarr.open_group(store, mode="w", zarr_format=3)
    factors = [2**n for n in range(20) if side / 2**n >= 512]
    for n, factor in enumerate(factors):
        length = -(-side // factor)
        root.create_array(
            str(n), shape=(3, length, length), dtype="uint8", chunks=(3, 512, 512), fill_value=220
        )
    levels = [
        dataset(str(n), [1.0, factor * MPP, factor * MPP], [0.0, 0.0, 0.0])
        for n, factor in enumerate(factors)
    ]
    axes = [{"name": "c", "type": "channel"}, *space_axes()]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    return store


@window
def test_no_level_of_a_large_slide_or_of_its_cells_is_ever_read_whole(viewer_of, tmp_path, monkeypatch):
    side, most = 24_576, 4096
    places = np.random.default_rng(0).uniform(0, side, (4000, 2)).tolist()
    slide = empty_store(tmp_path / "large.ome.zarr", side)
    cells = [(x, y, "positive") for x, y in places]
    read, get = [], TileCache.get

    def counted(cache: TileCache, key: tuple[int, int, int], work: Callable[[], NDArray]) -> NDArray:
        return get(cache, key, lambda: (read.append(key), work())[1])

    monkeypatch.setattr(TileCache, "get", counted)
    viewer, scene = viewer_of(write_result(tmp_path / "out", slide, {}, cells, size=(side, side)))
    layers = {spec.role: spec.levels for spec in scene.layers}
    tiles = {
        (role, shown.number): -(-shown.shape[0] // TILE) * -(-shown.shape[1] // TILE)
        for role in ("slide", "cells")
        for shown in layers[role]
        if max(shown.shape[:2]) > most
    }
    assert len(tiles) == 6, "three levels of each are larger than a screen"
    whole = float(viewer.scene.camera.zoom)
    for zoom in np.geomspace(whole, 4 / MPP, 12).tolist():
        for step in range(3):
            viewer.scene.camera.zoom = zoom
            viewer.scene.camera.center = (0, (8000 + 300 * step) * MPP, (9000 + 400 * step) * MPP)
            viewer.screenshot(flash=False)
    assert {number for number, _, _ in read} >= {number for _, number in tiles}, "every level was looked at"
    for (role, number), count in tiles.items():
        seen = {key for key in read if key[0] == number}
        assert len(seen) <= 50 < 0.7 * count, f"{role} {number}: {len(seen)} of {count}"
    assert len(read) == len(set(read)), "nothing is read twice"


@window
def test_the_magnification_follows_the_zoom(viewer_of, slide):
    viewer, _ = viewer_of(slide)
    viewer.scene.camera.zoom = 4.0
    assert text_of(viewer).startswith("40×  0.25 µm per pixel")


@window
def test_cells_given_another_class_are_seen_in_its_colour(viewer_of, result, tmp_path):
    viewer, scene = viewer_of(result)
    assert scene.cells is not None
    viewer.scene.camera.zoom, viewer.scene.camera.center = 4.0, (0, 1650 * MPP, 1650 * MPP)
    layer = viewer.layers["cells"]
    layer.contour, layer.opacity = 0, 1.0
    layer.refresh()
    before = viewer.screenshot(flash=False)
    scene.cells.recolour([0], -1)
    layer.refresh()
    after = viewer.screenshot(flash=False)
    y, x = np.array(before.shape[:2]) // 2
    assert np.abs(before[y, x, :3].astype(int) - (213, 94, 0)).max() < 12
    assert np.abs(after[y, x, :3].astype(int) - (90, 90, 90)).max() < 12


@window
def test_a_second_slide_beside_moves_with_the_first_until_it_is_let_go(viewer_of, slide, result, tmp_path):
    from coverslip.workflows.desk.beside import put_beside

    viewer, _ = viewer_of(slide)
    other = describe(result)
    beside = put_beside(viewer, other)
    first, second = viewer.scene.camera, beside.model.scene.camera
    first.zoom, first.center = 3.0, (0, 100, 200)
    assert (second.zoom, tuple(second.center[-2:])) == (3.0, (100, 200))
    beside.align((100, 200), (110, 190))
    assert tuple(second.center[-2:]) == (110, 190)
    second.center = (0, 210, 290)
    assert tuple(first.center[-2:]) == (200, 300)
    beside.toggle()
    second.center = (0, 0, 0)
    assert tuple(first.center[-2:]) == (200, 300)
    beside.toggle()
    first.center = (0, 201, 302)
    assert tuple(second.center[-2:]) == (1, 2)
    take_picture(viewer, tmp_path / "both.png")
    assert second.zoom == pytest.approx(first.zoom)
    picture = np.asarray(Image.open(tmp_path / "both.png").convert("RGB")).astype(int)
    red = np.abs(picture - (200, 30, 60)).max(axis=2) < 40
    assert red[:, :800].any()
    assert red[:, 900:].any()
    beside.close()
    first.center = (0, 5, 5)
    other.close()


@window
def test_a_viewer_that_is_shown_hidden_layers_reads_none_of_them(viewer_of, tmp_path, slide):
    labels = {"quality": (np.ones((2048, 2048), np.uint8), 1)}
    viewer, scene = viewer_of(write_result(tmp_path / "out", slide, labels))
    canvas_of(viewer, tmp_path)
    assert not viewer.layers["quality"].visible
    assert not [key for key in scene.cache.held() if key[0] >= 100]


@window
def test_without_µm_per_pixel_the_bar_counts_pixels_and_the_screen_says_why(viewer_of, tmp_path):
    viewer, _ = viewer_of(write_slide(tmp_path / "b.tif", square_picture(), mpp=None))
    assert "no µm/px" in viewer.title
    assert "no µm/px" in text_of(viewer)
    assert tuple(map(str, viewer.layers[0].units)) == ("pixel", "pixel")


@window
@pytest.mark.parametrize("what", ["slide", "result"])
def test_dropping_a_path_on_napari_gives_the_same_layers(screen, viewer_of, slide, result, what):  # noqa: F811
    import napari

    path = slide if what == "slide" else result
    ours, _ = viewer_of(path)
    dropped = napari.Viewer()
    dropped.open(str(path), plugin="coverslip")
    if what == "result":
        from coverslip.workflows.desk.window import desk_of

        settle(desk_of(dropped))
    assert [layer.name for layer in dropped.layers] == [layer.name for layer in ours.layers]
    for one, other in zip(dropped.layers, ours.layers, strict=True):
        assert type(one) is type(other)
        for property_ in ("scale", "translate", "visible", "opacity", "units"):
            np.testing.assert_array_equal(getattr(one, property_), getattr(other, property_))
        assert getattr(one, "contour", 0) == getattr(other, "contour", 0)
    assert text_of(dropped).endswith(RUO)
    dropped.close()


@window
def test_a_picture_without_a_screen_leaves_no_server_behind(result, tmp_path, monkeypatch):
    pytest.importorskip("napari")
    if not _xvfb():
        pytest.skip("Xvfb is not installed")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    before = servers()
    show(result, tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    assert picture.shape == (960, 1600, 3)
    tumour = 0.75 * np.array((200, 30, 60)) + 0.25 * np.array((230, 159, 0))
    assert (np.abs(picture - tumour).max(axis=2) < 8).sum() > 10_000
    assert servers() == before


def test_a_server_ends_with_the_block_that_asked_for_it_also_by_an_error():
    if not _xvfb():
        pytest.skip("Xvfb is not installed")
    before = servers()

    def use() -> None:
        with virtual_screen() as environment:
            assert environment["DISPLAY"].startswith(":")
            assert len(servers() - before) == 1
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert servers() == before


def test_without_screen_and_server_the_error_says_what_to_install(slide, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(MissingExtraError, match="apt-get install xvfb"):
        show(slide, tmp_path / "a.png")


def test_without_screen_a_window_is_refused_and_the_picture_named(slide, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(RequestError, match="--screenshot"):
        show(slide)


def test_a_picture_of_what_is_no_slide_fails_with_the_slide_s_error(tmp_path):
    with pytest.raises(UnreadableSlideError):
        show(tmp_path / "nothing.svs", tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "nowhere/a.png"])
def test_a_picture_that_cannot_be_written_is_refused_first(slide, tmp_path, name):
    with pytest.raises(RequestError):
        show(slide, tmp_path / name)


def test_a_picture_that_cannot_be_drawn_says_why(slide, tmp_path, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987654")
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    with pytest.raises(MissingExtraError, match="window"):
        show(slide, tmp_path / "a.png")


def manifest():
    npe2 = pytest.importorskip("npe2")
    manager = npe2.PluginManager()
    manager.discover()
    assert "coverslip" in manager
    return manager


def test_the_manifest_is_found_and_valid():
    from npe2.manifest.utils import import_python_name

    manager = manifest()
    found = manager.get_manifest("coverslip")
    assert found.display_name == "Coverslip"
    commands = [command.id for command in found.contributions.commands or ()]
    assert {"coverslip.get_reader", "coverslip.sample"} <= set(commands)
    names = [command.python_name for command in found.contributions.commands or ()]
    assert all(callable(import_python_name(name)) for name in names)


@pytest.mark.parametrize(
    "name", ["a.svs", "A.SVS", "a.ndpi", "a.mrxs", "a.scn", "a.bif", "a.tif", "a.tiff", "a.dcm"]
)
def test_napari_asks_us_for_slides(name):
    assert "coverslip.get_reader" in {r.command for r in manifest().iter_compatible_readers([name])}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.csv"])
def test_napari_does_not_ask_us_for_pictures(name):
    assert "coverslip.get_reader" not in {r.command for r in manifest().iter_compatible_readers([name])}


def test_npe2_reads_a_slide_and_a_result_through_the_manifest(slide, result):
    from npe2 import io_utils

    for path, kinds in ((slide, ["image"]), (result, ["image", "labels", "labels", "labels", "labels"])):
        layers, reader = io_utils.read_get_reader([str(path)], plugin_name="coverslip", stack=False)
        assert reader.command == "coverslip.get_reader"
        assert [layer[-1] for layer in layers] == kinds


def test_paths_that_are_not_ours_are_left_to_others(tmp_path):
    from coverslip.workflows.napari_plugin import get_reader

    Image.fromarray(square_picture(64, 8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "broken.svs").write_bytes(b"nothing")
    for name in ("plain.png", "broken.svs", "missing.svs", "."):
        assert get_reader(str(tmp_path / name)) is None
    assert get_reader([str(tmp_path / "plain.png")]) is None


def test_the_sample_is_a_small_slide_whose_file_goes_with_it():
    from coverslip.workflows.napari_plugin import sample

    ((data, arguments, kind),) = sample()
    assert (kind, arguments["scale"], np.asarray(data).shape) == ("image", (0.5, 0.5), (512, 512, 3))
    path = Path(arguments["metadata"]["path"])
    assert path.is_file()
    del data
    assert not path.exists()


def _xvfb() -> bool:
    import shutil

    return shutil.which("Xvfb") is not None


def servers() -> set[int]:
    """Process numbers of the X servers that this process started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "Xvfb" in line}
