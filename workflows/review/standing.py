"""Which corrections stand on a result: those of one reviewer now, or those that were signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import RequestError
from coverslip.workflows.outputs import read_result
from coverslip.workflows.review.corrections import Correction
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.opinion import Opinion, opinion_of, opinions
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.trail import read_trail


@dataclass(frozen=True, slots=True)
class Standing:
    """`reviewer`: whose; None and no corrections for the machine's own."""

    reviewer: str | None = None
    corrections: tuple[Correction, ...] = ()


def standing_of(home: Path, reviewer: str | None, *, signed: bool) -> Standing:
    """Of the result in `home`, without opening it for review.

    `reviewer`: this person's corrections; with `signed` those of their last signature, and with `signed`
    alone those of the last signature of anybody. Raises RequestError where there are none such, and the
    errors of `read_trail`.
    """
    if reviewer is None and not signed:
        return Standing()
    entries = read_trail(home)
    digest = machine_digest(read_result(home))
    known = [one for one in opinions(entries) if one.machine == digest]
    if reviewer is None:
        found = max((one for one in known if one.signed), key=lambda one: one.signed[-1].number, default=None)
        asked = ""
    else:
        name = Reviewer(reviewer).name
        asked = f" by {name}"
        found = opinion_of(entries, name)
        found = found if found.machine == digest and (found.signed or not signed) else None
    if found is None:
        raise RequestError(str(home), f"has no {'signed ' * signed}review{asked}", _who(known, signed))
    return Standing(found.name, found.at_signing if signed else found.corrections)


def standing_if_any(home: Path, reviewer: Reviewer) -> tuple[Correction, ...]:
    """This person's corrections of the very result in `home`; () where there are none."""
    found = opinion_of(read_trail(home), reviewer.name)
    same = found.machine == machine_digest(read_result(home))
    return found.corrections if same else ()


def _who(known: list[Opinion], signed: bool) -> str:
    names = [one.name for one in known if one.signed or not signed]
    return f"name one of {', '.join(names)}" if names else "nobody has, yet"
