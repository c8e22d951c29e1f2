"""What the objects of a slide come to by class; and again, after a person corrected some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.result import Abstention, Measurement, Urgency
from coverslip.workflows.revision import TABLES, Objects, Revision, chosen, named, numbered, with_column
from coverslip.workflows.workflow import Conclusion, Grounds


@dataclass(frozen=True, slots=True)
class CellJudge:
    """`classes`: the finder's. `finder`: its name. `enough`: as in `CellSettings`."""

    classes: tuple[str, ...]
    finder: str
    enough: int

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        plan, tissue = grounds.plan, grounds.tissue
        seen = table["class"].value_counts()
        counted = dict(zip(seen.field("values").to_pylist(), seen.field("counts").to_pylist(), strict=True))
        counts = {name: counted.get(name, 0) for name in self.classes}
        tiles = pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue})
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        few = len(table) < self.enough
        return Conclusion(
            summary=listed + (" (few)" if few else ""),
            measurements=self._measurements(counts, tissue, table),
            abstentions=self._abstentions(len(table)),
            tables={"tiles.parquet": tiles, "cells.parquet": table},
        )

    def _measurements(
        self, counts: dict[str, int], tissue: TissueMask, table: pa.Table
    ) -> tuple[Measurement, ...]:
        how = f"objects found by {self.finder} in all tissue"
        found = [
            Measurement(name=name, value=count, unit="1", method=how, n=count)
            for name, count in counts.items()
        ]
        area = tissue.area_mm2
        for name, count in counts.items():
            density = count / area if area else None
            found.append(Measurement(name=f"{name} density", value=density, unit="/mm2", method=how, n=count))
        if len(table):
            median = float(np.median(table["area_um2"].to_numpy()))
            found.append(
                Measurement(name="median area", value=median, unit="um2", method="of outlines", n=len(table))
            )
        return tuple(found)

    def _abstentions(self, count: int) -> tuple[Abstention, ...]:
        if count >= self.enough:
            return ()
        why = f"{count} objects were found, fewer than {self.enough}"
        return (Abstention(what="reliability of the counts", why=why),)

    def labels(self, of: Objects) -> tuple[str, ...]:
        return self.classes if of == "cells" else ()

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        return numbered(table["class"], self.labels(of))

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        table = tables[TABLES["cells"]]
        classes = named(table["class"], revision.given("cells"), self.classes)
        return self.conclude(grounds, chosen(with_column(table, "class", classes), revision.kept("cells")))

    def urgency_of(self, category: str) -> Urgency | None:
        return None
