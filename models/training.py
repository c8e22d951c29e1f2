"""Train a tile classifier from labelled tiles, and write it as a model package."""

from __future__ import annotations

import copy
import hashlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.models.augmentation import ColourChange, augment
from coverslip.models.calibration import fit_temperature, soften
from coverslip.models.colour import fit_colours, tile_colours
from coverslip.models.conformal import fit_sets, least_groups, measure_coverage
from coverslip.models.dataset import LabelledTiles, read_tiles
from coverslip.models.device import choose_device
from coverslip.models.document import (
    Architecture,
    Metrics,
    ModelDocument,
    Normalisation,
    Parts,
    Stated,
    TileFit,
    Training,
)
from coverslip.models.doubt import PredictionSets, SetMethod
from coverslip.models.engine import evaluate
from coverslip.models.familiarity import Method, fit_familiarity
from coverslip.models.metrics import balanced_accuracy, confusion_matrix, measure
from coverslip.models.network import (
    Start,
    features_and_logits,
    find_start,
    normalise,
    published_normalisation,
    start_network,
)
from coverslip.models.package import ModelPackage, write_package
from coverslip.models.reliability import measure_reliability
from coverslip.models.seed import seeded
from coverslip.models.split import Split, split_groups

if TYPE_CHECKING:
    import torch

# Recall of 30 tiles is known to about ±15 percentage points (binomial, 95 %); below that it says little.
FEW_TILES = 30


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What to train and how.

    `mpp`: µm per pixel of the image files, which only their maker knows; the package states that of the
    tile after reduction to `size` px. `tolerance`: how far a slide's tiles may be off it, as a share.
    `coverage`, `sets` and `sets_by_class` as in `coverslip.models.conformal.fit_sets`; `familiarity`: how
    tiles unlike those of training are told. `colour`: how the colours of training tiles are varied, see
    `coverslip.models.augmentation`.
    """

    mpp: float
    name: str = "tiles"
    version: str = "1"
    size: int = 224
    stain: str | None = None
    tolerance: float = 0.1  # objectives named alike differ by up to 10 % in µm/px between scanners
    licence: str = "not stated"
    intended_use: str = "research on tiles prepared, stained and scanned like those it was trained on"
    group_column: str = "group"
    architecture: str = "resnet10t"
    pretrained: bool = True
    epochs: int = 20
    patience: int = 12  # one-cycle settles in its last third: stopping before it would keep a rough state
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1  # Szegedy 2016, CVPR
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    coverage: float = 0.9
    sets: SetMethod = "lac"
    sets_by_class: bool = False
    familiarity: Method = "mahalanobis"
    colour: ColourChange = "channels"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {"epochs": 1, "patience": 1, "batch": 2, "seed": 0, "learning_rate": 1e-9}
        low = [f"{name} is below {bound}" for name, bound in least.items() if getattr(self, name) < bound]
        if low:
            raise RequestError("training", "; ".join(low), "give larger figures")
        if self.colour not in get_args(ColourChange):
            named = ", ".join(get_args(ColourChange))
            raise RequestError("training", f"no colours are varied by {self.colour!r}", f"give {named}")
        if not 0 < self.coverage < 1:
            raise RequestError("training", f"the coverage {self.coverage:g} is no share", "give such as 0.9")
        self.stated()

    def stated(self) -> Stated:
        """What goes into the document as it stands. Raises RequestError for what may not stand there."""
        try:
            return Stated(
                name=self.name,
                version=self.version,
                tile=TileFit(size=self.size, mpp=self.mpp, tolerance=self.tolerance),
                stain=self.stain,
                architecture=Architecture(name=self.architecture),
                licence=self.licence,
                intended_use=self.intended_use,
            )
        except ValidationError as error:
            entries = error.errors(include_url=False, include_context=False)
            listed = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg']}" for e in entries)
            raise RequestError("training", listed, "change these settings") from error


@dataclass(frozen=True, slots=True)
class Epoch:
    """Progress: `epoch` of at most `epochs` is done. `seconds` since training began."""

    epoch: int
    epochs: int
    loss: float
    validation_balanced_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came of it. `metrics` are of the test part; `notes` are sentences the user must read."""

    package: ModelPackage
    metrics: Metrics
    parts: Parts
    history: tuple[Epoch, ...]
    best_epoch: int
    initialisation: str
    notes: tuple[str, ...]
    seconds: float


Progress = Callable[[Epoch], None]


def train_tiles(
    labels_csv: str | Path, out: str | Path, settings: TrainingSettings, progress: Progress | None = None
) -> TrainingReport:
    """Train on the tiles a csv file names, and write the package to the folder `out`.

    Weights are fitted on the training part; when to stop, the temperature and the distance limit are taken
    from the validation part; the test part is only measured. The same file, settings and machine give
    the same weights. Raises RequestError for a csv, split or setting that does not work, before training.
    """
    began = time.monotonic()
    if Path(out).exists():
        raise RequestError(str(out), "is already there", "name another folder; no model is overwritten")
    architecture = settings.stated().architecture
    start = find_start(architecture, settings.pretrained)
    with tempfile.TemporaryDirectory(prefix="coverslip-", ignore_cleanup_errors=True) as scratch:
        tiles = read_tiles(labels_csv, settings.size, Path(scratch), settings.group_column)
        split = split_groups(tiles.labels, tiles.groups, settings.shares, settings.seed, tiles.classes)
        with seeded(settings.seed):
            network = start_network(architecture, len(tiles.classes), start).to(
                choose_device(settings.device)
            )
            normalisation = published_normalisation(architecture)
            history, best = _fit(network, tiles, split, normalisation, settings, progress or _silent)
        document, weights = _conclude(network, tiles, split, normalisation, settings, start, len(history))
    package = write_package(out, document, weights)
    assert document.metrics is not None
    return TrainingReport(
        package=package,
        metrics=document.metrics,
        parts=_part_sizes(split),
        history=history,
        best_epoch=best,
        initialisation=start.sentence,
        notes=(*_notes(document, start), *_no_sets(document, settings)),
        seconds=time.monotonic() - began,
    )


def _silent(epoch: Epoch) -> None:
    """No progress is drawn."""


def _fit(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    split: Split,
    normalisation: Normalisation,
    settings: TrainingSettings,
    progress: Progress,
) -> tuple[tuple[Epoch, ...], int]:
    """Train; leaves in `network` the state of the best validation epoch, whose number is returned."""
    began, history = time.monotonic(), []
    step = _Step(network, tiles, split.train, normalisation, settings)
    best, best_score, state = 0, (-1.0, 0.0), network.state_dict()
    for epoch in range(1, settings.epochs + 1):
        loss = float(
            np.mean([step(rows) for rows in _shuffled(split.train, settings.batch, settings.seed, epoch)])
        )
        score = _score(network, tiles, split.validation, normalisation, settings.batch)
        history.append(Epoch(epoch, settings.epochs, loss, score[0], time.monotonic() - began))
        progress(history[-1])
        if score > best_score:
            best, best_score, state = epoch, score, copy.deepcopy(network.state_dict())
        if epoch - best >= settings.patience:
            break
    network.load_state_dict(state)
    network.eval()
    return tuple(history), best


class _Step:
    """One optimiser step on the tiles of the given rows; returns the loss."""

    def __init__(
        self,
        network: torch.nn.Module,
        tiles: LabelledTiles,
        train: NDArray[np.intp],
        normalisation: Normalisation,
        settings: TrainingSettings,
    ):
        torch = require("torch")
        self._network, self._tiles, self._normalisation = network, tiles, normalisation
        self._device = next(network.parameters()).device
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._colour: ColourChange = settings.colour
        # Weights inverse to the class counts: each class counts as much as any other.
        counts = np.bincount(tiles.labels[train], minlength=len(tiles.classes))
        weight = torch.tensor(len(train) / (len(counts) * counts), dtype=torch.float32, device=self._device)
        self._loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=settings.label_smoothing)
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = settings.epochs * len(list(_shuffled(train, settings.batch, settings.seed, 0)))
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=settings.learning_rate, total_steps=steps, pct_start=0.25
        )

    def __call__(self, rows: NDArray[np.intp]) -> float:
        torch = require("torch")
        self._network.train()
        varied = augment(torch.from_numpy(self._tiles.pixels[rows]), self._generator, self._colour)
        varied = varied.to(self._device)
        labels = torch.from_numpy(self._tiles.labels[rows]).to(self._device)
        loss = self._loss(
            features_and_logits(self._network, normalise(varied, self._normalisation))[1], labels
        )
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())


def _shuffled(rows: NDArray[np.intp], batch: int, seed: int, epoch: int) -> Iterator[NDArray[np.intp]]:
    """Batches in an order that seed and epoch fix; sizes differ by one at most, since a batch of one tile
    has no variance to normalise by."""
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    yield from np.array_split(order, max(1, round(len(order) / batch)))


def _score(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    rows: NDArray[np.intp],
    normalisation: Normalisation,
    batch: int,
) -> tuple[float, float]:
    """Balanced accuracy, and minus the mean loss to tell epochs of equal accuracy apart."""
    _, logits = _evaluate(network, tiles, rows, normalisation, batch)
    labels = tiles.labels[rows]
    confusion = confusion_matrix(labels, logits.argmax(axis=1), len(tiles.classes))
    spread = np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    return balanced_accuracy(confusion), -float((spread - logits[np.arange(len(rows)), labels]).mean())


def _evaluate(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    rows: NDArray[np.intp],
    normalisation: Normalisation,
    batch: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features and logits of these rows; their pixels are fetched a few batches at a time."""
    network.eval()
    chunks = (tiles.pixels[rows[i : i + 8 * batch]] for i in range(0, len(rows), 8 * batch))
    found = [evaluate(network, chunk, normalisation, batch) for chunk in chunks]
    features, logits = (np.concatenate(part) for part in zip(*found, strict=True))
    return features, logits


def _conclude(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    split: Split,
    normalisation: Normalisation,
    settings: TrainingSettings,
    start: Start,
    epochs: int,
) -> tuple[ModelDocument, bytes]:
    """Calibrate on validation, measure on test, and say all of it in a document."""
    parts = [
        _evaluate(network, tiles, rows, normalisation, settings.batch)
        for rows in (split.train, split.validation, split.test)
    ]
    (train, _), (validation, validation_logits), (_, test_logits) = parts
    test, calibration = split.test, fit_temperature(validation_logits, tiles.labels[split.validation])
    softened = [soften(logits, calibration.temperature) for logits in (validation_logits, test_logits)]
    data = f"test part of the labels file: {len(test)} tiles kept out of training and of every choice"
    weights, stated = _weights(network), settings.stated()
    document = ModelDocument(
        name=settings.name,
        version=settings.version,
        classes=tiles.classes,
        tile=stated.tile.model_copy(update={"mpp": settings.mpp * tiles.scale}),
        stain=settings.stain,
        normalisation=normalisation,
        architecture=stated.architecture,
        licence=settings.licence,
        intended_use=settings.intended_use,
        training=_training(tiles, split, settings, start, epochs),
        metrics=measure(
            tiles.labels[test], test_logits.argmax(axis=1), tiles.groups[test], tiles.classes, data
        ),
        calibration=calibration,
        reliability=measure_reliability(
            test_logits, tiles.labels[test], tiles.groups[test], calibration.temperature
        ),
        prediction_sets=_sets(tiles, split, settings, softened[0], softened[1]),
        out_of_distribution=fit_familiarity(
            settings.familiarity, train, tiles.labels[split.train], validation, validation_logits
        ),
        colour=fit_colours(_colours(tiles, split.train), _colours(tiles, split.validation)),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with=_versions(),
    )
    return document, weights


def _colours(tiles: LabelledTiles, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Of these rows, whose pixels are fetched some at a time."""
    return np.concatenate([tile_colours(tiles.pixels[rows[i : i + 128]]) for i in range(0, len(rows), 128)])


def _sets(
    tiles: LabelledTiles,
    split: Split,
    settings: TrainingSettings,
    validation: NDArray[np.float32],
    test: NDArray[np.float32],
) -> PredictionSets | None:
    """From the probabilities of both parts; None where the validation part has too few groups for it."""
    labels, groups = tiles.labels[split.validation], tiles.groups[split.validation]
    if len(np.unique(groups)) < least_groups(settings.coverage):
        return None
    known = fit_sets(validation, labels, groups, settings.coverage, settings.sets, settings.sets_by_class)
    measured = measure_coverage(known, test, tiles.labels[split.test], tiles.groups[split.test])
    return known.model_copy(update={"measured": measured})


def _training(
    tiles: LabelledTiles, split: Split, settings: TrainingSettings, start: Start, epochs: int
) -> Training:
    counts = np.bincount(tiles.labels)
    listed = ", ".join(f"{count} {name}" for name, count in zip(tiles.classes, counts, strict=True))
    return Training(
        data=f"tiles of a labels file: {listed}",
        tiles=len(tiles.labels),
        groups=len(np.unique(tiles.groups)),
        parts=_part_sizes(split),
        labels_sha256=tiles.sha256,
        initialisation=start.sentence,
        seed=settings.seed,
        epochs=epochs,
    )


def _part_sizes(split: Split) -> Parts:
    return Parts(train=len(split.train), validation=len(split.validation), test=len(split.test))


def _weights(network: torch.nn.Module) -> bytes:
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    return require("safetensors.torch").save(state)


def _versions() -> dict[str, str]:
    names = ("coverslip", "torch", "timm", "safetensors", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _notes(document: ModelDocument, start: Start) -> tuple[str, ...]:
    notes = [document.research_use, f"Trained from {start.sentence}."]
    if document.metrics:
        few = [f"{entry.name} ({entry.n})" for entry in document.metrics.classes if entry.n < FEW_TILES]
        if few:
            notes.append(
                f"Fewer than {FEW_TILES} test tiles, so the class's own figure is rough: {', '.join(few)}."
            )
    if document.training and document.training.groups == document.training.tiles:
        notes.append(
            "No two tiles share a group: if several come from one slide or patient, "
            "say so in the column group, or the accuracy is too high."
        )
    return tuple(notes)


def _no_sets(document: ModelDocument, settings: TrainingSettings) -> tuple[str, ...]:
    if document.prediction_sets:
        return ()
    least = least_groups(settings.coverage)
    return (
        f"No prediction sets: a coverage of {settings.coverage:g} cannot be stated with fewer than {least} "
        "groups in the validation part. Give tiles of more groups, or ask for less coverage.",
    )
