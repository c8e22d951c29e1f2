"""python -m benchmarks.fleet: a folder of 10,000 slides over a cluster of N workers, simulated.

What each task costs is measured on this machine: the tasks of two real slides, and what client and scheduler
spend on a task. The simulation then plays the batch's own rules: slides begun largest first, a bounded number
of tasks given out, priorities, small slides done whole by one task. It draws nothing at random.

It knows no storage and no network: `read_mb_s` is what they must deliver.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from itertools import count
from math import exp
from pathlib import Path
from statistics import NormalDist, mean, median

from benchmarks import slides
from benchmarks.process import ONE_THREAD, python, run
from benchmarks.report import processor, put
from coverslip.workflows.batch import AHEAD, FEW_TASKS, PER_PLACE, TO_BEGIN, TO_FINISH
from coverslip.workflows.steps import per_task
from coverslip.workflows.workflow import Grid

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "coverslip.fleet/1"
SLIDES = 10_000
WORKERS = tuple(2**power for power in range(14))
# Tiles of 224 px at 0.5 µm/px: half of the slides between 2,000 and 5,900, the largest 30 times the smallest.
MEDIAN_TILES, SPREAD, LARGEST_TILES = 3400, 0.8, 30_000
# Of the slide of the rows: 176 MB and 3,792 tiles.
MB_PER_TILE = 0.046
ROUNDS = 4000
SHARD = Grid.__dataclass_fields__["shard"].default


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds as a straight line over a slide's tiles."""

    fixed: float
    per_tile: float

    def at(self, tiles: int) -> float:
        return self.fixed + self.per_tile * tiles


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds. `start`: of a worker, once; `prepare`, `finish`: of a slide; `tile`: reading and scoring
    one; `copy`: a task that copies the pyramid, of which there is one per `tiles_per_copy`; `central`: what
    client and scheduler spend on a task, one after the other."""

    start: float
    prepare: Line
    finish: Line
    tile: float
    copy: float
    tiles_per_copy: float
    central: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """`workers` on a folder. `efficiency`: throughput over that many times one worker's, 0 to 1;
    `central_busy`: share of the time client and scheduler work; `read_mb_s`: from storage."""

    workers: int
    hours: float
    slides_per_hour: float
    efficiency: float
    central_busy: float
    read_mb_s: float


@dataclass(slots=True)
class _Slide:
    place: int
    tiles: int
    left: int = 0


def folder(slides: int) -> list[int]:
    """Tiles per slide, largest first: the quantiles of a log-normal distribution."""
    normal = NormalDist()
    shares = ((number + 0.5) / slides for number in range(slides))
    tiles = (round(MEDIAN_TILES * exp(SPREAD * normal.inv_cdf(share))) for share in shares)
    return sorted((min(LARGEST_TILES, max(1, number)) for number in tiles), reverse=True)


def shares(tiles: int) -> list[int]:
    """Tiles that each task of a slide scores.

    >>> shares(300)
    [128, 128, 44]
    """
    share = per_task(tiles, SHARD)
    return [min(share, tiles - start) for start in range(0, tiles, share)]


class Simulation:
    """The batch and its workers; `run` plays it to the end."""

    def __init__(self, folder: Sequence[int], costs: Costs, workers: int):
        self._waiting = [_Slide(place, tiles) for place, tiles in enumerate(folder)][::-1]
        self._costs, self._workers = costs, workers
        self._ready: list[tuple[int, int, float, str, _Slide]] = []
        self._running: list[tuple[float, int, str, _Slide]] = []
        self._numbers = count()
        self._given_out = 0

    def run(self) -> tuple[float, float]:
        """Seconds from the start of the workers to the last result, and those of client and scheduler."""
        now = self._costs.start
        self._begin()
        self._hand_out(now)
        handled = 0
        while self._running:
            ended, _, kind, slide = heappop(self._running)
            # Client and scheduler take one task at a time, in the order they end.
            now = max(now, ended) + self._costs.central
            handled += 1
            self._given_out -= 1
            self._go_on(kind, slide)
            self._begin()
            self._hand_out(now)
        return now, handled * self._costs.central

    def _begin(self) -> None:
        while self._waiting and self._given_out < AHEAD * self._workers:
            slide = self._waiting.pop()
            self._give(TO_BEGIN + PER_PLACE * slide.place, self._first(slide.tiles), "begin", slide)

    def _first(self, tiles: int) -> float:
        seconds = self._costs.prepare.at(tiles)
        if self._tasks(tiles) > FEW_TASKS:
            return seconds
        work = tiles * self._costs.tile + self._copies(tiles) * self._costs.copy
        return seconds + work + self._costs.finish.at(tiles)

    def _go_on(self, kind: str, slide: _Slide) -> None:
        priority = PER_PLACE * slide.place
        if kind == "begin" and self._tasks(slide.tiles) > FEW_TASKS:
            slide.left = self._tasks(slide.tiles)
            for tiles in shares(slide.tiles):
                self._give(priority, tiles * self._costs.tile, "work", slide)
            for _ in range(self._copies(slide.tiles)):
                self._give(priority, self._costs.copy, "work", slide)
        elif kind == "work":
            slide.left -= 1
            if not slide.left:
                self._give(TO_FINISH, self._costs.finish.at(slide.tiles), "finish", slide)

    def _tasks(self, tiles: int) -> int:
        return len(shares(tiles)) + self._copies(tiles)

    def _copies(self, tiles: int) -> int:
        return max(1, round(tiles / self._costs.tiles_per_copy))

    def _give(self, priority: int, seconds: float, kind: str, slide: _Slide) -> None:
        self._given_out += 1
        heappush(self._ready, (-priority, next(self._numbers), seconds, kind, slide))

    def _hand_out(self, now: float) -> None:
        while self._ready and len(self._running) < self._workers:
            _, number, seconds, kind, slide = heappop(self._ready)
            heappush(self._running, (now + seconds, number, kind, slide))


def fleets(folder: Sequence[int], costs: Costs, workers: Sequence[int]) -> list[Fleet]:
    """One line per number of workers. Efficiency is relative to the first."""
    found: list[Fleet] = []
    megabytes = MB_PER_TILE * sum(folder)
    for number in workers:
        seconds, central = Simulation(folder, costs, number).run()
        hourly = 3600 * len(folder) / seconds
        alone = found[0].slides_per_hour / found[0].workers if found else hourly / number
        efficiency = hourly / number / alone
        found.append(
            Fleet(number, seconds / 3600, hourly, efficiency, central / seconds, megabytes / seconds)
        )
    return found


def stops(found: Sequence[Fleet], efficiency: float) -> int | None:
    """The first number of workers whose efficiency falls below that one."""
    return next((fleet.workers for fleet in found if fleet.efficiency < efficiency), None)


def costs(small: dict, large: dict, central: float) -> Costs:
    """From the tasks of two slides, as the driver found them, and the seconds of client and scheduler."""
    tiles = small["tiles"] + large["tiles"]
    copies = small["copy_s"] + large["copy_s"]
    return Costs(
        start=median((small["start_s"], large["start_s"])),
        prepare=_line(small, large, "prepare_s"),
        finish=_line(small, large, "finish_s"),
        tile=sum(small["score_s"] + large["score_s"]) / tiles,
        copy=mean(copies),
        tiles_per_copy=tiles / len(copies),
        central=central,
    )


def _line(small: dict, large: dict, what: str) -> Line:
    slope = max(0.0, (large[what] - small[what]) / (large["tiles"] - small["tiles"]))
    return Line(max(0.0, large[what] - slope * large["tiles"]), slope)


def without_forward(known: Costs, small: dict, large: dict) -> Costs:
    """As if the network cost nothing, which is what a GPU comes near to: tiles are only read."""
    decode = (small["decode_s"] + large["decode_s"]) / (small["tiles"] + large["tiles"])
    return Costs(**{name: getattr(known, name) for name in Costs.__dataclass_fields__} | {"tile": decode})


def measured(cache: Path, quick: bool) -> tuple[dict, dict, float]:
    """Tasks of a smaller and a larger slide, and seconds of client and scheduler per task; takes minutes."""
    names = ("tiny", "tiny-2") if quick else (slides.SMALL, slides.MIDDLE)
    paths = [slides.slide(cache / "slides", name) for name in names]
    work = cache / "fleet"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    run(python("prepare.py", work, *paths))
    tasks = []
    for path in paths:
        slides.warm(path)
        print(f"measuring the tasks of {path.name}", flush=True)
        tasks.append(told(python("tasks.py", path, work / "resnet18", work / path.stem)))
    print("measuring client and scheduler", flush=True)
    central = run(python("rounds.py", 200 if quick else ROUNDS), one_thread=True)
    return tasks[0], tasks[1], central.cpu_s / central.units


def told(command: Sequence[str]) -> dict:
    """What a driver says in its last line."""
    environment = os.environ | ONE_THREAD
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def say(title: str, found: Sequence[Fleet]) -> None:
    print(f"\n{title}\nworkers     hours  slides/h  efficiency  client + scheduler busy  read MB/s")
    for fleet in found:
        line = f"{fleet.workers:7} {fleet.hours:9.2f} {fleet.slides_per_hour:9.0f}  {fleet.efficiency:10.0%}"
        print(f"{line}  {fleet.central_busy:23.0%}  {fleet.read_mb_s:9.0f}")
    for efficiency in (0.9, 0.5):
        at = stops(found, efficiency)
        print(f"below {efficiency:.0%}: " + (f"{at} workers" if at else f"never up to {found[-1].workers}"))


HEADING = (
    "| workers | {} | slides/h | efficiency | client + scheduler busy | read MB/s |",
    "|---|---|---|---|---|---|",
)


def table(played: dict) -> str:
    """What was played as Markdown."""
    lines = [
        f"| {fleet['workers']:,} | {fleet['hours']:.3g} h | {fleet['slides_per_hour']:,.0f} "
        f"| {fleet['efficiency']:.0%} | {fleet['central_busy']:.0%} | {fleet['read_mb_s']:,.0f} |"
        for fleet in played["fleets"]
    ]
    return "\n".join((HEADING[0].format(played["what"]), HEADING[1], *lines))


def play(title: str, folder: Sequence[int], known: Costs) -> dict:
    found = fleets(folder, known, WORKERS)
    say(title, found)
    stopped = {f"below_{int(100 * share)}_percent": stops(found, share) for share in (0.9, 0.5)}
    return {"what": title, "costs": asdict(known), **stopped, "fleets": [asdict(fleet) for fleet in found]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small slides: a trial, no figures")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench")
    parser.add_argument("--out", type=Path, help="default: docs/fleet.json")
    asked = parser.parse_args()
    small, large, central = measured(asked.cache, asked.quick)
    known, tiles = costs(small, large, central), folder(SLIDES)
    played = [
        play("resnet18 on CPU cores, one per worker", tiles, known),
        play("the network at no cost, as beside a fast GPU", tiles, without_forward(known, small, large)),
    ]
    machine = {"processor": processor(), "python": platform.python_version()}
    about = {"slides": len(tiles), "tiles": sum(tiles), "largest": tiles[0], "smallest": tiles[-1]}
    document = {"schema": SCHEMA, "machine": machine, "folder": about, "played": played}
    out = asked.out or (asked.cache / "fleet.json" if asked.quick else ROOT / "docs/fleet.json")
    out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {out}")
    if not (asked.quick or asked.out):
        put(ROOT / "docs/scale.md", "fleet", "\n\n".join(map(table, played)))


if __name__ == "__main__":
    main()
