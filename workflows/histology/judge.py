"""What the classes of a slide's tiles mean for its report; and again, after a person corrected some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.plan import TilePlan
from coverslip.workflows.histology.call import (
    NO_TUMOUR,
    call_main_class,
    call_slide,
    call_tumour,
    not_called,
    probabilities,
    slide_triage,
    surest,
)
from coverslip.workflows.histology.grade import GROUP, Grade, find_grade, read_grade
from coverslip.workflows.histology.mitoses import (
    CELLS,
    LOOKED,
    TILE,
    Mitoses,
    MitosisRules,
    cells_by_tile,
    mitoses_by_finder,
    mitoses_by_tiles,
    read_mitoses,
)
from coverslip.workflows.histology.reading import ClassedTiles, Reading, classed_tiles
from coverslip.workflows.histology.roles import Roles
from coverslip.workflows.histology.settings import HistologySettings, Rules
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
from coverslip.workflows.result import Abstention, Call, Finding, Urgency
from coverslip.workflows.revision import TABLES, Objects, Revision, chosen, named, numbered, with_column
from coverslip.workflows.tile_judge import CALL, TileJudge
from coverslip.workflows.workflow import Conclusion, Grounds

TILES_TABLE, CELLS_TABLE = TABLES["tiles"], TABLES["cells"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a model's classes are, and the rules that say what follows. `finder`: of mitoses, where cells are
    looked for."""

    roles: Roles
    rules: Rules
    choices: HistologySettings
    finder: MitosisRules | None

    def of_slide(
        self, base: Conclusion, classes: tuple[str, ...], plan: TilePlan, table: pa.Table
    ) -> Conclusion:
        """Over what a slide-level model says. `table`: with the cells of each tile, where there are some."""
        mitoses, tables = None, {}
        if self.finder is not None:
            cells, looked = cells_by_tile(table), table[LOOKED].to_numpy(zero_copy_only=False)
            mitoses = self._of_cells(plan, cells, looked)
            tables = {CELLS_TABLE: cells}
        why = "not assessed: the model calls whole slides, and has no class for each tile"
        left = Abstention(what="areas, foci, lymphocytes, stroma and grade", why=why)
        reading = Reading(abstentions=(left,)) + self._read_mitoses(mitoses, plan, "all tissue")
        finding, refused = _base_call(base)
        if finding is not None:
            call = call_slide(finding, base.measurements, classes, self.roles)
        else:
            call = not_called(refused, slide_triage(probabilities(base.measurements, classes), self.roles))
        return _joined(base, call, reading, tables)

    def of_tiles(
        self,
        base: Conclusion,
        tiles: ClassedTiles,
        cells: pa.Table | None,
        looked: NDArray[np.bool_] | None,
    ) -> Conclusion:
        """Over what a tile model says. `cells`: as `cells_by_tile` gives them; `looked`: in which tiles they
        were looked for, (n,)."""
        choices, rules = self.choices, self.rules
        tumour = find_tumour(tiles, self.roles, choices.least_tiles)
        grade = find_grade(tumour, choices.gleason_share, rules.gleason)
        mitoses = self._mitoses(tiles, tumour, cells, looked)
        where = "tiles of tumour" if self.roles.tumour else "all tissue"
        reading = (
            read_tumour(tumour, choices.tiles.examples)
            + self._deposits(tumour)
            + read_grade(tumour, grade, choices.gleason_share, rules.gleason)
            + read_stroma(tumour, choices.bed_mm, choices.least_mm2, rules.til, rules.stroma)
            + self._read_mitoses(mitoses, tiles.plan, where)
        )
        of_tile = focus_of_each_tile(tiles.plan, tumour.foci)
        rows = base.tables[TILES_TABLE].append_column("focus", of_tile)
        tables = {TILES_TABLE: rows, "foci.parquet": foci_table(tumour)}
        if cells is not None and looked is not None:
            tables = {CELLS_TABLE: cells, **tables, TILES_TABLE: rows.append_column(LOOKED, pa.array(looked))}
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
        self,
        tiles: ClassedTiles,
        tumour: Tumour,
        cells: pa.Table | None,
        looked: NDArray[np.bool_] | None,
    ) -> Mitoses | None:
        """None where nothing can find them. Of tiles that were looked at, only those of tumour count, where
        the model knows tumour."""
        if cells is not None and looked is not None:
            among = looked & tiles.of(self.roles.tumour) if self.roles.tumour else looked
            return self._of_cells(tiles.plan, cells, among)
        if not self.roles.mitosis:
            return None
        among = tumour.inside if self.roles.tumour else np.ones(len(tiles.plan), bool)
        return mitoses_by_tiles(tiles, self.roles.mitosis, among, self.choices.tiles.examples)

    def _of_cells(self, plan: TilePlan, cells: pa.Table, looked: NDArray[np.bool_]) -> Mitoses:
        assert self.finder is not None
        return mitoses_by_finder(self.finder, plan, cells, looked, self.choices.tiles.examples)

    def _read_mitoses(self, mitoses: Mitoses | None, plan: TilePlan, where: str) -> Reading:
        return read_mitoses(
            mitoses,
            plan,
            where,
            hot_spot_mm2=self.choices.hot_spot_mm2,
            field_mm=self.choices.field_mm,
            elston=self.choices.specimen == "breast",
            rules=self.rules.mitoses,
        )


@dataclass(frozen=True, slots=True)
class HistologyJudge:
    """`tiles`: what concludes of classes as the workflow `tiles` does; `meaning`: what they are."""

    tiles: TileJudge
    meaning: Meaning

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        if self.meaning.finder is None:
            return self._conclude(grounds, table, None, None)
        looked = table[LOOKED].to_numpy(zero_copy_only=False)
        return self._conclude(grounds, table.drop_columns([CELLS, LOOKED]), cells_by_tile(table), looked)

    def _conclude(
        self, grounds: Grounds, rows: pa.Table, cells: pa.Table | None, looked: NDArray[np.bool_] | None
    ) -> Conclusion:
        base = self.tiles.conclude(grounds, rows)
        tiles = classed_tiles(grounds.plan, self.tiles.classes, base.tables[TILES_TABLE])
        return self.meaning.of_tiles(base, tiles, cells, looked)

    def labels(self, of: Objects) -> tuple[str, ...]:
        finder = self.meaning.finder
        return self.tiles.labels(of) if of == "tiles" else finder.classes if finder else ()

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        return numbered(table["class"], self.labels(of))

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        """Cells are not looked for where a person finds more tumour; where there is none, those found there
        do not count."""
        rows = tables[TILES_TABLE]
        if self.meaning.finder is None:
            return self._conclude(*self.tiles.revised(grounds, rows, revision), None, None)
        looked = rows[LOOKED].to_numpy(zero_copy_only=False)
        kept = revision.kept("tiles")
        cells = self._cells(tables[CELLS_TABLE], revision, kept)
        looked = looked if kept is None else looked[kept]
        return self._conclude(
            *self.tiles.revised(grounds, rows.drop_columns([LOOKED]), revision), cells, looked
        )

    def _cells(self, cells: pa.Table, revision: Revision, tiles: NDArray[np.bool_] | None) -> pa.Table:
        """After what a person said, and counted by the tiles that are left."""
        classes = named(cells["class"], revision.given("cells"), self.labels("cells"))
        cells = chosen(with_column(cells, "class", classes), revision.kept("cells"))
        if tiles is None:
            return cells
        cells = cells.filter(pa.array(tiles[cells[TILE].to_numpy()]))
        return with_column(cells, TILE, (np.cumsum(tiles) - 1)[cells[TILE].to_numpy()])

    def urgency_of(self, category: str) -> Urgency | None:
        """Tumour is urgent, whatever its size or grade."""
        roles, rules = self.meaning.roles, self.meaning.rules
        if category in (NO_TUMOUR, f"{GROUP} {rules.gleason['benign']}"):
            return "routine"
        return "urgent" if roles.tumour else None


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
