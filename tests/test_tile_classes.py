"""Workflow `tiles`: a class map that shows where the classes are, and a call only where one can be made."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image
from slides import tissue, write_tiff
from trees import contents

import coverslip
from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.workflows.cli import run as command
from coverslip.workflows.result import ModelIdentity, SlideResult
from coverslip.workflows.tile_classes import TileClasses, TileClassSettings, tile_classes
from coverslip.workflows.workflow import Grid

pytest.importorskip("timm", reason="torch and timm are not installed")

CLASSES = ("blue", "brown", "pink")
SIDE = 32
BANDS = {"brown": 8, "blue": 12, "pink": 4}  # columns of tiles, from the left; 16 rows


def textures() -> dict[str, NDArray[np.uint8]]:
    """Real tissue in three stains: DAB, haematoxylin, and the like of eosin; uint8 (512, 512, 3)."""
    from skimage.color import hed2rgb, rgb2hed
    from skimage.data import immunohistochemistry

    hed = rgb2hed(immunohistochemistry())
    nuclei, marker, none = hed[..., 0], hed[..., 2], np.zeros(hed.shape[:2])
    stains = {
        "brown": (0.3 * nuclei, none, 1.5 * marker + 0.05),
        "blue": (nuclei + 0.5 * marker + 0.02, none, none),
        "pink": (none, 0.4 * marker + 0.03, none),
    }
    return {
        name: np.round(255 * np.clip(hed2rgb(np.stack(parts, axis=-1)), 0, 1)).astype(np.uint8)
        for name, parts in stains.items()
    }


@pytest.fixture(scope="module")
def stains() -> dict[str, NDArray[np.uint8]]:
    return textures()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classes")


@pytest.fixture(scope="module")
def model(folder: Path, stains) -> Path:
    """A small network trained, through the command line, on the left halves of the textures."""
    rows = ["file,label,group"]
    (folder / "tiles").mkdir()
    for name, texture in stains.items():
        for y in range(0, 512, SIDE):
            for x in range(0, 256, SIDE):
                file = f"tiles/{name}-{x}-{y}.png"
                Image.fromarray(texture[y : y + SIDE, x : x + SIDE]).save(folder / file)
                rows.append(f"{file},{name},{name}{y}")
    (folder / "tiles.csv").write_text("\n".join(rows) + "\n")
    arguments = ["--mpp", "0.5", "--size", str(SIDE), "--epochs", "3", "--architecture", "test_resnet"]
    out = folder / "model"
    assert command(["train", "tiles", str(folder / "tiles.csv"), "-o", str(out), *arguments]) == 0
    return out


@pytest.fixture(scope="module")
def slide(folder: Path, stains) -> Path:
    """Glass, and on it three bands from the right halves, whose borders are those of tiles."""
    rgb = np.full((24 * SIDE, 32 * SIDE, 3), 245, np.uint8)
    left = 4 * SIDE
    for name, columns in BANDS.items():
        half = stains[name][:, 256:]
        band = np.hstack([half, half[:, ::-1]])[:, : columns * SIDE]
        rgb[4 * SIDE : 20 * SIDE, left : left + band.shape[1]] = band
        left += band.shape[1]
    return write_tiff(folder / "bands.tif", rgb, 0.5, compression="deflate")


def truth() -> NDArray[np.uint8]:
    """Label value of each tile of the tissue: 16 × 24."""
    return np.tile(np.repeat([CLASSES.index(name) + 1 for name in BANDS], list(BANDS.values())), (16, 1))


def run(slide: Path, out: Path, workflow: TileClasses, workers: int = 1) -> SlideResult:
    report = coverslip.run([str(slide)], out, workflow, workers=workers)
    assert report.failures == ()
    return report.results[0]


@pytest.fixture(scope="module")
def done(model: Path, slide: Path, folder: Path) -> tuple[SlideResult, Path]:
    out = folder / "out"
    result = run(slide, out, tile_classes(model, TileClassSettings(strange_share=1.0, call_share=0.45)))
    return result, out / "slides" / "bands.tif"


def test_the_class_map_shows_where_the_classes_are(done: tuple[SlideResult, Path]) -> None:
    _, home = done
    shown = np.asarray(zarr.open_array(home / "slide.ome.zarr", path="labels/classes/0", mode="r")[:])
    shown = shown.reshape(shown.shape[-2], shown.shape[-1])
    tiles = pq.read_table(home / "tiles.parquet")
    columns, rows = tiles["x"].to_numpy() // SIDE - 4, tiles["y"].to_numpy() // SIDE - 4
    in_band = (columns >= 0) & (columns < 24) & (rows >= 0) & (rows < 16)
    assert in_band.sum() > 300
    right = truth()[rows[in_band], columns[in_band]]
    assert np.mean(shown[(rows - rows.min())[in_band], (columns - columns.min())[in_band]] == right) > 0.95
    called = np.array(CLASSES)[right - 1]
    assert np.mean(tiles["class"].to_numpy(zero_copy_only=False)[in_band] == called) > 0.95


def test_shares_add_up_and_are_near_the_truth(done: tuple[SlideResult, Path]) -> None:
    result, _ = done
    numbers = {m.name: m.value or 0 for m in result.measurements}
    shares = {name: numbers[f"{name}, share of the tissue"] for name in CLASSES}
    assert sum(shares.values()) == pytest.approx(100)
    for name, columns in BANDS.items():
        assert shares[name] == pytest.approx(100 * columns / 24, abs=4)
    areas = {name: numbers[f"{name}, area"] for name in CLASSES}
    assert sum(areas.values()) == pytest.approx(result.quality.tissue_area_mm2, rel=0.05)
    assert areas["blue"] == pytest.approx(shares["blue"] / 100 * sum(areas.values()))
    assert sum(m.n or 0 for m in result.measurements if m.unit == "mm2") == result.quality.tiles


def test_probabilities_are_stored_and_the_class_is_the_largest(done: tuple[SlideResult, Path]) -> None:
    _, home = done
    tiles = pq.read_table(home / "tiles.parquet")
    probabilities = np.stack([tiles[f"p_{name}"].to_numpy() for name in CLASSES], axis=1)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert [CLASSES[n] for n in probabilities.argmax(axis=1)] == tiles["class"].to_pylist()


def test_the_examples_of_a_class_are_its_most_probable_tiles(done: tuple[SlideResult, Path]) -> None:
    result, home = done
    rows = pq.read_table(home / "tiles.parquet").to_pylist()
    findings = {finding.name: finding for finding in result.findings}
    for name in CLASSES:
        own = sorted((row[f"p_{name}"] for row in rows if row["class"] == name), reverse=True)
        tiles = findings[name].tiles
        assert [tile.score for tile in tiles] == pytest.approx(own[:8])
        at = {(row["x"], row["y"]): row for row in rows}
        for tile in tiles:
            assert at[tile.x, tile.y]["class"] == name
            assert (tile.width, tile.height) == (SIDE, SIDE)


def test_the_call_names_the_class_that_covers_most(done: tuple[SlideResult, Path]) -> None:
    result, _ = done
    assert result.findings[0].name == "slide-level call"
    assert result.findings[0].text.startswith("blue, on ")
    assert result.summary == result.findings[0].text
    assert result.abstentions == ()


def test_provenance_names_the_model(done: tuple[SlideResult, Path], model: Path) -> None:
    result, _ = done
    document = json.loads((model / "model.json").read_text())
    found = result.provenance.model
    assert found is not None
    assert (found.name, found.version, found.licence) == ("model", document["version"], document["licence"])
    assert found.sha256 == hashlib.sha256((model / "weights.safetensors").read_bytes()).hexdigest()
    settings = result.provenance.settings["workflow"]
    assert settings["model_document"] == hashlib.sha256((model / "model.json").read_bytes()).hexdigest()
    assert result.provenance.device["device"]


def test_the_same_again_is_the_same_bytes_and_more_workers_differ_in_the_last_bits(
    model: Path, slide: Path, done: tuple[SlideResult, Path], folder: Path
) -> None:
    """Threads add up in another order: float32 sums differ by some 1e-7, probabilities by less than 1e-5."""
    _, home = done
    workflow = tile_classes(model, TileClassSettings(strange_share=1.0, call_share=0.45))
    run(slide, folder / "again", workflow)
    assert contents(folder / "again" / "slides") == contents(home.parent)
    run(slide, folder / "two", workflow, workers=2)
    one, two = (
        pq.read_table(path / "tiles.parquet") for path in (home, folder / "two" / "slides" / "bands.tif")
    )
    assert one["class"] == two["class"]
    for name in (*(f"p_{name}" for name in CLASSES), "distance"):
        assert np.allclose(one[name].to_numpy(), two[name].to_numpy(), rtol=1e-5, atol=1e-5)


def plain(
    classes: tuple[str, ...] = ("a", "b", "c"), choices: TileClassSettings | None = None
) -> TileClasses:
    """A workflow that is never run, for its rules."""
    identity = ModelIdentity(name="m", version="1", sha256="0" * 64, licence="none")
    return TileClasses("", identity, "", classes, Grid(0.5, 32, 0.25), 1.0, choices or TileClassSettings())


@pytest.mark.parametrize(
    ("shares", "strange", "text"),
    [
        ((0.1, 0.7, 0.2), None, "b, on 70% of the tissue"),
        ((0.5, 0.3, 0.2), 0.0, "a, on 50% of the tissue"),
        ((0.2, 0.2, 0.6), 0.5, "c, on 60% of the tissue"),
    ],
)
def test_a_class_that_covers_enough_is_the_call(shares, strange, text: str) -> None:
    call, abstentions = plain().judge._call(np.array(shares), strange)
    assert call is not None
    assert (call.text, abstentions) == (text, ())
    assert call.confidence is None


@pytest.mark.parametrize(
    ("shares", "strange", "why"),
    [
        ((0.4, 0.35, 0.25), 0.0, "no class covers 50% of the tissue; the largest is a with 40%"),
        ((0.49, 0.49, 0.02), None, "no class covers"),
        ((0.9, 0.1, 0.0), 0.51, "51% of the tiles are unlike those the model learnt from"),
    ],
)
def test_otherwise_there_is_no_call_and_the_reason_is_said(shares, strange, why: str) -> None:
    call, abstentions = plain().judge._call(np.array(shares), strange)
    assert call is None
    assert [a.what for a in abstentions] == ["slide-level call"]
    assert why in abstentions[0].why


def test_tissue_unlike_that_of_training_gets_no_call(model: Path, folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    rgb = np.full((768, 768, 3), 245, np.uint8)
    rgb[128:640, 128:640] = noise
    result = run(write_tiff(folder / "noise.tif", rgb, 0.5), folder / "out-noise", tile_classes(model))
    assert result.summary.startswith("no call: ")
    assert "unlike" in result.abstentions[0].why
    unfamiliar = next(m for m in result.measurements if m.name == "unfamiliar tiles")
    assert (unfamiliar.value or 0) > 50
    assert "slide-level call" not in {finding.name for finding in result.findings}


def test_a_speck_of_tissue_that_fills_no_tile_is_not_called_no_tissue(model: Path, folder: Path) -> None:
    """The tile of the grid, 16 µm, is smaller than the speck; 90 % of it is asked for at a tile of 128 µm."""
    rgb = np.full((1024, 1024, 3), 245, np.uint8)
    rgb[440:568, 440:568] = tissue(256, 256)[64:192, 64:192]
    path = write_tiff(folder / "speck.tif", rgb, 0.5)
    workflow = tile_classes(model, TileClassSettings(min_tissue=1.0))

    wide = replace(workflow, grid=replace(workflow.grid, size=1024))
    result = run(path, folder / "out-speck", wide)
    assert (result.status, result.summary) == ("done", "too little tissue in any tile")
    assert result.quality.tissue_area_mm2 > 0
    assert "no tile of 512 µm holds 100% of it" in result.abstentions[0].why


def test_blank_glass_is_no_tissue(model: Path, folder: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    result = run(write_tiff(folder / "blank.tif", glass, 0.5), folder / "out-blank", tile_classes(model))
    assert (result.status, result.summary, result.measurements) == ("no tissue", "no tissue", ())


def tiles_command(slide: Path, out: Path, *more: object) -> int:
    return command(["run", str(slide), "-o", str(out), "--workflow", "tiles", *map(str, more)])


def broken(kind: str, model: Path, target: Path) -> list[object]:
    """Arguments that name a model which cannot be used."""
    if kind == "none":
        return []
    shutil.copytree(model, target)
    if kind == "altered":
        weights = target / "weights.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif kind == "no weights":
        (target / "weights.safetensors").unlink()
    elif kind == "no folder":
        shutil.rmtree(target)
    elif kind == "a file":
        shutil.rmtree(target)
        target.write_text("model")
    elif kind == "another schema":
        document = json.loads((target / "model.json").read_text())
        (target / "model.json").write_text(json.dumps(document | {"schema_version": 2}))
    return ["--model", target]


@pytest.mark.parametrize("kind", ["none", "altered", "no weights", "no folder", "a file", "another schema"])
def test_a_model_that_cannot_be_had_ends_it_before_anything_is_written(
    kind: str, model: Path, tmp_path: Path, capsys
) -> None:
    """The slide does not exist as one: it would fail as unreadable if it were opened first."""
    no_slide = tmp_path / "no-slide.svs"
    no_slide.write_text("<html>")
    code = tiles_command(no_slide, tmp_path / "out", *broken(kind, model, tmp_path / "model"))
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("Error: ")
    assert "no-slide" not in said
    assert not (tmp_path / "out").exists()


def test_a_slide_too_coarse_for_the_model_is_listed(model: Path, slide: Path, tmp_path: Path, capsys) -> None:
    coarse = write_tiff(tmp_path / "coarse.tif", tissue(512, 512), 1.0)
    assert tiles_command(coarse, tmp_path / "out", "--model", model) == 3
    (failure,) = json.loads((tmp_path / "out" / "failures.json").read_text())["failures"]
    assert failure["error"] == "SlideInformationError"
    assert "too coarse for tiles of 0.5 µm/px" in failure["message"]
    assert "too coarse" in capsys.readouterr().out


def test_a_model_replaced_after_the_start_is_not_used(model: Path, slide: Path, folder: Path) -> None:
    workflow = tile_classes(shutil.copytree(model, folder / "changing"))
    path = folder / "changing" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stain": "another"}))
    report = coverslip.run([str(slide)], folder / "out-changing", workflow, workers=1)
    assert [failure.error for failure in report.failures] == ["ModelUnavailableError"]
    assert "replaced" in report.failures[0].message


def test_another_document_is_another_request(model: Path, folder: Path) -> None:
    """Calibration and limits lie in model.json: with others, an earlier result is not taken for this one."""
    other = shutil.copytree(model, folder / "other")
    document = json.loads((other / "model.json").read_text())
    document["calibration"]["temperature"] *= 2
    (other / "model.json").write_text(json.dumps(document))
    assert tile_classes(other).settings() != tile_classes(model).settings()


def test_more_classes_than_a_class_map_holds_are_refused(model: Path, folder: Path) -> None:
    many = shutil.copytree(model, folder / "many")
    document = json.loads((many / "model.json").read_text())
    document |= {"classes": [f"c{n}" for n in range(256)], "metrics": None, "prediction_sets": None}
    (many / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelMismatchError, match="256 classes"):
        tile_classes(many)


def test_what_is_no_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError):
        tile_classes(tmp_path / "nothing")


@pytest.mark.parametrize(
    "wrong",
    [{"min_tissue": -0.1}, {"call_share": 1.1}, {"strange_share": 2}, {"examples": -1}, {"batch": 0}],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(RequestError):
        TileClassSettings(**wrong)
