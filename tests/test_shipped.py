"""The models that come with Coverslip: small, sound, licensed, and as good as their cards say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest

from coverslip.models.card import render_card
from coverslip.models.detection import Seen, Thresholds, measure_detection
from coverslip.models.document import ModelDocument
from coverslip.models.kinds import read_any
from coverslip.models.library import known_models
from coverslip.models.licence import commercial_use
from coverslip.models.star_document import FinderDocument

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 8_000_000
DATA = {
    "blood-cells": "blood/pbc-normal",
    "cervical-cells": "cytology/cric-cervix-centred",
    "nuclei": "nuclei/bbbc038",
    "smear-cells": "blood/bccd",
}
SHIPPED = sorted(DATA)


@pytest.fixture(scope="module")
def recipes() -> ModuleType:
    """tools/train_model.py, which no package holds."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("train_model", ROOT / "tools" / "train_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_model"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_small_sound_and_free_to_use(name: str) -> None:
    known = known_models()[name]
    document = read_any(known.folder)
    assert known.origin == "coverslip"
    assert (known.folder / "weights.safetensors").stat().st_size <= MOST_BYTES
    assert document.licence in {"CC0-1.0", "CC-BY-4.0", "MIT"}
    assert commercial_use(document.licence)
    card = render_card(document)
    assert "not for" in card.casefold()
    assert "kept out of training" in card


def test_what_ships_is_what_can_be_trained_again(recipes: ModuleType) -> None:
    brought = {name for name, known in known_models().items() if known.origin == "coverslip"}
    assert brought == set(recipes.RECIPES) == set(SHIPPED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blood-cells", "cervical-cells"])
def test_tiles_it_never_saw_are_called_as_the_card_says(
    name: str, recipes: ModuleType, shared: Path, tmp_path: Path
) -> None:
    from coverslip.models.dataset import read_tiles
    from coverslip.models.engine import Engine
    from coverslip.models.metrics import balanced_accuracy, confusion_matrix
    from coverslip.models.package import load_package
    from coverslip.models.split import split_groups

    recipe, package = recipes.RECIPES[name], load_package(known_models()[name].folder)
    document, chosen = package.document, recipe.settings
    assert isinstance(document, ModelDocument)
    assert document.training is not None
    assert document.metrics is not None
    labels = recipes.write_labels(recipe.rows, shared / DATA[name], tmp_path)
    (tmp_path / "pixels").mkdir()
    tiles = read_tiles(labels, chosen.size, tmp_path / "pixels", "group", chosen.middle)
    assert tiles.sha256 == document.training.labels_sha256
    split = split_groups(tiles.labels, tiles.groups, chosen.shares, chosen.seed, tiles.classes)
    assert len(split.test) == document.metrics.n
    called = Engine(package, threads=1).predict(np.asarray(tiles.pixels[split.test])).argmax(axis=1)
    confusion = confusion_matrix(tiles.labels[split.test], called, len(tiles.classes))
    # Runtimes differ in the last digits, which a tile between two classes can show.
    assert balanced_accuracy(confusion) == pytest.approx(document.metrics.balanced_accuracy, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuclei", "smear-cells"])
def test_objects_it_never_saw_are_found_as_the_card_says(
    name: str, recipes: ModuleType, shared: Path, tmp_path: Path
) -> None:
    from coverslip.models.pictures import read_pictures
    from coverslip.models.split import split_groups
    from coverslip.models.star_finder import StarFinder

    recipe, finder = recipes.RECIPES[name], StarFinder(known_models()[name].folder, threads=1)
    document, chosen = finder.document, recipe.settings
    assert isinstance(document, FinderDocument)
    assert document.training is not None
    assert document.metrics is not None
    labels = recipes.write_labels(recipe.rows, shared / DATA[name], tmp_path)
    marked = read_pictures(labels, scale=chosen.scale, called=chosen.called)
    assert marked.sha256 == document.training.labels_sha256
    one = np.zeros(len(marked.pictures), np.intp)
    rows = split_groups(one, marked.groups, chosen.shares, chosen.seed, ("picture",)).test
    seen = [Seen(marked.pictures[row], *finder.look_at(marked.pictures[row].rgb)) for row in rows]
    thresholds = Thresholds(document.thresholds, document.overlap)
    found = measure_detection(seen, marked.groups[rows], thresholds, document.classes, "again")
    for now, then in zip(found.classes, document.metrics.classes, strict=True):
        assert now.there == then.there
        assert now.f1 == pytest.approx(then.f1, abs=0.01)


def test_nuclei_of_breast_are_as_many_as_qupath_finds(shared: Path, tmp_path: Path) -> None:
    """Within 10 % of the 319 of its watershed and the 331 of its StarDist, as
    petebankhead/2022-qupath-cell-detection states them."""
    import coverslip

    slide = shared / "wsi/ome-tiff/OS-1-detail.ome.tif"
    coverslip.run([str(slide)], tmp_path / "out", coverslip.cell_finding("nuclei"), workers=1)
    cells = pq.read_table(tmp_path / "out" / "slides" / slide.name / "cells.parquet")
    assert 319 * 0.9 <= len(cells) <= 331 * 1.1
