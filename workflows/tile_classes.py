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
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
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
from coverslip.workflows.canvas import cells_of
from coverslip.workflows.palette import class_colours
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import Abstention, Finding, Measurement, ModelIdentity, TileReference
from coverslip.workflows.sets import TileSets, tile_sets
from coverslip.workflows.shift import Shift, colour_shift, feature_shift
from coverslip.workflows.workflow import Canvas, ClassMap, Conclusion, Grid, Scored, StainKind, Vectors
from coverslip.wsi import Slide

# The class map is uint8, and 0 is "not looked at".
MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class TileClassSettings:
    """`min_tissue`: smallest share of tissue a tile needs to be scored. `call_share`: a class must cover this
    share of the tissue to be the slide's call; below half no class speaks for most of it. `strange_share`:
    no call when more tiles than this are unlike those the model learnt from, by their features or by their
    colours. `undecided_share`: no call when more tiles than this have several classes or none in their
    prediction set. `examples`: tiles shown per class. `batch`: tiles read and scored at once. `exact`: decode
    the slide's stored tiles in full.
    """

    min_tissue: float = 0.25
    call_share: float = 0.5
    strange_share: float = 0.5
    undecided_share: float = 0.5
    examples: int = 8
    batch: int = 16
    exact: bool = False

    def __post_init__(self) -> None:
        shares = (self.min_tissue, self.call_share, self.strange_share, self.undecided_share)
        if not all(0 <= share <= 1 for share in shares) or self.examples < 0 or self.batch < 1:
            raise RequestError(
                "tile class settings", "are out of range", "give shares of 0 to 1 and a batch of at least 1"
            )


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

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        probabilities = np.stack([table[f"p_{name}"].to_numpy() for name in self.classes], axis=1)
        best = probabilities.argmax(axis=1)
        weights = table["tissue"].to_numpy().astype(np.float64)
        shares = np.array([weights[best == n].sum() for n in range(len(self.classes))]) / weights.sum()
        strange = self._strange_share(table)
        named = table.append_column("class", pa.array([self.classes[n] for n in best]))
        sets = tile_sets(self.sets, self.classes, probabilities)
        features, colour = self._shifts(table)
        call, abstentions = self._call(shares, strange, sets, colour)
        return Conclusion(
            summary=f"{call.text}" if call else f"no call: {abstentions[0].why}",
            measurements=self._measurements(shares, plan, weights, best, strange)
            + (colour.measurement(), features.measurement())
            + (sets.measurements() if sets else ()),
            findings=((call,) if call else ()) + self._examples(plan, probabilities, best, shares),
            abstentions=abstentions,
            tables={"tiles.parquet": sets.add_to(named) if sets else named},
            class_map=self._map(plan, best),
        )

    def _engine(self) -> Engine:
        return engine_of(self.folder, self.document_sha256)

    def _strange_share(self, table: pa.Table) -> float | None:
        if self.strange_limit is None:
            return None
        return float((table["distance"].to_numpy() > self.strange_limit).mean())

    def _shifts(self, table: pa.Table) -> tuple[Shift, Shift]:
        """Of the features, and of the colours."""
        features = None if self.strange_limit is None else table["distance"].to_numpy()
        colours = None if self.colour is None else table["colour_distance"].to_numpy()
        limit = self.colour.limit if self.colour else None
        return feature_shift(features, self.strange_limit), colour_shift(colours, limit)

    def _call(
        self,
        shares: NDArray,
        strange: float | None,
        sets: TileSets | None = None,
        colour: Shift | None = None,
    ) -> tuple[Finding | None, tuple[Abstention, ...]]:
        top = int(shares.argmax())
        if strange is not None and strange > self.choices.strange_share:
            why = f"{strange:.0%} of the tiles are unlike those the model learnt from"
            return None, (Abstention(what="slide-level call", why=why),)
        if colour and (colour.strange or 0) > self.choices.strange_share:
            why = f"{colour.strange:.0%} of the tiles have colours unlike those the model learnt from"
            return None, (Abstention(what="slide-level call", why=why),)
        if sets and sets.several + sets.none > self.choices.undecided_share:
            return None, (Abstention(what="slide-level call", why=sets.why),)
        if shares[top] < self.choices.call_share:
            why = (
                f"no class covers {self.choices.call_share:.0%} of the tissue; "
                f"the largest is {self.classes[top]} with {shares[top]:.0%}"
            )
            return None, (Abstention(what="slide-level call", why=why),)
        text = f"{self.classes[top]}, on {shares[top]:.0%} of the tissue"
        return Finding(name="slide-level call", text=text), ()

    def _measurements(self, shares, plan: TilePlan, weights, best, strange) -> tuple[Measurement, ...]:
        area = (plan.size * plan.mpp / 1000) ** 2
        rows = []
        for number, name in enumerate(self.classes):
            of = best == number
            method = f"tiles whose most probable class is {name}, each weighted by its share of tissue"
            rows.append(
                Measurement(
                    name=f"{name}, share of the tissue",
                    value=100 * float(shares[number]),
                    unit="%",
                    method=method,
                    n=int(of.sum()),
                )
            )
            rows.append(
                Measurement(
                    name=f"{name}, area",
                    value=float(weights[of].sum() * area),
                    unit="mm2",
                    method=method,
                    n=int(of.sum()),
                )
            )
        if strange is not None:
            method = "tiles whose features lie further from those of training than the package's limit"
            rows.append(
                Measurement(
                    name="unfamiliar tiles", value=100 * strange, unit="%", method=method, n=len(best)
                )
            )
        return tuple(rows)

    def _examples(self, plan: TilePlan, probabilities, best, shares) -> tuple[Finding, ...]:
        """Per class the tiles of highest probability; among equals those that come first in the plan."""
        findings = []
        width, height = plan.extent
        for number, name in enumerate(self.classes):
            rows = np.flatnonzero(best == number)
            order = rows[np.argsort(-probabilities[rows, number], kind="stable")][: self.choices.examples]
            tiles = tuple(
                TileReference(
                    x=int(plan.x[row]),
                    y=int(plan.y[row]),
                    width=width,
                    height=height,
                    score=float(probabilities[row, number]),
                )
                for row in order
            )
            text = f"{len(rows)} tiles, {shares[number]:.1%} of the tissue"
            findings.append(Finding(name=name, text=text, tiles=tiles))
        return tuple(findings)

    def _map(self, plan: TilePlan, best) -> ClassMap:
        cells = cells_of(plan)
        values = np.zeros(cells.shape, np.uint8)
        values[cells.rows, cells.columns] = best + 1
        return ClassMap("classes", values, class_colours(self.classes), (plan.size - plan.overlap) * plan.mpp)


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
)
