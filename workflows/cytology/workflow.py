"""Workflow `cytology`: a cervical smear's cells found and called one by one, adequacy, Bethesda category."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.models.cell_caller import CellCaller, open_caller
from coverslip.models.document import ModelDocument
from coverslip.models.library import locate_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.objects import Finder
from coverslip.models.pap_finder import PapFinder, PapSettings
from coverslip.tiling.focus_stack import FUSION, FusionSettings, fusion_reach, supply_stacks
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import SupplySettings
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.cytology.calls import call_of, obscured_share, read_cells, summary_of
from coverslip.workflows.cytology.cells import cells_of
from coverslip.workflows.cytology.findings import abstentions_of, findings_of, measurements_of
from coverslip.workflows.cytology.look import Focus, Look, class_names, picture_of
from coverslip.workflows.cytology.points import check_roles, points_of
from coverslip.workflows.finders import open_finder, settle_finder
from coverslip.workflows.palette import class_colours
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.rules.adequacy import Population, Preparation, least_cells
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.workflows.tile_classes import threads_per_task
from coverslip.workflows.workflow import Canvas, Conclusion, Grid, Scored, StainKind, Vectors
from coverslip.wsi import Slide
from coverslip.wsi.planes import open_planes

DEFAULT_MODEL = "cervical-cells"
PAPANICOLAOU = "papanicolaou"
# The finder's pictures may be so much off the resolution it was made for.
FINDER_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class CytologySettings:
    """`preparation`: liquid-based or conventional; without it adequacy is not judged, and NILM not called.
    `population`: special where fewer cells are enough, as after hysterectomy or radiation.
    `guideline`: an id, or a YAML file of one's own. `points`: a file of operating points of the model; by
    default the one that comes with Coverslip for its weights, else the confusion that the model states.
    `focus`: for slides with focal planes. plane: the one that is open; fused: the sharpest part of each;
    best: cells are found in the fused picture, and each is called in the plane sharpest about it.
    `obscured`: share of the squamous cells hidden, 0 to 1, as a person judged it; by default measured.
    `gallery`: cells shown per category. `finder`: papanicolaou, or as for the workflow cells.
    `tile`: pixels a side looked at together, without the halo; `shard`: tiles per task. `exact`: decode the
    slide's stored tiles in full. `nuclei`: how papanicolaou finds them.
    """

    preparation: Preparation | None = None
    population: Population = "general"
    guideline: str = "bethesda-2014"
    points: str | None = None
    focus: Focus = "plane"
    obscured: float | None = None
    gallery: int = 6
    finder: str = PAPANICOLAOU
    tile: int = 2048
    shard: int = 2
    exact: bool = False
    nuclei: PapSettings = field(default_factory=PapSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)

    def __post_init__(self) -> None:
        if self.tile < 64 or self.tile % 16 or self.shard < 1 or self.gallery < 0:
            raise RequestError(
                f"tile {self.tile}, shard {self.shard}, gallery {self.gallery}",
                "do not fit",
                "give a multiple of 16, at least 64; at least 1; and 0 or more",
            )
        if self.obscured is not None and not 0 <= self.obscured <= 1:
            raise RequestError(f"obscured {self.obscured:g}", "is no share", "give 0 to 1")
        for name, kind in (("preparation", Preparation), ("population", Population), ("focus", Focus)):
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise RequestError(f"{name} {value!r}", "is not known", f"name one of {get_args(kind)}")


@dataclass(frozen=True, slots=True)
class Cytology:
    """A cell model applied to every nucleus of a smear. Make one with `cytology`.

    `folder`: the model's; `document_sha256`: of its `model.json`. `roles`: what the guideline calls its
    classes. `shrink`: pixels of the tiles per pixel of the finder's pictures.
    """

    folder: str
    model: ModelIdentity
    document_sha256: str
    classes: tuple[str, ...]
    roles: tuple[str, ...]
    mpp: float
    finder: str
    shrink: int
    choices: CytologySettings

    name = "cytology"
    vectors: Vectors | None = field(default=None, init=False)
    expects: tuple[StainKind, ...] = field(default=("Papanicolaou",), init=False)

    @property
    def grid(self) -> Grid:
        choices = self.choices
        return Grid.of_objects(self.mpp, choices.tile, choices.shard, exact=choices.exact)

    @property
    def canvas(self) -> Canvas:
        return Canvas("cells", class_colours(class_names(self.classes)))

    def settings(self) -> dict[str, Any]:
        guideline, points = self._rules()
        return {
            **asdict(self.choices),
            "guideline": asdict(guideline),
            "points": [asdict(point) for point in points.points],
            "points_method": points.method,
            "finder": self.finder,
            "mpp": self.mpp,
            "classes": list(self.classes),
            "model_document": self.document_sha256,
        }

    def device(self) -> dict[str, str]:
        compute = asdict(self._caller().engine.compute)
        return {key: str(value) for key, value in sorted(compute.items())}

    def check(self, slide: Slide) -> None:
        """Loads the model: one that cannot be had fails before anything is read."""
        self._caller().check_fit(slide.path, max(slide.mpp.x, slide.mpp.y))

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        tables, blocks, damaged = [], {}, 0
        with self._planes(slide) as planes:
            look, halo = self._look(several=len(planes) > 1), self._halo(len(planes))
            reading = SupplySettings(batch=1, halo=halo, exact=self.choices.exact)
            for batch, stack in supply_stacks(planes, plan, rows, reading):
                picture = picture_of(stack, self.choices.focus, self.mpp, self.choices.fusion)
                table, block = look.at(picture, batch, slide, plan, tissue)
                tables.append(table)
                blocks[int(batch.rows[0])] = block
                damaged += batch.damaged_pixels
        return Scored(pa.concat_tables(tables), damaged, blocks)

    @contextmanager
    def _planes(self, slide: Slide) -> Iterator[tuple[Slide, ...]]:
        if self.choices.focus == "plane":
            yield (slide,)
            return
        with open_planes(slide) as planes:
            yield planes

    def _halo(self, planes: int) -> int:
        """Pixels around a tile: what decides on a nucleus at its edge, and on the model's tile about it."""
        caller, finder = self._caller(), self._finder()
        largest = 2 * (self.choices.nuclei.nuclei.max_area_um2 / np.pi) ** 0.5
        reach = max(finder.margin * self.shrink, ceil((caller.reach_um + largest) / self.mpp))
        if planes > 1:
            reach += fusion_reach(self.mpp, self.choices.fusion)
        step = self.shrink * finder.step
        return ceil(reach / step) * step

    def _look(self, several: bool) -> Look:
        caller = self._caller()
        radius = caller.reach_um / 2
        return Look(self._finder(), caller, self.mpp, self.shrink, radius, several)

    def _finder(self) -> Finder:
        if self.finder == PAPANICOLAOU:
            return PapFinder(self.choices.nuclei, self.mpp * self.shrink)
        return open_finder(self.finder)

    def _caller(self) -> CellCaller:
        caller = open_caller(self.folder, threads_per_task())
        if caller.document_sha256 != self.document_sha256:
            raise ModelUnavailableError(
                self.folder, "was replaced by another model during the run", "run again, into another folder"
            )
        return caller

    def _rules(self):
        document, guideline = self._caller().document, load_guideline(self.choices.guideline)
        return guideline, points_of(document, guideline, self.choices.points)

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        guideline, points = self._rules()
        document, choices = self._caller().document, self.choices
        side_um = document.tile.size * document.tile.mpp
        cells = cells_of(table, self.classes, self.roles, slide.mpp, side_um)
        obscured = choices.obscured
        if obscured is None:
            obscured = obscured_share(slide, tissue, guideline["obscuring_density"])
        reading = read_cells(cells, points, guideline, choices.preparation, choices.population, obscured)
        call, refused = call_of(reading, guideline)
        suspicion = np.where(cells.familiar, reading.suspicion, np.nan).astype(np.float32)
        rows = table.append_column("suspicion", pa.array(suspicion))
        rows = rows.append_column("crowd", pa.array(reading.crowds))
        return Conclusion(
            summary=summary_of(call, reading),
            measurements=measurements_of(reading, points.method),
            findings=findings_of(reading, guideline, choices.gallery),
            abstentions=(*refused, *abstentions_of(reading, guideline, document.name)),
            tables={
                "tiles.parquet": pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue}),
                "cells.parquet": rows,
            },
            derived={"focus": self._focus(slide)},
            call=call,
            guidelines=(guideline.use(), *((points.use,) if points.use else ())),
        )

    def _focus(self, slide: Slide) -> dict[str, Any]:
        """Which planes were looked at, and how one picture came of them."""
        facts = slide.facts
        if facts.z_planes == 1 or self.choices.focus == "plane":
            return {"method": "plane", "plane": facts.z_plane, "planes": facts.z_planes}
        cells = "each cell in the plane with the highest sum about it" if self.choices.focus == "best" else ""
        return {
            "method": self.choices.focus,
            "planes": facts.z_planes,
            "spacing_um": facts.z_spacing_um,
            "fusion": FUSION,
            **({"cells": cells} if cells else {}),
        }


def cytology(
    model: str = DEFAULT_MODEL, choices: CytologySettings | None = None, *, commercial_only: bool = False
) -> Cytology:
    """The workflow for a tile model of cervical cells, by folder or name; verifies it and the guideline.

    Raises ModelUnavailableError, ModelMismatchError for a model of something else, RequestError.
    """
    choices = choices or CytologySettings()
    folder = os.path.abspath(locate_model(model))
    caller = open_caller(folder, threads_per_task())
    document: ModelDocument = caller.document
    if commercial_only:
        refuse_other_than_commercial(document.name, document.licence)
    guideline = load_guideline(choices.guideline)
    points_of(document, guideline, choices.points)
    if choices.preparation is not None:
        least_cells(guideline, choices.preparation, choices.population)
    finder = choices.finder if choices.finder == PAPANICOLAOU else settle_finder(choices.finder)
    return Cytology(
        folder=folder,
        model=ModelIdentity(
            name=document.name,
            version=document.version,
            sha256=document.weights_sha256,
            licence=document.licence,
        ),
        document_sha256=caller.document_sha256,
        classes=tuple(document.classes),
        roles=check_roles(document, guideline),
        mpp=document.tile.mpp,
        finder=finder,
        shrink=_shrink(finder, document),
        choices=choices,
    )


def _shrink(finder: str, document: ModelDocument) -> int:
    """Whole pixels of the model per pixel of the finder. Raises ModelMismatchError where there is no such."""
    mpp = PapFinder().mpp if finder == PAPANICOLAOU else open_finder(finder).mpp
    factor = max(1, round(mpp / document.tile.mpp))
    tolerance = 0.5 if finder == PAPANICOLAOU else FINDER_TOLERANCE
    if abs(factor * document.tile.mpp / mpp - 1) > tolerance:
        raise ModelMismatchError(
            finder,
            f"looks at {mpp:g} µm/px, and {document.name} at {document.tile.mpp:g}",
            "name a finder made for this resolution or a whole multiple of it",
        )
    return factor


def _build(settings: CytologySettings, asked: Asked) -> Cytology:
    return cytology(asked.model or DEFAULT_MODEL, settings, commercial_only=asked.commercial_only)


KIND = WorkflowKind(
    "cytology",
    "A cervical smear: its cells found and called, adequacy, Bethesda category, galleries.",
    CytologySettings,
    _build,
    frozenset({"model", "commercial_only"}),
)
