"""Slide-level models from slides' labels alone: on bags whose truth is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import coverslip

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.models.aggregator import AGGREGATORS, Kind
from coverslip.models.bag import read_bag, read_cohort
from coverslip.models.card import render_card
from coverslip.models.library import add_model, describe_model, find_model
from coverslip.models.slide_model import SlideModel
from coverslip.models.slide_training import SlideTrainingSettings, train_slides
from coverslip.models.split import fold_groups
from coverslip.ruo import RUO

WIDTH, WITNESSES = 16, 6
QUICK = SlideTrainingSettings(epochs=15, learning_rate=2e-3, name="demo", encoder="made up")


def write_bag(path: Path, features: np.ndarray, **more) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in {"features": features.astype(np.float32), **more}.items():
            file[name] = values
    return path


def cohort(folder: Path, slides: int = 36, random_labels: bool = False) -> Path:
    """Slides of 40 to 120 tiles, two per patient; in tumour the first few tiles are witnesses."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "slides.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "label", "group"])
        for number in range(slides):
            tumour = number // 2 % 2
            features = rng.normal(size=(rng.integers(40, 120), WIDTH))
            features[: WITNESSES * tumour, :3] += 4
            write_bag(folder / f"{number}.h5", features, coords=rng.integers(0, 9999, (len(features), 2)))
            label = rng.integers(2) if random_labels else tumour
            lines.writerow([f"{number}.h5", ("normal", "tumour")[label], f"patient {number // 2}"])
    return folder / "slides.csv"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cohort(tmp_path_factory.mktemp("cohort") / "bags")


@pytest.mark.parametrize("kind", AGGREGATORS)
def test_what_makes_a_slide_a_tumour_is_found(kind: Kind, labels, tmp_path):
    epochs = 6 if kind == "transmil" else 15
    rate = 2e-4 if kind == "transmil" else 2e-3
    chosen = SlideTrainingSettings(aggregator=kind, epochs=epochs, learning_rate=rate, encoder="made up")
    report = train_slides(labels, tmp_path / "model", chosen)
    assert report.metrics.balanced_accuracy >= 0.85
    model = SlideModel.load(tmp_path / "model")
    features = read_bag(labels.parent / "2.h5").features
    call = model.predict(features)
    assert model.document.classes[int(call.probabilities.argmax())] == "tumour"
    assert call.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert call.attention[:WITNESSES].sum() > 2 * WITNESSES / len(features)


@pytest.mark.parametrize(("times", "more"), [(1e-3, 0.5), (1e3, 0), (1, 1e3)])
def test_the_scale_of_features_does_not_matter(labels, tmp_path, times, more):
    """Encoders differ by orders of magnitude; one column never changes."""
    for path in labels.parent.glob("*.h5"):
        features = read_bag(path).features * times + more
        write_bag(tmp_path / path.name, np.c_[features, np.full(len(features), more)])
    (tmp_path / "slides.csv").write_text(labels.read_text())
    report = train_slides(tmp_path / "slides.csv", tmp_path / "model", QUICK)
    assert report.metrics.balanced_accuracy >= 0.85


def test_the_tiles_that_counted_most_are_the_witnesses(labels, tmp_path):
    train_slides(labels, tmp_path / "model", QUICK)
    call = SlideModel.load(tmp_path / "model").predict(read_bag(labels.parent / "6.h5").features)
    assert set(call.top(WITNESSES)) == set(range(WITNESSES))


def test_labels_that_mean_nothing_are_not_learnt(tmp_path):
    """A split that let a patient's slides into both parts would find something."""
    labels = cohort(tmp_path / "bags", random_labels=True)
    chosen = SlideTrainingSettings(folds=3, epochs=8, learning_rate=1e-3)
    report = train_slides(labels, tmp_path / "model", chosen)
    low, high = report.metrics.interval
    assert low <= 0.5 <= high
    assert report.metrics.n == 36


def test_cross_validation_measures_each_slide_once(labels, tmp_path):
    seen = []
    chosen = SlideTrainingSettings(folds=3, epochs=12, learning_rate=1e-3)
    report = train_slides(labels, tmp_path / "model", chosen, seen.append)
    assert report.metrics.n == 36
    assert report.metrics.groups == 18
    assert report.metrics.balanced_accuracy >= 0.85
    assert {epoch.fold for epoch in seen} == {0, 1, 2, 3}
    assert "3-fold cross-validation" in report.metrics.data
    assert report.document.training is not None
    assert report.document.training.folds == 3


def test_the_same_gives_the_same(labels, tmp_path):
    chosen = SlideTrainingSettings(epochs=3, most_tiles=20)
    one, other = (train_slides(labels, tmp_path / name, chosen) for name in "ab")
    assert one.document.weights_sha256 == other.document.weights_sha256
    changed = train_slides(labels, tmp_path / "c", SlideTrainingSettings(epochs=3, most_tiles=20, seed=1))
    assert changed.document.weights_sha256 != one.document.weights_sha256


def test_folds_hold_whole_groups_and_every_class():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    labels = rng.integers(0, 3, 30)[groups]
    fold = fold_groups(labels, groups, 5)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    for group in np.unique(groups):
        assert len(np.unique(fold[groups == group])) == 1
    for label in range(3):
        assert len(np.unique(fold[labels == label])) == 5
    with pytest.raises(RequestError, match="too few groups of the class b for 3 folds"):
        fold_groups(np.array([0, 0, 0, 1, 1]), np.arange(5), 3, classes=("a", "b"))


# what may be wrong


def test_bags_of_other_programs_are_read(tmp_path):
    """TRIDENT keeps a leading axis; older programs name them feats."""
    features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    trident = write_bag(tmp_path / "a.h5", features[None], coords=np.zeros((1, 5, 2), int))
    older = write_bag(tmp_path / "b.h5", features)
    with h5py.File(older, "a") as file:
        file.move("features", "feats")
    for path in (trident, older):
        np.testing.assert_array_equal(read_bag(path).features, features)
    assert read_bag(trident).coords is not None
    assert read_bag(older).coords is None


@pytest.mark.parametrize(
    ("features", "more", "says"),
    [
        (np.full((3, 2), np.nan), {}, "not finite"),
        (np.zeros((0, 2)), {}, r"shape \(0, 2\)"),
        (np.zeros(5), {}, r"shape \(5,\)"),
        (np.zeros((3, 2)), {"coords": np.zeros((4, 2), int)}, "3 features and 4 coords"),
    ],
)
def test_a_file_that_holds_no_bag_is_named(tmp_path, features, more, says):
    path = write_bag(tmp_path / "bad.h5", features, **more)
    with pytest.raises(RequestError, match=rf"bad\.h5.*{says}"):
        read_bag(path)


def test_other_files_are_named_with_what_makes_them(tmp_path):
    (tmp_path / "a.h5").write_text("no")
    with pytest.raises(RequestError, match="no HDF5 file"):
        read_bag(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["other"] = np.zeros(3)
    with pytest.raises(RequestError, match=r"no dataset named features.*coverslip embed"):
        read_bag(tmp_path / "b.h5")


def test_every_slide_without_features_is_listed_with_its_line(tmp_path):
    """A slide of glass alone, as embed writes it, and a file that is none."""
    write_bag(tmp_path / "a.h5", np.zeros((3, 4)))
    write_bag(tmp_path / "glass.h5", np.zeros((0, 4)))
    (tmp_path / "b.h5").write_text("no")
    (tmp_path / "slides.csv").write_text("file,label\na.h5,x\nglass.h5,y\nb.h5,y\n")
    with pytest.raises(
        RequestError, match=r"2 problems: line 3: glass\.h5 .*\(0, 4\).*line 4: b\.h5 is no HDF5"
    ):
        read_cohort(tmp_path / "slides.csv")


def test_a_cohort_of_two_widths_is_refused(tmp_path):
    write_bag(tmp_path / "a.h5", np.zeros((3, 4)))
    write_bag(tmp_path / "b.h5", np.zeros((3, 5)))
    (tmp_path / "slides.csv").write_text("file,label\na.h5,x\nb.h5,y\n")
    with pytest.raises(RequestError, match=r"4 in a\.h5, 5 in b\.h5"):
        read_cohort(tmp_path / "slides.csv")


def test_features_of_another_width_are_refused(labels, tmp_path):
    train_slides(labels, tmp_path / "model", SlideTrainingSettings(epochs=1, encoder="uni"))
    model = SlideModel.load(tmp_path / "model")
    for shape in ((5, WIDTH + 1), (0, WIDTH), (WIDTH,)):
        with pytest.raises(ModelMismatchError, match=r"takes \(n, 16\); embed the slide with uni"):
            model.predict(np.zeros(shape, np.float32))


def test_a_tile_model_is_no_slide_model_and_an_altered_one_is_refused(labels, tmp_path):
    train_slides(labels, tmp_path / "model", SlideTrainingSettings(epochs=1))
    from coverslip.models.package import load_package

    with pytest.raises(
        ModelUnavailableError, match=r"for slide-classification.*coverslip run --workflow slide"
    ):
        load_package(tmp_path / "model")
    document = json.loads((tmp_path / "model/model.json").read_text())
    document["aggregator"] = "clam-sb"
    (tmp_path / "model/model.json").write_text(json.dumps(document))
    with pytest.raises(ModelUnavailableError, match="not those of clam-sb"):
        SlideModel.load(tmp_path / "model")


@pytest.mark.parametrize("changes", [{"folds": 2}, {"folds": -1}, {"epochs": 0}, {"learning_rate": 0.0}])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(RequestError):
        SlideTrainingSettings(**changes)


def test_the_command_prints_what_it_measured(labels, tmp_path):
    out = tmp_path / "model"
    done = coverslip("train", "mil", labels, "-o", out, "--folds", 3, "--epochs", 2, "--encoder", "made up")
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy" in done.stdout
    assert "fold 3" in done.stdout
    assert RUO in done.stderr
    again = coverslip("train", "mil", labels, "-o", out)
    assert again.returncode == 2
    assert "already there" in again.stderr


def test_a_slide_model_is_known_by_name_and_has_a_card(labels, tmp_path, monkeypatch):
    monkeypatch.setenv("COVERSLIP_MODELS", str(tmp_path / "library"))
    train_slides(labels, tmp_path / "model", SlideTrainingSettings(epochs=1, encoder="uni", licence="MIT"))
    known = add_model(str(tmp_path / "model"), name="ours")
    assert SlideModel.load(known.folder).document == describe_model("ours")
    card = render_card(describe_model("ours"))
    assert "16 features of each tile, by the encoder uni" in card
    assert "36 slides of 18 groups" in card
    assert "| class | slides | called right |" in card
    assert card.endswith(f"**{RUO}**")
    with pytest.raises(
        ModelUnavailableError, match=r"for slide-classification.*coverslip run --workflow slide"
    ):
        find_model("ours")
