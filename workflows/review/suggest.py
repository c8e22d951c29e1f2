"""Which tiles and cells of a run's results to look at next: doubtful ones, and not fifty alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import zarr
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.exports.rows import read_rows
from coverslip.workflows.outputs import FEATURES, read_result, result_folders
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Correction, Objects, Relabel
from coverslip.workflows.review.diversity import farthest_first, standardised
from coverslip.workflows.review.excluded import excluded_area
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.opinion import opinions
from coverslip.workflows.review.places import middles, place_of, rows_at
from coverslip.workflows.review.queue import Queue, Suggestion
from coverslip.workflows.review.trail import read_trail
from coverslip.workflows.review.uncertainty import Columns, Evidence, evidence_of, in_words, joined

# Of so many times the rows asked for, the most doubtful, diverse ones are taken. Of 3, 5, 10 and 20 none was
# better than another beyond chance; Zhdanov 2019 chooses among so many times the batch, too (from memory).
CHOICE = 10
# Of each slide at least so many stand for choice: one bad slide is not the whole run.
LEAST_OF_SLIDE = 20
# How much two rows are told apart by where they lie and by their slide, beside what they look like (√2).
PLACE, OTHER_SLIDE = 0.25, 0.5
METHOD = (
    "margin, cut-off, prediction set and distance joined as independent doubts; greedy k-centre weighed by "
    f"doubt among the {CHOICE}-fold most doubtful"
)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One table of one result. `standing`: the corrections that stand, of each reviewer."""

    home: Path
    result: SlideResult
    of: Objects
    evidence: tuple[Evidence, ...]
    standing: tuple[tuple[Correction, ...], ...]
    figures: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.home / f"{self.of}.parquet"

    @property
    def kind(self) -> tuple[str, ...]:
        """Rows of one kind are told apart by the same figures."""
        return (self.of, self.result.workflow, *self.figures)

    @property
    def has_features(self) -> bool:
        return self.of == "tiles" and (self.home / FEATURES).exists()

    @property
    def reviewed(self) -> NDArray[np.int64]:
        """Rows that a person has given a class, ascending."""
        given = [one for corrections in self.standing for one in corrections if isinstance(one, Relabel)]
        rows = [one.rows for one in given if one.of == self.of]
        return np.unique(np.array([row for run in rows for row in run], np.int64))

    @property
    def excluded(self) -> shapely.Geometry | None:
        areas = [area for one in self.standing if (area := excluded_area(one)) is not None]
        return shapely.union_all(areas) if areas else None


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The most doubtful rows of a source, the most doubtful first; arrays of length n.

    `place`: (n, 2) in µm; `figures`: (n, d); `settled`: (m, d) of rows that were reviewed. `judged`:
    rows that had any doubt to speak of.
    """

    source: Source
    rows: NDArray[np.int64]
    doubt: NDArray[np.float64]
    place: NDArray[np.float64]
    figures: NDArray[np.float32]
    settled: NDArray[np.float32]
    judged: int


def suggest(out: Path, count: int = 50) -> Queue:
    """The `count` rows of all results in `out` whose review would teach most, the first most of all.

    Tables are read a few ten thousand rows at a time; of each slide ten times `count` rows at most are held.
    What was reviewed or excluded is left out. The same results and reviews give the same queue. Raises
    RequestError where no table says how sure it is, and what `read_result` and `read_trail` raise.
    """
    homes = result_folders(out)
    sources = [source for home in homes for source in sources_of(home)]
    if not sources:
        raise RequestError(
            str(out),
            "no table says how sure its rows are",
            "suggest needs results with probabilities, scores or cut-offs, such as of tiles, cytology or ihc",
        )
    most = max(LEAST_OF_SLIDE, ceil(CHOICE * count / len(sources)))
    found = [candidates_of(source, most) for source in sources]
    kinds: dict[tuple[str, ...], list[Candidates]] = {}
    for one in found:
        if len(one.rows):
            kinds.setdefault(one.source.kind, []).append(one)
    shares = _shares([sum(one.doubt.sum() for one in group) for group in kinds.values()], count)
    taken = [
        suggestion
        for group, share in zip(kinds.values(), shares, strict=True)
        for suggestion in _take(group, share)
    ]
    return Queue(
        suggestions=tuple(taken),
        results={one.source.home.name: machine_digest(one.source.result) for one in found},
        candidates=sum(one.judged for one in found),
        reviewed=sum(len(source.reviewed) for source in sources),
        method=METHOD,
    )


def sources_of(home: Path) -> Iterator[Source]:
    """The tables of a result that say something of doubt."""
    result = read_result(home)
    digest = machine_digest(result)
    standing = tuple(one.corrections for one in opinions(read_trail(home)) if one.machine == digest)
    for of in get_args(Objects):
        path = home / f"{of}.parquet"
        if path.name not in result.outputs or not path.is_file():
            continue
        evidence = evidence_of(path, result)
        if evidence:
            yield Source(home, result, of, evidence, standing, _figures(pq.read_schema(path)))


def _figures(schema: pa.Schema) -> tuple[str, ...]:
    """Columns that say what a row looks like: probabilities, sizes, densities, distances."""
    place = ("x", "y", "tissue")
    return tuple(one.name for one in schema if pa.types.is_floating(one.type) and one.name not in place)


def candidates_of(source: Source, most: int) -> Candidates:
    """The `most` most doubtful rows; the first of equals."""
    wanted = {name for one in source.evidence for name in one.columns} | {"x", "y", *source.figures}
    columns = [name for name in pq.read_schema(source.path).names if name in wanted | {"tumour"}]
    _, batches = read_rows(source.path, columns)
    reviewed, excluded = source.reviewed, source.excluded
    kept, settled, start, judged = _Best(most), [], 0, 0
    for batch in batches:
        table = {name: batch[name].to_numpy(zero_copy_only=False) for name in columns}
        rows = np.arange(start, start + len(batch))
        start += len(batch)
        figures = np.stack([table[name] for name in source.figures], axis=1, dtype=np.float32)
        open_to = ~np.isin(rows, reviewed)
        settled.append(figures[~open_to][: max(0, most - sum(map(len, settled)))])
        x, y = middles(source.result, source.of, table["x"], table["y"])
        open_to &= _counts(table, x, y, excluded)
        doubt = np.where(open_to, joined(source.evidence, table), np.nan)
        judged += int(np.isfinite(doubt).sum())
        kept.add(rows, doubt, np.stack([x, y], axis=1), figures)
    mpp = source.result.slide.mpp
    rows, doubt, place, figures = kept.best()
    known = np.concatenate([np.empty((0, len(source.figures)), np.float32), *settled])
    return Candidates(source, rows, doubt, place * (mpp.x, mpp.y), figures, known, judged)


def _counts(
    table: Columns, x: NDArray[np.float64], y: NDArray[np.float64], excluded: shapely.Geometry | None
) -> NDArray[np.bool_]:
    """Rows that anything depends on: not excluded, and tumour where the table says what is."""
    counts = np.ones(len(x), bool)
    if "tumour" in table:
        counts &= np.asarray(table["tumour"], bool)
    if excluded is not None:
        counts &= ~shapely.contains_xy(excluded, x, y)
    return counts


class _Best:
    """The rows of most doubt of all that were added in order."""

    def __init__(self, most: int):
        self._most = most
        self._parts: list[tuple[NDArray, ...]] = []
        self._held = 0
        self._least = 0.0

    def add(self, rows: NDArray, doubt: NDArray, *others: NDArray) -> None:
        # NaN compares false: rows that nothing is said of, and those of no doubt, are dropped.
        keep = doubt > self._least
        self._parts.append(tuple(part[keep] for part in (rows, doubt, *others)))
        self._held += int(keep.sum())
        if self._held > 4 * self._most:
            self._parts = [self.best()]
            self._held = len(self._parts[0][0])
            self._least = float(self._parts[0][1][-1])

    def best(self) -> tuple[NDArray, ...]:
        rows, doubt, *others = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.lexsort((rows, -doubt))[: self._most]
        return tuple(part[order] for part in (rows, doubt, *others))


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """`count` in whole numbers in proportion to the weights, by largest remainders."""
    total = sum(weights)
    exact = [count * weight / total for weight in weights]
    shares = [int(part) for part in exact]
    order = sorted(range(len(exact)), key=lambda n: (shares[n] - exact[n], n))
    for n in order[: count - sum(shares)]:
        shares[n] += 1
    return shares


def _take(group: list[Candidates], count: int) -> list[Suggestion]:
    """`count` of the candidates of one kind, in the order they are taken."""
    numbers = np.concatenate([np.full(len(one.rows), n) for n, one in enumerate(group)])
    within = np.concatenate([np.arange(len(one.rows)) for one in group])
    doubt = np.concatenate([one.doubt for one in group])
    vectors, settled = _vectors(group)
    order = farthest_first(vectors, doubt, count, settled)
    by_source: dict[int, list[tuple[int, int]]] = {}
    for place, at in enumerate(order.tolist()):
        by_source.setdefault(int(numbers[at]), []).append((place, int(within[at])))
    found: dict[int, Suggestion] = {}
    for at_source, chosen in by_source.items():
        one = group[at_source]
        rows = [int(one.rows[at]) for _, at in chosen]
        read = rows_at(one.source.path, rows)
        for (place, at), number, row in zip(chosen, rows, read, strict=True):
            found[place] = _suggestion(one.source, number, row, float(one.doubt[at]))
    return [found[place] for place in sorted(found)]


def _vectors(group: list[Candidates]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """What tells rows apart, (n, d) of the candidates and (m, d) of those reviewed: features where all their
    results have some, else the table's figures; with the place, and the slide."""
    sizes = [len(one.rows) for one in group]
    slide = np.repeat(np.eye(len(group), dtype=np.float32), sizes, axis=0) * OTHER_SLIDE / sqrt(2)
    place = PLACE * np.concatenate([standardised(one.place) for one in group])
    features = all(one.source.has_features for one in group)
    if features:
        looks = standardised(np.concatenate([_features(one) for one in group]))
        return np.hstack([looks, place, slide]), None
    known = np.concatenate([one.settled for one in group])
    looks = standardised(np.concatenate([*(one.figures for one in group), known]))
    vectors = np.hstack([looks[: len(place)], place, slide])
    # Where a reviewed row lies is no reason to leave its neighbours out: only what it looks like is.
    settled = np.zeros((len(known), vectors.shape[1]), np.float32)
    settled[:, : looks.shape[1]] = looks[len(place) :]
    return vectors, settled if len(known) else None


def _features(one: Candidates) -> NDArray[np.float32]:
    group: Any = zarr.open_group(str(one.source.home / FEATURES), mode="r")
    order = np.argsort(one.rows)
    found = np.empty((len(one.rows), group["features"].shape[1]), np.float32)
    found[order] = group["features"].oindex[one.rows[order]]
    return found


def _suggestion(source: Source, number: int, row: dict[str, Any], doubt: float) -> Suggestion:
    place = place_of(source.result, source.of, row)
    return Suggestion(
        slide=source.home.name,
        of=source.of,
        row=number,
        x=place.x,
        y=place.y,
        width=place.width,
        height=place.height,
        label=row.get("call") or row.get("class"),
        why=in_words(source.evidence, row),
        score=min(1.0, doubt),
    )
