"""What was signed of a result: by whom, when, and whether it still is what lies there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coverslip.errors import StoreError
from coverslip.workflows.outputs import REVIEW, read_result
from coverslip.workflows.review.chain import Entry
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.opinion import Opinion, opinions
from coverslip.workflows.review.trail import now_ms, read_trail

SIGNED = "signed"
UNSIGNED = "unsigned"
Status = Literal["final", "amended"]


@dataclass(frozen=True, slots=True)
class Signature:
    """`number` from 1 in the order of signing; `folder`: the signed result. `category`, `summary`: what was
    signed; `machine`: digest of the machine's result it is about.

    `present`: whether that is the result that lies there now. `standing`: the reviewer's last one.
    `changed_since`: whether the reviewer has corrected something after it.
    """

    number: int
    name: str
    role: str
    at: str
    status: Status
    comment: str
    category: str | None
    summary: str
    folder: Path
    machine: str
    present: bool
    standing: bool
    changed_since: bool


def signatures(home: Path) -> tuple[Signature, ...]:
    """All that was signed of the result in `home`, oldest first, by the trail.

    Raises TrailAlteredError where the trail is not as it was written.
    """
    return signatures_in(home, read_trail(home))


def signatures_in(home: Path, entries: Sequence[Entry]) -> tuple[Signature, ...]:
    signed = [entry for entry in entries if entry.event == "sign"]
    if not signed:
        return ()
    now = present_digest(home)
    standing = {opinion.signed[-1].number: opinion for opinion in opinions(entries) if opinion.signed}
    return tuple(_signature(home, n, entry, now, standing) for n, entry in enumerate(signed, 1))


def _signature(
    home: Path, number: int, entry: Entry, now: str | None, standing: dict[int, Opinion]
) -> Signature:
    said = entry.details
    opinion = standing.get(entry.number)
    return Signature(
        number=number,
        name=entry.reviewer.name,
        role=entry.reviewer.role,
        at=said["at"],
        status=said["status"],
        comment=entry.why,
        category=said["category"],
        summary=said["summary"],
        folder=home / REVIEW / SIGNED / Path(said["folder"]).name,
        machine=said["result"],
        present=said["result"] == now,
        standing=opinion is not None,
        changed_since=opinion is not None and opinion.changed_since,
    )


def present_digest(home: Path) -> str | None:
    """Of the machine's result that lies there; None where there is none that can be read."""
    try:
        return machine_digest(read_result(home))
    except StoreError:
        return None


def unsigned_folders(home: Path, entries: Sequence[Entry]) -> tuple[Path, ...]:
    """Folders among the signed ones that the trail does not know."""
    known = {entry.details.get("folder") for entry in entries if entry.event == "sign"}
    found = (home / REVIEW / SIGNED).glob("*")
    return tuple(sorted(path for path in found if path.name not in known and not path.name.startswith(".")))


def set_aside_unsigned(home: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    """Move what a process wrote that was stopped before it signed to `review/unsigned`; notes of it."""
    notes = []
    for path in unsigned_folders(home, entries):
        aside = home / REVIEW / UNSIGNED / f"{path.name}.{now_ms().replace(':', '')}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(path, aside)
        notes.append(
            f"{path.name} was never signed, its process was stopped: kept in {UNSIGNED}/{aside.name}"
        )
    return tuple(notes)
