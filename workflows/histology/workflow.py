"""Workflow `histology`: tumour, its foci and surroundings, grade and mitoses, as far as a model's classes go.

It wraps the workflow `tiles` or `slide`, by the model's kind, and says what their result means.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.document import ModelDocument
from coverslip.models.library import describe_model
from coverslip.models.slide_document import SlideModelDocument
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.cells import CellSettings, cell_finding
from coverslip.workflows.histology.judge import HistologyJudge, Meaning
from coverslip.workflows.histology.mitoses import CELLS, LOOKED, MitosisFinder, mitosis_finder
from coverslip.workflows.histology.roles import Roles, find_roles
from coverslip.workflows.histology.settings import HistologySettings, Rules, load_rules
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.slide_calls import SlideCalls, slide_calls
from coverslip.workflows.tile_classes import TileClasses, TileClassSettings, tile_classes
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


@dataclass(frozen=True, slots=True)
class Histology:
    """A model of tiles or slides, and what its classes mean. Make one with `histology`."""

    base: TileClasses | SlideCalls
    roles: Roles
    rules: Rules
    choices: HistologySettings
    finder: MitosisFinder | None = None

    name = "histology"
    expects: tuple[StainKind, ...] = ("H&E",)

    @property
    def grid(self) -> Grid:
        return self.base.grid

    @property
    def canvas(self) -> Canvas | None:
        return self.base.canvas

    @property
    def vectors(self) -> Vectors | None:
        return self.base.vectors

    @property
    def model(self) -> ModelIdentity | None:
        return self.base.model

    def settings(self) -> dict[str, Any]:
        own = asdict(self.choices)
        for wrapped in ("tiles", "slide", "roles", "guidelines", "exact", "mitosis_finder"):
            del own[wrapped]
        return {
            **self.base.settings(),
            **own,
            "wraps": self.base.name,
            "roles": {**asdict(self.roles), "gleason": {str(n): name for n, name in self.roles.gleason}},
            "guidelines": asdict(self.rules),
            "mitosis_finder": self.finder and {**self.finder.cells.settings(), "classes": self.finder.names},
        }

    def device(self) -> dict[str, str]:
        return self.base.device()

    def check(self, slide: Slide) -> None:
        self.base.check(slide)
        if self.finder is not None:
            self.finder.cells.check(slide)

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        """The wrapped workflow's rows; where mitoses are looked for, with the cells of each tile."""
        scored = self.base.score(slide, plan, tissue, rows)
        if self.finder is None:
            return scored
        cells, looked = self.finder.look(slide, plan, tissue, rows, self._wanted(scored.table))
        return replace(scored, table=scored.table.append_column(CELLS, cells).append_column(LOOKED, looked))

    def _wanted(self, table: pa.Table) -> NDArray[np.bool_]:
        """Tiles in which to look for mitoses: those of tumour, or all where the model cannot say."""
        if isinstance(self.base, SlideCalls) or not self.roles.tumour:
            return np.ones(len(table), bool)
        chance = np.stack([table[f"p_{name}"].to_numpy() for name in self.base.classes], axis=1)
        tumour = [number for number, name in enumerate(self.base.classes) if name in self.roles.tumour]
        return np.isin(chance.argmax(axis=1), tumour)

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return self.base.derive(slide, plan, tissue)

    @property
    def judge(self) -> HistologyJudge | None:
        """None over a slide-level model, whose call needs its network."""
        if isinstance(self.base, SlideCalls):
            return None
        return HistologyJudge(self.base.judge, self._meaning)

    @property
    def _meaning(self) -> Meaning:
        mitoses = None if self.finder is None else self.finder.rules
        return Meaning(self.roles, self.rules, self.choices, mitoses)

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        if self.judge is not None:
            return self.judge.conclude(grounds, table)
        of_cells = [name for name in (CELLS, LOOKED) if name in table.column_names]
        base = self.base.conclude(grounds, table.drop_columns(of_cells))
        return self._meaning.of_slide(base, self.base.classes, grounds.plan, table)


def histology(
    model: str | Path,
    choices: HistologySettings | None = None,
    *,
    encoder: str | None = None,
    weights: str | Path | None = None,
    random: bool = False,
    commercial_only: bool = False,
) -> Histology:
    """The workflow for a model of tiles or of slides, by folder or name as for `locate_model`; verifies it.

    `encoder`, `weights`, `random`: of a slide-level model, as for `slide_calls`.
    Raises ModelUnavailableError, ModelMismatchError; RequestError for a model of another kind, classes it
    does not have, or a finder that knows no mitosis.
    """
    choices = choices or HistologySettings()
    rules = load_rules(choices.guidelines)
    names = load_guideline(choices.guidelines.classes)
    document = describe_model(model)
    roles = find_roles(document.classes, choices.roles, names)
    if isinstance(document, SlideModelDocument):
        settings = replace(choices.slide, exact=choices.exact or choices.slide.exact)
        base = slide_calls(
            model, settings, encoder=encoder, weights=weights, random=random, commercial_only=commercial_only
        )
    elif isinstance(document, ModelDocument):
        _refuse_encoder(document.name, encoder, weights, random)
        base = tile_classes(model, _tile_settings(choices, roles), commercial_only=commercial_only)
    else:
        raise RequestError(
            document.name,
            "finds cells",
            "name it with --set mitosis_finder=…, and a model of tiles with --model",
        )
    return Histology(base, roles, rules, choices, _finder(choices, base.grid, names, commercial_only))


def _tile_settings(choices: HistologySettings, roles: Roles) -> TileClassSettings:
    """Where tumour decides, a class need not cover most of the tissue."""
    settings = replace(choices.tiles, exact=choices.exact or choices.tiles.exact)
    return replace(settings, call_share=0.0) if roles.tumour else settings


def _refuse_encoder(name: str, encoder: str | None, weights: str | Path | None, random: bool) -> None:
    if encoder is not None or weights is not None or random:
        raise RequestError("--encoder", f"is not used by {name}, a model of tiles", "leave it out")


def _finder(
    choices: HistologySettings, grid: Grid, names: Guideline, commercial_only: bool
) -> MitosisFinder | None:
    if choices.mitosis_finder is None:
        return None
    cells = cell_finding(
        choices.mitosis_finder, CellSettings(exact=choices.exact), commercial_only=commercial_only
    )
    usual = names["mitosis"] if choices.mitosis_classes is None else choices.mitosis_classes
    return mitosis_finder(cells, grid, usual)


def _build(settings: HistologySettings, asked: Asked) -> Histology:
    assert asked.model is not None
    return histology(
        asked.model,
        settings,
        encoder=asked.encoder,
        weights=asked.weights,
        random=asked.random_weights,
        commercial_only=asked.commercial_only,
    )


KIND = WorkflowKind(
    "histology",
    "Tumour and its foci, grade, lymphocytes, stroma and mitoses, as far as a model's classes go.",
    HistologySettings,
    _build,
    frozenset({"model", "encoder", "weights", "random_weights", "commercial_only"}),
    "coverslip train tiles, train probe and train mil make them",
    HistologyJudge,
)
