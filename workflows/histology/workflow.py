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
from coverslip.workflows.histology.call import (
    call_main_class,
    call_slide,
    call_tumour,
    not_called,
    probabilities,
    slide_triage,
    surest,
)
from coverslip.workflows.histology.grade import Grade, find_grade, read_grade
from coverslip.workflows.histology.mitoses import (
    CELLS,
    LOOKED,
    Mitoses,
    MitosisFinder,
    mitoses_by_finder,
    mitoses_by_tiles,
    mitosis_finder,
    read_mitoses,
)
from coverslip.workflows.histology.reading import ClassedTiles, Reading, classed_tiles
from coverslip.workflows.histology.roles import Roles, find_roles
from coverslip.workflows.histology.settings import HistologySettings, Rules, load_rules
from coverslip.workflows.histology.stroma import read_stroma
from coverslip.workflows.histology.tumour import (
    Tumour,
    find_tumour,
    foci_table,
    focus_features,
    focus_of_each_tile,
    read_deposits,
    read_tumour,
)
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import Abstention, Call, Finding, ModelIdentity
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.slide_calls import CALL, SlideCalls, slide_calls
from coverslip.workflows.tile_classes import TileClasses, TileClassSettings, tile_classes
from coverslip.workflows.workflow import Canvas, Conclusion, Grid, Scored, StainKind, Vectors
from coverslip.wsi import Slide

TILES = "tiles.parquet"


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

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        of_cells = [name for name in (CELLS, LOOKED) if name in table.column_names]
        base = self.base.conclude(slide, plan, tissue, table.drop_columns(of_cells))
        if isinstance(self.base, SlideCalls):
            return self._of_slide(base, self.base.classes, plan, table)
        return self._of_tiles(base, classed_tiles(plan, self.base.classes, base.tables[TILES]), table)

    def _of_slide(
        self, base: Conclusion, classes: tuple[str, ...], plan: TilePlan, table: pa.Table
    ) -> Conclusion:
        mitoses, tables = self._mitoses(plan, table)
        why = "not assessed: the model calls whole slides, and has no class for each tile"
        left = Abstention(what="areas, foci, lymphocytes, stroma and grade", why=why)
        reading = Reading(abstentions=(left,)) + self._read_mitoses(mitoses, plan)
        finding, refused = _base_call(base)
        if finding is not None:
            call = call_slide(finding, base.measurements, classes, self.roles)
        else:
            call = not_called(refused, slide_triage(probabilities(base.measurements, classes), self.roles))
        return _joined(base, call, reading, tables)

    def _of_tiles(self, base: Conclusion, tiles: ClassedTiles, table: pa.Table) -> Conclusion:
        choices, rules = self.choices, self.rules
        tumour = find_tumour(tiles, self.roles, choices.least_tiles)
        grade = find_grade(tumour, choices.gleason_share, rules.gleason)
        mitoses, tables = self._mitoses(tiles.plan, table, tumour)
        reading = (
            read_tumour(tumour, choices.tiles.examples)
            + self._deposits(tumour)
            + read_grade(tumour, grade, choices.gleason_share, rules.gleason)
            + read_stroma(tumour, choices.bed_mm, choices.least_mm2, rules.til, rules.stroma)
            + self._read_mitoses(mitoses, tiles.plan)
        )
        of_tile = focus_of_each_tile(tiles.plan, tumour.foci)
        named = base.tables[TILES].append_column("focus", of_tile)
        tables = {**tables, TILES: named, "foci.parquet": foci_table(tumour)}
        done = _joined(base, self._tile_call(base, tumour, grade), reading, tables)
        return replace(done, features=focus_features(tumour))

    def _tile_call(self, base: Conclusion, tumour: Tumour, grade: Grade | None) -> Call:
        finding, refused = _base_call(base)
        if finding is None:
            return not_called(refused, surest(tumour))
        if not self.roles.tumour:
            return call_main_class(tumour.tiles, finding)
        return call_tumour(tumour, grade, self.rules.nodes if self._is_node else None)

    @property
    def _is_node(self) -> bool:
        return self.choices.specimen == "lymph node"

    def _deposits(self, tumour: Tumour) -> Reading:
        """The size category means something in a lymph node only."""
        if not self.roles.tumour:
            return Reading()
        if self._is_node:
            return read_deposits(tumour, self.rules.nodes)
        why = "not assessed: the specimen is not said to be a lymph node (specimen: lymph node)"
        return Reading(abstentions=(Abstention(what="size category of deposits", why=why),))

    def _mitoses(
        self, plan: TilePlan, table: pa.Table, tumour: Tumour | None = None
    ) -> tuple[Mitoses | None, dict[str, pa.Table]]:
        """None where nothing can find them; and the tables to write."""
        examples = self.choices.tiles.examples
        if self.finder is not None:
            mitoses, cells = mitoses_by_finder(self.finder, plan, table, examples)
            return mitoses, {"cells.parquet": cells}
        if tumour is None or not self.roles.mitosis:
            return None, {}
        among = tumour.inside if self.roles.tumour else np.ones(len(plan), bool)
        return mitoses_by_tiles(tumour.tiles, self.roles.mitosis, among, examples), {}

    def _read_mitoses(self, mitoses: Mitoses | None, plan: TilePlan) -> Reading:
        known = not isinstance(self.base, SlideCalls) and self.roles.tumour
        return read_mitoses(
            mitoses,
            plan,
            "tiles of tumour" if known else "all tissue",
            hot_spot_mm2=self.choices.hot_spot_mm2,
            field_mm=self.choices.field_mm,
            elston=self.choices.specimen == "breast",
            rules=self.rules.mitoses,
        )


def _base_call(base: Conclusion) -> tuple[Finding | None, str]:
    """The wrapped workflow's call, or the reason why there is none."""
    found = next((finding for finding in base.findings if finding.name == CALL), None)
    why = next((abstention.why for abstention in base.abstentions if abstention.what == CALL), "")
    return found, why


def _joined(base: Conclusion, call: Call, reading: Reading, tables: dict[str, pa.Table]) -> Conclusion:
    """What this workflow says, then what the wrapped one does, its own call left out."""
    return replace(
        base,
        summary=call.text,
        call=call,
        measurements=(*reading.measurements, *base.measurements),
        findings=(*reading.findings, *(finding for finding in base.findings if finding.name != CALL)),
        abstentions=(*base.abstentions, *reading.abstentions),
        tables={**base.tables, **tables},
        guidelines=reading.guidelines,
    )


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
)
