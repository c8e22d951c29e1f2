"""Workflow `blood`: the cells of a blood smear found and called, and the white-cell differential."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from coverslip.models.cell_caller import CellCaller, open_caller
from coverslip.models.library import find_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.blood.cells import add_calls, roles_of, wrong_calls
from coverslip.workflows.blood.judge import BloodJudge
from coverslip.workflows.blood.settings import BloodSettings
from coverslip.workflows.cells import CellFinding, CellSettings, cell_finding
from coverslip.workflows.finders import WHITE_CELLS, open_finder, settle_finder
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.rules.differential import Rules
from coverslip.workflows.rules.guideline import Guideline, load_guideline
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

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return Derived()

    @property
    def judge(self) -> BloodJudge:
        document = self._caller().document
        metrics = document.metrics
        return BloodJudge(
            classes=self._caller().classes,
            roles=self.roles,
            found=tuple(sorted(set(self.kinds.values()))),
            wrong=wrong_calls(metrics.confusion, self.roles) if metrics else {},
            tile=document.tile,
            rules=self.rules,
            fragments=self.fragments,
            choices=self.choices,
        )

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        return self.judge.conclude(grounds, table)

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
    judge=BloodJudge,
)
