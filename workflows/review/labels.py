"""Labels to learn from: the classes that reviewers gave to tiles and cells, with where these lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import shapely

from coverslip.errors import RequestError, StoreIncompleteError
from coverslip.workflows.outputs import read_result, result_folders
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Correction, Objects, Relabel
from coverslip.workflows.review.excluded import excluded_area
from coverslip.workflows.review.machine import TABLES, machine_digest, refuse_altered
from coverslip.workflows.review.opinion import Opinion, opinions
from coverslip.workflows.review.places import Place, place_of, rows_at
from coverslip.workflows.review.trail import read_trail


@dataclass(frozen=True, slots=True)
class Example:
    """One tile or cell that reviewers gave a class to.

    `home`: folder of the result; `place`: level-0 pixels; `machine`: what the machine called it, None
    where it had no class. `reviewers`: names of those who agree. `group`: what must stay in one part of a
    split: the case, or the slide where none is known.
    """

    home: Path
    result: SlideResult
    of: Objects
    row: int
    place: Place
    label: str
    machine: str | None
    reviewers: tuple[str, ...]
    group: str

    @property
    def changed(self) -> bool:
        return self.label != self.machine

    @property
    def spot(self) -> tuple[str, str, int, int]:
        """The same for the same object, whichever run found it."""
        return self.result.slide.digest, self.of, round(self.place.x), round(self.place.y)


@dataclass(frozen=True, slots=True)
class CorrectedLabels:
    """`examples`: in the order of results and rows. `disagreed`: objects left out since reviewers gave them
    different classes; `excluded`: since they lie where one said that nothing counts; `unsigned`: reviews left
    out since nobody signed them. `results`: `machine_digest` of those the examples are from."""

    examples: tuple[Example, ...]
    disagreed: int
    excluded: int
    unsigned: int
    results: tuple[str, ...]

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Of the examples, in alphabetical order."""
        return tuple(sorted({name for one in self.examples for name in one.reviewers}))

    @property
    def changed(self) -> int:
        return sum(one.changed for one in self.examples)

    def renamed(self, names: Mapping[str, str]) -> CorrectedLabels:
        """With these classes called otherwise, as a model's labels file calls them."""

        def name(label: str) -> str:
            return names.get(label, label)

        return replace(
            self,
            examples=tuple(
                replace(one, label=name(one.label), machine=one.machine and name(one.machine))
                for one in self.examples
            ),
        )


def read_labels(
    results: Sequence[Path], of: Objects | None = None, *, unsigned: bool = False
) -> CorrectedLabels:
    """What reviewers said of tiles or cells of these results, each a folder OUT or OUT/slides/ID.

    Of each reviewer the corrections that were signed last on the very result that lies there; with `unsigned`
    those that stand now, signed or not. A class the machine had given already counts as well: a person
    confirmed it. `of`: which of both, where there are corrections of both.

    Raises RequestError where there is nothing to learn from, or corrections of both kinds and `of` is None;
    StoreIncompleteError for a table that is not as it was written; what `read_trail` raises.
    """
    said: list[Example] = []
    excluded = waiting = 0
    digests: dict[Path, str] = {}
    for home in _homes(results):
        result = read_result(home)
        digests[home] = machine_digest(result)
        reviews = [one for one in opinions(read_trail(home)) if one.machine == digests[home]]
        used = [(one.name, _used(one, unsigned)) for one in reviews]
        waiting += sum(bool(one.corrections) and not _used(one, unsigned) for one in reviews)
        given, hidden = _said(home, result, used)
        said += given
        excluded += hidden
    kinds = {one.of for one in said}
    if of is None and len(kinds) > 1:
        raise RequestError("the corrections", "are of tiles and of cells", "say which with --of")
    agreed, disagreed = _agreed([one for one in said if of in (None, one.of)])
    if not agreed:
        raise RequestError(
            ", ".join(map(str, results)),
            f"no {'' if unsigned else 'signed '}review gives a class{f' to {of}' if of else ''}",
            "review and sign some tiles or cells" + ("" if unsigned else ", or take unsigned reviews too"),
        )
    homes = dict.fromkeys(one.home for one in agreed)
    return CorrectedLabels(
        tuple(agreed), disagreed, excluded, waiting, tuple(sorted({digests[home] for home in homes}))
    )


def _homes(results: Sequence[Path]) -> list[Path]:
    found = [home for path in results for home in result_folders(path)]
    return list(dict.fromkeys(home.resolve() for home in found))


def _used(opinion: Opinion, unsigned: bool) -> tuple[Correction, ...]:
    """What of an opinion is learnt from."""
    if unsigned:
        return opinion.corrections
    # What was signed of an earlier run of the slide is about other rows.
    signed = bool(opinion.signed) and opinion.signed[-1].details["result"] == opinion.machine
    return opinion.at_signing if signed else ()


def _said(
    home: Path, result: SlideResult, used: Sequence[tuple[str, tuple[Correction, ...]]]
) -> tuple[list[Example], int]:
    """An example for each class that one reviewer gave, and how many objects lie where one excluded them."""
    areas = [area for _, corrections in used if (area := excluded_area(corrections)) is not None]
    outside = shapely.union_all(areas) if areas else None
    found: list[Example] = []
    hidden: set[tuple[Objects, int]] = set()
    for name, corrections in used:
        for one in _examples(home, result, name, corrections):
            if outside is not None and shapely.contains_xy(outside, one.place.x, one.place.y):
                hidden.add((one.of, one.row))
            else:
                found.append(one)
    return found, len(hidden)


def _examples(
    home: Path, result: SlideResult, name: str, corrections: tuple[Correction, ...]
) -> Iterator[Example]:
    last: dict[tuple[Objects, int], str] = {}
    for one in corrections:
        if isinstance(one, Relabel):
            last.update({(one.of, row): one.label for row in one.rows})
    if not last:
        return
    refuse_altered(home, result, TABLES)
    for of in get_args(Objects):
        rows = sorted(row for kind, row in last if kind == of)
        path = home / f"{of}.parquet"
        if not rows:
            continue
        if not path.is_file():
            raise StoreIncompleteError(
                str(path), "is missing, and reviewers corrected its rows", "put it back"
            )
        called = "call" if "call" in pq.read_schema(path).names else "class"
        for row, values in zip(rows, rows_at(path, rows), strict=True):
            yield Example(
                home=home,
                result=result,
                of=of,
                row=row,
                place=place_of(result, of, values),
                label=last[of, row],
                machine=values.get(called) or None,
                reviewers=(name,),
                group=result.slide.case or f"slide {result.slide.digest}",
            )


def _agreed(said: Sequence[Example]) -> tuple[list[Example], int]:
    """Those whose reviewers agree, each object once, and how many others there are."""
    spots: dict[tuple[str, str, int, int], list[Example]] = {}
    for one in said:
        spots.setdefault(one.spot, []).append(one)
    agreed = []
    for same in spots.values():
        if len({one.label for one in same}) == 1:
            names = tuple(sorted({name for one in same for name in one.reviewers}))
            agreed.append(replace(same[0], reviewers=names))
    order = {home: n for n, home in enumerate(dict.fromkeys(one.home for one in said))}
    agreed.sort(key=lambda one: (order[one.home], one.of, one.row))
    return agreed, len(spots) - len(agreed)
