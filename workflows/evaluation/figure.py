"""Figures: computed once of all rows, and again of each bootstrap draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.evaluation.resampling import OfWeights, Resampling, Spread, bootstrap
from coverslip.workflows.result import Measurement
from coverslip.workflows.scores import wilson


@dataclass(frozen=True, slots=True)
class Named:
    """What a document says of a figure. `undefined`: when it is not evaluable; `note`: what else to say of
    its value; `n`: rows it is of, None for all; `unit`: UCUM."""

    name: str
    method: str
    undefined: str
    note: str = ""
    n: int | None = None
    unit: str = "1"


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Some that are computed together. `of`: given how often each row is there, a value for each of `named`,
    NaN where it is not evaluable. `groups`: of each row."""

    named: tuple[Named, ...]
    of: OfWeights
    groups: Sequence[str]


def measure_all(several: Iterable[Figures], how: Resampling) -> tuple[Measurement, ...]:
    """Each value with its bootstrap interval; not evaluable where it is NaN, and never a number then."""
    return tuple(found for figures in several for found in _measure(figures, how))


def _measure(figures: Figures, how: Resampling) -> Iterator[Measurement]:
    n = len(figures.groups)
    values = figures.of(np.ones(n, np.intp))
    spreads: Sequence[Spread] = ()
    if not np.isnan(values).all():
        spreads = bootstrap(figures.of, figures.groups, how)
    for place, (named, value) in enumerate(zip(figures.named, values, strict=True)):
        known = not math.isnan(value)
        notes = (named.note, spreads[place].note) if known else (named.undefined,)
        yield Measurement(
            name=named.name,
            value=float(value) if known else None,
            unit=named.unit,
            method=named.method,
            n=n if named.n is None else named.n,
            interval=spreads[place].interval if known else None,
            note="; ".join(filter(None, notes)) or None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """The share of `there` (rows,) that is also `right` (rows,)."""

    name: str
    method: str
    right: NDArray[np.bool_]
    there: NDArray[np.bool_]
    undefined: str


def shares(several: Sequence[Share], groups: Sequence[str]) -> Figures:
    """Shares of the same rows, drawn together.

    Where all or none are right, resampling shows no spread: the note gives the interval of Wilson, which
    takes rows as independent.
    """
    there = np.array([one.there for one in several])
    right = there & np.array([one.right for one in several])

    def of(weights: NDArray[np.intp]) -> NDArray[np.float64]:
        totals = there @ weights
        return np.where(totals > 0, right @ weights / np.maximum(totals, 1), np.nan)

    counts = zip(several, right.sum(axis=1).tolist(), there.sum(axis=1).tolist(), strict=True)
    named = (Named(one.name, one.method, one.undefined, _wilson(hits, n), n) for one, hits, n in counts)
    return Figures(tuple(named), of, groups)


def _wilson(hits: int, n: int) -> str:
    if not n or hits not in (0, n):
        return ""
    bounds = wilson(hits, n)
    return (
        f"resampling shows no spread where {'all' if hits else 'none'} are right; Wilson, 95 %, slides taken "
        f"as independent: {bounds.low:.3f} to {bounds.high:.3f}"
    )
