"""What the classes of a slide's tiles come to: shares, areas, a call; and again, after a person corrected
some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.doubt import PredictionSets
from coverslip.tiling.plan import TilePlan
from coverslip.workflows.canvas import cells_of
from coverslip.workflows.palette import class_colours
from coverslip.workflows.result import Abstention, Finding, Measurement, TileReference, Urgency
from coverslip.workflows.revision import MACHINE, TABLES, Objects, Revision, chosen, numbered, with_column
from coverslip.workflows.sets import TileSets, tile_sets
from coverslip.workflows.shift import Shift, colour_shift, feature_shift
from coverslip.workflows.workflow import ClassMap, Conclusion, Grounds

CALL = "slide-level call"
# A column of rows that a person gave a class to.
SURE = "sure"
# What `conclude` adds to the rows it is given.
ADDED = ("class", "set_size", "set", "focus", "evaluable")


@dataclass(frozen=True, slots=True)
class TileClassSettings:
    """`min_tissue`: smallest share of tissue a tile needs to be scored. `call_share`: a class must cover this
    share of the tissue to be the slide's call; below half no class speaks for most of it. `strange_share`:
    no call when more tiles than this are unlike those the model learnt from, by their features or by their
    colours. `undecided_share`: no call when more tiles than this have several classes or none in their
    prediction set. `examples`: tiles shown per class. `batch`: tiles read and scored at once. `exact`: decode
    the slide's stored tiles in full.
    """

    min_tissue: float = 0.25
    call_share: float = 0.5
    strange_share: float = 0.5
    undecided_share: float = 0.5
    examples: int = 8
    batch: int = 16
    exact: bool = False

    def __post_init__(self) -> None:
        shares = (self.min_tissue, self.call_share, self.strange_share, self.undecided_share)
        if not all(0 <= share <= 1 for share in shares) or self.examples < 0 or self.batch < 1:
            raise RequestError(
                "tile class settings", "are out of range", "give shares of 0 to 1 and a batch of at least 1"
            )


@dataclass(frozen=True, slots=True)
class TileJudge:
    """`classes`: the model's. `strange_limit`, `colour_limit`, `sets`: of its package, where it has them."""

    classes: tuple[str, ...]
    strange_limit: float | None
    colour_limit: float | None
    sets: PredictionSets | None
    choices: TileClassSettings

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        plan = grounds.plan
        probabilities = np.stack([table[f"p_{name}"].to_numpy() for name in self.classes], axis=1)
        best = probabilities.argmax(axis=1)
        weights = table["tissue"].to_numpy().astype(np.float64)
        shares = np.array([weights[best == n].sum() for n in range(len(self.classes))]) / weights.sum()
        strange = self._strange_share(table)
        named = table.append_column("class", pa.array([self.classes[n] for n in best]))
        sets = _with_sure(tile_sets(self.sets, self.classes, probabilities), probabilities, table)
        features, colour = self._shifts(table)
        call, abstentions = self._call(shares, strange, sets, colour)
        return Conclusion(
            summary=f"{call.text}" if call else f"no call: {abstentions[0].why}",
            measurements=self._measurements(shares, plan, weights, best, strange)
            + (colour.measurement(), features.measurement())
            + (sets.measurements() if sets else ()),
            findings=((call,) if call else ()) + self._examples(plan, probabilities, best, shares),
            abstentions=abstentions,
            tables={"tiles.parquet": sets.add_to(named) if sets else named},
            class_map=self._map(plan, best),
        )

    def _strange_share(self, table: pa.Table) -> float | None:
        if self.strange_limit is None:
            return None
        return float((table["distance"].to_numpy() > self.strange_limit).mean())

    def _shifts(self, table: pa.Table) -> tuple[Shift, Shift]:
        """Of the features, and of the colours."""
        features = None if self.strange_limit is None else table["distance"].to_numpy()
        colours = None if self.colour_limit is None else table["colour_distance"].to_numpy()
        return feature_shift(features, self.strange_limit), colour_shift(colours, self.colour_limit)

    def _call(
        self,
        shares: NDArray,
        strange: float | None,
        sets: TileSets | None = None,
        colour: Shift | None = None,
    ) -> tuple[Finding | None, tuple[Abstention, ...]]:
        top = int(shares.argmax())
        if strange is not None and strange > self.choices.strange_share:
            why = f"{strange:.0%} of the tiles are unlike those the model learnt from"
            return None, (Abstention(what=CALL, why=why),)
        if colour and (colour.strange or 0) > self.choices.strange_share:
            why = f"{colour.strange:.0%} of the tiles have colours unlike those the model learnt from"
            return None, (Abstention(what=CALL, why=why),)
        if sets and sets.several + sets.none > self.choices.undecided_share:
            return None, (Abstention(what=CALL, why=sets.why),)
        if shares[top] < self.choices.call_share:
            why = (
                f"no class covers {self.choices.call_share:.0%} of the tissue; "
                f"the largest is {self.classes[top]} with {shares[top]:.0%}"
            )
            return None, (Abstention(what=CALL, why=why),)
        text = f"{self.classes[top]}, on {shares[top]:.0%} of the tissue"
        return Finding(name=CALL, text=text), ()

    def _measurements(self, shares, plan: TilePlan, weights, best, strange) -> tuple[Measurement, ...]:
        area = (plan.size * plan.mpp / 1000) ** 2
        rows = []
        for number, name in enumerate(self.classes):
            of = best == number
            method = f"tiles whose most probable class is {name}, each weighted by its share of tissue"
            rows.append(
                Measurement(
                    name=f"{name}, share of the tissue",
                    value=100 * float(shares[number]),
                    unit="%",
                    method=method,
                    n=int(of.sum()),
                )
            )
            rows.append(
                Measurement(
                    name=f"{name}, area",
                    value=float(weights[of].sum() * area),
                    unit="mm2",
                    method=method,
                    n=int(of.sum()),
                )
            )
        if strange is not None:
            method = "tiles whose features lie further from those of training than the package's limit"
            rows.append(
                Measurement(
                    name="unfamiliar tiles", value=100 * strange, unit="%", method=method, n=len(best)
                )
            )
        return tuple(rows)

    def _examples(self, plan: TilePlan, probabilities, best, shares) -> tuple[Finding, ...]:
        """Per class the tiles of highest probability; among equals those that come first in the plan."""
        findings = []
        width, height = plan.extent
        for number, name in enumerate(self.classes):
            rows = np.flatnonzero(best == number)
            order = rows[np.argsort(-probabilities[rows, number], kind="stable")][: self.choices.examples]
            tiles = tuple(
                TileReference(
                    x=int(plan.x[row]),
                    y=int(plan.y[row]),
                    width=width,
                    height=height,
                    score=float(probabilities[row, number]),
                )
                for row in order
            )
            text = f"{len(rows)} tiles, {shares[number]:.1%} of the tissue"
            findings.append(Finding(name=name, text=text, tiles=tiles))
        return tuple(findings)

    def _map(self, plan: TilePlan, best) -> ClassMap:
        cells = cells_of(plan)
        values = np.zeros(cells.shape, np.uint8)
        values[cells.rows, cells.columns] = best + 1
        return ClassMap("classes", values, class_colours(self.classes), (plan.size - plan.overlap) * plan.mpp)

    def labels(self, of: Objects) -> tuple[str, ...]:
        return self.classes if of == "tiles" else ()

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        return numbered(table["class"], self.labels(of))

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        return self.conclude(*self.revised(grounds, tables[TABLES["tiles"]], revision))

    def revised(self, grounds: Grounds, table: pa.Table, revision: Revision) -> tuple[Grounds, pa.Table]:
        """The rows as `conclude` takes them, and the tiles that are left."""
        rows = table.drop_columns([name for name in ADDED if name in table.column_names])
        given, kept = revision.given("tiles"), revision.kept("tiles")
        rows = rows if given is None else self._given(rows, given)
        if kept is None:
            return grounds, rows
        plan = grounds.plan
        left = replace(plan, x=plan.x[kept], y=plan.y[kept], tissue=plan.tissue[kept])
        return replace(grounds, plan=left), chosen(rows, kept)

    def _given(self, table: pa.Table, given: NDArray[np.int32]) -> pa.Table:
        """What a person says is so, and like nothing the model is asked about."""
        sure = given != MACHINE
        for number, name in enumerate(self.classes):
            values = table[f"p_{name}"].to_numpy().copy()
            values[sure] = given[sure] == number
            table = with_column(table, f"p_{name}", values)
        for name in ("distance", "colour_distance"):
            if name in table.column_names:
                values = table[name].to_numpy().copy()
                values[sure] = np.nan
                table = with_column(table, name, values)
        return with_column(table, SURE, sure)

    def urgency_of(self, category: str) -> Urgency | None:
        return None


def _with_sure(
    sets: TileSets | None, probabilities: NDArray[np.floating], table: pa.Table
) -> TileSets | None:
    """A tile that a person gave a class to has that class in its set alone."""
    if sets is None or SURE not in table.column_names:
        return sets
    sure = table[SURE].to_numpy(zero_copy_only=False)
    return replace(sets, inside=np.where(sure[:, None], probabilities > 0, sets.inside))
