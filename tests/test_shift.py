"""How far a slide's colours and features lie from training: near for like tiles, far for another scanner."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from slides import write_tiff

import coverslip
from coverslip.models.colour import colour_distance, fit_colours, tile_colours
from coverslip.models.tint import ColourStatistics
from coverslip.tiling.normaliser import METHODS
from coverslip.workflows.result import Measurement, SlideResult
from coverslip.workflows.shift import colour_shift, feature_shift
from coverslip.wsi.colour import light

SIDE = 112
KNOWN = ColourStatistics(
    mean=(0.2, 0.1, -0.1, 0.4), std=(0.05, 0.05, 0.1, 0.1), limit=2.0, quantile=0.99, n=10
)


def painted(density: tuple[float, float, float], n: int = 1) -> NDArray[np.uint8]:
    return np.broadcast_to(light(np.array(density, np.float32)), (n, 32, 32, 3)).copy()


def test_the_colours_of_a_tile_are_those_of_the_formula():
    """D = 0.3; c_x = 0.2 ÷ 0.3 − 1; c_y = (0.5 − 0.2) ÷ (√3 · 0.3)."""
    density, spread, across, down = tile_colours(painted((0.2, 0.5, 0.2)))[0]
    assert density == pytest.approx(0.3, abs=0.002)
    assert spread == pytest.approx(0, abs=1e-4)
    assert across == pytest.approx(-1 / 3, abs=0.01)
    assert down == pytest.approx(1 / np.sqrt(3), abs=0.01)


def test_glass_does_not_count_and_a_tile_of_glass_has_no_colour():
    tiles = painted((0.2, 0.5, 0.2), 3)
    tiles[1, :16] = 250
    tiles[2] = 250
    found = tile_colours(tiles)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert np.isnan(found[2]).all()


def test_twice_the_stain_is_another_density_and_the_same_hue():
    one, two = tile_colours(np.concatenate([painted((0.1, 0.3, 0.2)), painted((0.2, 0.6, 0.4))]))
    assert two[0] == pytest.approx(2 * one[0], rel=0.01)
    assert two[2:] == pytest.approx(one[2:], abs=0.02)


def test_the_distance_counts_standard_deviations():
    off = np.array([[0.2, 0.1, -0.1, 0.4], [0.3, 0.2, 0.1, 0.6], [np.nan] * 4], np.float32)
    assert colour_distance(off, KNOWN)[:2] == pytest.approx([0, 2], abs=1e-6)
    assert np.isnan(colour_distance(off, KNOWN)[2])


def test_statistics_are_of_the_training_part_and_the_limit_of_the_validation_part():
    rng = np.random.default_rng(0)
    train, validation = (
        rng.normal(KNOWN.mean, KNOWN.std, (4000, 4)),
        rng.normal(KNOWN.mean, KNOWN.std, (4000, 4)),
    )
    train[:10] = np.nan
    known = fit_colours(train, validation)
    assert known is not None
    assert known.mean == pytest.approx(KNOWN.mean, abs=0.01)
    assert known.std == pytest.approx(KNOWN.std, rel=0.05)
    assert known.n == 3990
    # √(χ²₀.₉₉ with 4 degrees of freedom ÷ 4) = √(13.28 ÷ 4)
    assert known.limit == pytest.approx(1.822, abs=0.06)
    assert fit_colours(np.full((5, 4), np.nan), validation) is None
    flat = fit_colours(np.full((5, 4), 0.2), np.full((5, 4), 0.2))
    assert flat is not None
    assert min(flat.std) > 0


def test_a_shift_is_the_median_and_says_when_it_is_beyond_the_limit():
    near = colour_shift(np.array([0.5, 1.0, 9.0, np.nan]), 2.0)
    assert (near.median, near.n, near.note) == (1.0, 3, None)
    assert near.strange == pytest.approx(1 / 3)
    far = feature_shift(np.array([2.5, 3.0, 1.0]), 2.0).measurement()
    assert (far.name, far.value, far.unit, far.n) == ("feature shift", 2.5, "1", 3)
    assert far.note is not None
    assert "beyond the package's limit of 2" in far.note
    assert "limit for a tile is 2" in far.method


def test_what_is_not_known_is_said():
    unknown = colour_shift(None, None).measurement()
    assert unknown.value is None
    assert unknown.note == "not known: the package holds no statistics of colours"
    pale = colour_shift(np.array([np.nan, np.nan]), 2.0).measurement()
    assert (pale.value, pale.n, pale.note) == (None, 0, "not known: no tile is stained")


def picture(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB), np.uint8)


@pytest.fixture(scope="module")
def crc(shared) -> NDArray[np.uint8]:
    """Colorectal tiles of one staining, every class mixed: uint8 (n, 112, 112, 3)."""
    folder = shared / "histology-tiles/crc-val-he-7k-mini"
    tiles = [picture(path) for path in sorted(folder.glob("*/*")) if path.suffix in (".jpg", ".png")]
    small = [cv2.resize(tile, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.stack([np.asarray(tile, np.uint8) for tile in small])


@pytest.fixture(scope="module")
def parts(crc) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Training, validation and the tiles of a slide."""
    order = np.random.default_rng(0).permutation(len(crc))
    return crc[order[:30]], crc[order[30:45]], crc[order[45:]]


@pytest.fixture(scope="module")
def known(parts) -> ColourStatistics:
    found = fit_colours(tile_colours(parts[0]), tile_colours(parts[1]))
    assert found is not None
    return found


def median_shift(tiles: NDArray[np.uint8], known: ColourStatistics) -> float:
    found = colour_shift(colour_distance(tile_colours(tiles), known), known.limit)
    assert found.median is not None
    return found.median


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scanner", ["torchstain_source", "histology_1"])
def test_another_scanners_colours_shift_and_normalisation_brings_them_back(
    shared, parts, known, method, scanner
):
    train, _, tiles = parts
    away = METHODS[method](picture(shared / "stain" / f"{scanner}.png"))
    recoloured = METHODS[method](tiles).towards(away).transform(tiles)
    back = METHODS[method](recoloured).towards(METHODS[method](train)).transform(recoloured)
    here, there, again = (median_shift(batch, known) for batch in (tiles, recoloured, back))
    assert here < known.limit
    assert there > 1.5 * known.limit
    assert again < 1.3
    assert again < there / 3


def test_a_tint_of_the_lamp_shifts_and_normalisation_brings_it_back(parts, known):
    train, _, tiles = parts
    warm = np.rint(tiles * np.array([1, 0.92, 0.8])).astype(np.uint8)
    back = METHODS["macenko"](warm).towards(METHODS["macenko"](train)).transform(warm)
    assert median_shift(warm, known) > known.limit
    assert median_shift(back, known) < 1.3


torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("timm", reason="timm is not installed")
from networks import network_of, write_network  # noqa: E402

from coverslip.models.card import render_card  # noqa: E402
from coverslip.models.package import ModelPackage, load_package  # noqa: E402
from coverslip.workflows.tile_classes import TileClassSettings, tile_classes  # noqa: E402


@pytest.fixture(scope="module")
def package(known, tmp_path_factory) -> ModelPackage:
    folder = tmp_path_factory.mktemp("shift") / "model"
    return write_network(folder, network_of(size=SIDE), size=SIDE, colour=known)


def mosaic(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 16 tiles in a square, a tile of glass around them."""
    rgb = np.full((6 * SIDE, 6 * SIDE, 3), 243, np.uint8)
    square = tiles[:16].reshape(4, 4, SIDE, SIDE, 3).swapaxes(1, 2).reshape(4 * SIDE, 4 * SIDE, 3)
    rgb[SIDE:-SIDE, SIDE:-SIDE] = square
    return rgb


def run(rgb: NDArray[np.uint8], folder: Path, model: Path) -> SlideResult:
    slide = write_tiff(folder / "a.tif", rgb, 0.5, compression="deflate")
    workflow = tile_classes(model, TileClassSettings(call_share=0.0))
    report = coverslip.run([str(slide)], folder / "out", workflow, workers=1)
    assert report.failures == ()
    return report.results[0]


def measured(result: SlideResult, name: str) -> Measurement:
    (found,) = [entry for entry in result.measurements if entry.name == name]
    return found


def test_the_result_says_how_far_the_slide_is_and_makes_no_call_beyond_the_limit(
    shared, parts, known, package, tmp_path
):
    tiles = parts[2]
    away = METHODS["macenko"](picture(shared / "stain/torchstain_source.png"))
    recoloured = METHODS["macenko"](tiles).towards(away).transform(tiles)
    results = []
    for name, pixels in {"here": tiles, "there": recoloured}.items():
        (tmp_path / name).mkdir()
        results.append(run(mosaic(pixels), tmp_path / name, package.folder))
    near, far = (measured(result, "colour shift") for result in results)
    assert near.note is None
    assert near.n == results[0].quality.tiles
    assert near.value is not None
    assert far.value is not None
    assert near.value < known.limit < far.value
    assert far.note is not None
    assert "colours unlike" in far.note
    assert results[0].abstentions == ()
    assert "have colours unlike those the model learnt from" in results[1].abstentions[0].why
    assert results[1].summary.startswith("no call: ")


def test_a_package_without_colours_still_loads_and_says_not_known(package, parts, tmp_path):
    """As packages were written before there were any: the key is not there."""
    older = tmp_path / "older"
    older.mkdir()
    document = json.loads((package.folder / "model.json").read_text())
    del document["colour"]
    (older / "model.json").write_text(json.dumps(document))
    (older / "weights.safetensors").write_bytes((package.folder / "weights.safetensors").read_bytes())
    assert load_package(older).document.colour is None
    result = run(mosaic(parts[2]), tmp_path, older)
    for name in ("colour shift", "feature shift"):
        entry = measured(result, name)
        assert (entry.value, entry.n) == (None, 0)
        assert entry.note is not None
        assert entry.note.startswith("not known")
    assert result.abstentions == ()


def test_the_card_has_a_line_of_the_colours(package):
    lines = [line for line in render_card(package.document).splitlines() if "colour" in line]
    assert len(lines) == 1
    assert f"within {package.document.colour.limit:.3g}" in lines[0]
    older = package.document.model_copy(update={"colour": None})
    assert "- Which colours it learnt from is not known." in render_card(older).splitlines()


def test_statistics_of_another_length_are_refused(package, tmp_path):
    document = json.loads(package.document.model_dump_json())
    document["colour"]["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "model.json").write_text(json.dumps(document))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(coverslip.CoverslipError, match=r"colour\.mean"):
        load_package(tmp_path)
