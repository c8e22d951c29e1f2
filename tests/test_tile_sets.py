"""The benchmark of tile sets: what it reports of features that know, or do not know, and of a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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
    tiles = bench.Labelled((), labels, groups, ("a", "b", "c"))
    noise = rng.normal(size=(120, 10))
    assert _right(bench, np.c_[noise, np.eye(3)[labels]], tiles) == 1
    assert _right(bench, np.c_[noise, 10 * np.eye(60)[groups]], tiles) < 0.6


def test_what_no_plane_parts_is_parted_in_the_kernel_space(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    directions = rng.normal(size=(180, 2))
    rings = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (1 + labels[:, None])
    tiles = bench.Labelled((), labels, np.arange(180), ("a", "b", "c"))
    assert _right(bench, rings, tiles) > 0.95


def test_a_small_tile_is_seen_at_its_own_size_and_a_large_one_whole(
    bench: ModuleType, tmp_path: Path
) -> None:
    """How wide the dark fifth in the middle comes to be says how large the tile was made."""
    for name, (height, width) in {"small": (20, 20), "large": (100, 50)}.items():
        rgb = np.full((height, width, 3), 200, np.uint8)
        middle, reach = np.array([height, width]) // 2, max(height, width) // 10
        rgb[middle[0] - reach : middle[0] + reach, middle[1] - reach : middle[1] + reach] = 0
        Image.fromarray(rgb).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("file,label\nsmall.png,a\nlarge.png,b\n", encoding="utf-8")
    tiles = bench.read(tmp_path, bench.TileSet(".", "slide", (40,), field=40))
    assert [[_reach(pixels) for pixels in look] for look in tiles.looks] == [[4, 4], [2, 4]]


def _reach(pixels: NDArray[np.uint8]) -> int:
    """Dark pixels of the middle row, from the middle to the right."""
    half = pixels[len(pixels) // 2, len(pixels) // 2 :, 0]
    return int(np.argmax(half > 100))


@pytest.mark.slow
def test_a_network_that_never_saw_lung_tells_its_classes_apart(bench: ModuleType, shared: Path) -> None:
    tiles = bench.read(shared, replace(bench.SETS[0], sides=(112,)))
    assert len(np.unique(tiles.groups)) == len(tiles.labels) == 300
    network, normalisation = bench.open_network(None, "cervical-cells")
    assert _right(bench, bench.see(network, normalisation, tiles.looks), tiles) > 0.75
