"""A review in plain words: who, what was corrected, and which figures that changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coverslip.workflows.result import Measurement, SlideResult
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.opinion import Opinion, opinions
from coverslip.workflows.review.recompute import recompute
from coverslip.workflows.review.sentence import sentence
from coverslip.workflows.review.trail import read_trail

NOT_EVALUABLE = "not evaluable"


@dataclass(frozen=True, slots=True)
class Summary:
    """`state`: how many corrections, and whether they are signed. `corrections`: each in words. `figures`:
    name, the machine's, after review, of those that differ."""

    who: str
    state: str
    corrections: tuple[str, ...]
    figures: tuple[tuple[str, str, str], ...]


def summaries(home: Path) -> tuple[Summary, ...]:
    """Of everybody who reviewed the result in `home`, in the order they first came.

    Raises the errors of `read_base`, and of `read_trail`.
    """
    entries = read_trail(home)
    if not entries:
        return ()
    base = read_base(home)
    digest = machine_digest(base.result)
    return tuple(_summary(base, one, digest) for one in opinions(entries))


def _summary(base: Base, opinion: Opinion, digest: str) -> Summary:
    who = f"{opinion.name} ({opinion.role})" if opinion.role else opinion.name
    words = tuple(sentence(one) for one in opinion.corrections)
    if opinion.machine != digest:
        return Summary(who, "of an earlier result, computed again since", words, ())
    figures = (
        tuple(differences(base.result, recompute(base, opinion.corrections))) if opinion.corrections else ()
    )
    return Summary(who, _state(opinion), words, figures)


def _state(opinion: Opinion) -> str:
    count = len(opinion.corrections)
    said = f"{count} {'correction' if count == 1 else 'corrections'}" if count else "no correction"
    if not opinion.signed:
        return f"{said}, not signed"
    changed = ", changed since" if opinion.changed_since else ""
    return f"{said}, signed {opinion.signed[-1].at}{changed}"


def differences(before: SlideResult, after: SlideResult) -> Iterator[tuple[str, str, str]]:
    """Name, value before and after, of the call and of each measurement that changes."""
    calls = [one.call.category or NOT_EVALUABLE if one.call else "none" for one in (before, after)]
    if calls[0] != calls[1]:
        yield "call", calls[0], calls[1]
    revised = {one.name: one for one in after.measurements}
    for one in before.measurements:
        other = revised.pop(one.name, None)
        if _value(one) != _value(other):
            yield one.name, _value(one), _value(other)
    for one in revised.values():
        yield one.name, "none", _value(one)


def _value(one: Measurement | None) -> str:
    if one is None:
        return "none"
    if one.value is None:
        return NOT_EVALUABLE
    return f"{one.value:.4g}" if one.unit == "1" else f"{one.value:.4g} {one.unit}"
