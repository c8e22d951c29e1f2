"""Training: tiles whose truth is known are learnt, nothing leaks, and a bad csv is refused as a whole."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.special import softmax

from coverslip.errors import RequestError
from coverslip.models.calibration import fit_temperature
from coverslip.models.card import render_card
from coverslip.models.colour import tile_colours
from coverslip.models.dataset import read_tiles
from coverslip.models.familiarity import fit_distance
from coverslip.models.metrics import balanced_accuracy, bootstrap_interval, confusion_matrix, measure
from coverslip.models.package import load_package
from coverslip.models.split import split_groups
from coverslip.ruo import RUO

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("timm", reason="timm is not installed")
from safetensors.torch import load_file  # noqa: E402

from coverslip.models.augmentation import augment, move, turn  # noqa: E402
from coverslip.models.checkpoint import Checkpoint  # noqa: E402
from coverslip.models.curve_plot import draw_curve  # noqa: E402
from coverslip.models.document import Architecture  # noqa: E402
from coverslip.models.engine import Engine  # noqa: E402
from coverslip.models.network import build_network, find_start, start_network  # noqa: E402
from coverslip.models.training import Epoch, TrainingSettings, class_weights, train_tiles  # noqa: E402
from coverslip.workflows.cli import run as command  # noqa: E402

SETTINGS = TrainingSettings(
    mpp=0.5, size=32, architecture="test_byobnet", epochs=6, batch=16, learning_rate=5e-3, stain="H&E"
)


def _tile(label: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Pink ground; "sparse" with two dark nuclei, "dense" with twelve: countable, so the truth is known."""
    image = np.full((size, size, 3), (235, 190, 215), np.float64) + rng.normal(0, 6, (size, size, 3))
    y, x = np.mgrid[:size, :size]
    for _ in range(12 if label == "dense" else 2):
        cy, cx = rng.uniform(0, size, 2)
        image[(y - cy) ** 2 + (x - cx) ** 2 < (size / 12) ** 2] = (90, 50, 130)
    return np.clip(image, 0, 255).astype(np.uint8)


def _make(folder: Path, n: int = 60, size: int = 32, group_size: int = 2) -> Path:
    """A csv with n tiles of each class, in groups of one class."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (f"{label}{i}.png", label, f"{label}-{i // group_size}")
        for label in ("sparse", "dense")
        for i in range(n)
    ]
    for file, label, _ in rows:
        Image.fromarray(_tile(label, rng, size)).save(folder / file)
    return _write_csv(folder, rows)


def _write_csv(folder: Path, rows, header=("file", "label", "group")) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return _make(tmp_path_factory.mktemp("tiles") / "set")


@pytest.fixture(scope="module")
def trained(labels, tmp_path_factory):
    events = []
    report = train_tiles(labels, tmp_path_factory.mktemp("models") / "cells", SETTINGS, events.append)
    return report, events


def test_countable_nuclei_are_told_apart(trained):
    report, _ = trained
    assert report.metrics.n == 18
    assert report.metrics.balanced_accuracy >= 0.85
    low, high = report.metrics.interval
    assert 0.5 < low <= report.metrics.balanced_accuracy <= high <= 1


def test_the_package_gives_the_figures_of_the_report(trained, labels, tmp_path):
    """The test part, cut and scored from outside through the package, gives the same confusion matrix."""
    report, _ = trained
    tiles = read_tiles(labels, 32, tmp_path)
    rows = split_groups(tiles.labels, tiles.groups, SETTINGS.shares, SETTINGS.seed).test
    found = Engine(load_package(report.package.folder), "cpu").predict(np.asarray(tiles.pixels[rows]))
    confusion = confusion_matrix(tiles.labels[rows], found.argmax(axis=1), 2)
    assert tuple(map(tuple, confusion.tolist())) == report.metrics.confusion


def test_tiles_unlike_those_of_training_are_far(trained):
    report, _ = trained
    engine, limit = Engine(report.package, "cpu"), report.package.document.out_of_distribution.limit
    rng = np.random.default_rng(9)
    like = engine.examine(np.stack([_tile("dense", rng, 32) for _ in range(20)])).distance
    green = engine.examine(np.full((1, 32, 32, 3), (0, 255, 0), np.uint8)).distance
    assert np.mean(like <= limit) >= 0.8
    assert green is not None
    assert green[0] > limit


def test_the_package_knows_the_colours_it_learnt_from(trained, labels, tmp_path):
    report, _ = trained
    known = report.package.document.colour
    tiles = read_tiles(labels, 32, tmp_path)
    rows = split_groups(tiles.labels, tiles.groups, SETTINGS.shares, SETTINGS.seed).train
    assert known.n == len(rows)
    assert known.mean == pytest.approx(tile_colours(tiles.pixels[rows]).mean(axis=0), abs=1e-4)


def test_the_package_says_where_it_is_from(trained, labels):
    report, _ = trained
    document = report.package.document
    assert document.research_use == RUO == report.notes[0]
    assert document.training.labels_sha256 == hashlib.sha256(labels.read_bytes()).hexdigest()
    assert (document.training.tiles, document.training.groups) == (120, 60)
    assert document.training.parts == report.parts
    assert (report.parts.train, report.parts.validation, report.parts.test) == (84, 18, 18)
    assert document.metrics == report.metrics
    assert (document.classes, document.stain, document.tile.size) == (("dense", "sparse"), "H&E", 32)
    assert document.calibration.n == 18


def test_training_from_random_weights_says_so(trained):
    report, _ = trained
    assert "random weights: timm/test_byobnet.r160_in1k is not in the local cache" in report.initialisation
    assert report.package.document.training.initialisation == report.initialisation
    assert any("random weights" in note for note in report.notes)


def test_progress_counts_epochs(trained):
    report, events = trained
    assert [event.epoch for event in events] == list(range(1, len(events) + 1))
    assert tuple(events) == report.history
    assert events[-1].loss < events[0].loss
    best = max(event.validation_balanced_accuracy for event in events)
    assert events[report.best_epoch - 1].validation_balanced_accuracy == best


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, labels, tmp_path):
    report, _ = trained
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    again = train_tiles(labels, tmp_path / "again", SETTINGS)
    assert torch.equal(torch.get_rng_state(), state), "training left another state of torch's random numbers"
    assert again.package.document == report.package.document
    quick = TrainingSettings(mpp=0.5, size=32, architecture="test_byobnet", epochs=1, seed=1)
    other = train_tiles(labels, tmp_path / "other", quick)
    assert other.package.document.weights_sha256 != report.package.document.weights_sha256


@pytest.mark.parametrize("batch", [84, 42, 21])
def test_a_training_of_a_few_steps_ends_well(labels, tmp_path, batch: int):
    """Of 4 steps a quarter is one, which leaves the schedule nothing to rise over."""
    settings = TrainingSettings(
        mpp=0.5, size=32, architecture="test_byobnet", pretrained=False, epochs=1, batch=batch
    )
    (epoch,) = train_tiles(labels, tmp_path / "few", settings).history
    assert np.isfinite(epoch.loss)


class Stop(Exception):
    """Raised on the way."""


def test_a_training_that_was_stopped_goes_on_and_gives_the_same_weights(labels, tmp_path):
    settings = TrainingSettings(
        mpp=0.5,
        size=32,
        epochs=4,
        architecture="test_byobnet",
        pretrained=False,
        geometry="moves",
        mixed=0.5,
        averaged=True,
        half=True,
    )

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 3:
            raise Stop

    whole = train_tiles(labels, tmp_path / "whole", settings)
    with pytest.raises(Stop):
        train_tiles(labels, tmp_path / "stopped", settings, stop)
    assert (tmp_path / ".stopped.training").exists()
    seen: list[int] = []
    resumed = train_tiles(labels, tmp_path / "stopped", settings, lambda epoch: seen.append(epoch.epoch))
    assert seen == [3, 4]
    assert not (tmp_path / ".stopped.training").exists()
    assert resumed.package.document.weights_sha256 == whole.package.document.weights_sha256
    training = resumed.package.document.training
    assert training is not None
    assert [point.loss for point in training.curve] == [epoch.loss for epoch in whole.history]
    assert draw_curve(resumed.package.document, training.curve).startswith("<svg")
    from safetensors.torch import load

    weights = load(resumed.package.read_weights())
    assert {str(tensor.dtype) for tensor in weights.values()} <= {"torch.float16", "torch.int64"}


def test_another_request_does_not_go_on_from_a_stopped_training(labels, tmp_path):
    checkpoint = Checkpoint(tmp_path / "model", "one request")
    checkpoint.save({"epoch": 3})
    assert checkpoint.load() == {"epoch": 3}
    assert Checkpoint(tmp_path / "model", "another").load() is None
    checkpoint.path.write_bytes(b"cut off")
    assert checkpoint.load() is None


def test_tiles_that_are_moved_keep_their_size_and_middle(labels, tmp_path):
    import torch

    tile = torch.full((4, 64, 64, 3), 255, dtype=torch.uint8)
    tile[:, 24:40, 24:40] = 40
    moved = move(tile, torch.Generator().manual_seed(1))
    assert moved.shape == tile.shape
    assert moved.dtype == torch.uint8
    assert (moved[:, 30:34, 30:34].float().mean(dim=(1, 2, 3)) < 150).all()
    assert not torch.equal(moved, tile)


def test_shuffled_labels_are_not_learnt(labels, tmp_path):
    """What cannot be known must score at chance; a leak of test tiles into any choice would not."""
    folder = shutil.copytree(labels.parent, tmp_path / "set")
    rows = _rows(labels)
    truth = np.random.default_rng(3).permutation([row[1] for row in rows])
    path = _write_csv(folder, [(row[0], label, row[0]) for row, label in zip(rows, truth, strict=True)])
    report = train_tiles(path, tmp_path / "noise", SETTINGS)
    low, high = report.metrics.interval
    assert low <= 0.5 <= high


def test_training_stops_when_validation_no_longer_improves(labels, tmp_path):
    settings = TrainingSettings(
        mpp=0.5, size=32, architecture="test_byobnet", epochs=30, patience=1, learning_rate=5e-3
    )
    report = train_tiles(labels, tmp_path / "stopped", settings)
    assert len(report.history) == report.best_epoch + 1 < 30


def test_cached_pretrained_weights_are_used(tmp_path):
    """A Hugging Face cache made by hand: the body is taken from it, the classifier is new."""
    architecture = Architecture(name="test_resnet")
    start = find_start(architecture, pretrained=True, cache=tmp_path)
    assert start.weights is None
    repo = re.findall(r"timm/\S+", start.sentence)[0]
    snapshot = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    published = build_network(architecture, 1000).state_dict()
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in published.items()}, snapshot / "model.safetensors")
    start = find_start(architecture, pretrained=True, cache=tmp_path)
    assert start.sentence.startswith(f"pretrained weights {repo} (licence ")
    found = start_network(architecture, 2, start).state_dict()
    assert torch.equal(found["conv1.0.weight"], published["conv1.0.weight"])
    assert found["fc.weight"].shape[0] == 2


def test_a_training_begins_with_a_packages_network_but_its_classifier(trained, labels, tmp_path):
    first = trained[0].package
    settings = replace(SETTINGS, start=str(first.folder), epochs=1, learning_rate=1e-9, seed=1)
    second = train_tiles(labels, tmp_path / "second", settings)
    known, found = (load_file(package.weights) for package in (first, second.package))
    convolution = next(name for name, value in known.items() if value.ndim == 4)
    torch.testing.assert_close(found[convolution], known[convolution], atol=1e-5, rtol=0)
    classifier = next(name for name, value in known.items() if value.ndim == 2 and "head" in name)
    assert not torch.allclose(found[classifier], known[classifier], atol=1e-3)
    assert first.document.weights_sha256 in second.initialisation
    assert second.initialisation in render_card(second.package.document)


def test_a_package_of_another_network_is_no_beginning(trained, labels, tmp_path):
    settings = replace(SETTINGS, start=str(trained[0].package.folder), architecture="test_resnet")
    with pytest.raises(RequestError, match="is test_byobnet with"):
        train_tiles(labels, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_the_network_of_the_model_to_begin_with(trained, labels, tmp_path, capsys):
    first = str(trained[0].package.folder)
    asked = ["train", "tiles", str(labels), "--mpp", "0.5", "--size", "32", "--epochs", "1", "--start", first]
    assert command([*asked, "-o", str(tmp_path / "second")]) == 0
    assert trained[0].package.document.weights_sha256 in capsys.readouterr().out
    assert load_package(tmp_path / "second").document.architecture.name == "test_byobnet"
    assert command([*asked, "-o", str(tmp_path / "third"), "--architecture", "resnet10t"]) == 2
    assert "leave one of the two out" in capsys.readouterr().err


def test_rarity_weighs_as_much_as_is_asked():
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    for balance, across in ((1.0, 10.0), (0.5, np.sqrt(10)), (0.0, 1.0)):
        weights = class_weights(labels, 3, balance)
        assert weights[1] / weights[0] == pytest.approx(across)
        assert weights[2] / weights[0] == pytest.approx(90**balance)
    assert class_weights(labels, 3, 1.0) @ np.bincount(labels) == pytest.approx(len(labels))


def test_every_problem_of_the_csv_is_named_at_once(tmp_path):
    path = _make(tmp_path / "set", n=4)
    folder = path.parent
    (folder / "text.png").write_text("no image")
    rows = [
        *_rows(path),
        ["gone.png", "dense", "x"],
        ["text.png", "dense", "x"],
        ["sparse0.png", "sparse", "x"],
        ["dense0.png", "", "x"],
        ["../../etc/passwd", "dense", "x"],
        ["dense1.png", "dense", ""],
    ]
    with pytest.raises(RequestError) as caught:
        train_tiles(_write_csv(folder, rows), tmp_path / "out", SETTINGS)
    message = str(caught.value)
    for said in (
        "line 10: gone.png is not there",
        "line 11: text.png is no image that can be read",
        "line 12: sparse0.png is already on line 2",
        "line 13: the label is empty",
        "line 14: ../../etc/passwd lies outside the folder",
        "the group is empty on 1 of 14 lines",
        "mend or remove these lines",
    ):
        assert said in message
    assert not (tmp_path / "out").exists()


def test_a_cut_off_image_is_named(tmp_path):
    path = _make(tmp_path / "set", n=4)
    whole = (path.parent / "dense2.png").read_bytes()
    (path.parent / "dense2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match=r"line 8: dense2\.png is damaged"):
        train_tiles(path, tmp_path / "out", SETTINGS)


def test_the_same_image_under_two_labels_is_refused(tmp_path):
    path = _make(tmp_path / "set", n=4)
    Image.open(path.parent / "dense0.png").save(path.parent / "twin.bmp")
    rows = [*_rows(path), ["twin.bmp", "sparse", "t"]]
    with pytest.raises(RequestError, match=r"different labels: dense0\.png \(line 6\) is dense, twin\.bmp"):
        train_tiles(_write_csv(path.parent, rows), tmp_path / "out", SETTINGS)


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        ([], ("file", "label"), "names no tile"),
        ([["a.png", "x"]], ("image", "label"), "lacks the column file; it has image, label"),
        ([["dense0.png", "x"], ["dense1.png", "x"]], ("file", "label"), "all tiles are of the class x"),
        ([["dense0.png", "x"], ["dense1.png", "y"]], ("file", "label"), "leave no group of the class"),
    ],
)
def test_a_csv_that_cannot_work_is_refused(labels, tmp_path, rows, header, said):
    folder = shutil.copytree(labels.parent, tmp_path / "set")
    with pytest.raises(RequestError, match=said):
        train_tiles(_write_csv(folder, rows, header), tmp_path / "out", SETTINGS)


def test_a_group_column_by_another_name_must_be_there(labels, tmp_path):
    settings = TrainingSettings(mpp=0.5, size=32, group_column="patient")
    with pytest.raises(RequestError, match="lacks the column patient; it has file, label, group"):
        train_tiles(labels, tmp_path / "out", settings)


def test_images_smaller_than_the_tile_are_refused(labels, tmp_path):
    with pytest.raises(RequestError, match="are 32 px, and the tile size 64: ask for 32 or less"):
        train_tiles(labels, tmp_path / "out", TrainingSettings(mpp=0.5, size=64))


def test_images_of_different_sizes_are_refused(tmp_path):
    path = _make(tmp_path / "set", n=4)
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(path.parent / "dense0.png")
    with pytest.raises(RequestError, match="the images are 32 to 50 px"):
        train_tiles(path, tmp_path / "out", SETTINGS)


def test_reduction_averages_areas_and_scales_the_resolution(tmp_path):
    path = _make(tmp_path / "set", n=4, size=64)
    (tmp_path / "scratch").mkdir()
    tiles = read_tiles(path, 32, tmp_path / "scratch")
    source = np.asarray(Image.open(path.parent / "sparse0.png"), np.float64)
    np.testing.assert_allclose(tiles.pixels[0], source.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3)), atol=0.51)
    assert tiles.scale == 2


def test_copies_of_an_image_join_their_groups(tmp_path):
    """File copies and lossless re-encodings are one group, through chains of groups too."""
    path = _make(tmp_path / "set", n=6, group_size=1)
    folder = path.parent
    shutil.copy(folder / "dense0.png", folder / "copy.png")
    Image.open(folder / "dense1.png").save(folder / "again.bmp")
    rows = [*_rows(path), ["copy.png", "dense", "chain"], ["again.bmp", "dense", "chain"]]
    (tmp_path / "scratch").mkdir()
    tiles = read_tiles(_write_csv(folder, rows), 32, tmp_path / "scratch")
    group = {row[0]: number for row, number in zip(rows, tiles.groups, strict=True)}
    assert group["dense0.png"] == group["dense1.png"] == group["copy.png"] == group["again.bmp"]
    assert len(set(group.values())) == 11


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": 0.0}, "tile.mpp|mpp 0.0"),
        ({"mpp": float("nan")}, "mpp"),
        ({"epochs": 0}, "epochs is below 1"),
        ({"architecture": "hf-hub:x/y"}, "architecture|name 'hf-hub:x/y'"),
        ({"name": "../up"}, "name '../up'"),
        ({"licence": ""}, "licence ''"),
        ({"balance": 1.5}, "balance"),
    ],
)
def test_settings_that_cannot_stand_are_refused_before_training(changes, said):
    with pytest.raises(RequestError, match=said):
        TrainingSettings(**({"mpp": 0.5} | changes))


def test_the_resolution_must_be_given():
    with pytest.raises(TypeError, match="mpp"):
        TrainingSettings()  # pyright: ignore[reportCallIssue]


@given(st.integers(0, 1000))
def test_turned_tiles_are_one_of_the_eight(seed):
    tile = torch.arange(3 * 3 * 3, dtype=torch.uint8).view(1, 3, 3, 3)
    turned = turn(tile, torch.Generator().manual_seed(seed))
    eight = [m for k in range(4) for r in [torch.rot90(tile, k, (1, 2))] for m in (r, r.flip(2))]
    assert sum(torch.equal(turned, one) for one in eight) == 1


def test_turns_reach_all_eight():
    tiles = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3).repeat(200, 1, 1, 1)
    turned = turn(tiles, torch.Generator().manual_seed(0))
    assert len({one.numpy().tobytes() for one in turned}) == 8


def test_augmentation_is_fixed_by_its_generator():
    tiles = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    one, two = (augment(tiles, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_metrics_count_by_hand():
    true, called = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    found = measure(true, called, np.arange(6), ("a", "b", "c"), "six tiles")
    assert found.confusion == ((2, 1, 0), (0, 2, 0), (1, 0, 0))
    assert [entry.accuracy for entry in found.classes] == [pytest.approx(2 / 3), 1.0, 0.0]
    assert found.balanced_accuracy == pytest.approx(5 / 9)


def test_a_class_without_tiles_has_no_accuracy_and_is_left_out():
    found = measure(np.array([0, 0]), np.array([0, 1]), np.arange(2), ("a", "b"), "two tiles")
    assert found.classes[1].accuracy is None
    assert found.balanced_accuracy == balanced_accuracy(np.array([[1, 1], [0, 0]])) == 0.5


def test_the_interval_is_that_of_the_binomial_where_the_answer_is_known():
    """Accuracy 0.8 in each of two classes of 200: the normal interval is ± 1.96 · √(0.16 / 400) = 0.039."""
    true = np.repeat([0, 1], 200)
    called = np.where(np.tile(np.arange(200) < 160, 2), true, 1 - true)
    low, high = bootstrap_interval(true, called, np.arange(400), 2)
    assert low == pytest.approx(0.8 - 0.0392, abs=0.006)
    assert high == pytest.approx(0.8 + 0.0392, abs=0.006)


def test_tiles_of_one_group_do_not_narrow_the_interval():
    true = np.repeat([0, 1], 200)
    called = np.where(np.tile(np.arange(200) < 160, 2), true, 1 - true)
    low, high = bootstrap_interval(true, called, np.arange(400) // 20, 2)
    alone = bootstrap_interval(true, called, np.arange(400), 2)
    assert high - low > 2 * (alone[1] - alone[0])


@given(st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_the_temperature_that_spoilt_the_logits_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5000, 3))
    draw = rng.random((5000, 1))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < draw).sum(axis=1)
    assert fit_temperature(logits * temperature, labels).temperature == pytest.approx(temperature, rel=0.08)


def test_a_feature_that_never_varies_does_not_break_the_distance():
    rng = np.random.default_rng(0)
    train = np.column_stack([rng.normal(3, 2, (500, 4)), np.zeros(500)])
    known = fit_distance(train, train)
    assert min(known.std) > 0
    assert 1 < known.limit < 3
