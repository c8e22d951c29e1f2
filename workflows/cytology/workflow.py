"""Workflow `cytology`: a cervical smear's cells found and called one by one, adequacy, Bethesda category."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa

from coverslip.errors import ModelMismatchError, ModelUnavailableError
from coverslip.models.cell_caller import CellCaller, open_caller
from coverslip.models.document import ModelDocument
from coverslip.models.library import locate_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.objects import Finder
from coverslip.models.pap_finder import PapFinder
from coverslip.tiling.focus_stack import FUSION, fusion_reach, supply_stacks
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import SupplySettings
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.cytology.calls import obscured_share
from coverslip.workflows.cytology.judge import OBSCURED, CytologyJudge
from coverslip.workflows.cytology.look import Look, class_names, picture_of
from coverslip.workflows.cytology.points import check_roles, points_of
from coverslip.workflows.cytology.settings import PAPANICOLAOU, CytologySettings
from coverslip.workflows.finders import open_finder, settle_finder
from coverslip.workflows.palette import class_colours
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.rules.adequacy import least_cells
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.workflows.tile_classes import threads_per_task
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
from coverslip.wsi.planes import open_planes

DEFAULT_MODEL = "cervical-cells"
# The finder's pictures may be so much off the resolution it was made for.
FINDER_TOLERANCE = 0.1


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

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        obscured = self.choices.obscured
        if obscured is None:
            obscured = obscured_share(slide, tissue, self._rules()[0]["obscuring_density"])
        return Derived({"focus": self._focus(slide), OBSCURED: obscured})

    @property
    def judge(self) -> CytologyJudge:
        guideline, points = self._rules()
        tile = self._caller().document.tile
        return CytologyJudge(
            model=self.model.name,
            classes=self.classes,
            roles=self.roles,
            side_um=tile.size * tile.mpp,
            guideline=guideline,
            points=points,
            choices=self.choices,
        )

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        return self.judge.conclude(grounds, table)

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
    judge=CytologyJudge,
)
