"""What the cells of a slide come to by the marker's rule; and again, after a person corrected some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coverslip.tiling.geojson import Feature
from coverslip.tiling.geojson_reader import Regions
from coverslip.workflows.ihc.cells import NAMES, nuclear_doubt
from coverslip.workflows.ihc.her2 import read_her2
from coverslip.workflows.ihc.intensity import read_intensity
from coverslip.workflows.ihc.ki67 import read_ki67
from coverslip.workflows.ihc.pdl1 import read_pdl1
from coverslip.workflows.ihc.reading import Counted, Immune, Judgement
from coverslip.workflows.ihc.receptor import read_receptor
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.stains import PINKEST
from coverslip.workflows.result import Abstention, Measurement, Urgency
from coverslip.workflows.revision import (
    MACHINE,
    TABLES,
    Objects,
    Revision,
    chosen,
    named,
    numbered,
    with_column,
    within,
    without,
)
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.workflow import Conclusion, Derived, Grounds
from coverslip.wsi.pixels import Rgb

RULED: Mapping[str, Callable[[Counted, Guideline], Judgement]] = MappingProxyType(
    {"Ki-67": read_ki67, "receptor": read_receptor, "HER2": read_her2, "PD-L1": read_pdl1}
)
PINK = "the tissue is pinker than these stains can make it; if it is H&E, the figures mean nothing"
# Names of what is derived: which cells count; and of the regions, the tumour's outlines.
COUNTED, TUMOUR = "cells_counted", "tumour"
TUMOUR_COLOUR: Rgb = (213, 94, 0)
# A label for cells, and what areas of them are called; a column of the rows where a person marked some.
IMMUNE, IMMUNE_AREAS = "immune", ("immune", "immune cells")
TUMOUR_AREAS = ("tumour", "tumor")
DRAWN = "the tumour that the reviewer drew"


@dataclass(frozen=True, slots=True)
class IhcJudge:
    """`rule`: the guideline that the marker is read by, None for a marker without one."""

    choices: IhcSettings
    rule: Guideline | None

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        values = grounds.derived.values
        # other dyes than DAB may be as pink as eosin
        pink = self.choices.stains in ("default", "estimate") and (values["stain_off_plane"] or 0) < PINKEST
        counted = self._counted(grounds, table, pink)
        judged = self._judge(counted)
        plan = grounds.plan
        tiles = pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue})
        return Conclusion(
            summary=judged.summary + (" (stain doubtful)" if pink else ""),
            measurements=judged.measurements + self._extent(counted, grounds),
            findings=judged.findings,
            abstentions=_doubts(pink)
            + judged.abstentions
            + self._unrestricted(values[COUNTED]["restricted"])
            + _not_estimated(values.get("stain_vectors_not_estimated")),
            tables={"tiles.parquet": tiles, "cells.parquet": table},
            features=self._features(grounds.derived.regions),
            call=judged.call,
            guidelines=judged.guidelines,
        )

    def _counted(self, grounds: Grounds, table: pa.Table, pink: bool) -> Counted:
        """Immune cells count where they are marked, tumour cells in the tumour."""
        values = grounds.derived.values
        dye = values["stain_vectors"]["names"][1]
        cells, immune = table, None
        if "tumour" in table.column_names:
            cells = table.filter(table["tumour"])
        if IMMUNE in table.column_names:
            marked = table.filter(table[IMMUNE])
            cells = cells.filter(pc.call_function("invert", [cells[IMMUNE]]))
            immune = _immune(marked, _area_mm2(grounds))
        return Counted(
            cells=cells,
            choices=self.choices,
            where=values[COUNTED]["where"],
            dye=dye,
            scanned=grounds.scanned,
            mpp=grounds.mpp,
            doubt=PINK if pink else self._misplaced(cells, dye),
            immune=immune,
        )

    def _misplaced(self, cells: pa.Table, dye: str) -> str | None:
        choices = self.choices
        return nuclear_doubt(cells, dye, choices.score.thresholds[0]) if choices.kind.in_membrane else None

    def _judge(self, counted: Counted) -> Judgement:
        if self.rule is None:
            return read_intensity(counted)
        return RULED[self.choices.kind.reading](counted, self.rule)

    def _extent(self, counted: Counted, grounds: Grounds) -> tuple[Measurement, ...]:
        """How many cells there are, and on what area."""
        n, noun, tissue = len(counted.cells), counted.noun, grounds.tissue
        found = [
            Measurement(name=noun, value=n, unit="1", method=f"all {noun} found in {counted.where}"),
        ]
        area = _area_mm2(grounds)
        if not grounds.derived.values[COUNTED]["restricted"]:
            per_mm2 = n / tissue.area_mm2 if tissue.area_mm2 else None
            name = "nuclear density" if noun == "nuclei" else "cell density"
            method = f"{noun} per area of tissue"
            found.append(Measurement(name=name, value=per_mm2, unit="/mm2", method=method, n=n))
        elif area is not None:
            found.append(
                Measurement(name="tumour area", value=area, unit="mm2", method=f"of {counted.where}, drawn")
            )
        return tuple(found)

    def _unrestricted(self, restricted: bool) -> tuple[Abstention, ...]:
        if self.rule is None or restricted:
            return ()
        why = "neither an annotation nor a model says where tumour is: cells of all tissue were counted"
        return (Abstention(what="restriction to tumour", why=why),)

    def _features(self, regions: Mapping[str, Regions]) -> tuple[Feature, ...]:
        if TUMOUR not in regions:
            return ()
        label = self.choices.tumour_class or "Tumour"
        return (Feature(regions[TUMOUR].polygons, label, TUMOUR_COLOUR, locked=True),)

    def labels(self, of: Objects) -> tuple[str, ...]:
        """Of cells: how strongly they stain; for PD-L1 also that one is an immune cell, stained as measured.

        For HER2 the class says it all; of 2+ the circumference measured says whether it is complete.
        """
        if of == "tiles":
            return ()
        return (*NAMES, IMMUNE) if self.choices.kind.reading == "PD-L1" else NAMES

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        return numbered(table["class"], self.labels(of))

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        """Areas drawn as tumour say which cells count, instead of what said so before; those drawn as immune
        cells hold immune cells alone."""
        table, given = tables[TABLES["cells"]], revision.given("cells")
        intensity = None if given is None else np.where(given < len(NAMES), given, MACHINE)
        table = with_column(table, "class", named(table["class"], intensity, NAMES))
        grounds, table = self._restricted(grounds, table, revision)
        return self.conclude(grounds, chosen(self._told(table, revision), revision.kept("cells")))

    def _restricted(self, grounds: Grounds, table: pa.Table, revision: Revision) -> tuple[Grounds, pa.Table]:
        derived, own = grounds.derived, self.choices.tumour_class
        drawn = revision.called((*TUMOUR_AREAS, own) if own else TUMOUR_AREAS)
        if drawn is not None:
            values = {**derived.values, COUNTED: {"where": DRAWN, "restricted": True}}
            inside = within(drawn, table["x"].to_numpy(), table["y"].to_numpy())
            return (
                replace(grounds, derived=Derived(values, {TUMOUR: drawn})),
                with_column(table, "tumour", inside),
            )
        left = {name: without(regions, revision.hidden) for name, regions in derived.regions.items()}
        return replace(grounds, derived=Derived(derived.values, left)), table

    def _told(self, table: pa.Table, revision: Revision) -> pa.Table:
        """With the column that says which are immune cells, where a person marked any."""
        if IMMUNE not in self.labels("cells"):
            return table
        given, own = revision.given("cells"), self.choices.immune_class
        area = revision.called((*IMMUNE_AREAS, own) if own else IMMUNE_AREAS)
        known = IMMUNE in table.column_names
        marked = table[IMMUNE].to_numpy() if known else np.zeros(len(table), bool)
        if area is not None:
            marked = within(area, table["x"].to_numpy(), table["y"].to_numpy())
        if given is not None:
            marked = np.where(given == MACHINE, marked, given == len(NAMES))
        return with_column(table, IMMUNE, marked) if known or area is not None or marked.any() else table

    def urgency_of(self, category: str) -> Urgency | None:
        values = {} if self.rule is None else self.rule.values
        of_bands = {band["name"]: band.get("urgency", "routine") for band in values.get("categories", ())}
        return {**of_bands, **values.get("urgencies", {})}.get(category)


def _area_mm2(grounds: Grounds) -> float | None:
    """Of the tumour's outlines, where it has some."""
    tumour, mpp = grounds.derived.regions.get(TUMOUR), grounds.mpp
    return None if tumour is None else tumour.area_px * mpp.x * mpp.y / 1e6


def _immune(marked: pa.Table, tumour_mm2: float | None) -> Immune:
    stained = marked.filter(pc.call_function("not_equal", [marked["class"], NAMES[0]]))
    area = None
    if tumour_mm2:
        covered = float(np.sum(stained["cell_area_um2"].to_numpy())) / 1e6
        area = 100 * Fraction(covered) / Fraction(tumour_mm2)
    return Immune(len(marked), len(stained), area)


def _doubts(pink: bool) -> tuple[Abstention, ...]:
    return (Abstention(what="whether this is haematoxylin and DAB", why=PINK),) if pink else ()


def _not_estimated(reason: str | None) -> tuple[Abstention, ...]:
    return () if reason is None else (Abstention(what="stain vectors of this slide", why=reason),)
