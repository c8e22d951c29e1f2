"""Processes, and what the operating system counted for each.

This module and whoever imports it stay small: a child starts with its parent's peak memory on its account.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

# Processes are compared by CPU seconds, to which threads that spin while they wait only add.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process, or one call in it: CPU seconds are user + system, with its children's.

    `peak_mb`: largest resident memory of the process, 2^20 bytes. `units`: work done, in the probe's unit.
    `written_mb`: what it left on the disk, `source_mb`: what it made it from, where that is looked at.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    units: float = 1
    written_mb: float | None = None
    source_mb: float | None = None


class Failed(Exception):
    """A process ended with an error; its last lines."""


def run(command: Sequence[str | Path], folder: Path | None = None, one_thread: bool = False) -> Sample:
    """Run to its end. The last line of a driver is JSON: the units done, and the seconds of its call alone.

    Raises Failed.
    """
    environment = os.environ | (ONE_THREAD if one_thread else {})
    with TemporaryFile() as said, TemporaryFile() as complained:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, stdout=said, stderr=complained, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        # Popen must not wait for a process that is gone.
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise Failed(f"{' '.join(map(str, command))}\n{_text(complained)[-3000:]}")
        spoken = _spoken(_text(said))
    return Sample(
        spoken.get("cpu_s", used.ru_utime + used.ru_stime),
        spoken.get("wall_s", wall),
        used.ru_maxrss / 1024,
        spoken.get("units", 1),
    )


def together(commands: Sequence[Sequence[str | Path]]) -> Sample:
    """Processes that are made ready first and then begin at once, as one: its wall time is the slowest's.

    Each says "ready", waits for a line, and prints the figures of its call. Raises Failed.
    """
    pipe, environment = subprocess.PIPE, os.environ | ONE_THREAD
    crew = [
        subprocess.Popen(list(map(str, command)), stdin=pipe, stdout=pipe, env=environment, text=True)
        for command in commands
    ]
    for one in crew:
        if one.stdout is None or one.stdout.readline() != "ready\n":
            raise Failed(f"{one.args} did not get ready")
    for one in crew:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    ends = [_end(one) for one in crew]
    return Sample(
        sum(end.cpu_s for end in ends),
        max(end.wall_s for end in ends),
        sum(end.peak_mb for end in ends),
        sum(end.units for end in ends),
    )


def _end(process: subprocess.Popen[str]) -> Sample:
    assert process.stdout is not None
    spoken = _spoken(process.stdout.read())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status or not spoken:
        raise Failed(f"{process.args} ended with {process.returncode}")
    return Sample(spoken["cpu_s"], spoken["wall_s"], used.ru_maxrss / 1024, spoken["units"])


def python(driver: str, *arguments: object, interpreter: str | Path = sys.executable) -> list[str]:
    """The command that runs one of the drivers."""
    return [str(interpreter), str(Path(__file__).parent / "drivers" / driver), *map(str, arguments)]


def _text(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _spoken(said: str) -> dict[str, float]:
    last = said.strip().rpartition("\n")[2]
    return json.loads(last) if last.startswith("{") else {}
