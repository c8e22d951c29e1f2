"""python -m benchmarks.cervical_fields DATA [--weights FILE | --model NAME]: how far high grade can be told.

The test part of `cervical-cells` holds five fields with high grade, so that its figure hangs on single ones.
Here every field of CRIC is called once, by a kernel probe that learnt from the folds it is not in: a worse
model than one that is trained, but judged on all fields with high grade. Nothing is chosen, not its penalty.

DATA: the folder `cytology`. FILE and NAME as for `benchmarks.tile_sets`; by default `blood-cells`, which
never saw such cells.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cytology import CRIC, GRADES
from benchmarks.tile_sets import FOLDS, Labelled, TileSet, curved, open_network, read, say, see
from coverslip.models.labels_file import numbered
from coverslip.models.metrics import resampled
from coverslip.models.probes import LinearProbe
from coverslip.models.split import fold_groups
from coverslip.workflows.evaluation.roc import Ranking, area

# As large as the crops are.
CELLS = TileSet(CRIC, "group", (128,))
PENALTY = 1.0


def call(features: NDArray[np.float32], tiles: Labelled, fields: NDArray[np.intp]) -> NDArray[np.float32]:
    """Probabilities (n, classes) of each cell by a probe that saw no cell of its field."""
    fold = fold_groups(tiles.labels, fields, FOLDS, 0, tiles.classes)
    p = np.empty((len(fold), len(tiles.classes)), np.float32)
    for number in range(FOLDS):
        own = fold == number
        seen = curved(features, ~own)
        p[own] = LinearProbe(PENALTY).fit(seen[~own], tiles.labels[~own]).predict_proba(seen[own])
    return p


def measure(data: Path, weights: Path | None, model: str) -> Iterator[str]:
    tiles, fields = read(data, CELLS), fields_of(data / CRIC)
    p = call(see(*open_network(weights, model), tiles.looks), tiles, fields)
    grade = np.array([GRADES[name] for name in tiles.classes])
    true, high = grade[tiles.labels], p[:, grade == 2].sum(axis=1)
    ranked = {
        "abnormal": Ranking.of(p[:, grade > 0].sum(axis=1), true > 0),
        "high grade": Ranking.of(high, true == 2),
    }
    for name, ranking in ranked.items():
        found = area(ranking, np.ones(len(true), np.intp))
        drawn = [area(ranking, times[fields]) for times in resampled(int(fields.max()) + 1, seed=0)]
        low, end = np.nanquantile(drawn, [0.025, 0.975])
        yield f"{name}: AUC {found:.3f} ({low:.3f} to {end:.3f}), of {fields.max() + 1} fields"
    for field in np.unique(fields[true == 2]):
        own = (fields == field) & (true == 2)
        below = np.mean([(high[true < 2] < each).mean() for each in high[own]])
        yield f"field {field}: {own.sum()} cells of high grade, above {below:.3f} of the others"


def fields_of(folder: Path) -> NDArray[np.intp]:
    """The field of each cell, (n,), whatever its class."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return np.asarray(numbered(row["group"] for row in csv.DictReader(file)), np.intp)


if __name__ == "__main__":
    say(__doc__, "blood-cells", measure)
