"""Workflow `blood`: the cells of a blood smear found and called, and the white-cell differential."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import pyarrow as pa

from coverslip.errors import RequestError
from coverslip.models.cell_caller import CellCaller, open_caller
from coverslip.models.library import find_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.blood.cells import SmearCells, add_calls, roles_of, wrong_calls
from coverslip.workflows.blood.fields import FieldSettings, count_fields
from coverslip.workflows.blood.report import Assessed, blood_report, galleries
from coverslip.workflows.cells import CellFinding, CellSettings, cell_finding
from coverslip.workflows.finders import CLASSICAL, WHITE_CELLS, open_finder, settle_finder
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import GuidelineUse, ModelIdentity
from coverslip.workflows.rules.differential import DIFFERENTIAL, NAMES, Counting, Rules
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.rules.schistocytes import SCHISTOCYTES
from coverslip.workflows.workflow import Canvas, Conclusion, Grid, Scored, StainKind, Vectors
from coverslip.wsi import Slide

Found = Literal["classical", "finder"]


@dataclass(frozen=True, slots=True)
class BloodSettings:
    """How a smear is looked at.

    `finder`: of red cells, platelets and, with `white_cells` "finder", of white cells: a name as for the
    workflow cells, or "classical", which finds white cells only. `white_cells`: "classical" finds them by
    their purple nuclei, which found more of them in two laboratories' stains than the finder that comes with
    Coverslip. `classifier`: the model that calls them; --model names it too.

    `guideline`, `schistocytes`, `names`: ids of guidelines, or YAML files of your own: parts, ranges and
    flags; fragments of red cells; what classes are reported as. `counting`: `least_cells` below which the
    differential is not evaluable, by default the guideline's; intervals hold at `confidence`, each by itself
    or all `simultaneous`. `unsure_share`: more unsure white cells than this leave nothing to call. `fields`:
    of view, `area_mm2` each, 0.038 as a 100× objective shows them, of which cells `cover` at least so much.

    `examples`: cells shown per class. `tile`: pixels a side looked at together, without the halo; `shard`:
    tiles per task. `exact`: decode the slide's stored tiles in full.
    """

    finder: str = "smear-cells"
    white_cells: Found = "classical"
    classifier: str = "blood-cells"
    guideline: str = DIFFERENTIAL
    schistocytes: str = SCHISTOCYTES
    names: str = NAMES
    counting: Counting = field(default_factory=Counting)
    unsure_share: float = 0.3
    fields: FieldSettings = field(default_factory=FieldSettings)
    examples: int = 12
    tile: int = 1024
    shard: int = 4
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.unsure_share <= 1 or self.examples < 0:
            raise RequestError(
                "blood settings", "are out of range", "give a share of 0 to 1, examples of 0 or more"
            )
        if self.white_cells not in get_args(Found):
            raise RequestError(
                f"white_cells {self.white_cells!r}", "is not known", f"name one of {get_args(Found)}"
            )

    @property
    def finder_name(self) -> str:
        """As `open_finder` takes it."""
        if self.finder in (CLASSICAL, WHITE_CELLS):
            return WHITE_CELLS
        return f"{WHITE_CELLS}+{self.finder}" if self.white_cells == "classical" else self.finder


@dataclass(frozen=True, slots=True)
class Blood:
    """Cells found over all tissue, white ones called one by one. Make one with `blood`.

    `finding`: the search for cells; `folder`: of the classifier's package; `document_sha256`: of its
    `model.json`; `kinds`, `roles`: what the classes of finder and classifier are reported as.
    """

    finding: CellFinding
    folder: str
    document_sha256: str
    model: ModelIdentity
    kinds: dict[str, str]
    roles: dict[str, str]
    rules: Rules
    fragments: Guideline
    choices: BloodSettings

    name = "blood"
    vectors: Vectors | None = field(default=None, init=False)
    expects: tuple[StainKind, ...] = field(default=("Romanowsky",), init=False)

    @property
    def grid(self) -> Grid:
        return self.finding.grid

    @property
    def canvas(self) -> Canvas:
        return self.finding.canvas

    def settings(self) -> dict[str, Any]:
        finding, rules = self.finding, self.rules
        return {
            **asdict(self.choices),
            "finder": finding.settings()["finder"],
            "finder_document": finding.document_sha256,
            "classifier": self.model.name,
            "model_document": self.document_sha256,
            "mpp": finding.mpp,
            "rules": {kept.id: dict(kept.values) for kept in (rules.guideline, rules.names, self.fragments)},
        }

    def device(self) -> dict[str, str]:
        compute = asdict(self._caller().engine.compute)
        return {key: str(value) for key, value in sorted(compute.items())}

    def check(self, slide: Slide) -> None:
        """Loads both models: one that cannot be had fails before anything is read."""
        self._caller().check_fit(slide.path, max(slide.mpp.x, slide.mpp.y))
        self.finding.check(slide)

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        scored = self.finding.score(slide, plan, tissue, rows)
        return replace(scored, table=add_calls(scored.table, slide, self._caller(), self.kinds, self.roles))

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        caller, choices = self._caller(), self.choices
        cells = SmearCells(table, caller.classes)
        assessed = Assessed(frozenset(self.kinds.values()), frozenset(self.roles.values()))
        metrics = caller.document.metrics
        wrong = wrong_calls(metrics.confusion, self.roles) if metrics else {}
        report = blood_report(
            cells, assessed, choices.counting, self.rules, self.fragments, choices.unsure_share, wrong
        )
        fields = count_fields(slide, tissue, cells, choices.fields)
        return Conclusion(
            summary=report.summary,
            call=report.call(),
            measurements=report.measurements() + fields.measurements(),
            findings=galleries(report, slide, caller.document.tile, choices.examples),
            abstentions=report.abstentions(),
            guidelines=self._guidelines(report.schistocytes is not None),
            tables={
                "tiles.parquet": pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue}),
                "cells.parquet": table,
                "fields.parquet": fields.table(),
            },
        )

    def _guidelines(self, fragments: bool) -> tuple[GuidelineUse, ...]:
        used = self.rules.guideline.use()
        return (used, self.fragments.use()) if fragments else (used,)

    def _caller(self) -> CellCaller:
        return open_caller(self.folder, threads=1)


def blood(choices: BloodSettings | None = None, *, commercial_only: bool = False) -> Blood:
    """The workflow with these settings; verifies both models.

    Raises ModelUnavailableError, ModelMismatchError for a class nobody knows the meaning of, RequestError.
    """
    choices = choices or BloodSettings()
    rules = Rules(load_guideline(choices.guideline), load_guideline(choices.names))
    finding = _finding(choices, commercial_only)
    package = find_model(choices.classifier)
    document = package.document
    if commercial_only:
        refuse_other_than_commercial(document.name, document.licence)
    return Blood(
        finding=finding,
        folder=os.path.abspath(package.folder),
        document_sha256=package.document_sha256,
        model=ModelIdentity(
            name=document.name,
            version=document.version,
            sha256=document.weights_sha256,
            licence=document.licence,
        ),
        kinds=roles_of(finding.classes, rules.names, choices.finder),
        roles=roles_of(document.classes, rules.names, document.name),
        rules=rules,
        fragments=load_guideline(choices.schistocytes),
        choices=choices,
    )


def _finding(choices: BloodSettings, commercial_only: bool) -> CellFinding:
    """The search for cells. No stain is measured in them: the vectors of sections are not those of smears."""
    name = settle_finder(choices.finder_name)
    found = open_finder(name)
    tiles = CellSettings(tile=choices.tile, shard=choices.shard, exact=choices.exact)
    base = cell_finding(name.removeprefix(f"{WHITE_CELLS}+"), tiles, commercial_only=commercial_only)
    return replace(base, finder=name, margin=found.margin, classes=found.classes, stains=None)


def _build(settings: BloodSettings, asked: Asked) -> Blood:
    chosen = settings if asked.model is None else replace(settings, classifier=asked.model)
    return blood(chosen, commercial_only=asked.commercial_only)


KIND = WorkflowKind(
    "blood",
    "White-cell differential of a blood smear, red cells and platelets counted.",
    BloodSettings,
    _build,
    frozenset({"model", "commercial_only"}),
)
