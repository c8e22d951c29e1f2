"""python -m benchmarks.suggest: whether labels that `coverslip suggest` chooses teach more than others.

    learn DATA CACHE [-o JSON]   accuracy after so many labels: chosen by suggest, by margin alone, at random
    scale FOLDER                 seconds and peak memory for a million cells

DATA is the folder with `blood/pbc-normal`, `cytology/cric-cervix-centred` and `histology-tiles/lc25000-lung`.
Features are those of a shipped network that never saw that kind of tissue: of `cervical-cells` for blood and
lung, of `blood-cells` for cervical cells; CACHE keeps them. A linear probe is fitted to eight tiles of each
class; it looks at the others, of which classes are made rare as on slides, ten are labelled, it is fitted
again, and so on. What is measured is its balanced accuracy on groups that are neither. Intervals say how far
draws of tiles scatter, not how far laboratories do.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from coverslip.models.engine import evaluate, network_of
from coverslip.models.library import find_model
from coverslip.models.metrics import balanced_accuracy, confusion_matrix
from coverslip.models.probes import LinearProbe
from coverslip.workflows.files import output_digest, write_json, write_table
from coverslip.workflows.result import (
    MppValue,
    Provenance,
    Quality,
    SlideIdentity,
    SlideResult,
    Times,
)
from coverslip.workflows.review.diversity import farthest_first, standardised
from coverslip.workflows.review.suggest import CHOICE, suggest

# Folder, network, column of groups.
SETS = {
    "blood": ("blood/pbc-normal", "cervical-cells", None),
    "lung": ("histology-tiles/lc25000-lung", "cervical-cells", "source_image_cluster"),
    "cervix": ("cytology/cric-cervix-centred", "blood-cells", "group"),
}
START, AT_ONCE, ROUNDS, DRAWS = 8, 10, 5, 40
# Of the classes in an order drawn anew, each has this share of the tiles of the one before.
RARER = 0.6
TEST = 0.4
Choose = Callable[["Look", np.random.Generator], NDArray[np.intp]]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    features: NDArray[np.float32]
    labels: NDArray[np.intp]
    groups: NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the probe says of those without label: probabilities (n, k), and their features."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float32]

    @property
    def doubt(self) -> NDArray[np.float64]:
        top = np.sort(self.probabilities, axis=1)[:, -2:]
        return 1 - (top[:, 1] - top[:, 0])

    def doubtful(self, times: int) -> NDArray[np.intp]:
        return np.argsort(-self.doubt, kind="stable")[: times * AT_ONCE]


def at_random(look: Look, rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.permutation(len(look.features))[:AT_ONCE]


def by_margin(look: Look, rng: np.random.Generator) -> NDArray[np.intp]:
    return look.doubtful(1)


def by_suggest(look: Look, rng: np.random.Generator) -> NDArray[np.intp]:
    rows = look.doubtful(CHOICE)
    return rows[farthest_first(standardised(look.features[rows]), look.doubt[rows], AT_ONCE)]


def by_suggest_without_features(look: Look, rng: np.random.Generator) -> NDArray[np.intp]:
    rows = look.doubtful(CHOICE)
    return rows[farthest_first(standardised(look.probabilities[rows]), look.doubt[rows], AT_ONCE)]


WAYS: dict[str, Choose] = {
    "random": at_random,
    "margin": by_margin,
    "suggest": by_suggest,
    "suggest, without features": by_suggest_without_features,
}


def features_of(data: Path, cache: Path, name: str) -> Labelled:
    folder, model, group = SETS[name]
    kept = cache / f"{name}.npz"
    if not kept.is_file():
        with (data / folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        package = find_model(model)
        size = package.document.tile.size
        pixels = np.stack([_square(data / folder / row["file"], size) for row in rows])
        features, _ = evaluate(network_of(package), pixels, package.document.normalisation, 32)
        groups = [row[group] if group else str(number) for number, row in enumerate(rows)]
        np.savez(kept, f=features, y=[row["label"] for row in rows], g=groups)
    found = np.load(kept)
    numbers = [np.unique(found[key], return_inverse=True)[1].astype(np.intp) for key in ("y", "g")]
    return Labelled(standardised(found["f"]) * np.sqrt(found["f"].shape[1]), *numbers)


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    rgb = np.asarray(Image.open(path).convert("RGB"))
    side = min(rgb.shape[:2])
    y, x = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = rgb[y : y + side, x : x + side]
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def draw(tiles: Labelled, seed: int) -> dict[str, list[float]]:
    """Balanced accuracy by way of choosing: to begin with, and after each round."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(tiles.groups.max() + 1)
    test = np.flatnonzero(np.isin(tiles.groups, order[: int(TEST * len(order))]))
    rest = rng.permutation(np.setdiff1d(np.arange(len(tiles.labels)), test))
    classes = np.arange(tiles.labels.max() + 1)
    start = np.concatenate([rest[tiles.labels[rest] == one][:START] for one in classes])
    pool = np.setdiff1d(rest, start)
    pool = _made_rare(pool, tiles.labels[pool], rng.permutation(len(classes)), rng)
    return {name: _rounds(tiles, start, pool, test, way, seed) for name, way in WAYS.items()}


def _made_rare(
    pool: NDArray[np.intp], labels: NDArray[np.intp], rank: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    kept = []
    for number, place in enumerate(rank.tolist()):
        rows = rng.permutation(pool[labels == number])
        kept.append(rows[: max(3, int(len(rows) * RARER**place))])
    return np.sort(np.concatenate(kept))


def _rounds(
    tiles: Labelled,
    start: NDArray[np.intp],
    pool: NDArray[np.intp],
    test: NDArray[np.intp],
    way: Choose,
    seed: int,
) -> list[float]:
    rng = np.random.default_rng((seed, 1))
    known, found = start, []
    for number in range(ROUNDS + 1):
        head = LinearProbe().fit(tiles.features[known], tiles.labels[known])
        called = head.predict(tiles.features[test])
        confusion = confusion_matrix(tiles.labels[test], called, int(tiles.labels.max()) + 1)
        found.append(balanced_accuracy(confusion))
        if number < ROUNDS:
            chances = softmax(head.decision_function(tiles.features[pool]).astype(np.float64), axis=1)
            rows = way(Look(chances, tiles.features[pool]), rng)
            known, pool = np.r_[known, pool[rows]], np.delete(pool, rows)
    return found


def learn(data: Path, cache: Path, out: Path | None, sets: list[str], count: int) -> None:
    report = {}
    for name in sets:
        tiles = features_of(data, cache, name)
        draws = [draw(tiles, seed) for seed in range(count)]
        report[name] = {way: _figures(draws, way) for way in WAYS}
        for way, rows in report[name].items():
            print(f"{name:7s} {way:26s} " + "  ".join(rows))
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _figures(draws: list[dict[str, list[float]]], way: str) -> list[str]:
    """After each number of labels: the mean, and how far it is from random in the same draws."""
    found = np.array([one[way] for one in draws])
    away = 100 * (found - np.array([one["random"] for one in draws]))
    error = 1.96 * away.std(axis=0, ddof=1) / np.sqrt(len(draws))
    mean, gain = 100 * found.mean(axis=0), away.mean(axis=0)
    return [
        f"{number * AT_ONCE}: {mean[number]:.1f} ({gain[number]:+.1f} ± {error[number]:.1f})"
        for number in range(ROUNDS + 1)
    ]


def scale(folder: Path, cells: int = 1_000_000) -> None:
    home = folder / "slides" / "million"
    if not home.exists():
        home.mkdir(parents=True)
        _write_cells(home, cells)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    queue = suggest(folder, 50)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{queue.candidates} judged, {len(queue.suggestions)} suggested in {seconds:.1f} s")
    print(f"peak {peak:.0f} MB, {before:.0f} MB before")


def _write_cells(home: Path, cells: int) -> None:
    """A table like that of cytology, outlines and all."""
    rng = np.random.default_rng(0)
    chances = rng.dirichlet((0.3,) * 6, cells).astype(np.float32)
    outline = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 64 * cells + 1, 64, dtype=np.int32)),
        pa.array(rng.integers(-99, 99, 64 * cells, np.int16)),
    )
    columns = {
        "x": rng.uniform(0, 1e5, cells),
        "y": rng.uniform(0, 1e5, cells),
        "area_um2": rng.gamma(4, 20, cells),
        "class": pa.array(list("abcdef")).take(pa.array(chances.argmax(axis=1))),
        "score": chances.max(axis=1),
        "strange": rng.random(cells) < 0.02,
        "undecided": rng.random(cells) < 0.1,
        **{f"p_{name}": chances[:, number] for number, name in enumerate("abcdef")},
        "outline": outline,
    }
    write_table(home / "cells.parquet", pa.table(columns), "coverslip.cells/1")
    digest = output_digest(home / "cells.parquet")
    write_json(home / "result.json", _result(digest).model_dump(mode="json"))


def _result(cells_sha256: str) -> SlideResult:
    mpp = MppValue(x=0.25, y=0.25, source="made")
    return SlideResult(
        slide=SlideIdentity(
            id="million",
            path="million.svs",
            digest="0" * 64,
            bytes=None,
            format="made",
            reader="made",
            reader_version="1",
            size=(100_000, 100_000),
            mpp=mpp,
        ),
        workflow="cytology",
        status="done",
        summary="a million cells that are not there",
        quality=Quality(
            tissue_fraction=1,
            tissue_area_mm2=625,
            tiles=0,
            damaged_fraction=0,
            damaged_slide_fraction=0,
            damaged_tiles_fraction=0,
            missing_fraction=None,
            pen_fraction=0,
        ),
        provenance=Provenance(
            coverslip="",
            request="",
            workflow="cytology",
            settings={"workflow": {}, "grid": {"size": 512, "mpp": 0.25, "overlap": 0}},
            derived={},
            model=None,
            device={},
            supply="",
            seed=0,
            packages={},
        ),
        outputs={"cells.parquet": cells_sha256},
        times=Times(started="", finished=""),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    learning = commands.add_parser("learn")
    learning.add_argument("data", type=Path)
    learning.add_argument("cache", type=Path)
    learning.add_argument("-o", "--output", type=Path)
    learning.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    learning.add_argument("--draws", type=int, default=DRAWS)
    commands.add_parser("scale").add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.command == "learn":
        asked.cache.mkdir(parents=True, exist_ok=True)
        learn(asked.data, asked.cache, asked.output, asked.sets, asked.draws)
    else:
        scale(asked.folder)


if __name__ == "__main__":
    main()
