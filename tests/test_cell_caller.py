"""Cells called one by one: the tile about each, and the package's own doubt."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network_of, tiles_of, write_network
from PIL import Image

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.calibration import soften
from coverslip.models.cell_caller import CellCaller, cut_tiles, open_caller
from coverslip.models.conformal import members
from coverslip.models.document import Calibration
from coverslip.models.doubt import Energy, PredictionSets
from coverslip.models.engine import Engine
from coverslip.models.package import load_package

pytest.importorskip("torch")
SETS = PredictionSets(
    method="lac", coverage=0.9, by_class=False, thresholds=(0.6,) * 3, n=9, groups=9, measured=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three classes, tiles of 32 px at 0.5 µm/px, that knows its doubt."""
    folder = tmp_path_factory.mktemp("caller") / "demo"
    doubt = {"out_of_distribution": Energy(limit=-2.0, quantile=0.99), "prediction_sets": SETS}
    write_network(folder, network_of(), calibration=Calibration(temperature=2.0, n=9), **doubt)
    return folder


@pytest.fixture(scope="module")
def caller(folder: Path) -> CellCaller:
    return open_caller(str(folder))


def test_a_place_is_called_as_the_engine_calls_the_tile_about_it(caller: CellCaller, folder: Path) -> None:
    tiles = tiles_of(40, 1)
    picture = tiles.reshape(5, 8, 32, 32, 3).swapaxes(1, 2).reshape(160, 256, 3)
    x, y = np.tile(np.arange(8) * 32 + 16.0, 5), np.repeat(np.arange(5) * 32 + 16.0, 8)
    found = caller.call(picture, 0.5, x, y)
    package = load_package(folder)
    outputs = Engine(package, threads=1).examine(tiles)
    assert np.allclose(found.probabilities, outputs.probabilities, atol=1e-5)
    assert np.array_equal(found.strange, np.asarray(outputs.distance) > -2.0)
    assert np.array_equal(found.undecided, members(SETS, outputs.probabilities).sum(axis=1) != 1)
    assert 0 < found.strange.sum() < 40, "the limit must part them, or it is not tested"
    assert 0 < found.undecided.sum() < 40
    assert len(found) == 40
    plain = write_network(folder.with_name("plain"), network_of())
    logits_differ = Engine(plain, threads=1).predict(tiles)
    assert np.allclose(soften(np.log(logits_differ), 2.0), found.probabilities, atol=1e-4), "the temperature"


def test_a_package_without_statistics_states_no_doubt(folder: Path) -> None:
    write_network(folder.with_name("sure"), network_of())
    found = open_caller(str(folder.with_name("sure"))).call_tiles(tiles_of(8))
    assert not found.strange.any()
    assert not found.undecided.any()


@given(
    x=st.floats(0, 90),
    y=st.floats(0, 70),
    left=st.integers(0, 40),
    top=st.integers(0, 30),
    scale=st.sampled_from([0.6, 1.0, 1.37, 2.5]),
)
@settings(max_examples=60, deadline=None)
def test_a_cell_has_the_same_tile_in_every_picture_that_holds_its_reach(
    x: float, y: float, left: int, top: int, scale: float
) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (200, 240, 3)).astype(np.uint8)
    part = whole[top : top + 170, left : left + 190]
    place = np.array([x + 70]), np.array([y + 60])
    moved = place[0] - left, place[1] - top
    assert np.array_equal(cut_tiles(whole, scale, 16, *place), cut_tiles(part, scale, 16, *moved))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.55])
def test_a_tile_covers_the_same_glass_at_every_resolution(caller: CellCaller, mpp: float) -> None:
    """A disc of 8 µm in the middle is as large in the tile, whatever the picture's pixels."""
    side = round(60 / mpp)
    down, right = (np.indices((side, side)) + 0.5) * mpp
    disc = np.where(np.hypot(right - 25, down - 30) < 4, 40, 230).astype(np.uint8)
    tile = cut_tiles(
        np.repeat(disc[..., None], 3, axis=2), 0.5 / mpp, 32, np.array([25 / mpp]), np.array([30 / mpp])
    )[0]
    dark = tile[..., 0] < 135
    assert dark.sum() * 0.25 == pytest.approx(np.pi * 16, rel=0.06)
    assert np.abs(np.argwhere(dark).mean(axis=0) - 15.5).max() < 0.6
    assert caller.reach_um == 17 * 0.5


def test_what_lies_beyond_the_picture_is_the_picture_mirrored() -> None:
    picture = tiles_of(1, 3)[0]
    tile = cut_tiles(picture, 1, 8, np.array([0.0]), np.array([16.0]))[0]
    assert np.array_equal(tile[:, :4], tile[:, :3:-1])
    assert cut_tiles(picture, 1, 8, np.array([-500.0]), np.array([1e4])).shape == (1, 8, 8, 3)


def test_no_cells_have_no_classes(caller: CellCaller) -> None:
    nothing = np.zeros(0)
    found = caller.call(tiles_of(1)[0], 0.5, nothing, nothing)
    assert found.probabilities.shape == (0, 3)
    assert len(found.strange) == len(found.undecided) == 0


def test_pictures_that_are_too_coarse_or_not_rgb_are_refused(caller: CellCaller) -> None:
    here = np.array([16.0])
    with pytest.raises(ModelMismatchError, match="too coarse"):
        caller.call(tiles_of(1)[0], 0.56, here, here)
    with pytest.raises(RequestError, match="not RGB"):
        caller.call(tiles_of(1)[0].astype(np.float32), 0.5, here, here)  # type: ignore[arg-type]


def test_one_process_loads_a_model_once(caller: CellCaller, folder: Path) -> None:
    assert open_caller(str(folder)) is caller
    with pytest.raises(AttributeError):
        caller.engine = caller.engine  # type: ignore[misc]


@pytest.mark.slow
def test_white_cells_on_their_own_pictures_are_called_what_they_are(shared: Path) -> None:
    """Ten of each class of the shipped model's data, mostly cells it learnt from: wiring, not accuracy."""
    caller, home = open_caller("blood-cells"), shared / "blood/pbc-normal"
    with (home / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = []
    for name in caller.classes:
        for row in [row for row in rows if row["label"] == name][:10]:
            rgb = np.asarray(Image.open(home / row["file"]).convert("RGB"))
            middle = np.array([rgb.shape[1] / 2]), np.array([rgb.shape[0] / 2])
            found = caller.call(rgb, 0.1, *middle)
            right.append(caller.classes[int(found.probabilities[0].argmax())] == name)
    assert np.mean(right) > 0.9
