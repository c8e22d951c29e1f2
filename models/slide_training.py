"""Train a slide-level model from slides' labels alone, and write it as a package.

Each slide is a bag of tile features; which tiles speak for its class nobody says: the network finds out.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.models.aggregator import Aggregator, Kind, build_aggregator
from coverslip.models.bag import Cohort, read_bag, read_cohort
from coverslip.models.calibration import fit_temperature, soften
from coverslip.models.conformal import fit_sets, least_groups
from coverslip.models.document import Familiarity, Metrics, TileFit
from coverslip.models.doubt import PredictionSets
from coverslip.models.encoders import TOLERANCE
from coverslip.models.familiarity import fit_familiarity
from coverslip.models.feature_scale import FeatureScale, fit_scale
from coverslip.models.metrics import measure
from coverslip.models.package import write_files
from coverslip.models.seed import seeded
from coverslip.models.slide_document import SlideModelDocument, SlideTraining
from coverslip.models.slide_model import scale_to_tensors
from coverslip.models.split import fold_groups, split_groups

if TYPE_CHECKING:
    import torch

NOT_STATED = "not stated"
# Tiles whose statistics tell others apart; of more features than these the covariance would take gigabytes.
SAMPLED, WIDEST = 20_000, 8192


@dataclass(frozen=True, slots=True)
class SlideTrainingSettings:
    """What to train and how.

    `encoder`: what made the features, for those who use the model; "not stated" takes what their files say.
    `coverage`: share of slides whose prediction set holds the true class. `folds`: of a cross-validation; 0
    keeps one test part out instead. `most_tiles`: drawn anew from each bag at each step, which bounds memory
    and time and varies what is seen. Rates as for CLAM.
    """

    name: str = "slides"
    version: str = "1"
    aggregator: Kind = "abmil"
    encoder: str = NOT_STATED
    licence: str = "not stated"
    intended_use: str = "research on slides prepared, stained, scanned and embedded like those it learnt from"
    group_column: str = "group"
    epochs: int = 50
    patience: int = 10
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    most_tiles: int = 4096
    folds: int = 0
    coverage: float = 0.9
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "epochs": 1,
            "patience": 1,
            "most_tiles": 1,
            "seed": 0,
            "learning_rate": 1e-9,
            "weight_decay": 0,
        }
        low = [f"{name} is below {bound}" for name, bound in least.items() if getattr(self, name) < bound]
        low += ["folds are 1 or 2, and 0 or at least 3 are possible"] * (self.folds in (1, 2))
        low += ["the coverage is not between 0 and 1"] * (not 0 < self.coverage < 1)
        if low or self.folds < 0:
            raise RequestError("training", "; ".join(low) or "folds are below 0", "give other figures")


@dataclass(frozen=True, slots=True)
class SlideEpoch:
    """Progress. `fold`: 1 to `folds`, or 0 for the model that is kept; losses are means over slides."""

    fold: int
    epoch: int
    loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True)
class SlideTrainingReport:
    """`metrics`: of slides that the model measured did not see; see `SlideTraining.folds`."""

    folder: Path
    document: SlideModelDocument
    metrics: Metrics
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


Progress = Callable[[SlideEpoch], None]


def train_slides(
    labels_csv: str | Path, out: str | Path, settings: SlideTrainingSettings, progress: Progress | None = None
) -> SlideTrainingReport:
    """Train on the slides whose features a csv file names (see `read_cohort`), and write the package.

    With folds, as many models are trained, each measured on the fold it never saw; the one that is kept is
    trained on all but the first fold, which says when to stop. Without, one is trained, and measured on the
    test part. Whole groups stay together. The same files, settings and machine give the same weights.
    Raises RequestError for a csv, split or setting that does not work, before training.
    """
    began = time.monotonic()
    out = Path(out)
    if out.exists():
        raise RequestError(str(out), "is already there", "name another folder; no model is overwritten")
    cohort = read_cohort(labels_csv, settings.group_column)
    parts = _parts(cohort, settings)
    say = progress or _silent
    parts = _parts(cohort, settings)
    fits = [_fit(cohort, part, settings, number, say) for number, part in parts.items()]
    tested = np.concatenate([part.test for part in parts.values()])
    logits = np.concatenate([fit.logits(cohort, fit.part.test) for fit in fits])
    metrics = _measure(cohort, tested, logits, settings)
    kept = _fit(cohort, _all_but(parts[1].test, cohort), settings, 0, say) if settings.folds else fits[0]
    document, weights = _describe(cohort, kept, settings, metrics)
    write_files(out, document, weights)
    return SlideTrainingReport(out, document, metrics, time.monotonic() - began)


def _silent(epoch: SlideEpoch) -> None:
    """No progress is drawn."""


def _parts(cohort: Cohort, settings: SlideTrainingSettings) -> dict[int, _Parts]:
    """By fold from 1 on: tested on that one, stopped by the next, trained on the others. Or one, as 0."""
    if not settings.folds:
        split = split_groups(cohort.labels, cohort.groups, settings.shares, settings.seed, cohort.classes)
        return {0: _Parts(split.train, split.validation, split.test)}
    fold = fold_groups(cohort.labels, cohort.groups, settings.folds, settings.seed, cohort.classes)
    found = {}
    for number in range(settings.folds):
        following = (number + 1) % settings.folds
        train, validation, test = (
            np.flatnonzero(rows)
            for rows in ((fold != number) & (fold != following), fold == following, fold == number)
        )
        found[number + 1] = _Parts(train, validation, test)
    return found


def _all_but(rows: NDArray[np.intp], cohort: Cohort) -> _Parts:
    """Everything else to train on, these to say when to stop."""
    return _Parts(np.setdiff1d(np.arange(len(cohort.labels)), rows), rows, rows[:0])


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """A trained network, in evaluation mode, and the number of epochs that made it."""

    aggregator: Aggregator
    scale: FeatureScale
    part: _Parts
    epochs: int

    def logits(self, cohort: Cohort, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """(rows, classes), of whole bags."""
        torch = require("torch")
        with torch.inference_mode():
            looks = [self.aggregator(_features(cohort, row, self.scale)) for row in rows]
        return np.stack([look.logits.numpy() for look in looks])


def _features(
    cohort: Cohort,
    row: int,
    scale: FeatureScale,
    chosen: Callable[[int], NDArray[np.intp]] | None = None,
) -> torch.Tensor:
    features = read_bag(cohort.files[row]).features
    return require("torch").from_numpy(
        scale.apply(features if chosen is None else features[chosen(len(features))])
    )


def _fit(cohort: Cohort, part: _Parts, settings: SlideTrainingSettings, fold: int, say: Progress) -> _Fit:
    """Train until the validation loss has not fallen for `patience` epochs; the best state is kept."""
    with seeded(settings.seed):
        aggregator = build_aggregator(settings.aggregator, cohort.width, len(cohort.classes))
        scale = fit_scale(read_bag(cohort.files[row]).features for row in part.train)
        step = _Step(aggregator, cohort, scale, part.train, settings)
        best, lowest, state = 0, float("inf"), copy.deepcopy(aggregator.layers.state_dict())
        for epoch in range(1, settings.epochs + 1):
            order = np.random.default_rng((settings.seed, epoch)).permutation(part.train)
            loss = float(np.mean([step(row, epoch) for row in order]))
            found = step.loss_of(part.validation)
            say(SlideEpoch(fold, epoch, loss, found))
            if found < lowest:
                best, lowest, state = epoch, found, copy.deepcopy(aggregator.layers.state_dict())
            if epoch - best >= settings.patience:
                break
    aggregator.layers.load_state_dict(state)
    aggregator.layers.eval()
    return _Fit(aggregator, scale, part, best)


class _Step:
    """One optimiser step on one slide; returns its loss."""

    def __init__(
        self,
        aggregator: Aggregator,
        cohort: Cohort,
        scale: FeatureScale,
        train: NDArray[np.intp],
        settings: SlideTrainingSettings,
    ):
        torch = require("torch")
        self._aggregator, self._cohort, self._scale, self._settings = aggregator, cohort, scale, settings
        # Weights inverse to the class counts: each class counts as much as any other.
        counts = np.bincount(cohort.labels[train], minlength=len(cohort.classes))
        self._weight = torch.tensor(len(train) / (len(counts) * counts), dtype=torch.float32)
        self._optimiser = torch.optim.AdamW(
            aggregator.layers.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def __call__(self, row: int, epoch: int) -> float:
        self._aggregator.layers.train()
        drawn = _features(self._cohort, row, self._scale, lambda count: self._drawn(count, row, epoch))
        look = self._aggregator(drawn)
        loss = self._aggregator.loss(look, int(self._cohort.labels[row]), self._weight)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def loss_of(self, rows: NDArray[np.intp]) -> float:
        """The mean over slides of the call's cross-entropy, classes weighed alike; whole bags."""
        torch = require("torch")
        self._aggregator.layers.eval()
        losses = []
        with torch.inference_mode():
            for row in rows:
                logits = self._aggregator(_features(self._cohort, row, self._scale)).logits
                label = int(self._cohort.labels[row])
                losses.append(float(-logits.log_softmax(0)[label] * self._weight[label]))
        return float(np.mean(losses))

    def _drawn(self, count: int, row: int, epoch: int) -> NDArray[np.intp]:
        """In their order, since position may count."""
        most = self._settings.most_tiles
        if count <= most:
            return np.arange(count)
        rng = np.random.default_rng((self._settings.seed, epoch, row))
        return np.sort(rng.choice(count, most, replace=False))


def _measure(
    cohort: Cohort, rows: NDArray[np.intp], logits: NDArray[np.float32], settings: SlideTrainingSettings
) -> Metrics:
    called, groups = logits.argmax(axis=1), cohort.groups[rows]
    how = (
        f"{settings.folds}-fold cross-validation: each of {len(rows)} slides by a model that never saw it"
        if settings.folds
        else f"test part of the labels file: {len(rows)} slides kept out of training and of every choice"
    )
    return measure(cohort.labels[rows], called, groups, cohort.classes, how)


def _describe(
    cohort: Cohort, fit: _Fit, settings: SlideTrainingSettings, metrics: Metrics
) -> tuple[SlideModelDocument, bytes]:
    state = {name: tensor.contiguous() for name, tensor in fit.aggregator.layers.state_dict().items()}
    weights = require("safetensors.torch").save(state | scale_to_tensors(fit.scale))
    validation, origin = fit.part.validation, cohort.origin
    logits = fit.logits(cohort, validation)
    calibration = fit_temperature(logits, cohort.labels[validation])
    document = SlideModelDocument(
        name=settings.name,
        version=settings.version,
        classes=cohort.classes,
        encoder=origin.encoder if origin and settings.encoder == NOT_STATED else settings.encoder,
        encoder_sha256=origin.weights_sha256 or None if origin else None,
        tile=TileFit(size=origin.size, mpp=origin.mpp, tolerance=TOLERANCE) if origin else None,
        features=cohort.width,
        aggregator=settings.aggregator,
        licence=settings.licence,
        intended_use=settings.intended_use,
        training=_training(cohort, settings, fit.epochs),
        metrics=metrics,
        calibration=calibration,
        prediction_sets=_sets(cohort, fit, soften(logits, calibration.temperature), settings),
        out_of_distribution=_familiarity(cohort, fit, settings.seed),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with=_versions(("coverslip", "torch", "safetensors", "numpy")),
    )
    return document, weights


def _sets(
    cohort: Cohort, fit: _Fit, probabilities: NDArray[np.floating], settings: SlideTrainingSettings
) -> PredictionSets | None:
    """From the validation part, whose `probabilities` these are; None where it has too few groups."""
    rows = fit.part.validation
    if len(np.unique(cohort.groups[rows])) < least_groups(settings.coverage):
        return None
    return fit_sets(probabilities, cohort.labels[rows], cohort.groups[rows], settings.coverage)


def _familiarity(cohort: Cohort, fit: _Fit, seed: int) -> Familiarity | None:
    """Of the tiles learnt from, whatever their slide's class; None where there are too many features."""
    if cohort.width > WIDEST:
        return None
    train, validation = (
        np.concatenate([_some_tiles(cohort, row, fit.scale, -(-SAMPLED // len(rows)), seed) for row in rows])
        for rows in (fit.part.train, fit.part.validation)
    )
    one_class = np.zeros(len(train), np.intp)
    return fit_familiarity("mahalanobis", train, one_class, validation, np.zeros((len(validation), 1)))


def _some_tiles(cohort: Cohort, row: int, scale: FeatureScale, most: int, seed: int) -> NDArray[np.float32]:
    """Scaled features (n, width) of at most so many tiles of a slide, drawn."""
    features = read_bag(cohort.files[row]).features
    rng = np.random.default_rng((seed, row))
    return scale.apply(features if len(features) <= most else rng.choice(features, most, replace=False))


def _training(cohort: Cohort, settings: SlideTrainingSettings, epochs: int) -> SlideTraining:
    counts = np.bincount(cohort.labels)
    listed = ", ".join(f"{count} {name}" for name, count in zip(cohort.classes, counts, strict=True))
    return SlideTraining(
        data=f"slides of a labels file: {listed}",
        slides=len(cohort.labels),
        tiles=cohort.tiles,
        groups=len(np.unique(cohort.groups)),
        labels_sha256=cohort.sha256,
        folds=settings.folds,
        seed=settings.seed,
        epochs=epochs,
    )


def _versions(names: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in names}
