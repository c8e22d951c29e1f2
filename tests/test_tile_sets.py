"""The benchmark of tile sets: what it reports of features that know, or do not know, and of a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("timm", reason="torch and timm are not installed")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Of the package `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.tile_sets

    return benchmarks.tile_sets


def _right(bench: ModuleType, features: NDArray[np.floating], tiles) -> float:
    return float((bench.cross_validate(features.astype(np.float32), tiles) == tiles.labels).mean())


def test_what_knows_the_class_is_used_and_what_knows_the_group_is_not(bench: ModuleType) -> None:
    """A mark that a group has to itself would call its tiles right if others of it were learnt from."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 2)
    labels = np.repeat(rng.permutation(np.repeat([0, 1, 2], 20)), 2)
    tiles = bench.Labelled(np.zeros((120, 1, 1, 3), np.uint8), labels, groups, ("a", "b", "c"))
    noise = rng.normal(size=(120, 10))
    assert _right(bench, np.c_[noise, np.eye(3)[labels]], tiles) == 1
    assert _right(bench, np.c_[noise, 10 * np.eye(60)[groups]], tiles) < 0.6


@pytest.mark.slow
def test_a_network_that_never_saw_lung_tells_its_classes_apart(bench: ModuleType, shared: Path) -> None:
    tiles = bench.read(shared, replace(bench.SETS[0], size=112))
    assert len(np.unique(tiles.groups)) == len(tiles.labels) == 300
    network, normalisation = bench.open_network(None, "cervical-cells")
    assert _right(bench, bench.see(network, normalisation, tiles.pixels), tiles) > 0.75
