"""Train a tile classifier from labelled tiles, and write it as a model package."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.models.augmentation import ColourChange, GeometryChange, augment
from coverslip.models.averaging import MeanNetwork
from coverslip.models.checkpoint import Checkpoint
from coverslip.models.dataset import LabelledTiles, read_tiles
from coverslip.models.device import choose_device, trains_in_bfloat16
from coverslip.models.document import (
    Architecture,
    ChangedFigure,
    Corrections,
    CurvePoint,
    Metrics,
    ModelDocument,
    NetworkArguments,
    Normalisation,
    Parts,
    Stated,
    TileFit,
)
from coverslip.models.doubt import SetMethod
from coverslip.models.engine import evaluate
from coverslip.models.familiarity import Method
from coverslip.models.findings import Asked, Evidence, describe_training, find, notes, part_sizes, versions
from coverslip.models.library import find_model
from coverslip.models.metrics import balanced_accuracy, confusion_matrix
from coverslip.models.network import (
    Start,
    features_and_logits,
    find_start,
    normalise,
    published_normalisation,
    start_network,
)
from coverslip.models.package import ModelPackage, write_package
from coverslip.models.seed import seeded
from coverslip.models.split import Split, split_beside
from coverslip.models.stain_change import CHANGES, figures, restained

if TYPE_CHECKING:
    import torch

# α of the Beta distribution that shares are drawn from: mostly a little of one in the other.
MIXING = 0.2
PLAIN = NetworkArguments()
LEAST_STEPS = 8


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What to train and how.

    `mpp`: µm per pixel of the image files, which only their maker knows; the package states that of the
    tile after reduction to `size` px. `tolerance`: how far a slide's tiles may be off it, as a share.
    `coverage`, `sets` and `sets_by_class` as in `coverslip.models.conformal.fit_sets`; `familiarity`: how
    tiles unlike those of training are told. `colour`: how the colours of training tiles are varied, see
    `coverslip.models.augmentation`. `geometry`: likewise how they are turned. `middle`: share of each image's
    side that is looked at, about its middle, for cells cut out with more around them than is wanted.
    `start`: the name or folder of a package of the same architecture, whose network is begun with, all but
    its classifier; else published weights if `pretrained`. `balance`: the power of a class's rarity that its
    tiles weigh by: with 1 each class counts as much as any other, with 0 each tile.
    `mixed`: share of steps in which tiles are mixed with others (Zhang et al. 2018, ICLR). `averaged`: keep
    the mean of the weights over the last steps. `half`: write them in float16, half as large.
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
    arguments: NetworkArguments = PLAIN
    pretrained: bool = True
    start: str | None = None
    epochs: int = 20
    patience: int = 12  # one-cycle settles in its last third: stopping before it would keep a rough state
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1  # Szegedy 2016, CVPR
    balance: float = 1.0
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    coverage: float = 0.9
    sets: SetMethod = "lac"
    sets_by_class: bool = False
    familiarity: Method = "mahalanobis"
    colour: ColourChange = "channels"
    geometry: GeometryChange = "turns"
    middle: float = 1.0
    mixed: float = 0.0
    averaged: bool = False
    half: bool = False
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
        if self.geometry not in get_args(GeometryChange):
            raise RequestError("training", f"no tiles are moved by {self.geometry!r}", "give turns or moves")
        if not (0 < self.middle <= 1 and 0 <= self.mixed <= 1 and 0 <= self.balance <= 1):
            raise RequestError("training", "middle, mixed and balance are shares", "give 0 to 1")
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
                architecture=Architecture(name=self.architecture, arguments=self.arguments),
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
    labels_csv: str | Path,
    out: str | Path,
    settings: TrainingSettings,
    progress: Progress | None = None,
    corrections: Corrections | None = None,
) -> TrainingReport:
    """Train on the tiles a csv file names, and write the package to the folder `out`.

    Weights are fitted on the training part; when to stop, the temperature and the distance limit are taken
    from the validation part; the test part is only measured. The same file, settings and machine give
    the same weights; a training that was stopped goes on after its last whole epoch when it is asked for
    again, and gives what it would have given. `corrections`: what the last lines of the csv are, for the
    card; where they are `learnt_only`, they are all in the training part. Raises RequestError for a csv,
    split or setting that does not work, before training.
    """
    began = time.monotonic()
    if Path(out).exists():
        raise RequestError(str(out), "is already there", "name another folder; no model is overwritten")
    architecture = settings.stated().architecture
    start = _find_start(settings, architecture)
    with tempfile.TemporaryDirectory(prefix="coverslip-", ignore_cleanup_errors=True) as scratch:
        tiles = read_tiles(labels_csv, settings.size, Path(scratch), settings.group_column, settings.middle)
        aside = corrections.labels if corrections and corrections.learnt_only else 0
        split = split_beside(tiles.labels, tiles.groups, aside, settings.shares, settings.seed, tiles.classes)
        with seeded(settings.seed):
            network = start_network(architecture, len(tiles.classes), start).to(
                choose_device(settings.device)
            )
            normalisation = published_normalisation(architecture)
            checkpoint = Checkpoint(Path(out), repr((settings, tiles.sha256, start, corrections)))
            history, best = _fit(
                network, tiles, split, normalisation, settings, progress or _silent, checkpoint
            )
        document, weights = _conclude(
            network, tiles, split, normalisation, settings, start, history, corrections
        )
    package = write_package(out, document, weights)
    checkpoint.clear()
    assert document.metrics is not None
    return TrainingReport(
        package=package,
        metrics=document.metrics,
        parts=part_sizes(split),
        history=history,
        best_epoch=best,
        initialisation=start.sentence,
        notes=notes(document, start.sentence, settings.coverage),
        seconds=time.monotonic() - began,
    )


def _find_start(settings: TrainingSettings, architecture: Architecture) -> Start:
    """Raises ModelUnavailableError, or RequestError for a package that the network cannot begin with."""
    if settings.start is None:
        return find_start(architecture, settings.pretrained)
    package = find_model(settings.start)
    known = package.document
    if known.probe or known.architecture != architecture:
        raise RequestError(
            known.name,
            f"is {known.architecture.name} with {known.architecture.arguments.model_dump(exclude_none=True)}"
            + (" under a probe" if known.probe else ""),
            "name a package of the network to be trained, or train one like it",
        )
    said = f"weights of {known.name} {known.version} (licence {known.licence}), all but its classifier"
    return Start(package.weights, f"{said}; sha256 {known.weights_sha256}")


def _silent(epoch: Epoch) -> None:
    """No progress is drawn."""


def _fit(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    split: Split,
    normalisation: Normalisation,
    settings: TrainingSettings,
    progress: Progress,
    checkpoint: Checkpoint,
) -> tuple[tuple[Epoch, ...], int]:
    """Train; leaves in `network` the state of the best validation epoch, whose number is returned."""
    began = time.monotonic()
    step = _Step(network, tiles, split.train, normalisation, settings)
    judged = step.mean.network if step.mean else network
    history, best, best_score, state = [], 0, (-1.0, 0.0), network.state_dict()
    if (saved := checkpoint.load()) is not None:
        step.restore(saved["step"])
        history = [Epoch(*entry) for entry in saved["history"]]
        best, best_score, state = saved["best"], tuple(saved["score"]), saved["state"]
    for epoch in range(len(history) + 1, settings.epochs + 1):
        if epoch - 1 - best >= settings.patience:
            break
        loss = float(
            np.mean([step(rows) for rows in _shuffled(split.train, settings.batch, settings.seed, epoch)])
        )
        score = _score(judged, tiles, split.validation, normalisation, settings.batch)
        history.append(Epoch(epoch, settings.epochs, loss, score[0], time.monotonic() - began))
        progress(history[-1])
        if score > best_score:
            best, best_score, state = epoch, score, copy.deepcopy(judged.state_dict())
        entries = [tuple(getattr(entry, name) for name in Epoch.__slots__) for entry in history]
        checkpoint.save(
            {"step": step.state(), "history": entries, "best": best, "score": best_score, "state": state}
        )
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
        self._dice = np.random.default_rng(settings.seed)
        self._settings = settings
        self.mean = MeanNetwork(network) if settings.averaged else None
        rarity = class_weights(tiles.labels[train], len(tiles.classes), settings.balance)
        weight = torch.tensor(rarity, dtype=torch.float32, device=self._device)
        self._loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=settings.label_smoothing)
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        steps = settings.epochs * len(list(_shuffled(train, settings.batch, settings.seed, 0)))
        # The schedule cannot rise in a quarter of fewer steps; of such a training only the rise is used.
        steps = max(steps, LEAST_STEPS)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, max_lr=settings.learning_rate, total_steps=steps, pct_start=0.25
        )

    def __call__(self, rows: NDArray[np.intp]) -> float:
        torch = require("torch")
        self._network.train()
        tiles, wanted = self._varied(rows)
        with torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(self._device)
        ):
            logits = features_and_logits(self._network, tiles)[1]
        loss = self._loss(logits.float(), wanted)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        if self.mean:
            self.mean.follow(self._network)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "network": self._network.state_dict(),
            "mean": self.mean.state() if self.mean else None,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
            "dice": self._dice.bit_generator.state,
            "torch": require("torch").get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        if self.mean:
            self.mean.restore(state["mean"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])
        self._dice.bit_generator.state = state["dice"]
        require("torch").set_rng_state(state["torch"])

    def _varied(self, rows: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tiles changed as the settings say, normalised, and what is to be said of each: (n, classes)."""
        torch, settings = require("torch"), self._settings
        pixels = torch.from_numpy(self._tiles.pixels[rows])
        varied = augment(pixels, self._generator, settings.colour, settings.geometry).to(self._device)
        tiles = normalise(varied, self._normalisation)
        labels = torch.from_numpy(self._tiles.labels[rows]).to(self._device)
        wanted = torch.nn.functional.one_hot(labels, len(self._tiles.classes)).float()
        if settings.mixed and torch.rand(1, generator=self._generator) < settings.mixed:
            share = float(self._dice.beta(MIXING, MIXING))
            order = torch.randperm(len(rows), generator=self._generator)
            tiles = share * tiles + (1 - share) * tiles[order]
            wanted = share * wanted + (1 - share) * wanted[order]
        return tiles, wanted


def class_weights(labels: NDArray[np.integer], classes: int, balance: float) -> NDArray[np.float64]:
    """How much a tile of each class weighs, (classes,): its rarity, rows ÷ (classes × rows of it), to the
    power `balance`. `labels`: class numbers (n,), of which there is one of each at least.

    >>> class_weights(np.array([0, 0, 0, 1]), 2, 1.0).round(3).tolist()
    [0.667, 2.0]
    """
    return (len(labels) / (classes * np.bincount(labels, minlength=classes))) ** balance


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
    history: tuple[Epoch, ...],
    corrections: Corrections | None,
) -> tuple[ModelDocument, bytes]:
    """Calibrate on validation, measure on test, and say all of it in a document."""
    if settings.half:
        network.half().float()  # so that what is measured is what is written
    (train, _), (validation, validation_logits), (_, test_logits) = (
        _evaluate(network, tiles, rows, normalisation, settings.batch)
        for rows in (split.train, split.validation, split.test)
    )
    evidence = Evidence(train, validation, validation_logits, test_logits)
    asked = Asked(settings.coverage, settings.sets, settings.sets_by_class, settings.familiarity)
    findings = find(tiles, split, evidence, asked)
    weights, stated = _weights(network, settings.half), settings.stated()
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
        training=describe_training(tiles, split, start.sentence, settings.seed, len(history)).model_copy(
            update={"curve": _curve(history), "corrections": corrections}
        ),
        metrics=findings.metrics,
        calibration=findings.calibration,
        reliability=findings.reliability,
        prediction_sets=findings.prediction_sets,
        out_of_distribution=findings.out_of_distribution,
        colour=findings.colour,
        stain_change=_under_change(network, tiles, split.test, normalisation, settings.batch),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with=versions(),
    )
    return document, weights


def _curve(history: tuple[Epoch, ...]) -> tuple[CurvePoint, ...]:
    return tuple(
        CurvePoint(loss=epoch.loss, validation=epoch.validation_balanced_accuracy) for epoch in history
    )


def _under_change(
    network: torch.nn.Module,
    tiles: LabelledTiles,
    rows: NDArray[np.intp],
    normalisation: Normalisation,
    batch: int,
) -> tuple[ChangedFigure, ...]:
    """Balanced accuracy on these rows, stained otherwise."""
    labels, classes = tiles.labels[rows], len(tiles.classes)
    found = {}
    for change in CHANGES:
        pixels = restained(np.asarray(tiles.pixels[rows]), change)
        called = evaluate(network, pixels, normalisation, batch)[1].argmax(axis=1)
        found[change] = balanced_accuracy(confusion_matrix(labels, called, classes))
    return figures(found)


def _weights(network: torch.nn.Module, half: bool) -> bytes:
    """A safetensors file; `half`: floating point in float16."""
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
        }
    return require("safetensors.torch").save(state)
