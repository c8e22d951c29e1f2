"""Who has a result open: `review/open/<reviewer>.json`, there while a case is open.

Of this machine, whether the process is alive says if that still holds; of others, a sign of life that is
given every minute and missed after ten (the machines' clocks are taken to agree within minutes).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from coverslip.ruo import RUO
from coverslip.workflows.outputs import REVIEW
from coverslip.workflows.review.durable import write_json_durably
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.trail import host, now_ms

SCHEMA = "coverslip.presence/1"
OPEN = "open"
STALE_AFTER = timedelta(minutes=10)
# A number is given to another process long after; the clock by which its beginning is told may be set.
SAME_PROCESS_S = 2.0


@dataclass(frozen=True, slots=True)
class Presence:
    """Somebody at a result. `since`, `seen`: UTC, ISO 8601; `begun`: when its process began, Unix time."""

    name: str
    role: str
    since: str
    seen: str
    host: str
    pid: int
    begun: float

    @property
    def alive(self) -> bool:
        """Whether the process runs; of another machine, whether it was seen lately."""
        if self.host == host():
            begun = _begun(self.pid)
            return begun is not None and abs(begun - self.begun) < SAME_PROCESS_S
        return datetime.now(UTC) - datetime.fromisoformat(self.seen) < STALE_AFTER

    @property
    def mine(self) -> bool:
        return (self.host, self.pid) == (host(), os.getpid())

    def __str__(self) -> str:
        who = f"{self.name} ({self.role})" if self.role else self.name
        return f"{who}, since {self.since[:16].replace('T', ' ')} UTC on {self.host}"


def present(reviewer: Reviewer) -> Presence:
    """This process, from now on."""
    at, pid = now_ms(), os.getpid()
    return Presence(reviewer.name, reviewer.role, at, at, host(), pid, _begun(pid) or 0.0)


def all_present(home: Path) -> tuple[Presence, ...]:
    """Everybody who has the result open, by name; those whose process is gone are left out."""
    found = (_read(path) for path in sorted((home / REVIEW / OPEN).glob("*.json")))
    return tuple(one for one in found if one is not None and one.alive)


def presence_of(home: Path, reviewer: Reviewer) -> Presence | None:
    """What this reviewer's file says, gone or not."""
    return _read(_path(home, reviewer))


def announce(home: Path, reviewer: Reviewer, presence: Presence) -> None:
    """Write it, with a sign of life of now."""
    document = {"schema": SCHEMA, "notice": RUO, **asdict(replace(presence, seen=now_ms()))}
    write_json_durably(_path(home, reviewer), document)


def leave(home: Path, reviewer: Reviewer) -> None:
    _path(home, reviewer).unlink(missing_ok=True)


def _path(home: Path, reviewer: Reviewer) -> Path:
    return home / REVIEW / OPEN / f"{reviewer.key}.json"


def _read(path: Path) -> Presence | None:
    """None for no file, and for one that is none of ours: it keeps nobody out."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: document[name] for name in Presence.__slots__}
        found = Presence(**fields)
        datetime.fromisoformat(found.seen)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _begun(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
