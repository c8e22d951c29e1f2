"""Train one of the models that come with Coverslip again, from the public data it was trained from.

    .venv/bin/python tools/train_model.py NAME DATA -o FOLDER

NAME: one of those below. DATA: the folder of its data set, see docs/models.md. FOLDER: for the package.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from coverslip.models.document import NetworkArguments
from coverslip.models.star_network import StarArchitecture
from coverslip.models.star_training import FinderSettings, Step, train_finder
from coverslip.models.training import Epoch, TrainingSettings, train_tiles

Row = dict[str, str]
Rows = Callable[[Path], Iterator[Row]]

# A red cell is 7.5 µm wide (ICSH); in these pictures the median box of one is 102 px.
SMEAR_MPP = 7.5 / 102
# 720 white cells of CellaVision DM96: 360 px of about 0.1 µm (its 100× objective).
CELLAVISION_MPP = 0.1
CRIC_MPP = 0.25
# These pictures state no resolution. Nuclei are 12 to 45 px wide in them, mostly 20: about 8 to 10 µm at 20×.
BBBC038_MPP = 0.5

FOR_TRYING = (
    "Not for patients: nothing here was validated clinically, and one laboratory's cells were learnt from."
)


@dataclass(frozen=True)
class Recipe:
    """`rows`: lines of a labels file (file, label and, where known, group) from the data's folder."""

    rows: Rows
    settings: TrainingSettings | FinderSettings


def labelled(folder: Path) -> Iterator[Row]:
    """The data's own labels.csv."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {key: row[key] for key in ("file", "label", "group") if row.get(key)}


def stained_nuclei(folder: Path) -> Iterator[Row]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "histology-colour":
                yield {"file": row["file"], "label": row["label_image"]}


def boxed_fields(folder: Path) -> Iterator[Row]:
    for picture in sorted((folder / "JPEGImages").glob("*.jpg")):
        yield {"file": f"JPEGImages/{picture.name}", "label": f"Annotations/{picture.stem}.xml"}


RECIPES: Mapping[str, Recipe] = {
    "blood-cells": Recipe(
        labelled,
        TrainingSettings(
            name="blood-cells",
            mpp=CELLAVISION_MPP,
            tolerance=0.25,
            stain="May-Grünwald-Giemsa",
            licence="CC-BY-4.0",
            intended_use=(
                "single white cells, erythroblasts and platelets, one in the middle of each tile, of normal "
                "blood on CellaVision DM96; not for blasts, atypical lymphocytes or smudge cells, which it "
                f"never saw. {FOR_TRYING}"
            ),
            size=192,
            middle=0.8,
            arguments=NetworkArguments(channels=(64, 128, 256, 400)),
            pretrained=False,
            epochs=80,
            patience=80,
            learning_rate=1e-3,
            geometry="moves",
            mixed=0.4,
            averaged=True,
            half=True,
            shares=(0.72, 0.13, 0.15),
        ),
    ),
    "cervical-cells": Recipe(
        labelled,
        TrainingSettings(
            name="cervical-cells",
            mpp=CRIC_MPP,
            tolerance=0.25,
            stain="Papanicolaou",
            licence="CC-BY-4.0",
            intended_use=(
                "cells of conventional Pap smears, the nucleus in the middle of each tile; not for "
                f"liquid-based preparations, glandular lesions or organisms. {FOR_TRYING}"
            ),
            size=128,
            arguments=NetworkArguments(channels=(64, 128, 256, 400)),
            # High grade lies in eight fields of the training part: too little to learn to see cells from.
            start="blood-cells",
            balance=0.5,
            epochs=60,
            patience=14,
            batch=32,
            learning_rate=2e-3,
            geometry="moves",
            mixed=0.6,
            averaged=True,
            half=True,
            shares=(0.72, 0.13, 0.15),
        ),
    ),
    "nuclei": Recipe(
        stained_nuclei,
        FinderSettings(
            name="nuclei",
            mpp=BBBC038_MPP,
            tolerance=0.3,
            stain="H&E",
            licence="CC0-1.0",
            intended_use=f"nuclei in sections stained with haematoxylin. {FOR_TRYING}",
            called="nucleus",
            scales=(0.6, 1.6),
            architecture=StarArchitecture(sees="haematoxylin"),
            stain_spread=0.3,
        ),
    ),
    "smear-cells": Recipe(
        boxed_fields,
        FinderSettings(
            name="smear-cells",
            mpp=SMEAR_MPP * 2.5,
            picture_mpp=SMEAR_MPP,
            tolerance=0.25,
            stain="Giemsa",
            licence="MIT",
            intended_use=(
                f"red cells, white cells and platelets where a smear is one cell thick. {FOR_TRYING}"
            ),
            scales=(0.85, 1.2),
            architecture=StarArchitecture(channels=(32, 48, 96, 160), up=48, rays=4),
        ),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    recipe = RECIPES[given.name]
    with tempfile.TemporaryDirectory(prefix="coverslip-") as scratch:
        labels = write_labels(recipe.rows, given.data.resolve(), Path(scratch))
        train(recipe.settings, labels, given.output)
    return 0


def write_labels(rows: Rows, data: Path, scratch: Path) -> Path:
    """A labels file in `scratch`, with the data beside it under a link: its own folder may be read-only."""
    (scratch / "data").symlink_to(data)
    found = list(rows(data))
    path = scratch / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        for row in found:
            linked = {key: f"data/{row[key]}" for key in ("file", "label") if (data / row[key]).is_file()}
            writer.writerow(row | linked)
    return path


def train(settings: TrainingSettings | FinderSettings, labels: Path, output: Path) -> None:
    if isinstance(settings, TrainingSettings):
        metrics = train_tiles(labels, output, settings, say_epoch).metrics
        low, high = metrics.interval
        print(f"balanced accuracy {metrics.balanced_accuracy:.3f} ({low:.3f} to {high:.3f}), n = {metrics.n}")
        return
    for found in train_finder(labels, output, settings, say_step).metrics.classes:
        print(f"{found.name}: F1 {found.f1}, {found.interval}, count error {found.count_error}")


def say_epoch(epoch: Epoch) -> None:
    figure = f"validation {epoch.validation_balanced_accuracy:.3f}"
    print(f"epoch {epoch.epoch} of {epoch.epochs}: loss {epoch.loss:.3f}, {figure}, {epoch.seconds:.0f} s")


def say_step(step: Step) -> None:
    if step.step % 200 == 0:
        print(f"step {step.step} of {step.steps}: loss {step.loss:.3f}, {step.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
