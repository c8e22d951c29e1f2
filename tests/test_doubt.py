"""A trained model doubts: its sets hold what they say, and a picture of a cat gets no call."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from slides import write_tiff

from coverslip.models.card import render_card
from coverslip.models.conformal import fit_sets, measure_coverage, members
from coverslip.models.dataset import read_tiles
from coverslip.models.document import Calibration
from coverslip.models.doubt import Mahalanobis
from coverslip.models.familiarity import Method, fit_familiarity, ruler
from coverslip.models.package import load_package
from coverslip.models.split import split_groups
from coverslip.workflows.cli import run as command
from coverslip.workflows.result import ModelIdentity, SlideResult
from coverslip.workflows.sets import TileSets
from coverslip.workflows.tile_classes import TileClasses, TileClassSettings
from coverslip.workflows.workflow import Grid

pytest.importorskip("timm", reason="torch and timm are not installed")
from coverslip.models.engine import Engine, evaluate
from coverslip.models.network import load_network
from coverslip.models.training import TrainingReport, TrainingSettings, train_tiles

SIDE = 32


def cells(dark: int, rng: np.random.Generator, size: int = SIDE) -> NDArray[np.uint8]:
    """Pink ground with so many dark nuclei per 32 × 32 px."""
    image = np.full((size, size, 3), (235, 190, 215), np.float64) + rng.normal(0, 6, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    for _ in range(dark * size**2 // SIDE**2):
        cy, cx = rng.uniform(0, size, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < 7] = (90, 50, 130)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_tiles(folder: Path, n: int = 120) -> Path:
    """Tiles of sparse (2 or 3 nuclei) and dense ones (8 to 12), two to a group, and their csv file."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = [("file", "label", "group")]
    for label, least, most in (("sparse", 2, 4), ("dense", 8, 13)):
        for number in range(n):
            file = f"{label}{number}.png"
            Image.fromarray(cells(int(rng.integers(least, most)), rng)).save(folder / file)
            rows.append((file, label, f"{label}{number // 2}"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def train(labels: Path, out: Path, **changes) -> TrainingReport:
    figures = {"mpp": 0.5, "size": SIDE, "architecture": "test_byobnet", "epochs": 5, "learning_rate": 5e-3}
    return train_tiles(labels, out, TrainingSettings(**(figures | changes)))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiles(tmp_path_factory.mktemp("doubt") / "tiles")


@pytest.fixture(scope="module")
def trained(labels: Path) -> TrainingReport:
    return train(labels, labels.parent.parent / "model")


def plain(**choices) -> TileClasses:
    """A workflow that is never run, for its rules."""
    identity = ModelIdentity(name="m", version="1", sha256="0" * 64, licence="none")
    return TileClasses("", identity, "", ("a", "b"), Grid(0.5, 32, 0.25), 1.0, TileClassSettings(**choices))


def sets_of(sizes: list[int]) -> TileSets:
    """A slide's sets of so many classes of two."""
    known = fit_sets(np.eye(2)[np.zeros(20, int)], np.zeros(20, int), np.arange(20))
    return TileSets(known, ("a", "b"), np.arange(2) < np.array(sizes)[:, None])


def test_when_most_sets_do_not_say_one_class_there_is_no_call():
    call, (abstention,) = plain().judge._call(np.array([0.9, 0.1]), 0.0, sets_of([2, 2, 0, 1]))
    assert call is None
    assert abstention.what == "slide-level call"
    assert abstention.why == (
        "75% of the tiles are undecided: the prediction sets of 50% hold several classes, those of 25% none"
    )


@pytest.mark.parametrize(("sizes", "share"), [([2, 0, 1, 1], 0.5), ([2, 2, 2, 2], 1.0)])
def test_up_to_the_share_there_is_a_call(sizes, share):
    call, abstentions = plain(undecided_share=share).judge._call(np.array([0.9, 0.1]), 0.0, sets_of(sizes))
    assert call is not None
    assert (call.text, abstentions) == ("a, on 90% of the tissue", ())


def test_the_document_says_how_far_the_probabilities_hold(trained: TrainingReport, labels: Path):
    document = load_package(trained.package.folder).document
    found, sets, known = document.reliability, document.prediction_sets, document.out_of_distribution
    assert document.metrics is not None
    assert found is not None
    assert sets is not None
    assert sets.measured is not None
    assert isinstance(known, Mahalanobis)
    assert found.n == sets.measured.n == document.metrics.n == trained.parts.test
    assert found.groups == sets.measured.groups == document.metrics.groups == 18
    assert (sets.n, sets.groups, sets.coverage, sets.method) == (trained.parts.validation, 18, 0.9, "lac")
    assert sets.measured.one + sets.measured.several + sets.measured.none == pytest.approx(1)
    card = render_card(document)
    for said in ("Expected calibration error", "Prediction sets (lac)", "Mahalanobis", "36 test tiles of 18"):
        assert said in card


def test_the_figures_are_those_of_the_package_on_its_test_part(
    trained: TrainingReport, labels: Path, tmp_path: Path
):
    """Scored from outside through the package: coverage and Brier score are the stated ones."""
    document = trained.package.document
    tiles = read_tiles(labels, SIDE, tmp_path)
    test = split_groups(tiles.labels, tiles.groups).test
    found = Engine(trained.package, "cpu").predict(np.asarray(tiles.pixels[test]))
    assert document.prediction_sets is not None
    again = measure_coverage(document.prediction_sets, found, tiles.labels[test], tiles.groups[test])
    assert again == document.prediction_sets.measured
    truth = np.eye(2)[tiles.labels[test]]
    assert document.reliability is not None
    assert document.reliability.after.brier == pytest.approx(
        ((found - truth) ** 2).sum(axis=1).mean(), abs=1e-4
    )


def test_new_tiles_of_the_same_kind_are_covered_and_familiar(trained: TrainingReport):
    """400 tiles that were never in the csv: coverage at least as said, less what 18 groups leave open."""
    rng, engine = np.random.default_rng(77), Engine(trained.package, "cpu")
    names = trained.package.document.classes
    truth = np.repeat([names.index("sparse"), names.index("dense")], 200)
    tiles = [cells(int(rng.integers(2, 4)), rng) for _ in range(200)]
    tiles += [cells(int(rng.integers(8, 13)), rng) for _ in range(200)]
    found = engine.examine(np.stack(tiles))
    sets, known = trained.package.document.prediction_sets, trained.package.document.out_of_distribution
    assert sets is not None
    assert known is not None
    assert found.distance is not None
    inside = members(sets, found.probabilities)
    assert inside[np.arange(400), truth].mean() > 0.75
    assert inside.sum(axis=1).mean() < 1.5
    assert np.mean(found.distance > known.limit) < 0.15


def test_with_too_few_groups_there_are_no_sets_and_it_is_said(labels: Path, tmp_path: Path):
    report = train(labels, tmp_path / "strict", epochs=1, coverage=0.99)
    assert report.package.document.prediction_sets is None
    assert any("fewer than 99 groups in the validation part" in note for note in report.notes)
    assert "It gives no prediction sets." in render_card(report.package.document)


def test_energy_and_the_old_distance_can_be_asked_for(labels: Path, tmp_path: Path):
    for method in ("energy", "standardised"):
        report = train(labels, tmp_path / method, epochs=1, familiarity=method)
        known = report.package.document.out_of_distribution
        assert known is not None
        assert known.method == method
        found = Engine(report.package, "cpu").examine(np.zeros((2, SIDE, SIDE, 3), np.uint8)).distance
        assert found is not None
        assert np.isfinite(found).all()


def tiled(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A slide made of it: mirrored at its edges, on glass."""
    block = np.block([[[picture], [picture[:, ::-1]]], [[picture[::-1]], [picture[::-1, ::-1]]]])
    slide = np.full((block.shape[0] + 256, block.shape[1] + 256, 3), 245, np.uint8)
    slide[128:-128, 128:-128] = block
    return slide


def run_command(slide: Path, model: Path, out: Path) -> tuple[SlideResult, Path]:
    assert command(["run", str(slide), "-o", str(out), "--workflow", "tiles", "--model", str(model)]) == 0
    home = out / "slides" / slide.name
    return SlideResult.model_validate_json((home / "result.json").read_text()), home


@pytest.mark.parametrize("name", ["cat", "coffee", "rocket"])
def test_a_photograph_gets_no_call(name: str, trained: TrainingReport, tmp_path: Path):
    from skimage import data

    slide = write_tiff(tmp_path / f"{name}.tif", tiled(getattr(data, name)()), 0.5)
    result, home = run_command(slide, trained.package.folder, tmp_path / "out")
    assert result.quality.tiles > 50
    assert result.summary.startswith("no call: ")
    assert [abstention.what for abstention in result.abstentions] == ["slide-level call"]
    assert "unlike those the model learnt from" in result.abstentions[0].why
    assert "slide-level call" not in {finding.name for finding in result.findings}
    assert result.abstentions[0].why in (home / "report.html").read_text()


def test_what_it_learnt_gets_a_call_with_its_sets(trained: TrainingReport, tmp_path: Path):
    """The other side: without it, a model that always refuses would pass."""
    picture = cells(10, np.random.default_rng(5), 512)
    slide = write_tiff(tmp_path / "dense.tif", tiled(picture), 0.5, compression="deflate")
    result, home = run_command(slide, trained.package.folder, tmp_path / "out")
    assert result.findings[0].name == "slide-level call"
    assert result.findings[0].text.startswith("dense, on ")
    tiles = pq.read_table(home / "tiles.parquet")
    sizes = tiles["set_size"].to_numpy()
    assert [len(names) for names in tiles["set"].to_pylist()] == sizes.tolist()
    sets = trained.package.document.prediction_sets
    assert sets is not None
    found = np.stack([tiles[f"p_{name}"].to_numpy() for name in ("dense", "sparse")], axis=1)
    assert np.array_equal(members(sets, found).sum(axis=1), sizes)
    shares = {m.name: m.value for m in result.measurements if m.name.endswith("in their set")}
    assert shares["tiles with one class in their set"] == pytest.approx(100 * np.mean(sizes == 1))
    assert sum(value or 0 for value in shares.values()) == pytest.approx(100)


def test_where_the_model_cannot_tell_the_slide_gets_no_call(trained: TrainingReport, tmp_path: Path):
    """A temperature that leaves nothing sure, and sets that take all in: familiar tissue, no call."""
    unsure = tmp_path / "unsure"
    shutil.copytree(trained.package.folder, unsure)
    document = json.loads((unsure / "model.json").read_text())
    document["calibration"] = Calibration(temperature=20, n=9).model_dump()
    document["prediction_sets"] |= {"thresholds": [0.9, 0.9]}
    (unsure / "model.json").write_text(json.dumps(document))
    picture = cells(10, np.random.default_rng(5), 512)
    slide = write_tiff(tmp_path / "dense.tif", tiled(picture), 0.5, compression="deflate")
    result, _ = run_command(slide, unsure, tmp_path / "out")
    assert result.summary.startswith("no call: ")
    assert "undecided" in result.abstentions[0].why
    assert "hold several classes" in result.abstentions[0].why


def test_the_card_draws_the_reliability(trained: TrainingReport, tmp_path: Path, capsys):
    model, plots = str(trained.package.folder), tmp_path / "plots"
    assert command(["models", "card", model, "--plots", str(plots)]) == 0
    assert "## When it doubts" in capsys.readouterr().out
    assert (plots / "reliability.svg").read_text().startswith("<svg")
    without = shutil.copytree(model, tmp_path / "without")
    document = json.loads((without / "model.json").read_text()) | {"reliability": None, "metrics": None}
    document["training"] |= {"curve": []}
    (without / "model.json").write_text(json.dumps(document))
    assert command(["models", "card", str(without), "--plots", str(plots)]) == 2
    assert "was not measured: there is nothing to draw" in capsys.readouterr().err


def auroc(familiar: NDArray, strange: NDArray) -> float:
    """Share of pairs in which the strange tile is further (Mann-Whitney)."""
    ranks = rankdata(np.r_[familiar, strange])[len(familiar) :]
    return (ranks.sum() - len(strange) * (len(strange) + 1) / 2) / (len(familiar) * len(strange))


def pictures(folder: Path, size: int) -> NDArray[np.uint8]:
    return np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BOX))
            for path in sorted(folder.rglob("*.jp*g"))
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_lung_tiles_are_told_apart_and_covered_and_others_are_strange(shared: Path, tmp_path: Path):
    """LC25000, coarser and for fewer epochs than in docs/models.md, which has the figures. 100 photographs of
    each class, none twice, so the test part is of other photographs."""
    csv_file = shared / "histology-tiles" / "lc25000-lung" / "labels.csv"
    settings = TrainingSettings(mpp=0.5, size=64, epochs=12, group_column="source_image_cluster", stain="H&E")
    report = train_tiles(csv_file, tmp_path / "lung", settings)
    assert report.metrics.n == 45
    assert report.metrics.balanced_accuracy >= 0.75
    package = report.package
    document = package.document
    assert document.prediction_sets is not None
    assert document.prediction_sets.measured is not None
    low, high = document.prediction_sets.measured.interval
    assert low <= 0.9 <= high or document.prediction_sets.measured.coverage > 0.9
    assert document.reliability is not None
    assert document.reliability.after.ece < document.reliability.by_chance + 0.1
    (tmp_path / "scratch").mkdir()
    tiles = read_tiles(csv_file, 64, tmp_path / "scratch", "source_image_cluster")
    split = split_groups(tiles.labels, tiles.groups)
    from safetensors.torch import load

    network = load_network(document.architecture, 3, load(package.read_weights()))

    def look(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return evaluate(network, pixels, document.normalisation, 16)

    train, validation, test = (
        look(np.asarray(tiles.pixels[rows])) for rows in (split.train, split.validation, split.test)
    )
    folders = (shared / "histology-tiles" / "crc-val-he-7k-mini", shared / "blood" / "pbc-normal")
    strange = [look(pictures(folder, 64)) for folder in folders]

    def told(method: Method) -> list[float]:
        measure = ruler(fit_familiarity(method, train[0], tiles.labels[split.train], *validation))
        return [auroc(measure(*test), measure(*other)) for other in strange]

    mahalanobis, standardised, energy = map(told, ("mahalanobis", "standardised", "energy"))
    assert min(mahalanobis) > 0.95
    assert np.mean(mahalanobis) > np.mean(standardised) > np.mean(energy)
