"""Workflow `slide`: a slide-level model over slides of which it is known what makes the class, and where."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from networks import network_of, write_network
from numpy.typing import NDArray
from slides import write_tiff
from trees import contents

import coverslip
from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.card import render_card
from coverslip.models.document import Calibration
from coverslip.models.doubt import PredictionSets
from coverslip.models.package import read_document, read_weights, write_files
from coverslip.models.slide_document import SlideModelDocument
from coverslip.models.slide_model import SlideModel
from coverslip.models.slide_training import SlideTrainingSettings, train_slides
from coverslip.workflows import conclude
from coverslip.workflows.attention import LAYER, ranks
from coverslip.workflows.cli import run as command
from coverslip.workflows.layers import describe
from coverslip.workflows.napari_plugin import scene_data
from coverslip.workflows.slide_calls import SlideCalls, SlideCallSettings, slide_calls

pytest.importorskip("timm", reason="torch and timm are not installed")

SIDE, ACROSS, MARGIN = 32, 12, 2
# Of a tumour slide's tiles, by column and row of the tissue: where the other stain lies.
WITNESSES = [(column, row) for column in (7, 8, 9) for row in (2, 3, 4)]
ENCODER = "test_resnet"


def stained(dyes: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Real nuclei and marker in one colour each, uint8 (512, 512, 3)."""
    from skimage.color import hed2rgb, rgb2hed
    from skimage.data import immunohistochemistry

    hed = rgb2hed(immunohistochemistry())
    density = hed[..., 0] + 0.5 * hed[..., 2] + 0.02
    rgb = hed2rgb(np.stack([density * dye for dye in dyes], axis=-1))
    return np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def picture(seed: int, tumour: bool) -> NDArray[np.uint8]:
    """Glass around tissue of 12 × 12 tiles, blue; in tumour nine tiles are brown."""
    rng = np.random.default_rng(seed)
    side = ACROSS * SIDE
    y, x = rng.integers(0, 512 - side, 2)
    rgb = np.full(((ACROSS + 2 * MARGIN) * SIDE,) * 2 + (3,), 245, np.uint8)
    tissue = rgb[MARGIN * SIDE : -MARGIN * SIDE, MARGIN * SIDE : -MARGIN * SIDE]
    tissue[:] = stained((1, 0, 0))[y : y + side, x : x + side]
    brown = stained((0.2, 0, 1.5))[y : y + side, x : x + side]
    for column, row in WITNESSES if tumour else ():
        at = slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)
        tissue[at] = brown[at]
    return rgb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 slides embedded, `model` learnt from their labels, and `case.tif`, a tumour it has not seen."""
    folder = tmp_path_factory.mktemp("slide")
    (folder / "slides").mkdir()
    rows = ["file,label,group"]
    for number in range(16):
        write_tiff(folder / f"slides/{number}.tif", picture(number, bool(number % 2)), compression="deflate")
        label = ("normal", "tumour")[number % 2]
        rows.append(f"embedded/slides/{number}.tif/features.h5,{label},patient {number}")
    encoder = coverslip.embedding(ENCODER, coverslip.EmbedSettings(mpp=0.5, size=SIDE), random=True)
    settings = coverslip.RunSettings(pyramid=None)
    report = coverslip.run([str(folder / "slides")], folder / "embedded", encoder, settings=settings)
    assert not report.failures
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    train_slides(
        folder / "slides.csv", folder / "model", SlideTrainingSettings(epochs=25, learning_rate=1e-3)
    )
    write_tiff(folder / "case.tif", picture(100, True), compression="deflate")
    return folder


def run(slide: Path, out: Path, workflow: SlideCalls, workers: int = 1):
    report = coverslip.run([str(slide)], out, workflow, workers=workers)
    assert report.failures == ()
    return report.results[0]


@pytest.fixture(scope="module")
def done(folder: Path):
    """Through the command line; the result and its folder."""
    arguments = ["--workflow", "slide", "--model", str(folder / "model"), "--random-weights"]
    assert command(["run", str(folder / "case.tif"), "-o", str(folder / "out"), *arguments]) == 0
    home = folder / "out/slides/case.tif"
    return coverslip.read_result(home), home


def is_witness(x, y) -> NDArray[np.bool_]:
    places = {((column + MARGIN) * SIDE, (row + MARGIN) * SIDE) for column, row in WITNESSES}
    return np.array([place in places for place in zip(np.asarray(x), np.asarray(y), strict=True)])


# what it finds


def test_the_slide_is_called_with_its_probability(done, folder):
    result, _ = done
    call = next(finding for finding in result.findings if finding.name == "slide-level call")
    numbers = {measurement.name: measurement.value for measurement in result.measurements}
    assert call.text.startswith("tumour, probability ")
    assert "random weights" in call.text
    assert result.summary == call.text
    assert call.confidence == numbers["tumour, probability"] > 0.5
    assert numbers["tumour, probability"] + numbers["normal, probability"] == pytest.approx(1, abs=1e-6)
    assert result.provenance.model.name == "slides"
    settings = result.provenance.settings["workflow"]
    assert settings["encoder_model"]["name"] == ENCODER
    assert (settings["mpp"], settings["size"]) == (0.5, SIDE)


def test_it_is_what_the_model_says_of_the_features_that_embed_gives(done, folder, tmp_path):
    _, home = done
    encoder = coverslip.embedding(ENCODER, coverslip.EmbedSettings(mpp=0.5, size=SIDE), random=True)
    settings = coverslip.RunSettings(pyramid=None)
    coverslip.run([str(folder / "case.tif")], tmp_path / "embedded", encoder, settings=settings, workers=1)
    bag = coverslip.read_bag(tmp_path / "embedded/slides/case.tif/features.h5")
    assert (tmp_path / "embedded/slides/case.tif/features.h5").read_bytes() == (
        home / "features.h5"
    ).read_bytes()
    call = SlideModel.load(folder / "model").predict(bag.features)
    tiles = pq.read_table(home / "tiles.parquet")
    np.testing.assert_array_equal(np.stack([tiles["x"], tiles["y"]], axis=1), bag.coords)
    np.testing.assert_allclose(tiles["attention"].to_numpy(), call.attention, rtol=1e-4)
    assert "vector" not in tiles.column_names


def test_the_tiles_that_make_the_class_counted_most(done):
    result, home = done
    tiles = pq.read_table(home / "tiles.parquet")
    witness = is_witness(tiles["x"], tiles["y"])
    assert witness.sum() == len(WITNESSES)
    attention = tiles["attention"].to_numpy()
    assert attention.sum() == pytest.approx(1, abs=1e-4)
    assert attention[witness].min() > attention[~witness].max()
    top = next(finding for finding in result.findings if finding.name == "tiles that counted most")
    assert len(top.tiles) == 8
    assert is_witness([tile.x for tile in top.tiles], [tile.y for tile in top.tiles]).all()
    assert [tile.score for tile in top.tiles] == sorted(attention, reverse=True)[:8]
    counted = next(one for one in result.measurements if one.name == "tiles that counted")
    assert 1 <= counted.value == pytest.approx(1 / (attention.astype(float) ** 2).sum(), rel=1e-3)


def test_the_attention_map_is_highest_where_the_class_is(done):
    _, home = done
    values = np.asarray(zarr.open_array(home / f"slide.ome.zarr/labels/{LAYER}/0", mode="r")[:])
    tiles = pq.read_table(home / "tiles.parquet")
    x, y = tiles["x"].to_numpy(), tiles["y"].to_numpy()
    witness = is_witness(x, y)
    shown = values[(y - y.min()) // SIDE, (x - x.min()) // SIDE]
    assert shown.max() == 255
    assert shown[witness].min() > shown[~witness].max()
    np.testing.assert_array_equal(shown, 1 + np.rint(254 * tiles["attention_rank"].to_numpy()))


@pytest.mark.parametrize("kind", ["clam-sb", "dsmil", "transmil"])
def test_every_aggregator_runs(folder, tmp_path, kind):
    settings = SlideTrainingSettings(aggregator=kind, epochs=2)
    train_slides(folder / "slides.csv", tmp_path / "model", settings)
    result = run(folder / "case.tif", tmp_path / "out", slide_calls(tmp_path / "model", random=True))
    tiles = pq.read_table(tmp_path / "out/slides/case.tif/tiles.parquet")
    assert tiles["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-4)
    assert tiles["attention_rank"].to_numpy().max() > 0.9
    assert result.provenance.settings["workflow"]["aggregator"] == kind


def test_ranks_go_by_order_and_equals_share_theirs():
    attention = np.array([0.5, 0.1, 0.1, 0.2999, 0.0001], np.float32)
    assert ranks(attention).tolist() == [1.0, 0.375, 0.375, 0.75, 0.0]
    assert ranks(np.full(4, 0.25)).tolist() == [0.5] * 4
    assert ranks(np.ones(1)).tolist() == [0.5]


def test_the_viewer_gets_the_map_as_a_layer_with_its_colours_and_what_it_means(done):
    _, home = done
    scene = describe(home)
    try:
        layer = next(layer for layer in scene.layers if layer.name == LAYER)
        assert layer.kind == "labels"
        assert layer.visible
        assert len(layer.colours) == 255
        light = [sum(layer.colours[value][:3]) for value in (1, 64, 128, 192, 255)]
        assert light == sorted(light)
        assert layer.names[255] == "counted more than 100.0 % of the tiles"
        assert layer.scale == (SIDE * 0.5, SIDE * 0.5)
        assert any("where the model looked, not what is there" in note for note in scene.notes)
        data, arguments, kind = next(one for one in scene_data(scene) if one[1]["name"] == LAYER)
        finest = np.asarray(data[0] if isinstance(data, list) else data)
        row, column = np.argwhere(finest == 255)[0]
        # centres of tiles, in µm from the centre of the slide's first pixel
        at = [n * SIDE * 0.5 + start for n, start in zip((row, column), arguments["translate"], strict=True)]
        corner = [(place + 0.25) / 0.5 - SIDE / 2 for place in at]
        assert is_witness([round(corner[1])], [round(corner[0])]).all()
        assert kind == "labels"
        assert arguments["colormap"][0] == (0, 0, 0, 0)
    finally:
        scene.close()


def test_the_report_shows_the_tiles_and_the_map(done):
    _, home = done
    page = (home / "report.html").read_text()
    assert "tiles that counted most" in page
    assert "attention, by rank" in page
    assert "counted more than" not in page
    assert page.count("data:image/jpeg") == 8 + 1, "the tiles and the slide"
    assert "data:image/png" in page, "the map over it"
    assert coverslip.RUO in page


# the same again


def test_workers_and_stops_do_not_change_the_bytes(done, folder, tmp_path, monkeypatch):
    _, home = done
    out = tmp_path / "out"
    workflow = slide_calls(folder / "model", random=True)
    with monkeypatch.context() as broken:
        broken.setattr(conclude, "write_report", _stop)
        stopped = coverslip.run([str(folder / "case.tif")], out, workflow, workers=2)
    assert len(stopped.failures) == 1
    assert (out / "slides/case.tif/features.zarr").exists(), "it was stopped too early to show anything"
    assert (out / "slides/case.tif/.parts").exists()
    run(folder / "case.tif", out, workflow, workers=2)
    assert contents(out / "slides/case.tif") == contents(home)


def _stop(*arguments: object) -> None:
    raise OSError(28, "No space left on device", "report.html")


def test_running_again_does_nothing(done, folder):
    _, home = done
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    run(folder / "case.tif", folder / "out", slide_calls(folder / "model", random=True))
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


# where it gives no call


def rewritten(folder: Path, out: Path, **changes) -> Path:
    """The package with other statements in its document."""
    document, _ = read_document(folder, SlideModelDocument)
    write_files(out, document.model_copy(update=changes), read_weights(folder, document))
    return out


UNSURE = Calibration(temperature=1e6, n=4)


def sets(threshold: float) -> PredictionSets:
    return PredictionSets(
        method="lac",
        coverage=0.9,
        by_class=False,
        thresholds=(threshold, threshold),
        n=20,
        groups=20,
        measured=None,
    )


@pytest.mark.parametrize(("threshold", "why"), [(1.0, "holds normal, tumour"), (1e-9, "is empty")])
def test_there_is_no_call_when_the_set_does_not_hold_one_class(folder, tmp_path, threshold, why):
    model = rewritten(
        folder / "model", tmp_path / "model", prediction_sets=sets(threshold), calibration=UNSURE
    )
    result = run(folder / "case.tif", tmp_path / "out", slide_calls(model, random=True))
    assert result.summary == f"no call: {result.abstentions[0].why}"
    assert why in result.abstentions[0].why
    assert "slide-level call" not in {finding.name for finding in result.findings}
    held = next(one for one in result.measurements if "prediction set" in one.name)
    assert held.value == (2 if threshold == 1 else 0)


def test_there_is_no_call_on_a_slide_unlike_those_it_learnt_from(folder, tmp_path):
    rgb = np.full_like(picture(0, False), 245)
    inner = rgb[MARGIN * SIDE : -MARGIN * SIDE, MARGIN * SIDE : -MARGIN * SIDE]
    inner[:] = stained((0, 3, 0))[: len(inner), : len(inner)]
    slide = write_tiff(tmp_path / "pink.tif", rgb, compression="deflate")
    result = run(slide, tmp_path / "out", slide_calls(folder / "model", random=True))
    assert "unlike those the model learnt from" in result.summary
    shift = next(one for one in result.measurements if one.name == "feature shift")
    assert "beyond the package's limit" in (shift.note or "")


def test_a_familiar_slide_is_not_called_strange(done):
    shift = next(one for one in done[0].measurements if one.name == "feature shift")
    assert shift.note is None
    assert shift.value > 0


def test_no_class_may_be_probable_enough(folder, tmp_path):
    unsure = rewritten(folder / "model", tmp_path / "model", calibration=UNSURE)
    workflow = slide_calls(unsure, SlideCallSettings(call_probability=0.6), random=True)
    result = run(folder / "case.tif", tmp_path / "out", workflow)
    assert "no class reaches a probability of 0.60; the likeliest is tumour, 0.50" in result.summary


def test_a_slide_without_tissue_gets_no_call_and_no_failure(folder, tmp_path):
    glass = np.random.default_rng(0).normal(243, 1.5, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    slide = write_tiff(tmp_path / "glass.tif", glass, compression="deflate")
    assert run(slide, tmp_path / "out", slide_calls(folder / "model", random=True)).status == "no tissue"


# what fits


def test_training_takes_over_what_the_features_are_of(folder):
    document, _ = read_document(folder / "model", SlideModelDocument)
    assert document.encoder == ENCODER
    assert document.tile is not None
    assert (document.tile.size, document.tile.mpp) == (SIDE, 0.5)
    assert (
        document.encoder_sha256
        == coverslip.embedding(
            ENCODER, coverslip.EmbedSettings(mpp=0.5, size=SIDE), random=True
        ).weights.sha256
    )
    card = render_card(document)
    assert f"Tiles: {SIDE} × {SIDE} px at 0.5 µm/px" in card
    assert "is called unfamiliar" in card


def test_features_of_different_encoders_are_not_learnt_from_together(folder, tmp_path):
    import h5py

    (tmp_path / "bags").mkdir()
    rows = ["file,label"]
    for number in range(4):
        with h5py.File(tmp_path / f"bags/{number}.h5", "w") as file:
            file["features"] = np.zeros((3, 4), np.float32)
            made = {"encoder": ENCODER, "encoder_sha256": f"{number // 3:064}"}
            file["features"].attrs.update({**made, "tile_mpp": 0.5, "tile_size": SIDE})
        rows.append(f"bags/{number}.h5,{'ab'[number % 2]}")
    (tmp_path / "slides.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(RequestError, match="different encoders, weights or tiles"):
        train_slides(tmp_path / "slides.csv", tmp_path / "model", SlideTrainingSettings())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "resnet10t"], "features by test_resnet, not by resnet10t; leave out --encoder"),
        (["--tile-size", "64"], "made for 32 px; leave out --tile-size, or say --tile-size 32"),
        (["--tile-mpp", "1"], "made for 0.45 to 0.55 µm/px; leave out --tile-mpp, or say --tile-mpp 0.5"),
        (["--weights", "other.safetensors"], "was made with other weights of test_resnet"),
        (["--weights", "missing.safetensors"], "is no file"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_slide_is_read(folder, tmp_path, capsys, arguments, said):
    import timm
    from safetensors.torch import save_file

    (tmp_path / "broken.tif").write_bytes(b"no slide")
    save_file(timm.create_model(ENCODER, num_classes=0).state_dict(), tmp_path / "other.safetensors")
    arguments = [str(tmp_path / one) if one.endswith("tensors") else one for one in arguments]
    chosen = ["--workflow", "slide", "--model", str(folder / "model"), *arguments]
    chosen += [] if "--weights" in arguments else ["--random-weights"]
    out = tmp_path / "out"
    assert command(["run", str(tmp_path / "broken.tif"), "-o", str(out), *chosen]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.strip().splitlines()) == 1
    assert not out.exists()


def test_a_package_that_says_little_needs_to_be_told(folder, tmp_path):
    silent = rewritten(
        folder / "model", tmp_path / "model", encoder="not stated", encoder_sha256=None, tile=None
    )
    with pytest.raises(RequestError, match="does not say which encoder made"):
        slide_calls(silent, random=True)
    with pytest.raises(RequestError, match=r"--tile-mpp 0\.5"):
        slide_calls(silent, encoder=ENCODER, random=True)
    tiles = SlideCallSettings(mpp=0.5, size=SIDE)
    with pytest.raises(ModelMismatchError, match="features of each tile, and test_convnext gives"):
        slide_calls(silent, tiles, encoder="test_convnext", random=True)
    result = run(
        folder / "case.tif", tmp_path / "out", slide_calls(silent, tiles, encoder=ENCODER, random=True)
    )
    assert result.summary.startswith("tumour")


def test_a_free_description_of_the_encoder_is_no_name(folder, tmp_path):
    named = rewritten(folder / "model", tmp_path / "model", encoder="our own, second version")
    with pytest.raises(RequestError, match="'our own, second version', which is none known here"):
        slide_calls(named, random=True)
    assert slide_calls(named, encoder=ENCODER, random=True).embedding.encoder == ENCODER


def test_a_model_of_tiles_is_not_one_of_slides(folder, tmp_path, capsys):
    write_network(tmp_path / "tiles", network_of())
    arguments = ["run", str(folder / "case.tif"), "-o", str(tmp_path / "out"), "--workflow", "slide"]
    assert command([*arguments, "--model", str(tmp_path / "tiles")]) == 2
    assert "is no slide-level model" in capsys.readouterr().err
    assert command(arguments) == 2
    assert "needs a model" in capsys.readouterr().err


def test_other_workflows_take_no_encoder(folder, tmp_path, capsys):
    arguments = ["run", str(folder / "case.tif"), "-o", str(tmp_path / "out"), "--workflow", "ihc"]
    assert command([*arguments, "--tile-size", "32"]) == 2
    assert "--tile-size: is not used by the workflow ihc" in capsys.readouterr().err


def test_a_licence_that_forbids_commercial_use_is_refused(folder, tmp_path):
    closed = rewritten(folder / "model", tmp_path / "model", licence="CC-BY-NC-4.0")
    with pytest.raises(coverslip.CoverslipError, match="does not allow commercial use"):
        slide_calls(closed, random=True, commercial_only=True)


def test_it_is_small_enough_to_travel_with_every_task(folder):
    assert len(pickle.dumps(slide_calls(folder / "model", random=True))) < 10_000
    assert (folder / "model/model.json").stat().st_size > 10_000


def test_a_package_replaced_during_the_run_is_noticed(folder, tmp_path):
    workflow = slide_calls(rewritten(folder / "model", tmp_path / "model"), random=True)
    file = tmp_path / "model/model.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "version": "2"}))
    report = coverslip.run([str(folder / "case.tif")], tmp_path / "out", workflow, workers=1)
    assert "replaced by another model" in report.failures[0].message
    assert workflow.document_sha256 != hashlib.sha256(file.read_bytes()).hexdigest()
