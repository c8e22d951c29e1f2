"""Learn classes of tiles from few examples: an encoder as it is, and a small estimator after it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coverslip.errors import RequestError
from coverslip.models.dataset import LabelledTiles, read_tiles
from coverslip.models.document import (
    Architecture,
    Corrections,
    Metrics,
    ModelDocument,
    Parts,
    Probe,
    ProbeMethod,
    Stated,
    TileFit,
)
from coverslip.models.doubt import SetMethod
from coverslip.models.embedder import Embedder
from coverslip.models.encoders import Encoder, count_features, find_encoder
from coverslip.models.familiarity import Method
from coverslip.models.findings import Asked, Evidence, describe_training, find, notes, part_sizes, versions
from coverslip.models.head import Head
from coverslip.models.package import ModelPackage, file_problems, write_package
from coverslip.models.probe_package import pack_probe
from coverslip.models.probes import (
    NEIGHBOURS,
    TEMPERATURE,
    Estimator,
    LinearProbe,
    NearestNeighbours,
    Prototypes,
    SimpleShot,
    choose_penalty,
)
from coverslip.models.split import Split, split_beside
from coverslip.models.weights import Weights, find_weights, load_encoder, random_weights

# Tiles whose pixels are fetched at once; the encoder takes as many of them as suits the device.
BATCH = 64


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """What to learn and how.

    `mpp`: µm per pixel of the image files, which only their maker knows; the package states that of the tile
    after reduction to `size` px, None for the encoder's. `shots`: tiles of each class to learn from, drawn
    from the training part; None for all of it. `weights`: a safetensors file, None for the local Hugging Face
    cache; `random`: draw them, for trying out. `neighbours` and `temperature`: of `knn`. `licence`: None for
    the encoder's, whose weights the package holds. The rest is as in `TrainingSettings`.
    """

    mpp: float
    encoder: str
    method: ProbeMethod = "linear"
    shots: int | None = None
    weights: str | Path | None = None
    random: bool = False
    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE
    name: str = "probe"
    version: str = "1"
    size: int | None = None
    stain: str | None = None
    tolerance: float = 0.1
    licence: str | None = None
    intended_use: str = "research on tiles prepared, stained and scanned like those it was trained on"
    group_column: str = "group"
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    coverage: float = 0.9
    sets: SetMethod = "lac"
    sets_by_class: bool = False
    familiarity: Method = "mahalanobis"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        problems = ["shots are below 1"] * (self.shots is not None and self.shots < 1)
        problems += ["seed is below 0"] * (self.seed < 0)
        problems += ["the coverage is no share between 0 and 1"] * (not 0 < self.coverage < 1)
        problems += ["weights are named, and random ones asked for"] * (
            self.random and self.weights is not None
        )
        if self.method not in get_args(ProbeMethod):
            problems.append(f"no method is {self.method!r}, but {', '.join(get_args(ProbeMethod))}")
        if problems:
            raise RequestError("training", "; ".join(problems), "change these settings")
        NearestNeighbours(self.neighbours, self.temperature)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What came of it. `metrics` are of the test part; `notes` are sentences the user must read."""

    package: ModelPackage
    metrics: Metrics
    parts: Parts
    notes: tuple[str, ...]
    seconds: float


# Tiles embedded, of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Source:
    """The encoder, which weights, and the side of its tiles in pixels."""

    encoder: Encoder
    weights: Weights
    size: int


def train_probe(
    labels_csv: str | Path,
    out: str | Path,
    settings: ProbeSettings,
    progress: Progress | None = None,
    corrections: Corrections | None = None,
) -> ProbeReport:
    """Learn from the tiles a csv file names, and write the package to the folder `out`.

    The encoder is left as it is. The estimator learns from the training part; C of `linear`, the temperature
    and the distance limit are taken from the validation part; the test part is only measured. The same file,
    settings and machine give the same package. `corrections`: what the last lines of the csv are, for
    the card; where they are `learnt_only`, they are all in the training part. Raises ModelUnavailableError
    when the encoder's weights cannot be had, RequestError for a csv, split or setting that does not work,
    both before anything is embedded.
    """
    began = time.monotonic()
    if Path(out).exists():
        raise RequestError(str(out), "is already there", "name another folder; no model is overwritten")
    source = _source(settings)
    stated = _stated(settings, source, 1.0)
    with tempfile.TemporaryDirectory(prefix="coverslip-", ignore_cleanup_errors=True) as scratch:
        tiles = read_tiles(labels_csv, source.size, Path(scratch), settings.group_column)
        stated = _stated(settings, source, tiles.scale)
        aside = corrections.labels if corrections and corrections.learnt_only else 0
        split = split_beside(tiles.labels, tiles.groups, aside, settings.shares, settings.seed, tiles.classes)
        split = split if settings.shots is None else draw_shots(tiles, split, settings.shots, settings.seed)
        parts = _embed(source, tiles, split, settings.device, progress or _silent)
        document, weights = _conclude(tiles, split, parts, source, stated, settings, corrections)
    package = write_package(out, document, weights)
    assert document.metrics is not None
    return ProbeReport(
        package=package,
        metrics=document.metrics,
        parts=part_sizes(split),
        notes=_notes(document, source, settings),
        seconds=time.monotonic() - began,
    )


def draw_shots(tiles: LabelledTiles, split: Split, shots: int, seed: int) -> Split:
    """With a training part of `shots` tiles of each class, drawn from it with `seed`; the others as they are.

    Raises RequestError when a class has fewer.
    """
    rng, kept = np.random.default_rng(seed), []
    for number, name in enumerate(tiles.classes):
        rows = split.train[tiles.labels[split.train] == number]
        if len(rows) < shots:
            raise RequestError(
                f"{shots} shots", f"are more than the {len(rows)} tiles to learn {name} from", "ask for fewer"
            )
        kept.append(rng.choice(rows, shots, replace=False))
    return Split(np.sort(np.concatenate(kept)), split.validation, split.test)


def _silent(done: int, total: int) -> None:
    """No progress is drawn."""


def _source(settings: ProbeSettings) -> _Source:
    """Raises ModelUnavailableError, or RequestError for a size the encoder cannot take."""
    encoder = find_encoder(settings.encoder)
    size = settings.size or encoder.size
    found = None if settings.random else find_weights(encoder, settings.weights)
    count_features(encoder, size)
    return _Source(encoder, found or random_weights(encoder), size)


def _stated(settings: ProbeSettings, source: _Source, scale: float) -> Stated:
    """Raises RequestError for what may not stand in a document."""
    try:
        return Stated(
            name=settings.name,
            version=settings.version,
            tile=TileFit(size=source.size, mpp=settings.mpp * scale, tolerance=settings.tolerance),
            stain=settings.stain,
            architecture=Architecture(name=source.encoder.tower.name.partition(".")[0]),
            licence=source.encoder.licence if settings.licence is None else settings.licence,
            intended_use=settings.intended_use,
        )
    except ValidationError as error:
        raise RequestError("training", file_problems(error), "change these settings") from error


def _embed(
    source: _Source, tiles: LabelledTiles, split: Split, device: str, progress: Progress
) -> tuple[NDArray[np.float32], ...]:
    """Features of the training, validation and test part."""
    embedder = Embedder(source.encoder, source.weights, source.size, device)
    parts = (split.train, split.validation, split.test)
    done, total, found = 0, sum(map(len, parts)), []
    for rows in parts:
        features = []
        for chunk in embedder.run(_chunks(tiles, rows)):
            features.append(chunk)
            done += len(chunk)
            progress(done, total)
        found.append(np.concatenate(features))
    return tuple(found)


def _chunks(tiles: LabelledTiles, rows: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
    return (tiles.pixels[rows[i : i + BATCH]] for i in range(0, len(rows), BATCH))


def _conclude(
    tiles: LabelledTiles,
    split: Split,
    parts: tuple[NDArray[np.float32], ...],
    source: _Source,
    stated: Stated,
    settings: ProbeSettings,
    corrections: Corrections | None,
) -> tuple[ModelDocument, bytes]:
    """Fit, calibrate on validation, measure on test, and say all of it in a document."""
    train, validation, test = parts
    estimator = _estimator(settings, tiles, split, train, validation)
    head = estimator.fit(train, tiles.labels[split.train])
    evidence = Evidence(train, validation, head.decision_function(validation), head.decision_function(test))
    asked = Asked(settings.coverage, settings.sets, settings.sets_by_class, settings.familiarity)
    findings = find(tiles, split, evidence, asked)
    weights = pack_probe(load_encoder(source.encoder, source.weights), head)
    document = ModelDocument(
        name=stated.name,
        version=stated.version,
        classes=tiles.classes,
        tile=stated.tile,
        stain=stated.stain,
        normalisation=source.encoder.normalisation,
        architecture=stated.architecture,
        licence=stated.licence,
        intended_use=stated.intended_use,
        training=describe_training(tiles, split, _kept(source), settings.seed, 0).model_copy(
            update={"corrections": corrections}
        ),
        metrics=findings.metrics,
        calibration=findings.calibration,
        reliability=findings.reliability,
        prediction_sets=findings.prediction_sets,
        out_of_distribution=findings.out_of_distribution,
        colour=findings.colour,
        probe=_probe(source, head, estimator, settings),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with=versions(),
    )
    return document, weights


def _estimator(
    settings: ProbeSettings,
    tiles: LabelledTiles,
    split: Split,
    train: NDArray[np.float32],
    validation: NDArray[np.float32],
) -> Estimator:
    if settings.method == "linear":
        labels = tiles.labels
        return choose_penalty(train, labels[split.train], validation, labels[split.validation])
    if settings.method == "knn":
        return NearestNeighbours(settings.neighbours, settings.temperature)
    return SimpleShot() if settings.method == "simpleshot" else Prototypes()


def _probe(source: _Source, head: Head, estimator: Estimator, settings: ProbeSettings) -> Probe:
    of_knn = isinstance(estimator, NearestNeighbours)
    return Probe(
        encoder=source.encoder.name,
        version=source.weights.version,
        sha256=source.weights.sha256,
        pooling=source.encoder.pooling,
        features=head.n_features_in_,
        method=settings.method,
        shots=settings.shots,
        neighbours=settings.neighbours if of_knn else None,
        temperature=settings.temperature if of_knn else None,
        penalty=estimator.C if isinstance(estimator, LinearProbe) else None,
    )


def _kept(source: _Source) -> str:
    encoder, version = source.encoder, source.weights.version
    return f"the encoder {encoder.name}, {version} (licence {encoder.licence}), kept as it is"


def _notes(document: ModelDocument, source: _Source, settings: ProbeSettings) -> tuple[str, ...]:
    encoder, mpp = source.encoder, document.tile.mpp
    found = [*notes(document, _kept(source), settings.coverage)]
    if not source.weights.path:
        found.append("The encoder's weights are random: the model is for trying out, and means nothing.")
    else:
        found.append(
            f"The package holds the encoder's weights; their licence, {encoder.licence}, says to whom it may "
            f"be given: {encoder.page}"
        )
    if not encoder.fits(mpp):
        found.append(f"{encoder.name} was made for {encoder.mpp:g} µm/px, and the tiles are at {mpp:g}.")
    if encoder.unverified:
        found.append(f"Not from the encoder's makers: {encoder.unverified}.")
    return tuple(found)
