"""Coverslip as a plug-in of napari: a valid manifest, nothing imported before use, others' files left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
from commands import ENVIRONMENT
from PIL import Image
from scenes import square_picture
from slides import tissue, write_tiff
from xvfb import screen  # noqa: F401  # a fixture

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows import annotation_writer
from coverslip.workflows.annotation_writer import write_annotations

npe2 = pytest.importorskip("npe2", reason="needs pip install 'coverslip[napari]'")

HEAVY = ("napari", "qtpy", "PySide6", "torch", "dask", "zarr", "distributed", "cv2", "scipy", "pyarrow")


@pytest.fixture(scope="module")
def manager() -> Any:
    """That of the process, which reading and writing through npe2 ask."""
    found = npe2.PluginManager.instance()
    found.discover()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 600 × 400 px at 0.5 µm/px, and its OME-Zarr."""
    folder = tmp_path_factory.mktemp("plugin")
    write_tiff(folder / "a.tif", tissue(600, 400), 0.5)
    from coverslip.workflows import cli

    assert cli.run(["convert", str(folder / "a.tif"), "-o", str(folder), "--portable"]) == 0
    return folder


def test_the_manifest_is_valid_as_npe2_says():
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", "coverslip"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid" in done.stdout


def test_every_command_of_the_manifest_is_there_and_used(manager):
    from npe2.manifest.utils import import_python_name

    found = manager.get_manifest("coverslip").contributions
    commands = {one.id: one.python_name for one in found.commands}
    assert all(callable(import_python_name(name)) for name in commands.values())
    named = [
        *(found.readers or ()),
        *(found.writers or ()),
        *(found.widgets or ()),
        *(found.sample_data or ()),
    ]
    assert {one.command for one in named} <= set(commands)
    assert {one.command for one in found.keybindings or ()} <= set(commands)


def test_importing_and_discovery_cost_nothing_of_ours():
    program = """
import json, sys
import coverslip
first = sorted(sys.modules)
import npe2
manager = npe2.PluginManager()
manager.discover()
manifest = manager.get_manifest("coverslip")
list(manager.iter_compatible_readers(["a.svs"])), list(manager.iter_compatible_writers(["shapes"]))
print(json.dumps([first, sorted(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    imported, discovered = json.loads(done.stdout)
    for name in HEAVY:
        assert name not in imported
        assert name not in discovered
    ours = {name for name in discovered if name.split(".")[0] == "coverslip"}
    assert ours <= {"coverslip", "coverslip.errors", "coverslip.extras", "coverslip.ruo"}


@pytest.mark.parametrize("name", ["a.svs", "b.NDPI", "c.ome.tif", "d.mrxs", "e.dcm"])
def test_we_are_asked_for_slides(manager, name):
    assert "coverslip" in {one.plugin_name for one in manager.iter_compatible_readers([name])}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.csv", "a.npy", "a.geojson", "a.txt"])
def test_we_are_not_asked_for_what_is_no_slide(manager, name):
    assert "coverslip" not in {one.plugin_name for one in manager.iter_compatible_readers([name])}


def test_foreign_folders_and_pictures_are_left_to_others(tmp_path):
    from coverslip.workflows.napari_plugin import get_reader

    (tmp_path / "photos").mkdir()
    Image.fromarray(square_picture(64, 8, 8)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "grey.tif")
    (tmp_path / "table.zarr").mkdir()
    (tmp_path / "table.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    (tmp_path / "cube.zarr").mkdir()
    (tmp_path / "cube.zarr" / "zarr.json").write_text("no json")
    for name in ("photos", "grey.tif", "table.zarr", "cube.zarr", "nowhere.svs"):
        assert get_reader(str(tmp_path / name)) is None, name


def test_an_ome_zarr_opens_with_us_and_with_napari_ome_zarr(folder, manager):
    pytest.importorskip("napari_ome_zarr", reason="needs pip install 'coverslip[dev]'")
    from npe2 import io_utils

    (store,) = folder.glob("*.ome.zarr")
    able = {one.plugin_name for one in manager.iter_compatible_readers([str(store)])}
    assert {"coverslip", "napari-ome-zarr"} <= able
    ours, _ = io_utils.read_get_reader([str(store)], plugin_name="coverslip", stack=False)
    theirs, _ = io_utils.read_get_reader([str(store)], plugin_name="napari-ome-zarr", stack=False)
    first, second = (
        np.asarray((layers[0][0][0] if isinstance(layers[0][0], list) else layers[0][0])[:50, :50])
        for layers in (ours, theirs)
    )
    assert np.array_equal(first, second if second.ndim == 3 and second.shape[-1] == 3 else first)


def shapes(data: list[Any], **arguments: Any) -> tuple[Any, dict[str, Any], str]:
    return [np.asarray(one, np.float32) for one in data], arguments, "shapes"


RECTANGLE = [[10, 20], [10, 60], [40, 60], [40, 20]]


def written(file: Path, *layers: Any) -> list[dict[str, Any]]:
    assert write_annotations(str(file), list(layers)) == [str(file)]
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["note"] == RUO
    return document["features"]


def test_shapes_are_saved_in_level_0_pixels_with_their_classes(tmp_path):
    layer = shapes(
        [RECTANGLE, RECTANGLE, [[0, 0], [0, 10], [10, 0], [10, 10]], [[0, 0], [5, 5]]],
        shape_type=["rectangle", "ellipse", "polygon", "line"],
        scale=(0.5, 0.25),
        translate=(2.0, 1.0),
        metadata={"pixel": "0.5 0.25"},
        features={"class": ["Tumor", None, float("nan"), ""], "name": ["one", None, "", ""]},
        name="Drawn",
    )
    with pytest.warns(UserWarning, match="1 lines enclose nothing"):
        first, second, third = written(tmp_path / "a.geojson", layer)
    box = shapely.geometry.shape(first["geometry"])
    assert box.bounds == (20 + 4 + 0.5, 10 + 4 + 0.5, 60 + 4 + 0.5, 40 + 4 + 0.5)
    assert first["properties"]["classification"]["name"] == "Tumor"
    assert len(first["properties"]["classification"]["color"]) == 3
    assert first["properties"]["name"] == "one"
    round_ = shapely.geometry.shape(second["geometry"])
    assert round_.bounds == pytest.approx(box.bounds, abs=0.1)
    assert round_.area == pytest.approx(np.pi / 4 * box.area, rel=0.01)
    assert second["properties"]["classification"]["name"] == "Drawn"
    crossed = shapely.geometry.shape(third["geometry"])
    assert crossed.is_valid
    assert crossed.area == pytest.approx(50)


def test_layers_of_napari_itself_are_saved_turned_and_sheared_as_they_are_shown(tmp_path):
    layers = pytest.importorskip("napari.layers", reason="needs pip install 'coverslip[napari]'")
    drawn = layers.Shapes(
        [np.array(RECTANGLE, float)],
        scale=(0.5, 0.5),
        translate=(3, -2),
        rotate=30,
        shear=[0.2],
        affine=[[1, 0, 5], [0, 2, 0], [0, 0, 1]],
        metadata={"pixel": (0.25, 0.25)},
        units=("um", "um"),
    )
    (one,) = written(tmp_path / "a.geojson", drawn.as_layer_data_tuple())
    assert "classification" not in one["properties"]
    shown = np.array([drawn.data_to_world(point) for point in drawn.data[0]])[:, ::-1] / 0.25 + 0.5
    assert np.allclose(one["geometry"]["coordinates"][0][:-1], shown, atol=0.006)
    image = np.zeros((6, 8), np.uint8)
    image[1:3, 2:7], image[4, 4] = 2, 5
    mask = layers.Labels(
        image,
        scale=(4, 4),
        translate=(1.5, 1.5),
        features={"index": [2], "class": ["Stroma"]},
        name="Labels [1]",
    )
    region, spot = written(tmp_path / "b.geojson", mask.as_layer_data_tuple())
    assert shapely.geometry.shape(region["geometry"]).bounds == (8, 4, 28, 12)
    assert region["properties"]["classification"]["name"] == "Stroma"
    assert shapely.geometry.shape(spot["geometry"]).bounds == (16, 16, 20, 20)
    assert spot["properties"]["name"] == "5"


def test_the_pixel_is_that_of_the_slide_in_the_viewer_and_never_guessed(tmp_path, monkeypatch):
    def viewer(*metadata: dict[str, Any]) -> None:
        layers = [SimpleNamespace(metadata=one) for one in metadata]
        stand_in = SimpleNamespace(current_viewer=lambda: SimpleNamespace(layers=layers))
        monkeypatch.setitem(sys.modules, "napari", stand_in)

    layer = shapes([RECTANGLE], units=("micrometer", "micrometer"))
    viewer({}, {"pixel": "0.5 0.5"}, {"pixel": "0.5 0.5"})
    (one,) = written(tmp_path / "a.geojson", layer)
    assert shapely.geometry.shape(one["geometry"]).bounds == (40.5, 20.5, 120.5, 80.5)
    viewer({"pixel": "0.5 0.5"}, {"pixel": "0.25 0.25"})
    with pytest.raises(RequestError, match="several slides"):
        write_annotations(str(tmp_path / "b.geojson"), [layer])
    viewer({}, {"pixel": "nonsense"})
    with pytest.raises(RequestError, match="how large a pixel"):
        write_annotations(str(tmp_path / "b.geojson"), [layer])
    (one,) = written(tmp_path / "a.geojson", shapes([RECTANGLE]))
    assert shapely.geometry.shape(one["geometry"]).bounds == (20.5, 10.5, 60.5, 40.5)


def test_nothing_drawn_or_one_label_per_object_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="hold no area"):
        write_annotations(str(tmp_path / "a.geojson"), [shapes([])])
    monkeypatch.setattr(annotation_writer, "MOST_VALUES", 3)
    with pytest.raises(RequestError, match="objects, not regions"):
        write_annotations(str(tmp_path / "a.geojson"), [(np.arange(16).reshape(4, 4), {}, "labels")])
    with pytest.raises(RequestError, match="not flat"):
        write_annotations(str(tmp_path / "a.geojson"), [(np.ones((2, 4, 4), int), {}, "labels")])
    assert list(tmp_path.iterdir()) == []


def test_npe2_writes_what_is_drawn_over_a_slide_as_other_commands_read_it(folder, tmp_path, manager):
    layers = pytest.importorskip("napari.layers", reason="needs pip install 'coverslip[napari]'")
    from npe2 import io_utils

    ours, _ = io_utils.read_get_reader([str(folder / "a.tif")], plugin_name="coverslip", stack=False)
    image = ours[0][1]
    drawn = layers.Shapes(
        [np.array(RECTANGLE, float)],
        scale=image["scale"],
        metadata={"pixel": image["metadata"]["pixel"]},
        units=image["units"],
        name="Tumor",
    )
    file = tmp_path / "drawn.geojson"
    paths = io_utils.write(str(file), [drawn.as_layer_data_tuple()], plugin_name="coverslip")
    assert paths == [str(file)]
    (one,) = json.loads(file.read_text(encoding="utf-8"))["features"]
    assert shapely.geometry.shape(one["geometry"]).bounds == (20.5, 10.5, 60.5, 40.5)
    from coverslip.tiling.geojson_reader import read_regions_file

    assert read_regions_file(file, "tumor").area_px == 40 * 30


@pytest.mark.window
def test_the_plugins_menu_opens_the_desk_in_a_plain_napari(screen):  # noqa: F811
    pytest.importorskip("napari", reason="needs pip install 'coverslip[napari]'")
    import napari

    viewer = napari.Viewer()
    try:
        dock, panel = viewer.window.add_plugin_dock_widget("coverslip", "Coverslip: review")
        window = viewer.window._qt_window
        names = {one.objectName() for one in window.findChildren(type(dock))}
        assert {"Review", "Gallery", "Worklist and layers"} <= names
        from coverslip.workflows.desk.desk import Desk

        assert len(window.findChildren(Desk)) == 1
        assert RUO in [label.text().strip("</i>") for label in panel.findChildren(type(panel.said))]
    finally:
        viewer.close()


def test_what_napari_does_with_key_bindings_of_a_manifest():
    """It has none of them: the keys are bound by the desk itself. When this changes, move them."""
    pytest.importorskip("napari", reason="needs pip install 'coverslip[napari]'")
    from napari.plugins._npe2 import _npe2_manifest_to_actions

    command = {"id": "some.command", "title": "Some", "python_name": "json:dumps"}
    key = {"command": "some.command", "key": "Ctrl+J", "mac": None, "linux": None, "win": None, "when": None}
    manifest = npe2.PluginManifest(name="some", contributions={"commands": [command], "keybindings": [key]})
    (action,), _ = _npe2_manifest_to_actions(manifest)
    assert not action.keybindings
