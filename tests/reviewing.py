"""A program that forks reviewers, to be killed: `python reviewing.py`, then a line per command.

`warm HOME`: import what is needed. `kill HOME NAME`: one corrects for ever, saying each correction once it is
saved. `both HOME NAME NAME COUNT`: two do so at once.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from reviewed import first_cells

from coverslip.workflows.review.base import read_base
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.opinion import opinions
from coverslip.workflows.review.recompute import standing_labels
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.trail import read_trail

PAUSE_S = 0.003


def correct(home: Path, name: str, count: int | None) -> None:
    """Say the process, then each correction by the number of its first row."""
    case = open_case(home, Reviewer(name))
    say(f"pid {os.getpid()}")
    while count is not None and len(opinions(read_trail(home))) < 2:
        time.sleep(PAUSE_S)  # both are to write at once
    made = 0
    while count is None or made < count:
        row = len(case.corrections)
        case.correct(first_cells(1, start=row))
        say(f"saved {name} {row}")
        made += 1
        time.sleep(0 if count is None else PAUSE_S)
    case.close()


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def forked(home: Path, name: str, count: int | None) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            correct(home, name, count)
        finally:
            os._exit(0)
    return pid


def main() -> None:
    for line in sys.stdin:
        match line.split():
            case ["warm", home]:
                standing_labels(read_base(Path(home)), (first_cells(1),), "cells")
                children = []
            case ["kill", home, name]:
                children = [forked(Path(home), name, None)]
            case ["both", home, *names, count]:
                children = [forked(Path(home), name, int(count)) for name in names]
            case _:
                raise SystemExit(line)
        for child in children:
            os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
