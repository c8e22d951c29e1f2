"""Learning from review: what reviewers corrected becomes labels, and the next model says what they said."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from reviewed import picture, write_run
from slides import write_tiff

import coverslip
from coverslip.errors import CoverslipError, RequestError, StoreIncompleteError
from coverslip.models.card import render_card
from coverslip.models.package import load_package
from coverslip.models.split import split_beside, split_groups
from coverslip.workflows.cli import run as command
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import Exclude, Relabel
from coverslip.workflows.review.labels import CorrectedLabels, read_labels
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.training_set import make_training_set
from coverslip.workflows.tile_classes import TileClassSettings, tile_classes

pytest.importorskip("timm", reason="torch and timm are not installed")

SIDE = 32
ANNA, BO = Reviewer("Anna"), Reviewer("Bo")
TRAINING = ["--mpp", "0.5", "--size", str(SIDE), "--epochs", "4", "--architecture", "test_resnet"]


def textures() -> dict[str, NDArray[np.uint8]]:
    """Real tissue as two classes, brown and blue, and as a laboratory that stains blue ones greyish."""
    from skimage.color import hed2rgb, rgb2hed
    from skimage.data import immunohistochemistry

    hed = rgb2hed(immunohistochemistry())
    nuclei, marker, none = hed[..., 0], hed[..., 2], np.zeros(hed.shape[:2])
    stains = {
        "brown": (0.3 * nuclei, none, 1.5 * marker + 0.05),
        "blue": (nuclei + 0.5 * marker + 0.02, none, none),
        "odd": (0.45 * nuclei + 0.25 * marker, none, 0.6 * marker + 0.06),
    }
    return {
        name: np.round(255 * np.clip(hed2rgb(np.stack(parts, axis=-1)), 0, 1)).astype(np.uint8)
        for name, parts in stains.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learnt")


@pytest.fixture(scope="module")
def labels(folder: Path) -> Path:
    """Tiles of the left parts of brown and blue, in eight groups of each."""
    rows = ["file,label,group"]
    (folder / "tiles").mkdir()
    for name in ("brown", "blue"):
        texture = textures()[name]
        for y in range(0, 512, SIDE):
            for x in range(0, 160, SIDE):
                file = f"tiles/{name}-{x}-{y}.png"
                Image.fromarray(texture[y : y + SIDE, x : x + SIDE]).save(folder / file)
                rows.append(f"{file},{name},{name}{y // 64}")
    path = folder / "tiles.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def model(folder: Path, labels: Path) -> Path:
    assert command(["train", "tiles", str(labels), "-o", str(folder / "first"), *TRAINING]) == 0
    return folder / "first"


@pytest.fixture(scope="module")
def slide(folder: Path) -> Path:
    """Glass, and on it a square of the odd stain."""
    rgb = np.full((12 * SIDE, 20 * SIDE, 3), 245, np.uint8)
    rgb[2 * SIDE : 10 * SIDE, 2 * SIDE : 18 * SIDE] = textures()["odd"][: 8 * SIDE]
    return write_tiff(folder / "odd.tif", rgb, 0.5, compression="deflate")


def run(slide: Path, out: Path, model: Path) -> Path:
    choices = TileClassSettings(strange_share=1.0, call_share=0.45)
    report = coverslip.run([str(slide)], out, tile_classes(model, choices), workers=1)
    assert report.failures == ()
    return out / "slides" / slide.name


@pytest.fixture(scope="module")
def home(folder: Path, slide: Path, model: Path) -> Path:
    return run(slide, folder / "before", model)


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The result, to review from scratch."""
    return Path(shutil.copytree(home, tmp_path / "slides" / home.name))


def columns(home: Path) -> NDArray[np.int64]:
    """Of each tile of a result, from the left."""
    return pq.read_table(home / "tiles.parquet")["x"].to_numpy() // SIDE


def called(home: Path, name: str) -> NDArray[np.bool_]:
    return np.array([one == name for one in pq.read_table(home / "tiles.parquet")["class"].to_pylist()])


def relabel(rows, label: str) -> Relabel:
    return Relabel(of="tiles", rows=tuple(np.asarray(rows).tolist()), label=label)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_next_model_says_what_reviewers_said(copy, folder, labels, model, slide, capsys):
    """Tiles of the left third corrected; those of the right half, which nobody touched, come out right."""
    left, right = columns(copy) < 7, columns(copy) > 9
    assert called(copy, "brown")[right].mean() > 0.8
    rows = np.flatnonzero(left & called(copy, "brown"))
    with open_case(copy, ANNA) as case:
        case.correct(relabel(rows, "blue"))
        case.sign("final", "stained paler than it learnt")
    learnt = folder / "second"
    asked = ["--corrections", str(copy.parents[1]), "--name-reviewers"]
    assert command(["train", "tiles", str(labels), "-o", str(learnt), *TRAINING, *asked]) == 0
    assert f"{len(rows)} labels from corrections by 1 reviewer" in capsys.readouterr().out
    after = run(slide, folder / "after", learnt)
    assert called(after, "blue")[right].mean() > 0.8

    first, second = (load_package(path).document for path in (model, learnt))
    assert first.training
    assert second.training
    assert second.metrics
    assert first.metrics
    corrections = second.training.corrections
    assert corrections
    assert (corrections.labels, corrections.changed, corrections.reviewers) == (len(rows), len(rows), 1)
    assert corrections.names == ("Anna",)
    assert corrections.learnt_only
    assert second.training.parts.train == first.training.parts.train + len(rows)
    assert second.training.parts.test == first.training.parts.test
    assert second.metrics.n == first.metrics.n
    assert second.metrics.balanced_accuracy > 0.9
    card = render_card(second)
    assert f"{len(rows)} came from signed reviews by 1 reviewer (Anna)" in card
    assert corrections.results[0] in card


def test_only_what_was_signed_is_learnt(copy):
    with open_case(copy, ANNA) as case:
        case.correct(relabel([1, 2], "blue"))
        with pytest.raises(RequestError, match="no signed review"):
            read_labels([copy])
        assert len(read_labels([copy], unsigned=True).examples) == 2
        case.sign("final", "")
        case.correct(relabel([3], "blue"))
        assert [one.row for one in read_labels([copy]).examples] == [1, 2]
        case.undo()
        case.correct(relabel([2], "brown"))
    found = read_labels([copy], unsigned=True)
    assert [(one.row, one.label, one.changed) for one in found.examples] == [
        (1, "blue", True),
        (2, "brown", False),
    ]


def test_what_reviewers_disagree_on_and_excluded_areas_are_left_out_and_counted(copy):
    tiles = pq.read_table(copy / "tiles.parquet")
    x, y = (tiles[name][4].as_py() for name in ("x", "y"))
    ring = [[x - 4, y - 4], [x + SIDE + 4, y - 4], [x + SIDE + 4, y + SIDE + 4], [x - 4, y + SIDE + 4]]
    area = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    with open_case(copy, ANNA) as case:
        case.correct(relabel([1, 2, 3, 4], "blue"))
        case.sign("final", "")
    with open_case(copy, BO) as case:
        case.correct(relabel([2], "brown"))
        case.correct(relabel([3], "blue"))
        case.correct(Exclude(id="fold", geometry=area, why="a fold"))
        case.sign("final", "")
    found = read_labels([copy])
    assert [(one.row, one.reviewers) for one in found.examples] == [(1, ("Anna",)), (3, ("Anna", "Bo"))]
    assert (found.disagreed, found.excluded, found.unsigned) == (1, 1, 0)
    assert found.reviewers == ("Anna", "Bo")
    assert found.results == (machine_digest(coverslip.read_result(copy)),)


def corrected(home: Path, rows) -> CorrectedLabels:
    with open_case(home, ANNA) as case:
        case.correct(relabel(rows, "blue"))
        case.sign("final", "")
    return read_labels([home])


@pytest.mark.parametrize("gone", [False, True])
def test_tiles_are_cut_where_they_lay_from_the_slide_or_its_copy(copy, labels, slide, tmp_path, gone):
    found = corrected(copy, [5, 40])
    kept = slide.rename(slide.with_suffix(".away")) if gone else slide
    try:
        (folder := tmp_path / "set").mkdir()
        made = make_training_set(labels, found, folder, mpp=0.5, size=SIDE)
    finally:
        kept.rename(slide)
    rows = lines(made.labels_csv)
    given = lines(labels)
    assert [row["label"] for row in rows[: len(given)]] == [row["label"] for row in given]
    tiles = pq.read_table(copy / "tiles.parquet")
    with coverslip.open_slide(slide) as whole:
        for row, number in zip(rows[len(given) :], (5, 40), strict=True):
            box = coverslip.wsi.Box(tiles["x"][number].as_py(), tiles["y"][number].as_py(), SIDE, SIDE)
            np.testing.assert_array_equal(
                np.asarray(Image.open(folder / row["file"])), whole.read(0, box).rgb
            )
            assert (row["label"], row["group"]) == ("blue", f"slide {found.examples[0].result.slide.digest}")


def test_without_slide_and_copy_nothing_is_cut(copy, slide, tmp_path):
    found = corrected(copy, [5])
    shutil.rmtree(copy / "slide.ome.zarr")
    kept = slide.rename(slide.with_suffix(".away"))
    try:
        with pytest.raises(StoreIncompleteError, match="no copy of it"):
            make_training_set(None, found, tmp_path, mpp=0.5, size=SIDE)
    finally:
        kept.rename(slide)


@pytest.mark.parametrize(
    ("mpp", "names", "problem"),
    [
        (1.0, {}, "are not what was reviewed"),
        (0.5, {"blue": "azure"}, "have classes that .* has not: azure"),
    ],
)
def test_what_does_not_fit_the_labels_file_is_refused(copy, labels, tmp_path, mpp, names, problem):
    found = corrected(copy, [5]).renamed(names)
    (folder := tmp_path / "set").mkdir()
    with pytest.raises(CoverslipError, match=problem):
        make_training_set(labels, found, folder, mpp=mpp, size=SIDE)


def nuclei(folder: Path) -> Path:
    """A labels file of drawn nuclei, 16 µm each with what is around it: brown ones are 3+."""
    rgb, lines = picture(seed=5), ["file,label,group"]
    for n, (y, x) in enumerate((y, x) for y in range(64, 350, 36) for x in range(64, 700, 36)):
        label = "negative" if rgb[y, x, 2] > rgb[y, x, 0] else "3+"
        Image.fromarray(rgb[y - 16 : y + 16, x - 16 : x + 16]).save(folder / f"{n}.png")
        lines.append(f"{n}.png,{label},{n % 40}")
    (folder / "nuclei.csv").write_text("\n".join(lines) + "\n")
    return folder / "nuclei.csv"


def test_cells_are_learnt_by_a_network_and_by_a_probe(tmp_path, capsys):
    """Each in the middle of its tile, beside what LABELS has, and not measured on."""
    home, labels = write_run(tmp_path / "out"), nuclei(tmp_path)
    table = pq.read_table(home / "cells.parquet")
    dark = np.flatnonzero(np.array(table["class"].to_pylist()) != "negative")
    with open_case(home, ANNA) as case:
        case.correct(Relabel(of="cells", rows=tuple(dark[:9].tolist()), label="3+"))
        case.correct(Relabel(of="cells", rows=(int(dark[9]),), label="negative"))
        case.sign("final", "")

    found = read_labels([tmp_path / "out"])
    assert [one.row for one in found.examples] == dark[:10].tolist()
    (made := tmp_path / "set").mkdir()
    make_training_set(labels, found, made, mpp=0.5, size=SIDE)
    for n in range(10):
        tile = np.asarray(Image.open(made / f"corrected/{n:06d}.png"))
        np.testing.assert_allclose(np.argwhere(tile[..., 0] < 160).mean(axis=0), (15.5, 15.5), atol=1.5)

    wanted = ["--mpp", "0.5", "--size", str(SIDE)]
    network = ["tiles", *wanted, "--epochs", "1", "--architecture", "test_resnet"]
    probe = ["probe", *wanted, "--encoder", "test_resnet", "--random-weights"]
    parts = []
    for name, asked in (("network", network), ("probe", probe), ("without", probe)):
        more = [] if name == "without" else ["--corrections", str(home)]
        package = tmp_path / name
        assert command(["train", asked[0], str(labels), "-o", str(package), *asked[1:], *more]) == 0
        training = load_package(package).document.training
        assert training
        parts.append(training.parts)
        if more:
            assert "10 labels from corrections by 1 reviewer" in capsys.readouterr().out
            assert training.corrections
            assert (training.corrections.labels, training.corrections.learnt_only) == (10, True)
    *corrections, without = parts
    assert [one.train for one in corrections] == [without.train + 10] * 2
    assert [one.test for one in corrections] == [without.test] * 2


def test_what_is_wrong_with_labels_is_said_of_the_file_that_was_given(copy, labels, tmp_path, capsys):
    corrected(copy, [5])
    asked = ["--mpp", "0.5", "--size", "64", "--corrections", str(copy), "--architecture", "test_resnet"]
    assert command(["train", "tiles", str(labels), "-o", str(tmp_path / "new"), *asked]) == 2
    assert f"{labels} with the corrections: has 1 problem" in capsys.readouterr().err


def test_tiles_of_one_case_never_straddle():
    """The groups of corrections are learnt from whole; the others are cut as if there were none."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 200), rng.integers(0, 40, 200)
    plain = split_groups(labels, groups)
    new = np.array([1, 0, 1]), np.array([90, 90, 91])
    beside = split_beside(np.r_[labels, new[0]], np.r_[groups, new[1]], 3)
    assert np.array_equal(beside.test, plain.test)
    assert np.array_equal(beside.validation, plain.validation)
    assert {200, 201, 202} < set(beside.train.tolist())
    shared = split_beside(np.r_[labels, 1], np.r_[groups, groups[plain.test[0]]], 1)
    assert plain.test[0] in shared.train
    with pytest.raises(RequestError, match="2 among the corrections only"):
        split_beside(np.r_[labels, 2], np.r_[groups, 90], 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "name a file LABELS"),
        (["--unsigned"], "needs --corrections"),
        (["--corrections", "OUT", "--rename", "blue"], "not of the form"),
    ],
)
def test_options_that_make_no_sense_are_refused(copy, tmp_path, capsys, given, said):
    corrected(copy, [5])
    asked = [str(copy) if one == "OUT" else one for one in given]
    assert command(["train", "tiles", "-o", str(tmp_path / "new"), *TRAINING, *asked]) == 2
    assert said in capsys.readouterr().err
