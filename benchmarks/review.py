"""python -m benchmarks.review: a slide of 10 gigapixels with a million cells in napari, ours and the peer's.

Each side has a process and a virtual screen of its own and is timed by the same code (`drivers/looking.py`),
from when an empty napari window is shown and has drawn; rounds alternate. What took CPU is compared: wall
times are those of this machine with whatever else it did.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import recompute
from benchmarks.process import ONE_THREAD, Failed
from benchmarks.repeated import Repeated, repeated
from benchmarks.report import processor, put
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.screen import virtual_screen

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "coverslip.review-benchmark/2"
PEER = "napari-ome-zarr"
VIEWS = ("full", "middle", "1:1")
NAME = "review"
MARK = f"<!-- {NAME} -->"
# Seconds after napari's own start until the first image of a million cells on two free cores.
OPEN_S = 4.0
# Of one cell among a million, and of a window that does not answer: no one notices less.
AT_ONCE_S = 0.1
HEADING = (
    "| | the desk, a million cells | its layers alone | the store alone | napari-ome-zarr |",
    "|---|---|---|---|---|",
)


def sides(made: Repeated) -> Mapping[str, tuple[str, Path]]:
    """Name → side and path. The peer and `store` open the same store; the others it with its result."""
    return {
        "desk": ("desk", made.result),
        "layers": ("ours", made.result),
        "store": ("ours", made.store),
        "peer": (PEER, made.store),
    }


def look(side: str, path: Path) -> dict[str, Any]:
    """One run of a side. Raises Failed."""
    shutil.rmtree(path / "review", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.drivers.looking", side, str(path)]
    with virtual_screen() as screen:
        environment = {**screen, **ONE_THREAD, "NAPARI_CONFIG": "", "NAPARI_ASYNC": "0"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Figure by figure."""
    return {
        name: medians([one[name] for one in rounds])
        if isinstance(value, dict)
        else median(one[name] for one in rounds)
        for name, value in rounds[0].items()
    }


def without_window(made: Repeated) -> dict[str, float]:
    """CPU seconds: opening the case, and saying the result again after corrections."""
    shutil.rmtree(made.result / "review", ignore_errors=True)
    began = time.process_time()
    case = open_case(made.result, Reviewer("Benchmark"))
    found = {"open the case": time.process_time() - began}
    case.close()
    return found | recompute.measure(case.base)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """As Markdown."""

    def row(name: str, value: Any) -> str:
        cells = (value(found[side]) for side in ("desk", "layers", "store", "peer"))
        return "| " + " | ".join((name, *cells)) + " |"

    lines = [
        row("first image after napari's start, CPU", lambda f: f"{f['open']['cpu_s']:.1f} s"),
        row("the same, wall", lambda f: f"{f['open']['wall_s']:.1f} s"),
        row("until all is there, wall", lambda f: f"{f['open']['wall_s'] + f['rest']['wall_s']:.1f} s"),
    ]
    for view in VIEWS:
        lines.append(
            row(
                f"a step at {view}: CPU; wall (longest)",
                lambda f, view=view: (
                    f"{f[view]['cpu_s']:.2f} s; {f[view]['wall_s']:.2f} s ({f[view]['longest_wall_s']:.2f})"
                ),
            )
        )
    lines.append(row("peak memory", lambda f: f"{f['peak_mb']:.0f} MB"))
    lines.append(row("load of the machine", lambda f: f"{f['load']:.1f}"))
    return "\n".join((*HEADING, *lines))


def told(found: Mapping[str, Mapping[str, Any]], plain: Mapping[str, float]) -> str:
    """What the table has no column for, as Markdown."""
    desk, layers = found["desk"], found["layers"]
    lines = [
        f"- One cell among a million is found in {1000 * layers['find']['wall_s']:.2f} ms (longest "
        f"{1000 * layers['find']['longest_wall_s']:.1f}); clicked at the desk, ringed and told of in "
        f"{1000 * desk['click']['wall_s']:.0f} ms (longest {1000 * desk['click']['longest_wall_s']:.0f}).",
        f"- {desk['relabel']['cells']:.0f} cells relabelled with a lasso: saved, drawn and all figures said "
        f"again in {desk['relabel']['wall_s']:.2f} s; the window does not answer for at most "
        f"{1000 * desk['relabel']['stall_s']:.0f} ms of it.",
        "- Another case opened at the desk: the window does not answer for "
        f"{desk['again']['stall_s']:.1f} s at most, while napari makes the layers.",
        "- The first image has the slide, the cells and the findings; scale bar, caption, hidden layers and "
        "gallery come after it.",
        f"- napari alone: {desk['napari']['cpu_s']:.1f} s of CPU and {desk['napari_mb']:.0f} MB.",
        f"- Without a window, CPU: {'; '.join(f'{name} {spent:.2f} s' for name, spent in plain.items())}.",
    ]
    return "\n".join(lines)


def missed(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The limits that do not hold."""
    desk, store, peer = (found[name] for name in ("desk", "store", "peer"))
    limits = {
        f"the desk opens within {OPEN_S:g} s": desk["open"]["wall_s"] <= OPEN_S,
        "a cell is selected at once": desk["click"]["wall_s"] <= AT_ONCE_S,
        f"the window answers within {AT_ONCE_S:g} s while ten thousand cells are relabelled": desk["relabel"][
            "stall_s"
        ]
        <= AT_ONCE_S,
        f"less memory than {PEER}": store["peak_mb"] <= peer["peak_mb"],
        **{f"less CPU a step at {v} than {PEER}": store[v]["cpu_s"] <= peer[v]["cpu_s"] for v in VIEWS},
    }
    return [name for name, met in limits.items() if not met]


def account(found: Mapping[str, Mapping[str, Any]], plain: Mapping[str, float], rounds: int) -> str:
    """All of it, as Markdown."""
    said = f"Median of {rounds} runs each, taken in turns, on {os.cpu_count()} cores of {processor()}."
    wrong = missed(found)
    held = f"What does not hold: {'; '.join(wrong)}." if wrong else "All limits hold."
    return f"{said}\n\n{table(found)}\n\n{told(found, plain)}\n\n{held}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.review", description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench/review", help="the slide is kept there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, help="default: docs/review-size.json, and the table in docs/scale.md"
    )
    asked = parser.parse_args()
    if shutil.which("Xvfb") is None:
        raise SystemExit("Xvfb is needed: apt-get install xvfb")
    asked.cache.mkdir(parents=True, exist_ok=True)
    made = repeated(asked.cache)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides(made)}
    for turn in range(asked.rounds):
        for name, (side, path) in sides(made).items():
            rounds[name].append(look(side, path))
            opened = rounds[name][-1]["open"]
            print(f"  {turn + 1} {name:8}{opened['cpu_s']:8.2f} s CPU {opened['wall_s']:8.2f} s", flush=True)
    found = {name: medians(runs) for name, runs in rounds.items()}
    plain = without_window(made)
    text = account(found, plain, asked.rounds)
    print(text)
    out = asked.out or ROOT / "docs/review-size.json"
    machine = {"processor": processor(), "cores": os.cpu_count(), "rounds": asked.rounds}
    document = {"schema": SCHEMA, "machine": machine, "side": made.side, "cells": made.cells}
    out.write_text(json.dumps({**document, "sides": found, "without_window": plain}, indent=2) + "\n")
    print(f"written to {out}")
    page = ROOT / "docs/scale.md"
    if asked.out is None and MARK in page.read_text():
        put(page, NAME, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
