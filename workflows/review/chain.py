"""The lines of an audit trail, and the first of them that is not as it was written; nothing is read here.

A line is a JSON object with its own sha256 last: that of the bytes before it, closed with a brace. Since
each also holds the sha256 of the one before, no line can be altered, left out, moved or put in between
without the chain breaking there. A chain alone does not show that its end was cut off; the head, kept in a
file of its own, names the last line.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from coverslip.workflows.result import Value

SCHEMA = "coverslip.audit/1"
Event = Literal["open", "correct", "undo", "redo", "adopt", "sign", "close"]
# What the first entry names as the one before it.
START = "0" * 64
_OWN = re.compile(rb', "sha256": "([0-9a-f]{64})"\}')
_OWN_BYTES = len(', "sha256": ""}') + 64


class Person(Value):
    name: str
    role: str


class System(Value):
    """Where it was done: the machine, who was logged in there, and the process."""

    host: str
    user: str
    pid: int


class Entry(Value):
    """Who did what, when, where, what was before, what is after, and why.

    `number` from 1; `at`: UTC, ISO 8601, milliseconds. `corrections`: as `write_correction` gives them;
    `details`: what else belongs to the event, such as digests. `previous`: sha256 of the entry before.
    """

    schema_name: Literal["coverslip.audit/1"] = SCHEMA
    number: int
    at: str
    event: Event
    reviewer: Person
    what: str
    before: Any
    after: Any
    why: str
    corrections: tuple[dict[str, Any], ...]
    details: dict[str, Any]
    system: System
    previous: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it has a place in the trail."""

    event: Event
    reviewer: Person
    what: str
    before: Any = None
    after: Any = None
    why: str = ""
    corrections: tuple[dict[str, Any], ...] = ()
    details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a trail ends: how many entries, and the last one's sha256. Of an empty one 0 and `START`."""

    count: int = 0
    sha256: str = START


@dataclass(frozen=True, slots=True)
class Problem:
    """`entry`: number of the first bad entry, from 1; 0 where no entry is at fault."""

    entry: int
    what: str

    def __str__(self) -> str:
        return f"entry {self.entry} {self.what}" if self.entry else self.what


@dataclass(frozen=True, slots=True)
class Examined:
    """`entries`: those that are sound, up to the first bad one. `torn`: bytes of a line that its process
    was stopped in, never acknowledged. `ahead`: one entry more than the head names, as when a process is
    stopped between the two."""

    entries: tuple[Entry, ...]
    problem: Problem | None
    torn: bytes = b""
    ahead: bool = False

    @property
    def head(self) -> Head:
        return head_of(self.entries)


def head_of(entries: Sequence[Entry]) -> Head:
    return Head(entries[-1].number, entries[-1].sha256) if entries else Head()


def seal(draft: Draft, system: System, at: str, head: Head) -> tuple[Entry, bytes]:
    """The entry after `head`, and its line with the newline. Raises ValueError for what JSON cannot hold."""
    document = {
        "schema_name": SCHEMA,
        "number": head.count + 1,
        "at": at,
        "event": draft.event,
        "reviewer": draft.reviewer.model_dump(),
        "what": draft.what,
        "before": draft.before,
        "after": draft.after,
        "why": draft.why,
        "corrections": list(draft.corrections),
        "details": draft.details or {},
        "system": system.model_dump(),
        "previous": head.sha256,
    }
    rest = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    own = hashlib.sha256(rest).hexdigest()
    line = rest[:-1] + f', "sha256": "{own}"}}'.encode()
    return Entry.model_validate_json(line), line + b"\n"


def read_line(line: bytes) -> Entry | None:
    """The entry in a line without its newline; None where a byte of it is not as it was written."""
    found = _OWN.fullmatch(line[-_OWN_BYTES:])
    if found is None or hashlib.sha256(line[:-_OWN_BYTES] + b"}").hexdigest().encode() != found[1]:
        return None
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None


def examine(data: bytes, head: Head | None, known: Sequence[Entry] = ()) -> Examined:
    """The lines in `data`, which follow the entries `known`. `head`: None where there is no head file."""
    *lines, torn = data.split(b"\n")
    entries = list(known)
    for place, line in enumerate(lines):
        entry = read_line(line)
        problem = _misplaced(entry, entries, lines[place + 1 :], head)
        if entry is None or problem is not None:
            return Examined(tuple(entries), problem)
        entries.append(entry)
    problem = _end(entries, head)
    count = head.count if head else 0
    return Examined(tuple(entries), problem, torn, ahead=problem is None and len(entries) == count + 1)


def _misplaced(
    entry: Entry | None, before: Sequence[Entry], after: Sequence[bytes], head: Head | None
) -> Problem | None:
    """What is wrong with the entry that stands next after those before it."""
    due = len(before) + 1
    if entry is None:
        return Problem(due, "was altered")
    if entry.number < due:
        return Problem(due, f"was put in: entry {entry.number} stands there once more")
    if entry.number > due:
        return _displaced(entry, due, after)
    if entry.previous == (before[-1].sha256 if before else START):
        return None
    following = read_line(after[0]) if after else None
    vouched = following.previous if following else head.sha256 if head and not after else None
    if before and vouched == entry.sha256:
        return Problem(due - 1, "was replaced: the entry after it was written after another one")
    return Problem(due, "was replaced: it was not written after the one before it")


def _displaced(entry: Entry, due: int, after: Sequence[bytes]) -> Problem:
    """Another entry stands where `due` should: that one was moved, or is gone."""
    numbers = {found.number for line in after if (found := read_line(line)) is not None}
    if due in numbers:
        return Problem(due, f"is out of order: entry {entry.number} stands in its place")
    upto = min(number for number in {*numbers, entry.number} if number > due) - 1
    return Problem(due, "was deleted" if upto == due else f"was deleted, with all up to entry {upto}")


def _end(entries: Sequence[Entry], head: Head | None) -> Problem | None:
    """Whether this is where the head says that the trail ends."""
    count = len(entries)
    if head is None:
        gone = "is the last of a trail without head file: nobody can tell whether others were cut off"
        return Problem(count, gone) if count > 1 else None
    if head.count < 0:
        return Problem(0, "the head file was altered")
    if head.count > count:
        rest = "" if head.count == count + 1 else f", with all up to entry {head.count}"
        return Problem(count + 1, f"was cut off at the end{rest}")
    named = entries[head.count - 1].sha256 if head.count else START
    if named != head.sha256:
        return Problem(head.count, "is not the one that the head file names: one of them was replaced")
    if count > head.count + 1:
        return Problem(head.count + 1, f"and all up to entry {count} are not known to the head file")
    return None
