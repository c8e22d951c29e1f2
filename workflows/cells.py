"""Workflow `cells`: nuclei or cells found one by one over the whole slide, measured and counted by class."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.foreign_finder import ForeignFinder
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.objects import Objects, areas
from coverslip.models.star_finder import StarFinder
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.stain import H_DAB, H_E, StainVectors, separate
from coverslip.tiling.supply import SupplySettings, TileBatch, supply
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.cell_judge import CellJudge
from coverslip.workflows.cell_table import OUTLINE, pack_outlines
from coverslip.workflows.finders import CLASSICAL, open_finder, settle_finder
from coverslip.workflows.ownership import owned
from coverslip.workflows.palette import class_colours
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
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

# What is done at another scale than a foreign model's own: scanners' 20× is 0.46 to 0.55 µm/px.
FOREIGN_TOLERANCE = 0.1
# As `slides.csv` and packages write them, without regard to case.
STAINS = {"h&e": H_E, "h-dab": H_DAB, "ihc": H_DAB}


@dataclass(frozen=True, slots=True)
class CellSettings:
    """`tile`: pixels a side looked at together, without the halo; `shard`: tiles per task. `enough`: objects
    below which counts per area are said to rest on few. `exact`: decode the slide's stored tiles in full."""

    tile: int = 1024
    shard: int = 4
    enough: int = 100
    exact: bool = False

    def __post_init__(self) -> None:
        if self.tile < 16 or self.tile % 16 or self.shard < 1:
            raise RequestError(
                f"tile {self.tile}, shard {self.shard}", "do not fit", "give a multiple of 16 and at least 1"
            )


@dataclass(frozen=True, slots=True)
class CellFinding:
    """A finder applied to all tissue. Make one with `cell_finding`.

    `finder`: "classical", a package's folder, or a foreign model's name; `document_sha256` of its
    `model.json`, or of what a foreign model is made of. `stains`: whose amounts are measured in each object.
    """

    finder: str
    mpp: float
    tolerance: float
    margin: int
    classes: tuple[str, ...]
    choices: CellSettings
    stains: StainVectors | None
    model: ModelIdentity | None = None
    document_sha256: str = ""

    name = "cells"
    vectors: Vectors | None = field(default=None, init=False)
    expects: tuple[StainKind, ...] = field(default=(), init=False)

    @property
    def grid(self) -> Grid:
        choices = self.choices
        return Grid.of_objects(self.mpp, choices.tile, choices.shard, exact=choices.exact)

    @property
    def canvas(self) -> Canvas:
        return Canvas("cells", class_colours(self.classes))

    def settings(self) -> dict[str, Any]:
        stains = asdict(self.stains) if self.stains else None
        return {
            **asdict(self.choices),
            "finder": self.finder if self.model is None else self.model.name,
            "model_document": self.document_sha256,
            "mpp": self.mpp,
            "stains": stains,
        }

    def device(self) -> dict[str, str]:
        finder = open_finder(self.finder)
        if isinstance(finder, ForeignFinder):
            return dict(sorted(finder.compute.items()))
        if not isinstance(finder, StarFinder):
            return {"device": "cpu", "precision": "float32"}
        return {key: str(value) for key, value in sorted(asdict(finder.compute).items())}

    def check(self, slide: Slide) -> None:
        """Loads the model: one that cannot be had fails before anything is read."""
        open_finder(self.finder)
        finest = max(slide.mpp.x, slide.mpp.y)
        if finest > self.mpp * (1 + self.tolerance):
            raise ModelMismatchError(
                slide.path,
                f"was scanned at {finest:.3g} µm/px, too coarse for cells at {self.mpp:.3g} µm/px",
                f"scan it finer, or name a model made for {finest:.3g}",
            )

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        tables, blocks, damaged = [], {}, 0
        reading = SupplySettings(batch=1, halo=self.margin, exact=self.choices.exact)
        for batch in supply(slide, plan, rows, reading):
            table, block = self._look(batch, slide, plan, tissue)
            tables.append(table)
            blocks[int(batch.rows[0])] = block
            damaged += batch.damaged_pixels
        return Scored(pa.concat_tables(tables), damaged, blocks)

    def _look(
        self, batch: TileBatch, slide: Slide, plan: TilePlan, tissue: TissueMask
    ) -> tuple[pa.Table, NDArray[np.uint8]]:
        """One tile: the objects whose centroid lies in it, and its block of the class image.

        An object that crosses the tile's edge is drawn on both sides, from the halo.
        """
        rgb = batch.pixels[0]
        found = open_finder(self.finder).find(rgb)
        per_pixel = np.array([self.mpp / slide.mpp.x, self.mpp / slide.mpp.y])
        corner = np.array([batch.x[0], batch.y[0]], np.float64)
        x, y = ((np.stack([found.x, found.y], axis=1) - batch.halo) * per_pixel + corner).T
        seen = tissue.contains(x, y)
        value = np.concatenate([[0], np.where(seen, found.kind + 1, 0)]).astype(np.uint8)
        keep = np.flatnonzero(seen & owned(x, y, plan, int(batch.rows[0]), slide.bounds))
        drawn = [found.outlines[row] for row in keep.tolist()]
        outlines = [(points - batch.halo) * per_pixel + corner for points in drawn]
        columns = {
            "x": x[keep],
            "y": y[keep],
            "area_um2": areas(drawn) * self.mpp**2,
            "score": found.score[keep],
            **{name: values[keep] for name, values in self._densities(rgb, found).items()},
            "class": pa.array(self.classes).take(pa.array(found.kind[keep], pa.int64())),
        }
        table = pa.table(columns).append_column(OUTLINE, pack_outlines(outlines, x[keep], y[keep]))
        return table, value[found.labels][batch.core]

    def _densities(self, rgb: NDArray[np.uint8], found: Objects) -> dict[str, NDArray[np.float64]]:
        """Mean amount of each stain in each object, log10 optical density; negative pixels count."""
        if self.stains is None:
            return {}
        owner = found.labels[found.labels > 0]
        pixels = np.maximum(np.bincount(owner, minlength=len(found) + 1)[1:], 1)
        amounts = separate(rgb, self.stains)[found.labels > 0]
        return {
            f"{name.lower()}_od_mean": np.bincount(owner, amounts[:, number], len(found) + 1)[1:] / pixels
            for number, name in enumerate(self.stains.names[:2])
        }

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return Derived()

    @property
    def judge(self) -> CellJudge:
        return CellJudge(self.classes, self.model.name if self.model else CLASSICAL, self.choices.enough)

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        return self.judge.conclude(grounds, table)


def cell_finding(
    finder: str = CLASSICAL,
    choices: CellSettings | None = None,
    stain: str | None = None,
    *,
    commercial_only: bool = False,
) -> CellFinding:
    """The workflow for a finder by what `open_finder` takes; verifies it.

    `stain`: "H&E" or "H-DAB", whose amounts are measured; by default the package's, or H&E.
    Raises ModelUnavailableError, MissingExtraError, RequestError.
    """
    choices = choices or CellSettings()
    folder = settle_finder(finder)
    found = open_finder(folder)
    if choices.tile % found.step:
        raise RequestError(
            f"tile {choices.tile}", f"does not fit {finder}", f"give a multiple of {found.step}"
        )
    if isinstance(found, ForeignFinder):
        return _foreign_finding(folder, found, choices, stain, commercial_only)
    if not isinstance(found, StarFinder):
        return CellFinding(
            folder, found.mpp, 0.0, found.margin, found.classes, choices, _stains(stain or "H&E")
        )
    document = found.document
    if commercial_only:
        refuse_other_than_commercial(document.name, document.licence)
    return CellFinding(
        finder=folder,
        mpp=document.mpp,
        tolerance=document.tolerance,
        margin=found.margin,
        classes=document.classes,
        choices=choices,
        stains=_stains(stain or document.stain),
        model=ModelIdentity(
            name=document.name,
            version=document.version,
            sha256=document.weights_sha256,
            licence=document.licence,
        ),
        document_sha256=found.document_sha256,
    )


def _foreign_finding(
    finder: str, found: ForeignFinder, choices: CellSettings, stain: str | None, commercial_only: bool
) -> CellFinding:
    if commercial_only:
        refuse_other_than_commercial(found.name, found.licence)
    return CellFinding(
        finder=finder,
        mpp=found.mpp,
        tolerance=FOREIGN_TOLERANCE,
        margin=found.margin,
        classes=found.classes,
        choices=choices,
        stains=_stains(stain or "H&E"),
        model=ModelIdentity(
            name=found.name,
            version=found.version,
            sha256=found.weights_sha256,
            licence=found.licence,
        ),
        document_sha256=found.document_sha256,
    )


def _stains(name: str | None) -> StainVectors | None:
    return STAINS.get((name or "").casefold())


def _build(settings: CellSettings, asked: Asked) -> CellFinding:
    return cell_finding(asked.model or CLASSICAL, settings, commercial_only=asked.commercial_only)


KIND = WorkflowKind(
    "cells",
    "Nuclei or cells one by one, counted and measured by class.",
    CellSettings,
    _build,
    frozenset({"model", "commercial_only"}),
    judge=CellJudge,
)
