"""Workflow `tiles`: a model's class for every tile, the map they make, and what it says of the slide."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from coverslip.errors import ModelMismatchError, ModelUnavailableError
from coverslip.models.colour import colour_distance, tile_colours
from coverslip.models.doubt import PredictionSets
from coverslip.models.engine import Engine
from coverslip.models.library import find_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.package import ModelPackage, load_package
from coverslip.models.tint import ColourStatistics
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import SupplySettings, supply
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.tile_judge import TileClassSettings, TileJudge
from coverslip.workflows.workflow import (
    Canvas,
    Conclusion,
    Derived,
    Grid,
    Grounds,
    Scored,
    StainKind,
    Vectors,
)
from coverslip.wsi import Slide

# The class map is uint8, and 0 is "not looked at".
MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class TileClasses:
    """A model package applied to every tile with enough tissue. Make one with `tile_classes`.

    `document_sha256`: of the package's `model.json`, since that too decides what comes out.
    """

    folder: str
    model: ModelIdentity
    document_sha256: str
    classes: tuple[str, ...]
    grid: Grid
    strange_limit: float | None
    choices: TileClassSettings

    name = "tiles"
    canvas: Canvas | None = None
    sets: PredictionSets | None = None
    colour: ColourStatistics | None = None
    vectors: Vectors | None = None
    expects: tuple[StainKind, ...] = ()

    def settings(self) -> dict[str, Any]:
        return {
            **asdict(self.choices),
            "mpp": self.grid.mpp,
            "size": self.grid.size,
            "classes": list(self.classes),
            "model_document": self.document_sha256,
        }

    def device(self) -> dict[str, str]:
        compute = asdict(self._engine().compute)
        return {key: str(value) for key, value in sorted(compute.items())}

    def check(self, slide: Slide) -> None:
        """Loads the model: one that cannot be had fails before anything is read."""
        engine = self._engine()
        engine.package.check_fit(slide.path, self.grid.mpp)

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        engine = self._engine()
        found, distances, colours, damaged = [], [], [], 0
        for batch in supply(slide, plan, rows, self._reading(engine)):
            outputs = engine.examine(batch.pixels)
            found.append(outputs.probabilities)
            distances.append(outputs.distance)
            if self.colour is not None:
                colours.append(colour_distance(tile_colours(batch.pixels), self.colour))
            damaged += batch.damaged_pixels
        index = np.arange(rows.start, rows.stop)
        columns = {"x": plan.x[index], "y": plan.y[index], "tissue": plan.tissue[index]}
        probabilities = np.concatenate(found)
        for number, name in enumerate(self.classes):
            columns[f"p_{name}"] = probabilities[:, number]
        if self.strange_limit is not None:
            columns["distance"] = np.concatenate(distances)
        if self.colour is not None:
            columns["colour_distance"] = np.concatenate(colours)
        return Scored(pa.table(columns), damaged)

    def _reading(self, engine: Engine) -> SupplySettings:
        """On a GPU all of this task's cores decode; on a CPU they compute, and decoding takes a thirtieth."""
        threads = threads_per_task() if engine.compute.device.startswith("cuda") else 1
        return SupplySettings(batch=self.choices.batch, exact=self.choices.exact, threads=threads)

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return Derived()

    @property
    def judge(self) -> TileJudge:
        limit = self.colour.limit if self.colour else None
        return TileJudge(self.classes, self.strange_limit, limit, self.sets, self.choices)

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        return self.judge.conclude(grounds, table)

    def _engine(self) -> Engine:
        return engine_of(self.folder, self.document_sha256)


_LOADING = threading.Lock()


def engine_of(folder: str, document_sha256: str) -> Engine:
    """This process's engine of a package: loaded once, shared by its worker threads.

    Raises ModelUnavailableError when the package is no longer the one that was asked for.
    """
    with _LOADING:
        return _engine(folder, document_sha256, threads_per_task())


@lru_cache(maxsize=2)
def _engine(folder: str, document_sha256: str, threads: int) -> Engine:
    package = load_package(folder)
    if package.document_sha256 != document_sha256:
        raise ModelUnavailableError(
            folder, "was replaced by another model during the run", "run again, into another folder"
        )
    return Engine(package, threads=threads)


def threads_per_task() -> int:
    """Cores for one of this worker's tasks, so that networks running side by side do not fight."""
    from distributed import get_worker

    try:
        side_by_side = get_worker().state.nthreads
    except ValueError:
        side_by_side = 1
    return max(1, (os.cpu_count() or 1) // side_by_side)


def tile_classes(
    model: str | Path, choices: TileClassSettings | None = None, *, commercial_only: bool = False
) -> TileClasses:
    """The workflow for a model, by folder or name as for `find_model`; verifies it.

    Raises ModelUnavailableError, also for a licence that is not known to allow what `commercial_only` says,
    or ModelMismatchError for more classes than a class map can hold.
    """
    package: ModelPackage = find_model(model)
    document, choices = package.document, choices or TileClassSettings()
    if commercial_only:
        refuse_other_than_commercial(document.name, document.licence)
    known = document.out_of_distribution
    if len(document.classes) > MOST_CLASSES:
        raise ModelMismatchError(
            document.name, f"has {len(document.classes)} classes", f"use a model of at most {MOST_CLASSES}"
        )
    return TileClasses(
        folder=os.path.abspath(package.folder),
        model=ModelIdentity(
            name=document.name,
            version=document.version,
            sha256=document.weights_sha256,
            licence=document.licence,
        ),
        document_sha256=package.document_sha256,
        classes=tuple(document.classes),
        grid=Grid(document.tile.mpp, document.tile.size, min_tissue=choices.min_tissue, exact=choices.exact),
        strange_limit=known.limit if known else None,
        sets=document.prediction_sets,
        colour=document.colour,
        choices=choices,
    )


def _build(settings: TileClassSettings, asked: Asked) -> TileClasses:
    assert asked.model is not None
    return tile_classes(asked.model, settings, commercial_only=asked.commercial_only)


KIND = WorkflowKind(
    "tiles",
    "A model's class for each tile, class map, areas, a call for the slide.",
    TileClassSettings,
    _build,
    frozenset({"model", "commercial_only"}),
    "see coverslip models list, or make one with coverslip train tiles",
    TileJudge,
)
