"""How much doubt there is about a row of `cells.parquet` or `tiles.parquet`, from what the table says of it.

Each evidence is a number of 0 (none) to 1 and a clause in words. Several are joined as independent chances of
an error, 1 − Π (1 − doubt), so that each raises the doubt and none hides another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.workflows.result import SlideResult

Columns = Mapping[str, NDArray]
# What a prediction set or a distance limit says is yes or no; of such rows even odds are taken.
EVEN = 0.5
CHANCE = "p_"


class Evidence(Protocol):
    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table, which `doubt` needs."""
        ...

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        """(n,), 0 to 1; NaN where it says nothing."""
        ...

    def said(self, row: Mapping[str, Any]) -> str | None:
        """In words, of one row; None where there is nothing to say."""
        ...


@dataclass(frozen=True, slots=True)
class Margin:
    """1 − (p₁ − p₂), the two largest probabilities: margin sampling (Scheffer, Decomain & Wrobel 2001;
    Settles 2009, "Active learning literature survey", section 3.1)."""

    classes: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(CHANCE + name for name in self.classes)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        chances = np.stack([table[name] for name in self.columns], axis=1).astype(np.float64)
        top = np.partition(chances, chances.shape[1] - 2, axis=1)[:, -2:]
        return np.clip(1 - (top[:, 1] - top[:, 0]), 0, 1)

    def said(self, row: Mapping[str, Any]) -> str | None:
        chances = sorted(((row[CHANCE + name], name) for name in self.classes), reverse=True)
        (first, one), (second, other) = chances[:2]
        return f"{one} {first:.2f} or {other} {second:.2f}"


@dataclass(frozen=True, slots=True)
class CutOff:
    """How near a density lies to the cut-off between two classes: 1 there, 0 half a class away.

    As the margin, for classes that are bins of a measured figure; `cuts` ascend.
    """

    column: str
    cuts: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        density, cuts = np.asarray(table[self.column], np.float64), np.asarray(self.cuts)
        half = np.diff(cuts, prepend=0.0).min() / 2
        away = np.abs(density[:, None] - cuts).min(axis=1)
        return np.clip(1 - away / half, 0, 1)

    def said(self, row: Mapping[str, Any]) -> str | None:
        nearest = min(self.cuts, key=lambda cut: abs(cut - row[self.column]))
        return f"density {row[self.column]:.2f}, near the cut-off {nearest:g}"


@dataclass(frozen=True, slots=True)
class Found:
    """How sure a finder is that there is an object at all: 1 at even odds, 0 at certainty."""

    columns: tuple[str, ...] = ("score",)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        return np.clip(1 - np.abs(2 * np.asarray(table["score"], np.float64) - 1), 0, 1)

    def said(self, row: Mapping[str, Any]) -> str | None:
        return f"found with a score of {row['score']:.2f}"


@dataclass(frozen=True, slots=True)
class SeveralOrNone:
    """The prediction set holds several classes or none."""

    columns: tuple[str, ...] = ("set_size",)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        return np.where(np.asarray(table["set_size"]) != 1, EVEN, 0.0)

    def said(self, row: Mapping[str, Any]) -> str | None:
        if row["set_size"] == 1:
            return None
        return f"{row['set_size']} classes in its prediction set" if row["set_size"] else "no class is likely"


@dataclass(frozen=True, slots=True)
class Flag:
    """A column of the table that says yes or no."""

    column: str
    words: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        return np.where(np.asarray(table[self.column], bool), EVEN, 0.0)

    def said(self, row: Mapping[str, Any]) -> str | None:
        return self.words if row[self.column] else None


@dataclass(frozen=True, slots=True)
class Beyond:
    """Features farther from those of training than the model's limit."""

    limit: float
    columns: tuple[str, ...] = ("distance",)

    def doubt(self, table: Columns) -> NDArray[np.float64]:
        return np.where(np.asarray(table["distance"], np.float64) > self.limit, EVEN, 0.0)

    def said(self, row: Mapping[str, Any]) -> str | None:
        return UNLIKE if row["distance"] > self.limit else None


UNLIKE = "unlike what the model learnt from"
FLAGS = (Flag("undecided", "several classes or none in its prediction set"), Flag("strange", UNLIKE))


def evidence_of(path: Path, result: SlideResult) -> tuple[Evidence, ...]:
    """All that a table can say of doubt; () where it says nothing."""
    schema = pq.read_schema(path)
    names = set(schema.names)
    classes = chance_classes(schema)
    found: list[Evidence] = []
    if classes:
        found.append(Margin(classes))
    elif cuts := _cut_off(names, result):
        found.append(cuts)
    elif "score" in names:
        found.append(Found())
    if "set_size" in names:
        found.append(SeveralOrNone())
    found += [flag for flag in FLAGS if flag.column in names]
    if "distance" in names and (limit := _limit(path, result)) is not None:
        found.append(Beyond(limit))
    return tuple(found)


def chance_classes(schema: pa.Schema) -> tuple[str, ...]:
    """The classes a table has probabilities of, where there are two or more."""
    names = tuple(name[len(CHANCE) :] for name in schema.names if name.startswith(CHANCE))
    return names if len(names) > 1 else ()


def joined(evidence: Sequence[Evidence], table: Columns) -> NDArray[np.float64]:
    """The doubt of each row, (n,); NaN where the first evidence, which speaks of the class, says nothing."""
    certain = 1 - evidence[0].doubt(table)
    for one in evidence[1:]:
        certain = certain * (1 - np.nan_to_num(one.doubt(table)))
    return 1 - certain


def in_words(evidence: Sequence[Evidence], row: Mapping[str, Any]) -> str:
    return "; ".join(said for one in evidence if (said := one.said(row)))


def _cut_off(names: set[str], result: SlideResult) -> CutOff | None:
    """Of the workflow ihc: its thresholds, and the density they are applied to."""
    score = result.provenance.settings.get("workflow", {}).get("score")
    if not isinstance(score, Mapping) or "thresholds" not in score:
        return None
    cuts = tuple(map(float, score["thresholds"]))
    densities = sorted(name for name in names if name.endswith("_od_mean") and name.count("_") == 2)
    dyes = [name for name in densities if not name.startswith("haematoxylin")]
    if not dyes:
        return None
    membrane = "membrane_" + dyes[0].removesuffix("_mean")
    whole = membrane in names and any("membrane" in one.method for one in result.measurements)
    return CutOff(membrane if whole else dyes[0], cuts)


def _limit(path: Path, result: SlideResult) -> float | None:
    """The distance that no familiar tile exceeds, from the share of tiles that the result says do."""
    share = next((one for one in result.measurements if one.name == "unfamiliar tiles"), None)
    if share is None or share.value is None or not share.n:
        return None
    distances = np.sort(pq.read_table(path, columns=["distance"])["distance"].to_numpy())
    familiar = len(distances) - round(share.value / 100 * share.n)
    return float(distances[familiar - 1]) if familiar else -np.inf
