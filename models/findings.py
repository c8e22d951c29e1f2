"""What is found of a tile model once it has learnt: how sure it may be, how often right, what it knows."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from coverslip.models.calibration import fit_temperature, soften
from coverslip.models.colour import fit_colours, tile_colours
from coverslip.models.conformal import fit_sets, least_groups, measure_coverage
from coverslip.models.dataset import LabelledTiles
from coverslip.models.document import Calibration, Familiarity, Metrics, ModelDocument, Parts, Training
from coverslip.models.doubt import PredictionSets, Reliability, SetMethod
from coverslip.models.familiarity import Method, fit_familiarity
from coverslip.models.metrics import measure
from coverslip.models.reliability import measure_reliability
from coverslip.models.split import Split
from coverslip.models.tint import ColourStatistics

# Recall of 30 tiles is known to about ±15 percentage points (binomial, 95 %); below that it says little.
FEW_TILES = 30


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a model makes of the tiles: features (n, d) of two parts, logits (n, classes) of two."""

    train: NDArray[np.float32]
    validation: NDArray[np.float32]
    validation_logits: NDArray[np.float32]
    test_logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """`coverage`, `sets` and `by_class` as in `coverslip.models.conformal.fit_sets`; `familiarity`: how tiles
    unlike those of training are told."""

    coverage: float
    sets: SetMethod
    by_class: bool
    familiarity: Method


@dataclass(frozen=True, slots=True)
class Findings:
    """Fields of `ModelDocument` by the same names."""

    metrics: Metrics
    calibration: Calibration
    reliability: Reliability
    prediction_sets: PredictionSets | None
    out_of_distribution: Familiarity
    colour: ColourStatistics | None


def find(tiles: LabelledTiles, split: Split, evidence: Evidence, asked: Asked) -> Findings:
    """Calibrate on the validation part, measure on the test part."""
    labels, test = tiles.labels, split.test
    calibration = fit_temperature(evidence.validation_logits, labels[split.validation])
    softened = [
        soften(logits, calibration.temperature)
        for logits in (evidence.validation_logits, evidence.test_logits)
    ]
    data = f"test part of the labels file: {len(test)} tiles kept out of training and of every choice"
    called = evidence.test_logits.argmax(axis=1)
    return Findings(
        metrics=measure(labels[test], called, tiles.groups[test], tiles.classes, data),
        calibration=calibration,
        reliability=measure_reliability(
            evidence.test_logits, labels[test], tiles.groups[test], calibration.temperature
        ),
        prediction_sets=_sets(tiles, split, asked, softened[0], softened[1]),
        out_of_distribution=fit_familiarity(
            asked.familiarity,
            evidence.train,
            labels[split.train],
            evidence.validation,
            evidence.validation_logits,
        ),
        colour=fit_colours(_colours(tiles, split.train), _colours(tiles, split.validation)),
    )


def _colours(tiles: LabelledTiles, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Of these rows, whose pixels are fetched some at a time."""
    return np.concatenate([tile_colours(tiles.pixels[rows[i : i + 128]]) for i in range(0, len(rows), 128)])


def _sets(
    tiles: LabelledTiles,
    split: Split,
    asked: Asked,
    validation: NDArray[np.float32],
    test: NDArray[np.float32],
) -> PredictionSets | None:
    """From the probabilities of both parts; None where the validation part has too few groups for it."""
    labels, groups = tiles.labels[split.validation], tiles.groups[split.validation]
    if len(np.unique(groups)) < least_groups(asked.coverage):
        return None
    known = fit_sets(validation, labels, groups, asked.coverage, asked.sets, asked.by_class)
    measured = measure_coverage(known, test, tiles.labels[split.test], tiles.groups[split.test])
    return known.model_copy(update={"measured": measured})


def describe_training(
    tiles: LabelledTiles, split: Split, initialisation: str, seed: int, epochs: int
) -> Training:
    counts = np.bincount(tiles.labels)
    listed = ", ".join(f"{count} {name}" for name, count in zip(tiles.classes, counts, strict=True))
    return Training(
        data=f"tiles of a labels file: {listed}",
        tiles=len(tiles.labels),
        groups=len(np.unique(tiles.groups)),
        parts=part_sizes(split),
        labels_sha256=tiles.sha256,
        initialisation=initialisation,
        seed=seed,
        epochs=epochs,
    )


def part_sizes(split: Split) -> Parts:
    return Parts(train=len(split.train), validation=len(split.validation), test=len(split.test))


def versions() -> dict[str, str]:
    """What computed, by name."""
    names = ("coverslip", "torch", "timm", "safetensors", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def notes(document: ModelDocument, initialisation: str, coverage: float) -> tuple[str, ...]:
    """Sentences the user must read."""
    found = [document.research_use, f"Trained from {initialisation}."]
    if document.metrics:
        few = [f"{entry.name} ({entry.n})" for entry in document.metrics.classes if entry.n < FEW_TILES]
        if few:
            found.append(
                f"Fewer than {FEW_TILES} test tiles, so the class's own figure is rough: {', '.join(few)}."
            )
    if document.training and document.training.groups == document.training.tiles:
        found.append(
            "No two tiles share a group: if several come from one slide or patient, "
            "say so in the column group, or the accuracy is too high."
        )
    return (*found, *_no_sets(document, coverage))


def _no_sets(document: ModelDocument, coverage: float) -> tuple[str, ...]:
    if document.prediction_sets:
        return ()
    least = least_groups(coverage)
    return (
        f"No prediction sets: a coverage of {coverage:g} cannot be stated with fewer than {least} "
        "groups in the validation part. Give tiles of more groups, or ask for less coverage.",
    )
