"""What the cells of a smear come to by the Bethesda System; and again, after a person corrected some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.workflows.cytology.calls import call_of, read_cells, summary_of
from coverslip.workflows.cytology.cells import SURE, cells_of
from coverslip.workflows.cytology.findings import abstentions_of, findings_of, measurements_of
from coverslip.workflows.cytology.look import class_names
from coverslip.workflows.cytology.points import Points
from coverslip.workflows.cytology.settings import CytologySettings
from coverslip.workflows.result import Urgency
from coverslip.workflows.revision import (
    MACHINE,
    TABLES,
    Objects,
    Revision,
    chosen,
    named,
    numbered,
    with_column,
)
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.workflow import Conclusion, Grounds

# Among what is derived: the share of the cellular area that is hidden, None where that cannot be told.
OBSCURED = "obscured"
# What `conclude` adds to the rows it is given.
ADDED = ("suspicion", "crowd")


@dataclass(frozen=True, slots=True)
class CytologyJudge:
    """`model`: its name; `classes`: its own; `roles`: what the guideline calls them; `side_um`: of the part
    of the slide that it sees of a cell. `points`: how often it is known to be wrong."""

    model: str
    classes: tuple[str, ...]
    roles: tuple[str, ...]
    side_um: float
    guideline: Guideline
    points: Points
    choices: CytologySettings

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        guideline, points, choices, plan = self.guideline, self.points, self.choices, grounds.plan
        cells = cells_of(table, self.classes, self.roles, grounds.mpp, self.side_um)
        obscured = grounds.derived.values[OBSCURED]
        sample = choices.preparation, choices.population, obscured, choices.squamous
        reading = read_cells(cells, points, guideline, *sample)
        call, refused = call_of(reading, guideline)
        suspicion = np.where(cells.familiar, reading.suspicion, np.nan).astype(np.float32)
        rows = table.append_column("suspicion", pa.array(suspicion))
        rows = rows.append_column("crowd", pa.array(reading.crowds))
        return Conclusion(
            summary=summary_of(call, reading),
            measurements=measurements_of(reading, points.method),
            findings=findings_of(reading, guideline, choices.gallery),
            abstentions=(*refused, *abstentions_of(reading, guideline, self.model)),
            tables={
                "tiles.parquet": pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue}),
                "cells.parquet": rows,
            },
            call=call,
            guidelines=(guideline.use(), *((points.use,) if points.use else ())),
        )

    def labels(self, of: Objects) -> tuple[str, ...]:
        """Of cells the model's classes, and what is no cell to be called."""
        return class_names(self.classes) if of == "cells" else ()

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        return numbered(table["class"], self.labels(of))

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        table, given = tables[TABLES["cells"]].drop_columns(list(ADDED)), revision.given("cells")
        table = table if given is None else self._given(table, given)
        return self.conclude(grounds, chosen(table, revision.kept("cells")))

    def _given(self, table: pa.Table, given: NDArray[np.int32]) -> pa.Table:
        """What a person says is so: neither strange nor undecided, and no false positive of the model."""
        sure = given != MACHINE
        table = with_column(table, "class", named(table["class"], given, self.labels("cells")))
        for number, name in enumerate(self.classes):
            table = _put(table, f"p_{name}", sure, given[sure] == number)
        for name, value in (("score", 1.0), ("strange", False), ("undecided", False)):
            table = _put(table, name, sure, value)
        return with_column(table, SURE, sure)

    def urgency_of(self, category: str) -> Urgency | None:
        if category == "unsatisfactory":
            return "unevaluable"
        return self.guideline["urgency"].get(category)


def _put(table: pa.Table, name: str, rows: NDArray[np.bool_], values: NDArray | float) -> pa.Table:
    column = table[name].to_numpy().copy()
    column[rows] = values
    return with_column(table, name, column)
