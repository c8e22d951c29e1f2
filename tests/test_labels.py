"""Label images lie where the slide's tissue lies, in a form every OME-Zarr reader knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import zarr
from numpy.typing import NDArray

from coverslip.errors import RequestError, SlideInformationError, StoreIncompleteError
from coverslip.tiling.labels import (
    Colours,
    LabelSettings,
    create_label,
    finish_label,
    label_regions,
    write_label,
    write_label_region,
)
from coverslip.tiling.ome_zarr import create_store
from coverslip.tiling.pyramid import PyramidSettings, plan_pyramid
from coverslip.wsi import open_slide

COLOURS: Colours = {1: ("tissue", (0, 158, 115, 128)), 2: ("pen", (213, 94, 0, 255))}
TINY = LabelSettings(chunk=16, shard=32)
# pydantic-zarr still states `json_encoders`, which pydantic 2 calls deprecated when a model is built.
FOREIGN = pytest.mark.filterwarnings("ignore:`json_encoders` is deprecated")


@pytest.fixture(params=["0.5", "0.4"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pyramid of 3 levels at 0.25 × 0.5 µm/px."""
    path = slides.write_tiff(tmp_path / "s.tif", slides.tissue(334, 252), (0.25, 0.5), tile=64)
    out = tmp_path / "s.ome.zarr"
    with open_slide(path) as slide:
        settings = PyramidSettings(chunk=64, shard=128, smallest=100, ngff=request.param)
        create_store(out, plan_pyramid(slide, settings), slide)
    return out


def objects(height: int, width: int, dtype: type = np.uint8) -> NDArray[Any]:
    return (np.arange(height * width).reshape(height, width) % 250).astype(dtype)


def level(store: Path, name: str, number: int) -> NDArray[Any]:
    return np.asarray(zarr.open_array(store, path=f"labels/{name}/{number}", mode="r")[:])


def metadata(store: Path, path: str) -> dict[str, Any]:
    found = zarr.open_group(store, path=path, mode="r").attrs.asdict()
    return {**found, **dict(found.get("ome", {}))}  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("shape", [(1, 1), (77, 33), (64, 32)])
def test_levels_are_as_many_as_the_image_has_and_the_nearest_value(
    store: Path, shape: tuple[int, int], dtype: type
):
    array = objects(*shape, dtype)
    write_label(store, "cells", array, scale_um=(0.5, 0.5), settings=TINY)
    group = zarr.open_group(store, path="labels/cells", mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    for number in range(3):
        np.testing.assert_array_equal(level(store, "cells", number), array[:: 2**number, :: 2**number])


def test_a_coarse_mask_stays_coarse_and_its_corner_lies_on_the_slides(store: Path):
    write_label(store, "tissue", objects(9, 6), scale_um=(16.0, 16.0), colours=COLOURS)
    assert level(store, "tissue", 0).shape == (9, 6)
    datasets = metadata(store, "labels/tissue")["multiscales"][0]["datasets"]
    scale, translation = datasets[0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [16.0, 16.0]}
    # Centre of the mask's pixel at 8 µm, of the slide's at 0.25 and 0.125 µm.
    assert translation == {"type": "translation", "translation": [7.75, 7.875]}
    assert datasets[1]["coordinateTransformations"][1]["translation"] == [15.75, 15.875]


def test_a_given_translation_is_kept(store: Path):
    write_label(store, "part", objects(5, 5), scale_um=(1.0, 2.0), translation_um=(100.0, 50.0))
    datasets = metadata(store, "labels/part")["multiscales"][0]["datasets"]
    assert datasets[0]["coordinateTransformations"][1]["translation"] == [100.0, 50.0]
    assert datasets[2]["coordinateTransformations"][1]["translation"] == [101.5, 53.0]


def test_colours_names_and_source_are_stated(store: Path):
    write_label(store, "tissue", objects(9, 6), scale_um=(16.0, 16.0), colours=COLOURS)
    said = metadata(store, "labels/tissue")["image-label"]
    assert said["colors"][0] == {"label-value": 1, "rgba": [0, 158, 115, 128]}
    assert said["properties"] == [{"label-value": 1, "name": "tissue"}, {"label-value": 2, "name": "pen"}]
    assert said["source"] == {"image": "../../"}


def test_regions_written_one_by_one_in_any_order_equal_the_whole(store: Path):
    array = objects(77, 70, np.uint32)
    write_label(store, "whole", array, scale_um=(0.5, 0.5), settings=TINY)
    create_label(store, "parts", array.shape, np.uint32, scale_um=(0.5, 0.5), settings=TINY)
    boxes = label_regions(store, "parts")
    assert len(boxes) == 9
    for box in [*reversed(boxes), *boxes]:
        part = array[box.y : box.bottom, box.x : box.right]
        write_label_region(store, "parts", box.y, box.x, part)
    finish_label(store, "parts")
    whole, parts = (contents(store / "labels" / name) for name in ("whole", "parts"))
    pixels = [key for key in whole if "json" not in key and "zattrs" not in key]
    assert len(pixels) > 9
    assert [whole[key] for key in pixels] == [parts[key] for key in pixels]


def test_a_label_is_listed_only_when_finished(store: Path):
    write_label(store, "tissue", objects(9, 6), scale_um=(16.0, 16.0))
    create_label(store, "cells", (40, 40), np.uint32, scale_um=(0.5, 0.5))
    assert metadata(store, "labels")["labels"] == ["tissue"]
    finish_label(store, "cells")
    assert metadata(store, "labels")["labels"] == ["cells", "tissue"]
    create_label(store, "cells", (20, 20), np.uint8, scale_um=(1.0, 1.0))
    assert metadata(store, "labels")["labels"] == ["tissue"]
    assert level(store, "cells", 0).shape == (20, 20)


def test_regions_share_no_file(store: Path):
    create_label(store, "cells", (70, 50), np.uint8, scale_um=(0.5, 0.5), settings=TINY)
    written: set[str] = set()
    for box in label_regions(store, "cells"):
        before = set(contents(store))
        write_label_region(store, "cells", box.y, box.x, np.full(box.size.shape, 7, np.uint8))
        new = set(contents(store)) - before
        assert new
        assert not new & written
        written |= new


@pytest.mark.parametrize("name", ["", "../up", "a/b", "ä", "a b", "."])
def test_a_name_that_is_no_plain_name_is_refused(store: Path, name: str):
    with pytest.raises(RequestError, match="plain name"):
        write_label(store, name, objects(4, 4), scale_um=(1.0, 1.0))


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32, np.uint64])
def test_types_that_are_no_labels_are_refused(store: Path, dtype: type):
    with pytest.raises(RequestError, match="uint8, uint16 or uint32"):
        create_label(store, "a", (4, 4), dtype, scale_um=(1.0, 1.0))


@pytest.mark.parametrize("wrong", [{300: ("a", (0, 0, 0, 0))}, {1: ("a", (0, 0, 0, 256))}])
def test_colours_that_cannot_be_are_refused(store: Path, wrong: Colours):
    with pytest.raises(RequestError, match="colour"):
        create_label(store, "a", (4, 4), np.uint8, scale_um=(1.0, 1.0), colours=wrong)


def test_a_scale_that_cannot_be_is_refused(store: Path):
    with pytest.raises(RequestError, match="resolution"):
        create_label(store, "a", (4, 4), np.uint8, scale_um=(0.0, 1.0))


@pytest.mark.parametrize(("y", "x"), [(-1, 0), (0, 3), (2, 0)])
def test_a_block_outside_is_refused(store: Path, y: int, x: int):
    create_label(store, "a", (4, 4), np.uint8, scale_um=(1.0, 1.0))
    with pytest.raises(RequestError, match="does not fit"):
        write_label_region(store, "a", y, x, objects(3, 2))


def test_a_block_of_another_type_is_refused(store: Path):
    create_label(store, "a", (4, 4), np.uint8, scale_um=(1.0, 1.0))
    with pytest.raises(RequestError, match="uint16"):
        write_label_region(store, "a", 0, 0, objects(2, 2, np.uint16))


def test_what_was_not_created_cannot_be_written(store: Path, tmp_path: Path):
    with pytest.raises(StoreIncompleteError):
        write_label_region(store, "a", 0, 0, objects(2, 2))
    with pytest.raises(StoreIncompleteError):
        finish_label(store, "a")
    with pytest.raises(StoreIncompleteError):
        write_label(tmp_path / "none.ome.zarr", "a", objects(2, 2), scale_um=(1.0, 1.0))


def test_an_image_without_resolution_takes_no_labels(tmp_path: Path):
    root = zarr.open_group(tmp_path / "s.ome.zarr", mode="w", zarr_format=3)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    data = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": data}]}
    with pytest.raises(SlideInformationError):
        write_label(tmp_path / "s.ome.zarr", "a", objects(2, 2), scale_um=(1.0, 1.0))


@FOREIGN
def test_metadata_are_valid_by_ome_zarr_models(store: Path):
    from ome_zarr_models import v04, v05

    write_label(store, "tissue", objects(9, 6), scale_um=(16.0, 16.0), colours=COLOURS)
    root = zarr.open_group(store, mode="r")
    models = v05 if root.metadata.zarr_format == 3 else v04
    labels = models.Labels.from_zarr(zarr.open_group(store, path="labels", mode="r"))
    attributes: Any = labels.attributes
    assert (attributes.ome.labels if models is v05 else attributes.labels) == ["tissue"]
    models.ImageLabel.from_zarr(zarr.open_group(store, path="labels/tissue", mode="r"))


def test_napari_shows_labels_with_names_and_place(store: Path):
    from napari_ome_zarr import napari_get_reader

    write_label(store, "tissue", objects(9, 6), scale_um=(16.0, 16.0), colours=COLOURS)
    read = napari_get_reader(str(store))
    assert read is not None
    data, about, kind = read(str(store))[1]
    assert kind == "labels"
    assert [one.shape for one in data] == [(9, 6), (5, 3), (3, 2)]
    np.testing.assert_allclose(about["scale"], [16, 16])
    np.testing.assert_allclose(about["colormap"][1], np.array([0, 158, 115, 128]) / 255, atol=1e-6)


def test_ome_zarr_py_finds_labels_beside_the_image(store: Path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    array = objects(9, 6)
    write_label(store, "tissue", array, scale_um=(16.0, 16.0), colours=COLOURS)
    location = parse_url(store)
    assert location is not None
    found = {Path(str(node.zarr)).name: node for node in Reader(location)()}
    (node,) = (node for name, node in found.items() if "tissue" in name)
    np.testing.assert_array_equal(node.data[0].compute(), array)
