"""Train a network that finds objects, nuclei or cells, from pictures in which all of them are marked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.models.augmentation import STAIN_SPREAD, vary_channels
from coverslip.models.averaging import MeanNetwork
from coverslip.models.detection import (
    Seen,
    Thresholds,
    choose_thresholds,
    count_matches,
    f1,
    measure_detection,
)
from coverslip.models.device import choose_device, trains_in_bfloat16
from coverslip.models.document import ChangedFigure, Normalisation, Parts
from coverslip.models.findings import versions
from coverslip.models.package import write_files
from coverslip.models.pictures import OBJECT, MarkedPictures, read_pictures
from coverslip.models.seed import seeded
from coverslip.models.split import Split, split_groups
from coverslip.models.stain_change import CHANGES, figures, restained
from coverslip.models.star_document import FinderDocument, FinderMetrics, FinderTraining
from coverslip.models.star_finder import look_at
from coverslip.models.star_network import UNIT, StarArchitecture, build_star, prepare
from coverslip.models.star_views import draw_view

if TYPE_CHECKING:
    import torch

NORMALISATION = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@dataclass(frozen=True, slots=True)
class FinderSettings:
    """What to train and how.

    `mpp`: µm per pixel at which the model looks, and `picture_mpp` those of the pictures, None for the same;
    `tolerance`: how far a slide's may be off, as a share. `called`: what
    label images mark. `scales`: least and greatest by which pictures are
    made larger or smaller to learn from.
    `stain_spread`: as
    of `vary_channels`. `side`: of the views learnt from, px. `steps`: of the optimiser, `batch` views each.
    """

    mpp: float
    picture_mpp: float | None = None
    name: str = "cells"
    version: str = "1"
    tolerance: float = 0.2
    stain: str | None = None
    licence: str = "not stated"
    intended_use: str = "research on pictures stained and scanned like those it was trained on"
    group_column: str = "group"
    called: str = OBJECT
    architecture: StarArchitecture | None = None
    scales: tuple[float, float] = (0.7, 1.4)
    stain_spread: float = STAIN_SPREAD
    side: int = 192
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {"side": 64, "steps": 10, "batch": 2, "seed": 0, "learning_rate": 1e-9, "mpp": 1e-3}
        low = [f"{name} is below {bound}" for name, bound in least.items() if getattr(self, name) < bound]
        if low:
            raise RequestError("training", "; ".join(low), "give larger figures")
        if self.side % 32:
            raise RequestError("training", f"a side of {self.side} px does not halve five times", "give 192")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise RequestError("training", f"scales {self.scales} are no range", "give such as 0.7, 1.4")

    @property
    def scale(self) -> float:
        """By which the pictures are made larger to be looked at."""
        return (self.picture_mpp or self.mpp) / self.mpp


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `step` of `steps` is done; `loss`: mean since the last report; `seconds` since it began."""

    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FinderReport:
    """What came of it; `metrics` are of the test part."""

    folder: Path
    document: FinderDocument
    metrics: FinderMetrics
    seconds: float


Progress = Callable[[Step], None]


def train_finder(
    labels_csv: str | Path, out: str | Path, settings: FinderSettings, progress: Progress | None = None
) -> FinderReport:
    """Train on the pictures a csv file names (see `read_pictures`), and write the package to the folder
    `out`.

    Weights are fitted on the training part, thresholds on the validation part; the test part is only
    measured. Raises RequestError for a csv, split or setting that does not work, before training.
    """
    began = time.monotonic()
    if Path(out).exists():
        raise RequestError(str(out), "is already there", "name another folder; no model is overwritten")
    marked = read_pictures(labels_csv, settings.group_column, settings.scale, settings.called)
    one = np.zeros(len(marked.pictures), np.intp)
    split = split_groups(one, marked.groups, settings.shares, settings.seed, ("picture",))
    architecture = settings.architecture or StarArchitecture(rays=4 if marked.are_boxes else 32)
    with seeded(settings.seed):
        network = build_star(architecture, len(marked.classes)).to(choose_device(settings.device))
        network = _fit(network, marked, split, architecture, settings, progress or _silent)
    document, weights = _conclude(network, marked, split, architecture, settings)
    write_files(Path(out), document, weights)
    assert document.metrics is not None
    return FinderReport(Path(out), document, document.metrics, time.monotonic() - began)


def _silent(step: Step) -> None:
    """No progress is drawn."""


def _fit(
    network: torch.nn.Module,
    marked: MarkedPictures,
    split: Split,
    architecture: StarArchitecture,
    settings: FinderSettings,
    progress: Progress,
) -> torch.nn.Module:
    """The mean of the weights over the last steps, in evaluation mode."""
    torch, began = require("torch"), time.monotonic()
    mean = MeanNetwork(network)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
    )
    losses: list[float] = []
    batches = _Batches(marked, split.train, architecture.rays, settings)
    network.train()
    # The next views are drawn while this step is taken.
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, 1)
        for step in range(1, settings.steps + 1):
            views = coming.result()
            coming = pool.submit(batches, min(step + 1, settings.steps))
            loss = _loss(
                network, architecture, *(part.to(next(network.parameters()).device) for part in views)
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            mean.follow(network)
            losses.append(float(loss.detach()))
            if step % 50 == 0 or step == settings.steps:
                progress(Step(step, settings.steps, float(np.mean(losses)), time.monotonic() - began))
                losses.clear()
    return mean.network


class _Batches:
    """Views for one step: the same number draws the same views."""

    def __init__(self, marked: MarkedPictures, rows: NDArray[np.intp], rays: int, settings: FinderSettings):
        self._marked, self._rows, self._rays, self._settings = marked, rows, rays, settings

    def __call__(self, step: int) -> tuple[torch.Tensor, ...]:
        torch, settings = require("torch"), self._settings
        rng = np.random.default_rng((settings.seed, step))
        views = [
            draw_view(
                self._marked.pictures[int(rng.choice(self._rows))],
                settings.side,
                settings.scales,
                len(self._marked.classes),
                self._rays,
                rng,
            )
            for _ in range(settings.batch)
        ]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = torch.from_numpy(np.stack([view.rgb for view in views]))
        rgb = vary_channels(pixels, generator, settings.stain_spread)
        parts = ("objectness", "distances", "known")
        stacked = (torch.from_numpy(np.stack([getattr(view, part) for view in views])) for part in parts)
        return rgb, *stacked


def _loss(
    network: torch.nn.Module,
    architecture: StarArchitecture,
    rgb: torch.Tensor,
    objectness: torch.Tensor,
    distances: torch.Tensor,
    known: torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of objectness plus, weighted by it, the absolute error of distances (Schmidt et al.
    2018).

    Distances are taken relative to their size, so that a small nucleus's outline counts as a large one's.
    """
    torch = require("torch")
    classes = objectness.shape[1]
    with torch.autocast(rgb.device.type, dtype=torch.bfloat16, enabled=trains_in_bfloat16(rgb.device)):
        found = network(prepare(rgb, architecture, NORMALISATION))
    found = found.float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        found[:, :classes], objectness, reduction="none"
    ).mean()
    weight = objectness.amax(dim=1) * known
    error = (found[:, classes:] * UNIT - distances).abs().mean(dim=1) / distances.mean(dim=1).clamp(min=2)
    return classes * entropy + (weight * error).sum() / weight.sum().clamp(min=1)


def _conclude(
    network: torch.nn.Module,
    marked: MarkedPictures,
    split: Split,
    architecture: StarArchitecture,
    settings: FinderSettings,
) -> tuple[FinderDocument, bytes]:
    state = {name: tensor.cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    # What is measured is what is written.
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    weights = require("safetensors.torch").save(state)
    validation, test = (_see(network, architecture, marked, rows) for rows in (split.validation, split.test))
    thresholds = choose_thresholds(validation, len(marked.classes))
    data = f"test part of the labels file: {len(test)} pictures kept out of training and of every choice"
    document = FinderDocument(
        name=settings.name,
        version=settings.version,
        shape="box" if marked.are_boxes else "star",
        mpp=settings.mpp,
        tolerance=settings.tolerance,
        stain=settings.stain,
        classes=marked.classes,
        thresholds=thresholds.scores,
        overlap=thresholds.overlap,
        normalisation=NORMALISATION,
        architecture=architecture,
        licence=settings.licence,
        intended_use=settings.intended_use,
        training=_training(marked, split, settings),
        metrics=measure_detection(test, marked.groups[split.test], thresholds, marked.classes, data),
        stain_change=_under_change(network, architecture, marked, split.test, thresholds),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        created_with=versions(),
    )
    return document, weights


def _under_change(
    network: torch.nn.Module,
    architecture: StarArchitecture,
    marked: MarkedPictures,
    rows: NDArray[np.intp],
    thresholds: Thresholds,
) -> tuple[ChangedFigure, ...]:
    """Mean F1 over the classes on these rows, stained otherwise."""
    found = {}
    for change in CHANGES:
        pictures = tuple(replace(one, rgb=restained(one.rgb, change)) for one in marked.pictures)
        seen = _see(network, architecture, replace(marked, pictures=pictures), rows)
        counts = sum(count_matches(one, thresholds, len(marked.classes)) for one in seen)
        found[change] = float(np.nanmean(f1(np.asarray(counts))))
    return figures(found)


def _see(
    network: torch.nn.Module, architecture: StarArchitecture, marked: MarkedPictures, rows: NDArray[np.intp]
) -> list[Seen]:
    pictures = [marked.pictures[row] for row in rows]
    classes = len(marked.classes)
    return [
        Seen(picture, *look_at(network, picture.rgb, architecture, NORMALISATION, classes))
        for picture in pictures
    ]


def _training(marked: MarkedPictures, split: Split, settings: FinderSettings) -> FinderTraining:
    counts = np.bincount(np.concatenate([picture.kinds for picture in marked.pictures]))
    listed = ", ".join(f"{count} {name}" for name, count in zip(marked.classes, counts, strict=True))
    return FinderTraining(
        data=f"pictures of a labels file: {listed}",
        pictures=len(marked.pictures),
        objects=int(counts.sum()),
        groups=len(np.unique(marked.groups)),
        parts=Parts(train=len(split.train), validation=len(split.validation), test=len(split.test)),
        labels_sha256=marked.sha256,
        seed=settings.seed,
        steps=settings.steps,
    )
