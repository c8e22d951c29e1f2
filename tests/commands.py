"""Running the command line as a user does: in a process of its own."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from forked import served

COVERSLIP = [sys.executable, "-m", "coverslip"]
# Warnings of libraries are theirs; a test that looks for tracebacks reads standard error.
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


_SERVERS = ExitStack()
atexit.register(_SERVERS.close)


@cache
def _client() -> str:
    """One server for all commands of this process's tests."""
    folder = Path(_SERVERS.enter_context(tempfile.TemporaryDirectory(prefix="coverslip-commands-")))
    return str(_SERVERS.enter_context(served(folder)) / "coverslip")


def coverslip(
    *arguments: object, timeout: float = 600, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run to its end; standard output and error as text. Never with a traceback.

    `anew`: by an interpreter that imports all itself, for what libraries read of the environment at import.
    """
    done = subprocess.run(
        [*(COVERSLIP if anew else [_client()]), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=ENVIRONMENT,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Start and do not wait."""
    return subprocess.Popen(
        [*COVERSLIP, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        start_new_session=True,
    )
