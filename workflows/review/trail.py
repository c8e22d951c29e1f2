"""The audit trail of one result on disk: `review/audit.jsonl`, a line per event, only ever added to.

Beside it `review/audit-head.json` names its last entry, so that entries cut off at the end are missed. What
this cannot show: that somebody with the right to write here wrote both anew from the beginning. Against that
keep the head elsewhere: the signed report prints it, and `coverslip audit verify OUT --head` asks for it.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from coverslip.errors import RequestError, StoreIncompleteError, TrailAlteredError
from coverslip.ruo import RUO
from coverslip.workflows.lock import locked
from coverslip.workflows.outputs import REVIEW
from coverslip.workflows.review.chain import (
    Draft,
    Entry,
    Examined,
    Head,
    Problem,
    System,
    examine,
    head_of,
    seal,
)
from coverslip.workflows.review.durable import sync_folder, write_durably, write_json_durably

TRAIL = "audit.jsonl"
HEAD = "audit-head.json"
HEAD_SCHEMA = "coverslip.audit-head/1"
LOCK = ".lock"
UNREADABLE = Head(-1, "")
# Somebody who reads while another writes sees the two files of different moments; so often it is tried again.
MOST_READINGS = 50
SECONDS_BETWEEN_READINGS = 0.02


def read_trail(home: Path) -> tuple[Entry, ...]:
    """All entries on the result in `home`, oldest first; () where nobody has reviewed it.

    Raises TrailAlteredError, naming the first entry that is not as it was written.
    """
    found = examine_trail(home)
    if found.problem is not None:
        raise altered(home, found.problem)
    return found.entries


def examine_trail(home: Path) -> Examined:
    """What stands in the files, without a lock and without changing them."""
    folder = home / REVIEW
    for _ in range(MOST_READINGS):
        head = read_head(folder)
        data = _bytes(folder / TRAIL)
        found = examine(data, head)
        if read_head(folder) == head and (found.problem is None or _bytes(folder / TRAIL) == data):
            return found
        time.sleep(SECONDS_BETWEEN_READINGS)
    raise StoreIncompleteError(str(folder), "is being written all the time", "try again")


def read_head(folder: Path) -> Head | None:
    """None where there is no file; `UNREADABLE` where it is no head."""
    try:
        document = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        if document["schema"] != HEAD_SCHEMA:
            return UNREADABLE
        return Head(int(document["count"]), str(document["sha256"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return UNREADABLE
    except OSError as error:
        raise _unreadable(folder / HEAD, error) from error


def _bytes(path: Path, start: int = 0) -> bytes:
    """From `start` on; nothing where there is no file."""
    try:
        with open(path, "rb") as handle:
            handle.seek(start)
            return handle.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StoreIncompleteError:
    return StoreIncompleteError(str(path), f"cannot be read ({error.strerror})", "see that it can be read")


def altered(home: Path, problem: Problem) -> TrailAlteredError:
    return TrailAlteredError(
        str(home / REVIEW / TRAIL),
        str(problem),
        "restore the folder review from a copy; `coverslip audit verify` says what is wrong",
        problem.entry,
    )


class Trail:
    """The trail as this process has read it, to add to. Not for several threads at once.

    `notes`: what was mended when it was opened.
    """

    def __init__(self, home: Path):
        """Reads all, and mends what a killed process left. Raises TrailAlteredError, RequestError."""
        self.home, self.folder = home, home / REVIEW
        self.entries: tuple[Entry, ...] = ()
        self._size = 0
        with self.held():
            self.notes = self._catch_up()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes below `review` meanwhile."""
        with locked(self.folder / LOCK):
            yield

    @property
    def head(self) -> Head:
        return head_of(self.entries)

    def refresh(self) -> None:
        """Read what others have added since; call within `held`."""
        self._catch_up()

    def add(self, draft: Draft) -> Entry:
        """On disk when this returns; call within `held`, after `refresh`. Raises RequestError for what
        cannot be written as UTF-8 JSON, StoreIncompleteError when the disk refuses."""
        try:
            entry, line = seal(draft, this_system(), now_ms(), self.head)
        except ValueError as error:
            raise RequestError("the entry", f"cannot be written ({error})", "leave that out") from error
        size = self._size
        try:
            self._write(line)
            self._write_head(head_of((entry,)))
        except OSError as error:
            self._take_back(size)
            raise StoreIncompleteError(
                str(self.folder),
                f"cannot be written ({error.strerror}): not saved",
                "make space and try again",
            ) from error
        self.entries = (*self.entries, entry)
        return entry

    def _catch_up(self) -> tuple[str, ...]:
        """Read on from where this process is; put aside a torn line, and let the head follow."""
        path = self.folder / TRAIL
        if self._size and (not path.exists() or path.stat().st_size < self._size):
            raise altered(self.home, Problem(len(self.entries), "was cut off at the end"))
        data = _bytes(path, self._size)
        found = examine(data, read_head(self.folder), self.entries)
        if found.problem is not None:
            raise altered(self.home, found.problem)
        notes = []
        if found.torn:
            name = self._put_aside(found.torn)
            os.truncate(path, self._size + len(data) - len(found.torn))
            notes.append(f"a line that its process was stopped in, never acknowledged, is kept in {name}")
        self.entries, self._size = found.entries, self._size + len(data) - len(found.torn)
        if found.ahead:
            self._write_head(self.head)
            notes.append(f"entry {len(self.entries)} was written by a process that was stopped right after")
        return tuple(notes)

    def _put_aside(self, torn: bytes) -> str:
        number = 1 + sum(1 for _ in self.folder.glob("audit-torn-*.txt"))
        name = f"audit-torn-{number:03d}.txt"
        write_durably(self.folder / name, torn)
        return name

    def _write(self, line: bytes) -> None:
        path = self.folder / TRAIL
        new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            written = 0
            while written < len(line):
                written += os.write(handle, line[written:])
            os.fsync(handle)
        finally:
            os.close(handle)
        if new:
            sync_folder(self.folder)
        self._size += len(line)

    def _take_back(self, size: int) -> None:
        """What could not be written whole was not acknowledged."""
        with contextlib.suppress(OSError):
            os.truncate(self.folder / TRAIL, size)
        self._size = size

    def _write_head(self, head: Head) -> None:
        document = {"schema": HEAD_SCHEMA, "notice": RUO, "count": head.count, "sha256": head.sha256}
        write_json_durably(self.folder / HEAD, document)


def this_system() -> System:
    """This machine, the user logged in, and this process."""
    return System(host=host(), user=_user(), pid=os.getpid())


def host() -> str:
    return socket.gethostname()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def now_ms() -> str:
    """UTC to the millisecond, ISO 8601.

    >>> len(now_ms())
    24
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
