"""Running the command line as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

COVERSLIP = [sys.executable, "-m", "coverslip"]
# Warnings of libraries are theirs; a test that looks for tracebacks reads standard error.
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def coverslip(*arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run to its end; standard output and error as text. Never with a traceback."""
    done = subprocess.run(
        [*COVERSLIP, *map(str, arguments)],
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
