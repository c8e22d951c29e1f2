"""Workflow `ihc`: stains apart, nuclei and cells found, their staining scored by the marker's rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import ceil
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.models.compartments import reach_um
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.nuclei import margin_um
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.stain import StainVectors
from coverslip.tiling.supply import SupplySettings, TileBatch, supply
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.ihc.cells import find_cells
from coverslip.workflows.ihc.judge import COUNTED, IMMUNE, TUMOUR, IhcJudge
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.stains import chosen_vectors, off_plane, stains_of
from coverslip.workflows.ihc.tumour import AllCells, Tumour, read_immune, read_tumour
from coverslip.workflows.ownership import owned
from coverslip.workflows.palette import INTENSITY
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import ModelIdentity
from coverslip.workflows.rules.guideline import Guideline
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

# What a guideline must state to be read by, so that a wrong one is refused before hours of work.
NEEDED = MappingProxyType(
    {
        "Ki-67": ("categories", "least_cells", "levels", "field_cells"),
        "receptor": ("categories", "least_cells", "controls_at_most"),
        "HER2": ("more_than", "intense_complete_above", "intense_incomplete_is_2+", "least_cells", "texts"),
        "PD-L1": ("clone", "indication", "score", "least_cells"),
    }
)


@dataclass(frozen=True, slots=True)
class Ihc:
    """Two stains apart, nuclei by classical means, cells around them where the marker needs them.

    `tumour`: which cells count; `immune`: which of them are immune cells, None where nobody says; `rule`: the
    guideline they are read by. All follow from `choices`. Raises
    RequestError or ModelUnavailableError for an annotation, model or guideline that cannot be had.
    """

    choices: IhcSettings = field(default_factory=IhcSettings)
    tumour: Tumour = field(init=False)
    immune: Tumour | None = field(init=False)
    rule: Guideline | None = field(init=False)
    name = "ihc"
    expects: tuple[StainKind, ...] = field(default=("IHC",), init=False)
    vectors: Vectors | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        rule = self.choices.rule
        if rule is not None:
            rule.use(*NEEDED[self.choices.kind.reading])  # refuses one that lacks something
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "tumour", read_tumour(self.choices.tumour, self.choices.tumour_class))
        object.__setattr__(self, "immune", read_immune(self.choices.tumour, self.choices.immune_class))
        chosen_vectors(self.choices)  # refuses what are no two stains

    @property
    def model(self) -> ModelIdentity | None:
        return self.tumour.model

    @property
    def grid(self) -> Grid:
        choices = self.choices
        return Grid.of_objects(choices.mpp, choices.tile, choices.shard, exact=choices.exact)

    @property
    def canvas(self) -> Canvas:
        return Canvas("cells" if self.choices.kind.in_membrane else "nuclei", INTENSITY)

    def settings(self) -> dict[str, Any]:
        given = {**asdict(self.choices), "site": self.choices.stained_site}
        rule = None if self.rule is None else {"id": self.rule.id, **asdict(self.rule)}
        return {
            **given,
            "tumour": self.tumour.settings(),
            "guideline": rule,
            "stains": {"chosen": self.choices.stains, **asdict(chosen_vectors(self.choices))},
        }

    def device(self) -> dict[str, str]:
        return self.tumour.device()

    def check(self, slide: Slide) -> None:
        """Whether the tumour can be told on it; everything else tissue detection asks for."""
        self.tumour.check(slide)
        if self.immune is not None:
            self.immune.check(slide)

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        vectors = stains_of(slide, tissue, plan.digest, self.choices).vectors
        tables, blocks, damaged = [], {}, 0
        for batch in supply(
            slide, plan, rows, SupplySettings(batch=1, halo=self._halo(), exact=self.choices.exact)
        ):
            table, block = self._look(batch, slide, plan, tissue, vectors)
            tables.append(table)
            blocks[int(batch.rows[0])] = block
            damaged += batch.damaged_pixels
        return Scored(pa.concat_tables(tables), damaged, blocks)

    def _halo(self) -> int:
        found_by = self.choices.found_by
        beyond = reach_um(self.choices.cell, found_by.largest_radius_um) if self.choices.whole_cells else 0.0
        return ceil((margin_um(found_by) + beyond) / self.choices.mpp)

    def _look(
        self, batch: TileBatch, slide: Slide, plan: TilePlan, tissue: TissueMask, vectors: StainVectors
    ) -> tuple[pa.Table, NDArray[np.uint8]]:
        """One tile: the cells whose nucleus's centroid lies in it, and its block of the class image.

        One that crosses the tile's edge is drawn on both sides, from the halo, in the same class.
        """
        cells = find_cells(batch.pixels[0], vectors, self.choices)
        x = batch.x[0] + (cells.nuclei.x - batch.halo) * self.choices.mpp / slide.mpp.x
        y = batch.y[0] + (cells.nuclei.y - batch.halo) * self.choices.mpp / slide.mpp.y
        seen = tissue.contains(x, y)
        value = np.concatenate([[0], np.where(seen, cells.bins + 1, 0)]).astype(np.uint8)
        seen &= owned(x, y, plan, int(batch.rows[0]), slide.bounds)
        told = {}
        if not isinstance(self.tumour, AllCells):
            told["tumour"] = self.tumour.contains(slide, x[seen], y[seen])
        if self.immune is not None:
            told[IMMUNE] = self.immune.contains(slide, x[seen], y[seen])
        return cells.rows(x, y, seen, told), value[cells.drawn][batch.core]

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        stains = stains_of(slide, tissue, plan.digest, self.choices)
        glass, pinkness = off_plane(slide, tissue)
        restricted = not isinstance(self.tumour, AllCells)
        values = {
            "glass_colour": list(glass),
            "stain_off_plane": pinkness,
            **stains.derived(),
            COUNTED: {"where": self.tumour.where(slide), "restricted": restricted},
        }
        regions = self.tumour.regions(slide)
        return Derived(values, {} if regions is None else {TUMOUR: regions})

    @property
    def judge(self) -> IhcJudge:
        return IhcJudge(self.choices, self.rule)

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        return self.judge.conclude(grounds, table)


def _build(settings: IhcSettings, asked: Asked) -> Ihc:
    workflow = Ihc(settings)
    if asked.commercial_only and workflow.model is not None:
        refuse_other_than_commercial(workflow.model.name, workflow.model.licence)
    return workflow


KIND = WorkflowKind(
    "ihc",
    "Nuclei and cells by how strongly an antibody stains them; Ki-67, ER, PR, HER2, PD-L1 by their rules.",
    IhcSettings,
    _build,
    frozenset({"commercial_only"}),
    judge=IhcJudge,
)
