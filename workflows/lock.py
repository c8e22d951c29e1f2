"""One process at a time: a lock that the system lets go when its holder dies, however it dies."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coverslip.errors import RequestError, ReviewOpenError

if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
# Whoever holds one writes a few kilobytes, so that a minute means that its machine hangs.
LONGEST_S = 60.0
SECONDS_BETWEEN_TRIES = 0.005


@contextmanager
def locked(path: Path, longest_s: float = LONGEST_S) -> Iterator[None]:
    """Hold the lock file `path`, which stays; threads of one process keep each other out, too.

    Raises ReviewOpenError when another holds it for longer than `longest_s`, RequestError where the file
    system has no locks or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RequestError(
            str(path.parent),
            f"cannot be written ({error.strerror})",
            "give this user the right to write there",
        ) from error
    try:
        _take(handle, path, time.monotonic() + longest_s)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, until: float) -> None:
    while True:
        try:
            return _try(handle)
        except OSError as error:
            if error.errno not in HELD:
                raise RequestError(
                    str(path), f"cannot be locked ({error.strerror})", "use a file system that has locks"
                ) from error
            if time.monotonic() > until:
                raise ReviewOpenError(
                    str(path.parent), "is being written by another process", "try again"
                ) from error
        time.sleep(SECONDS_BETWEEN_TRIES)
