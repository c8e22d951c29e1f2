"""What the cells of a blood smear come to; and again, after a person corrected some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.models.document import TileFit
from coverslip.workflows.blood.cells import (
    CALL,
    KIND,
    RED,
    SCHISTOCYTES,
    STRANGE,
    UNDECIDED,
    UNSURE,
    WHITE,
    SmearCells,
)
from coverslip.workflows.blood.fields import count_fields
from coverslip.workflows.blood.report import Assessed, blood_report, galleries
from coverslip.workflows.blood.settings import BloodSettings
from coverslip.workflows.result import GuidelineUse, Urgency
from coverslip.workflows.revision import MACHINE, TABLES, Objects, Revision, chosen, numbered, with_column
from coverslip.workflows.rules.differential import ERYTHROBLASTS, PLATELETS, SMUDGES, Rules
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.workflow import Conclusion, Grounds


@dataclass(frozen=True, slots=True)
class BloodJudge:
    """`classes`: the caller's, `roles`: what they are reported as; `found`: what those of the finder are.
    `wrong`: what the model took for each part in its test; `tile`: what it sees of a cell."""

    classes: tuple[str, ...]
    roles: Mapping[str, str]
    found: tuple[str, ...]
    wrong: Mapping[str, str]
    tile: TileFit
    rules: Rules
    fragments: Guideline
    choices: BloodSettings

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        choices, plan = self.choices, grounds.plan
        cells = SmearCells(table, self.classes)
        assessed = Assessed(frozenset(self.found), frozenset(self.roles.values()))
        report = blood_report(
            cells, assessed, choices.counting, self.rules, self.fragments, choices.unsure_share, self.wrong
        )
        fields = count_fields(grounds.tissue, grounds.mpp, cells, choices.fields)
        return Conclusion(
            summary=report.summary,
            call=report.call(),
            measurements=report.measurements() + fields.measurements(),
            findings=galleries(report, grounds.mpp, self.tile, choices.examples),
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

    @property
    def _white(self) -> tuple[str, ...]:
        """What is called among white cells."""
        return (*self.rules.parts, ERYTHROBLASTS, SMUDGES, UNSURE)

    def labels(self, of: Objects) -> tuple[str, ...]:
        """Of cells: as they are reported, also those the model has no class of; "unsure" where a person
        cannot tell either. Fragments of red cells only where the finder tells them from others."""
        if of == "tiles":
            return ()
        fragments = (SCHISTOCYTES,) if SCHISTOCYTES in self.found else ()
        return (*self._white, PLATELETS, RED, *fragments)

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        labels = self.labels(of)
        called, kind = numbered(table[CALL], labels), numbered(table[KIND], labels)
        return np.where(called == MACHINE, kind, called).astype(np.int32)

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        table, given = tables[TABLES["cells"]], revision.given("cells")
        table = table if given is None else self._given(table, given)
        return self.conclude(grounds, chosen(table, revision.kept("cells")))

    def _given(self, table: pa.Table, given: NDArray[np.int32]) -> pa.Table:
        """What a person says is so: neither strange nor undecided."""
        sure = np.flatnonzero(given != MACHINE)
        names = np.array(self.labels("cells"), object)[given[sure]]
        white = np.isin(names.astype(str), self._white)
        columns = {
            KIND: np.where(white, WHITE, names),
            CALL: np.where(white, names, ""),
            STRANGE: False,
            UNDECIDED: False,
        }
        owner = {self.roles[name]: name for name in reversed(self.classes)}
        of_name = np.array([owner.get(name, "") for name in names.tolist()], object)
        for name in self.classes:
            columns[f"p_{name}"] = np.where(white, (of_name == name).astype(float), np.nan)
        for name, values in columns.items():
            text = table[name].type == pa.string()
            column = np.array(table[name].to_pylist(), object) if text else table[name].to_numpy().copy()
            column[sure] = values
            table = with_column(table, name, pa.array(column, pa.string()) if text else column)
        return table

    def urgency_of(self, category: str) -> Urgency | None:
        return "routine" if category == self.rules.guideline["normal"] else None
