"""What stands of one reviewer's entries: their opinion, by going through the trail again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coverslip.workflows.review.chain import Entry
from coverslip.workflows.review.corrections import Correction, read_correction


@dataclass(frozen=True, slots=True)
class Step:
    """What one entry changed, and which entry that was."""

    number: int
    corrections: tuple[Correction, ...]


@dataclass(frozen=True, slots=True)
class Opinion:
    """`machine`: digest of the result it is about, None before the first opening. `done`: the steps that
    stand; `undone`: those that redo brings back, the next last. `last`: number of the last entry, 0 for none.

    `signed`: the entries of signing, of all results; `at_signing`: what stood then.
    """

    name: str
    role: str = ""
    machine: str | None = None
    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()
    last: int = 0
    signed: tuple[Entry, ...] = ()
    at_signing: tuple[Correction, ...] = ()

    @property
    def corrections(self) -> tuple[Correction, ...]:
        return tuple(one for step in self.done for one in step.corrections)

    @property
    def changed_since(self) -> bool:
        """Whether something else stands than was signed last."""
        return bool(self.signed) and self.corrections != self.at_signing

    def after(self, entry: Entry) -> Opinion:
        """With this entry of the same reviewer. Raises RequestError for a correction that is none."""
        now = replace(self, last=entry.number, role=entry.reviewer.role or self.role)
        match entry.event:
            case "open" if entry.details.get("result") != self.machine:
                return replace(now, machine=entry.details.get("result"), done=(), undone=())
            case "correct" | "adopt":
                subject = f"entry {entry.number} of the audit trail"
                changes = tuple(read_correction(one, subject) for one in entry.corrections)
                return replace(now, done=(*self.done, Step(entry.number, changes)), undone=())
            case "undo":
                return replace(now, done=self.done[:-1], undone=(*self.undone, *self.done[-1:]))
            case "redo":
                return replace(now, done=(*self.done, *self.undone[-1:]), undone=self.undone[:-1])
            case "sign":
                return replace(now, signed=(*self.signed, entry), at_signing=self.corrections)
            case _:
                return now


def opinion_of(entries: Sequence[Entry], name: str) -> Opinion:
    """Of the reviewer of this name; without anything where they have no entry."""
    found = Opinion(name)
    for entry in entries:
        if entry.reviewer.name == name:
            found = found.after(entry)
    return found


def opinions(entries: Sequence[Entry]) -> tuple[Opinion, ...]:
    """Of everybody, in the order they first came."""
    names = dict.fromkeys(entry.reviewer.name for entry in entries)
    return tuple(opinion_of(entries, name) for name in names)
