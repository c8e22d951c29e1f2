"""Probes: each estimator is its formula, and a package of one calls slides by it."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import coverslip
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NORMALISATION
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax, softmax
from slides import write_tiff

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.models.confusion_plot import draw_confusion
from coverslip.models.document import Architecture, ModelDocument, Probe, TileFit
from coverslip.models.head import Head
from coverslip.models.metrics import confusion_matrix, measure
from coverslip.models.probes import (
    PENALTIES,
    Estimator,
    LinearProbe,
    NearestNeighbours,
    Prototypes,
    SimpleShot,
    choose_penalty,
)
from coverslip.workflows.cli import run as command

ESTIMATORS: tuple[Estimator, ...] = (LinearProbe(), SimpleShot(), Prototypes(), NearestNeighbours())
WAYS = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)


def blobs(n: int, seed: int = 0, apart: float = 4.0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """n rows of each of three classes, (3n, 16), around centres `apart` standard deviations from 0."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), n)
    return (rng.normal(size=(3 * n, 16)) + apart * np.eye(16)[labels]).astype(np.float32), labels


@WAYS
def test_blobs_are_told_apart_as_well_as_can_be(estimator: Estimator):
    """Centres 3√2 σ apart: who knows them errs in 2 × Φ(−2.12) at most, 3.4 %, of the rows."""
    head = estimator.fit(*blobs(200, apart=3.0))
    features, labels = blobs(1000, seed=1, apart=3.0)
    assert np.mean(head.predict(features) == labels) > 0.95


@WAYS
def test_labels_that_say_nothing_are_not_learnt(estimator: Estimator):
    rng = np.random.default_rng(5)
    head = estimator.fit(rng.normal(size=(300, 8)).astype(np.float32), rng.integers(0, 3, 300))
    called = head.predict(rng.normal(size=(3000, 8)).astype(np.float32))
    assert abs(np.mean(called == rng.integers(0, 3, 3000)) - 1 / 3) < 0.04


@WAYS
def test_names_of_classes_come_back_in_their_order(estimator: Estimator):
    features, labels = blobs(20)
    names = np.array(["tumour", "benign", "artefact"])
    head = estimator.fit(features, names[labels])
    assert head.classes_.tolist() == ["artefact", "benign", "tumour"]
    assert (head.predict(features) == names[labels]).all()
    assert head.predict_proba(features)[0].argmax() == 2


@WAYS
def test_probabilities_are_float32_and_sum_to_1(estimator: Estimator):
    head = estimator.fit(*blobs(20))
    found = head.predict_proba(blobs(20, seed=1)[0])
    assert (found.dtype, found.shape) == (np.float32, (60, 3))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (head.predict_proba(np.zeros((0, 16), np.float32))).shape == (0, 3)


@WAYS
def test_rows_are_called_each_by_itself_and_the_input_is_left_alone(estimator: Estimator):
    features, labels = blobs(300)
    before = features.copy()
    head = estimator.fit(features, labels)
    whole = head.decision_function(features)
    np.testing.assert_allclose(head.decision_function(features[700:703]), whole[700:703], atol=1e-4)
    np.testing.assert_array_equal(features, before)


@WAYS
@given(scale=st.sampled_from([1e-4, 1.0, 1e3]), offset=st.sampled_from([0.0, 0.5]))
@settings(deadline=None)
def test_an_encoders_scale_changes_no_call_nor_how_sure_it_is(
    estimator: Estimator, scale: float, offset: float
):
    features, labels = blobs(30)
    strange, _ = blobs(30, seed=2, apart=1.0)
    one = estimator.fit(features + np.float32(offset), labels)
    other = estimator.fit((features + np.float32(offset)) * np.float32(scale), labels)
    expected = one.predict_proba(strange + np.float32(offset))
    found = other.predict_proba((strange + np.float32(offset)) * np.float32(scale))
    np.testing.assert_allclose(found, expected, atol=2e-3)


@WAYS
@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.zeros(3), [0, 1, 0], "are no table"),
        (np.zeros((3, 2), np.int64), [0, 1, 0], "are no table"),
        (np.zeros((3, 2)), [0, 1], "give one for each row"),
        (np.zeros((3, 2)), [1, 1, 1], "fewer than two classes"),
        (np.array([[0.0], [np.nan]]), [0, 1], "hold NaN"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(estimator: Estimator, features, labels, said: str):
    with pytest.raises(RequestError, match=said):
        estimator.fit(features, labels)


@WAYS
def test_features_of_another_encoder_are_refused(estimator: Estimator):
    head = estimator.fit(*blobs(5))
    with pytest.raises(RequestError, match="which were 16 of each"):
        head.predict(np.zeros((2, 8), np.float32))
    with pytest.raises(RequestError, match="NaN"):
        head.predict(np.full((1, 16), np.nan, np.float32))


@WAYS
def test_one_row_of_each_class_is_enough(estimator: Estimator):
    features, labels = blobs(1, apart=6.0)
    unseen, truth = blobs(50, seed=3, apart=6.0)
    assert np.mean(estimator.fit(features, labels).predict(unseen) == truth) > 0.9


def test_simpleshot_is_its_formula():
    features, labels = blobs(40, apart=1.0)
    rows, _ = blobs(40, seed=1, apart=1.0)
    middle = features.astype(np.float64).mean(axis=0)
    learnt, asked = (
        (x - middle) / np.sqrt(((x - middle) ** 2).sum(axis=1, keepdims=True)) for x in (features, rows)
    )
    means = np.array([learnt[labels == label].mean(axis=0) for label in range(3)])
    squared = np.array([[((row - mean) ** 2).sum() for mean in means] for row in asked])
    head = SimpleShot().fit(features, labels)
    assert (head.predict(rows) == squared.argmin(axis=1)).all()
    within = np.mean([((row - means[label]) ** 2).sum() for row, label in zip(learnt, labels, strict=True)])
    np.testing.assert_allclose(head.predict_proba(rows), softmax(-squared / within, axis=1), atol=1e-5)


def test_simpleshot_looks_at_directions_only_and_prototypes_at_lengths_too():
    """Class means at (1, 0) and (9, 0) from the middle: along one direction lengths tell them apart."""
    features = np.array([[0.0, 1], [0, -1], [4, 0], [40, 0]])
    labels = [0, 0, 1, 1]
    far, middle = np.array([[12.0, 10.0]]), np.mean(features, axis=0)
    assert Prototypes().fit(features, labels).predict(far).tolist() == [1]
    shot = SimpleShot().fit(features, labels)
    nearer = middle + 0.01 * (far - middle)
    np.testing.assert_allclose(shot.decision_function(far), shot.decision_function(nearer), atol=1e-5)


def test_prototypes_are_the_nearest_mean():
    features, labels = blobs(40, apart=1.0)
    rows, _ = blobs(40, seed=1, apart=1.0)
    means = np.array([features[labels == label].mean(axis=0) for label in range(3)], np.float64)
    squared = ((rows[:, None].astype(np.float64) - means) ** 2).sum(axis=2)
    within = ((features - means[labels]) ** 2).sum(axis=1).mean()
    head = Prototypes().fit(features, labels)
    np.testing.assert_allclose(head.decision_function(rows), -squared / within, rtol=1e-4)


@given(neighbours=st.integers(1, 40), temperature=st.sampled_from([0.01, 0.07, 1.0]), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_neighbours_are_those_of_a_search_by_hand(neighbours: int, temperature: float, seed: int):
    features, labels = blobs(10, seed, apart=0.5)
    rows, _ = blobs(3, seed + 100, apart=0.5)
    head = NearestNeighbours(neighbours, temperature).fit(features, labels)
    expected = []
    for row in rows.astype(np.float64):
        cosine = [float(row @ x / np.linalg.norm(row) / np.linalg.norm(x)) for x in features.astype(float)]
        nearest = sorted(range(len(cosine)), key=lambda number: -cosine[number])[:neighbours]
        votes = np.zeros(3)
        for number in nearest:
            votes[labels[number]] += np.exp(cosine[number] / temperature)
        expected.append(votes / votes.sum())
    np.testing.assert_allclose(head.predict_proba(rows), expected, atol=1e-3)


def test_a_vote_of_none_is_rare_and_not_impossible():
    head = NearestNeighbours(1).fit(np.eye(2, dtype=np.float32), [0, 1])
    np.testing.assert_allclose(head.predict_proba(np.array([[1.0, 0.1]]))[0], [0.9999, 0.0001], atol=1e-5)


@pytest.mark.parametrize("setting", [{"n_neighbors": 0}, {"temperature": 0.0}])
def test_neighbours_that_cannot_vote_are_refused(setting):
    with pytest.raises(RequestError, match="nearest neighbours"):
        NearestNeighbours(**setting)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_the_linear_probe_is_at_the_least_of_scikit_learns_loss(penalty: float):
    """Its gradient by central differences, on raw features: a loss written down anew is 0 there."""
    features, labels = blobs(30, apart=1.0)
    features = (features * np.linspace(0.5, 20, 16) + 3).astype(np.float32)[: 30 + 20 + 5]
    labels = labels[: len(features)]
    head = LinearProbe(penalty).fit(features, labels)
    std = np.full(16, np.sqrt(features.var(axis=0, dtype=np.float64).mean()))
    weights = len(labels) / (2 * np.bincount(labels))[labels]

    def loss(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> float:
        logs = log_softmax(features.astype(np.float64) @ weight.T + bias, axis=1)
        each = -logs[np.arange(len(labels)), labels]
        return float(penalty * (weights * each).sum() + 0.5 * ((weight * std) ** 2).sum())

    weight, bias = head.weight.astype(np.float64), head.bias.astype(np.float64)
    least = loss(weight, bias)
    for place in np.ndindex(*weight.shape):
        for step in (-0.02, 0.02):
            moved = weight.copy()
            moved[place] += step / std[place[1]]
            assert loss(moved, bias) > least - 1e-4 * abs(least)
    for step in ([0.02, 0], [-0.02, 0]):
        assert loss(weight, bias + step) > least - 1e-4 * abs(least)


def test_a_rare_class_counts_as_much_as_a_common_one():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (900, 1)), rng.normal(2, 1, (30, 1))]).astype(np.float32)
    head = LinearProbe().fit(features, np.repeat([0, 1], [900, 30]))
    border = -(head.bias[1] - head.bias[0]) / (head.weight[1] - head.weight[0])
    assert border[0] == pytest.approx(1, abs=0.3)


def test_a_feature_that_never_varies_is_no_problem():
    features, labels = blobs(20)
    features[:, 3] = 1e4
    head = LinearProbe().fit(features, labels)
    assert np.isfinite(head.weight).all()
    assert np.mean(head.predict(features) == labels) > 0.95


def test_the_penalty_is_taken_from_other_rows():
    """Few rows of many features want a strong one; without noise, a weak one is best."""
    rng = np.random.default_rng(0)

    def noisy(n: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        labels = np.arange(n) % 2
        return (rng.normal(size=(n, 200)) + 0.15 * labels[:, None]).astype(np.float32), labels

    strong = choose_penalty(*noisy(40), *noisy(1000))
    weak = choose_penalty(*blobs(50, apart=20.0), *blobs(50, seed=1, apart=20.0))
    assert strong.C <= 0.1
    assert weak.C > strong.C
    assert {strong.C, weak.C} <= set(PENALTIES)


def test_validation_rows_of_a_class_not_learnt_are_refused():
    features, labels = blobs(5)
    with pytest.raises(RequestError, match="of the classes learnt"):
        choose_penalty(features, labels, features[:2], [0, 7])
    with pytest.raises(RequestError, match="C 0"):
        LinearProbe(0)


def test_a_table_of_features_need_not_be_float32():
    features, labels = blobs(20)
    for kind in (np.float16, np.float64):
        found = SimpleShot().fit(features.astype(kind), labels).predict(features.astype(kind))
        assert np.mean(found == labels) > 0.95


torch = pytest.importorskip("torch", reason="torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")
from coverslip.models.dataset import read_tiles  # noqa: E402
from coverslip.models.embedder import Embedder  # noqa: E402
from coverslip.models.encoders import find_encoder  # noqa: E402
from coverslip.models.engine import Engine  # noqa: E402
from coverslip.models.package import load_package  # noqa: E402
from coverslip.models.probe_package import read_head  # noqa: E402
from coverslip.models.probe_training import ProbeSettings, draw_shots, train_probe  # noqa: E402
from coverslip.models.split import split_groups  # noqa: E402
from coverslip.models.weights import find_weights  # noqa: E402

SIDE = 32
ENCODER = "test_resnet"
METHODS = ("linear", "simpleshot", "prototypes", "knn")


def cells(dense: bool, rng: np.random.Generator, size: int = SIDE) -> NDArray[np.uint8]:
    """Pink ground with two dark nuclei, or twelve on each 32 × 32 px."""
    image = np.full((size, size, 3), (225, 180, 205), np.float64) + rng.normal(0, 6, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    for _ in range((12 if dense else 2) * (size // SIDE) ** 2):
        cy, cx = rng.uniform(0, size, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < (SIDE / 12) ** 2] = (90, 50, 130)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labels.csv` of 60 tiles of each class in groups of two, and `weights.safetensors` of an encoder."""
    from safetensors.torch import save_file

    folder, rng = tmp_path_factory.mktemp("probes"), np.random.default_rng(0)
    rows = ["file,label,group"]
    for number in range(60):
        for label in ("dense", "sparse"):
            Image.fromarray(cells(label == "dense", rng)).save(folder / f"{label}{number}.png")
            rows.append(f"{label}{number}.png,{label},{label}{number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = timm.create_model(ENCODER, num_classes=0)
        # Fresh norms do nothing and would hide mistakes.
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    save_file(network.eval().state_dict(), folder / "weights.safetensors")
    return folder


def chosen(folder: Path, method: str, **changes) -> ProbeSettings:
    weights = folder / "weights.safetensors"
    settings = ProbeSettings(mpp=0.5, encoder=ENCODER, size=SIDE, weights=weights, device="cpu")
    return replace(settings, method=method, **changes)


@pytest.fixture(scope="module")
def trained(folder: Path):
    made = {}
    for method in METHODS:
        made[method] = train_probe(folder / "labels.csv", folder / method, chosen(folder, method))
    return made


def features_by_hand(tiles: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    """Sent through timm's own network."""
    from safetensors.torch import load_file

    network = timm.create_model(ENCODER, num_classes=0).eval()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    normal = (tiles / 255 - NORMALISATION.mean) / NORMALISATION.std
    with torch.inference_mode():
        return network(torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def estimator_of(method: str, document: ModelDocument) -> Estimator:
    assert document.probe is not None
    if method == "linear":
        assert document.probe.penalty is not None
        return LinearProbe(document.probe.penalty)
    return {"simpleshot": SimpleShot(), "prototypes": Prototypes(), "knn": NearestNeighbours()}[method]


@pytest.mark.parametrize("method", METHODS)
def test_the_package_calls_as_the_estimator_fitted_by_hand(
    trained, folder: Path, tmp_path: Path, method: str
):
    """Features from timm alone, the training part's labels, the estimator, the temperature: the same
    probabilities as the engine gives, so that neither encoder nor head can be another."""
    package = load_package(trained[method].package.folder)
    tiles = read_tiles(folder / "labels.csv", SIDE, tmp_path)
    split = split_groups(tiles.labels, tiles.groups)
    features = features_by_hand(np.asarray(tiles.pixels), folder)
    head = estimator_of(method, package.document).fit(features[split.train], tiles.labels[split.train])
    logits = head.decision_function(features[split.test]) / package.document.calibration.temperature
    found = Engine(package, "cpu").predict(np.asarray(tiles.pixels[split.test]))
    np.testing.assert_allclose(found, softmax(logits, axis=1), atol=5e-3)
    confusion = confusion_matrix(tiles.labels[split.test], found.argmax(axis=1), 2)
    assert tuple(map(tuple, confusion.tolist())) == trained[method].metrics.confusion


@pytest.mark.parametrize("method", METHODS)
def test_countable_nuclei_are_told_apart(trained, method: str):
    report = trained[method]
    assert report.metrics.n == 18
    assert report.metrics.balanced_accuracy >= 0.85


def test_shuffled_labels_are_not_learnt(folder: Path, tmp_path: Path):
    rows = [line.split(",") for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    drawn = np.random.default_rng(3).permutation([row[1] for row in rows])
    lines = [f"{row[0]},{label},{row[0]}" for row, label in zip(rows, drawn, strict=True)]
    (folder / "shuffled.csv").write_text("\n".join(["file,label,group", *lines]) + "\n")
    report = train_probe(folder / "shuffled.csv", tmp_path / "noise", chosen(folder, "linear"))
    low, high = report.metrics.interval
    assert low <= 0.5 <= high


def test_the_document_says_what_it_is(trained, folder: Path):
    import hashlib

    document = trained["knn"].package.document
    assert document.probe == Probe(
        encoder=ENCODER,
        version="weights.safetensors",
        sha256=hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        pooling="own",
        features=find_encoder(ENCODER).features,
        method="knn",
        neighbours=20,
        temperature=0.07,
    )
    assert document.licence == find_encoder(ENCODER).licence
    assert (document.training.parts.train, document.training.epochs) == (84, 0)
    assert document.reliability is not None
    assert document.colour is not None
    assert document.prediction_sets is not None
    assert any("holds the encoder's weights" in note for note in trained["knn"].notes)


def test_the_same_settings_give_the_same_bytes(trained, folder: Path, tmp_path: Path):
    again = train_probe(folder / "labels.csv", tmp_path / "again", chosen(folder, "linear"))
    before = trained["linear"].package
    assert again.package.document.weights_sha256 == before.document.weights_sha256
    assert again.package.document_sha256 == before.document_sha256


def test_strange_tiles_are_far(trained):
    for method in METHODS:
        package, rng = trained[method].package, np.random.default_rng(7)
        engine, limit = Engine(package, "cpu"), package.document.out_of_distribution.limit
        familiar = engine.examine(np.stack([cells(True, rng) for _ in range(20)])).distance
        strange = engine.examine(np.full((1, SIDE, SIDE, 3), (0, 255, 0), np.uint8)).distance
        assert familiar is not None
        assert strange is not None
        assert np.mean(familiar <= limit) >= 0.7
        assert strange[0] > limit


def test_every_runtime_computes_the_same(trained):
    tiles = np.stack([cells(number % 2 == 0, np.random.default_rng(number)) for number in range(6)])
    expected = Engine(trained["knn"].package, "cpu", runtime="torch").predict(tiles)
    pytest.importorskip("openvino", reason="openvino is not installed")
    found = Engine(trained["knn"].package, "cpu", runtime="openvino").predict(tiles)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert Engine(trained["knn"].package, "cpu").predict(tiles[:0]).shape == (0, 2)


def test_shots_are_so_many_of_each_class_and_the_other_parts_stay(folder: Path, tmp_path: Path):
    tiles = read_tiles(folder / "labels.csv", SIDE, tmp_path)
    split = split_groups(tiles.labels, tiles.groups)
    few = draw_shots(tiles, split, 5, seed=0)
    assert np.bincount(tiles.labels[few.train]).tolist() == [5, 5]
    assert set(few.train) <= set(split.train)
    assert few.test.tolist() == split.test.tolist()
    assert few.train.tolist() != draw_shots(tiles, split, 5, seed=1).train.tolist()
    with pytest.raises(RequestError, match="43 shots: are more than the 42 tiles to learn dense from"):
        draw_shots(tiles, split, 43, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_one_shot_makes_a_package(folder: Path, tmp_path: Path, method: str):
    report = train_probe(folder / "labels.csv", tmp_path / "one", chosen(folder, method, shots=1))
    assert report.parts.train == 2
    assert report.package.document.probe.shots == 1
    found = Engine(report.package, "cpu").predict(np.stack([cells(True, np.random.default_rng(1))]))
    assert np.isfinite(found).all()


def test_a_transformer_is_packed_whole(folder: Path, tmp_path: Path):
    """A transformer keeps its positions, and its features are those `coverslip embed` makes."""
    settings = replace(chosen(folder, "simpleshot"), encoder="test_vit", weights=None, random=True, size=160)
    big = tmp_path / "big"
    big.mkdir()
    lines = ["file,label"]
    for number in range(8):
        for label in ("dense", "sparse"):
            picture = cells(label == "dense", np.random.default_rng(number), 160)
            Image.fromarray(picture).save(big / f"{label}{number}.png")
            lines.append(f"{label}{number}.png,{label}")
    (big / "labels.csv").write_text("\n".join(lines) + "\n")
    report = train_probe(big / "labels.csv", tmp_path / "vit", settings)
    tiles = np.stack([cells(True, np.random.default_rng(50), 160)])
    from coverslip.models.weights import random_weights

    encoder = find_encoder("test_vit")
    features = Embedder(encoder, random_weights(encoder), 160, "cpu").embed(tiles)
    head: Head = read_head(report.package)
    assert report.package.document.calibration is not None
    expected = softmax(
        head.decision_function(features) / report.package.document.calibration.temperature, axis=1
    )
    np.testing.assert_allclose(Engine(report.package, "cpu").predict(tiles), expected, atol=1e-3)
    assert any("weights are random" in note for note in report.notes)


def test_missing_weights_end_it_before_a_tile_is_read(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelUnavailableError, match="accept its licence") as caught:
        train_probe(tmp_path / "none.csv", tmp_path / "out", ProbeSettings(mpp=0.5, encoder="virchow2"))
    with pytest.raises(ModelUnavailableError) as expected:
        find_weights(find_encoder("virchow2"))
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shots": 0}, "shots are below 1"),
        ({"method": "svm"}, "no method is 'svm', but linear, simpleshot, prototypes, knn"),
        ({"coverage": 1.0}, "coverage is no share"),
        ({"random": True, "weights": "w.safetensors"}, "random ones asked for"),
        ({"neighbours": 0}, "nearest neighbours"),
        ({"seed": -1}, "seed is below 0"),
    ],
)
def test_settings_that_cannot_stand_are_refused(changes, said: str):
    with pytest.raises(RequestError, match=said):
        ProbeSettings(**({"mpp": 0.5, "encoder": ENCODER} | changes))


def test_statements_that_may_not_stand_are_refused_before_tiles_are_read(folder: Path, tmp_path: Path):
    with pytest.raises(RequestError, match="name"):
        train_probe(tmp_path / "none.csv", tmp_path / "out", chosen(folder, "knn", name="../up"))
    with pytest.raises(RequestError, match="problem: mpp: Input should be greater than 0"):
        train_probe(tmp_path / "none.csv", tmp_path / "out", chosen(folder, "knn", mpp=0.0))
    (tmp_path / "there").mkdir()
    with pytest.raises(RequestError, match="is already there"):
        train_probe(tmp_path / "none.csv", tmp_path / "there", chosen(folder, "knn"))


def test_a_head_that_does_not_fit_the_document_is_refused(trained, tmp_path: Path):
    folder = shutil.copytree(trained["linear"].package.folder, tmp_path / "bent")
    document = json.loads((folder / "model.json").read_text())
    document["probe"] |= {"method": "prototypes", "penalty": None}
    (folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelUnavailableError, match="does not fit the probe"):
        Engine(load_package(folder), "cpu")
    document["probe"] |= {"method": "knn"}
    (folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelUnavailableError, match="neighbours and temperature must be given for knn"):
        load_package(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "knn"])
def test_a_slide_is_called_by_it_through_the_command_line(folder: Path, tmp_path: Path, capsys, method: str):
    """Left half sparse, right half dense: each tile's class is where its nuclei are."""
    model, rng = tmp_path / "model", np.random.default_rng(11)
    options = ["--encoder", ENCODER, "--weights", str(folder / "weights.safetensors"), "--size", str(SIDE)]
    arguments = ["train", "probe", str(folder / "labels.csv"), "-o", str(model), "--mpp", "0.5", *options]
    assert command([*arguments, "--method", method, "--shots", "20", "--name", "nuclei"]) == 0
    said = capsys.readouterr().out
    assert "balanced accuracy" in said
    assert "tiles embedded" in said
    glass = np.full((20 * SIDE, 28 * SIDE, 3), 245, np.uint8)
    halves = [cells(dense, rng, 12 * SIDE) for dense in (False, True)]
    glass[4 * SIDE : 16 * SIDE, 2 * SIDE : 26 * SIDE] = np.hstack(halves)
    slide = write_tiff(tmp_path / "halves.tif", glass, 0.5, compression="deflate")
    done = coverslip("run", slide, "-o", tmp_path / "out", "--workflow", "tiles", "--model", model)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out" / "slides" / "halves.tif" / "tiles.parquet")
    x, called = table["x"].to_numpy(), np.array(table["class"].to_pylist())
    inside = (x >= 2 * SIDE) & (x + SIDE <= 26 * SIDE)
    truth = np.where(x + SIDE / 2 < 14 * SIDE, "sparse", "dense")
    assert inside.sum() > 200
    assert np.mean((called == truth)[inside]) > 0.85
    assert command(["models", "verify", str(model)]) == 0
    assert command(["models", "show", str(model)]) == 0
    capsys.readouterr()
    assert command(["models", "card", str(model), "--plots", str(tmp_path / "plots")]) == 0
    card = capsys.readouterr().out
    assert f"On features of the encoder {ENCODER}: " in card
    assert "from 20 tiles of each class" in card
    assert "epochs" not in card
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "confusion.svg",
        "reliability.svg",
    ]


def test_the_command_names_what_is_missing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "labels.csv").write_text("no,table\n")
    arguments = ["--encoder", "uni", "--mpp", "0.5", "-o", str(tmp_path / "out")]
    assert command(["train", "probe", str(tmp_path / "labels.csv"), *arguments]) == 2
    assert "uni: its weights are not in the local Hugging Face cache" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_confusion_plot_holds_every_count_and_escapes_names():
    truth, called = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 0, 2])
    classes = ("a & <b>", "a very long name of a class indeed", "c")
    metrics = measure(truth, called, np.arange(6), classes, "six tiles")
    document = ModelDocument(
        name="demo",
        version="1",
        classes=classes,
        tile=TileFit(size=SIDE, mpp=0.5, tolerance=0.1),
        stain=None,
        normalisation=NORMALISATION,
        architecture=Architecture(name="test_resnet"),
        licence="MIT",
        intended_use="research",
        training=None,
        metrics=metrics,
        calibration=None,
        out_of_distribution=None,
        weights_sha256="0" * 64,
        created_with={},
    )
    plot = ET.fromstring(draw_confusion(document, metrics))  # noqa: S314 (our own)
    space = "{http://www.w3.org/2000/svg}"
    told = [square[0].text for square in plot.iter(f"{space}rect") if len(square)]
    assert [int(text.rpartition(" ")[2]) for text in told] == [2, 1, 0, 0, 1, 0, 1, 0, 1]
    assert told[1] == "a & <b> called a very long name of a class indeed: 1"
    texts = [text.text for text in plot.iter(f"{space}text")]
    assert "67%" in texts
    assert "a very long name of a c…" in texts
    colours = [square.get("fill") for square in plot.iter(f"{space}rect") if len(square)]
    assert colours[2] == "#ffffff"
    assert colours[4] == "#0072b2"
