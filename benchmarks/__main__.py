"""python -m benchmarks: measure every row, interleaved with its peers, and write what was found.

Figures are medians of CPU seconds (user + system), which depend less than wall time on what else the machine
does. Slides, the peers' environments (7 GB) and what is written meanwhile lie in `.bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import peers, report, slides
from benchmarks.probes import GROUPS, Probe, Scene
from benchmarks.process import Failed, Sample, python
from benchmarks.rows import ROWS, Row, judge, side

ROOT = Path(__file__).resolve().parents[1]
QUICK_SCALE = 1 / 24


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="a small slide, one round: a trial, no figures")
    parser.add_argument("--no-peers", action="store_true", help="measure only what needs none")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="slides and peers are kept here")
    parser.add_argument("--slide", type=Path, help="measure on this slide alone, instead of composed ones")
    parser.add_argument("--out", type=Path, help="default, for all rows: docs/benchmarks.json")
    return parser.parse_args(words)


def scene(asked: argparse.Namespace, folder: Path) -> Scene:
    """Compose the slides, plan their tiles, write the models, these two into `folder`."""
    names: list[str] = [slides.SMALL, slides.MIDDLE, slides.LARGE]
    if asked.slide or asked.quick:
        one = asked.slide or slides.slide(asked.cache / "slides", "tiny")
        paths: dict[str, Path] = dict.fromkeys(names, one.resolve())
    else:
        paths = {name: slides.slide(asked.cache / "slides", name) for name in names}
    for path in set(paths.values()):
        slides.warm(path)
    command = python("prepare.py", folder, *sorted(set(paths.values())))
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    scale = QUICK_SCALE if asked.quick else 1
    return Scene(folder, asked.cache / "peers", paths, found["pixels"], found["tiles"], scale)


def measure(group: dict[str, Probe], scene: Scene, asked: argparse.Namespace) -> tuple[dict, dict]:
    """Samples of each probe, taken in turns, and why some have none."""
    samples: dict[str, list[Sample]] = {}
    absent: dict[str, str] = {}
    for turn in range(max(probe.rounds for probe in group.values())):
        for name, probe in group.items():
            if turn >= (1 if asked.quick else probe.rounds) or name in absent:
                continue
            sample = sample_of(probe, scene, not asked.no_peers)
            if isinstance(sample, str):
                absent[name] = sample
                print(f"  {name:20} {sample}", flush=True)
                continue
            samples.setdefault(name, []).append(sample)
            said = f"{sample.cpu_s:8.2f} s CPU {sample.wall_s:8.2f} s {sample.peak_mb:6.0f} MB"
            print(f"  {name:20} {said}", flush=True)
    return samples, absent


def sample_of(probe: Probe, scene: Scene, with_peers: bool) -> Sample | str:
    """One sample, or why there is none."""
    if probe.foreign and not with_peers:
        return "peers were left out"
    try:
        return probe.measure(scene)
    except peers.Absent as problem:
        return str(problem)
    except Failed as problem:
        print(f"  {problem}", flush=True)
        return f"{probe.what} ended with an error"


def measure_rows(names: Sequence[str], scene: Scene, asked: argparse.Namespace) -> list[Row]:
    needed = {probe for name in names for probe in ROWS[name].probes}
    sides, absent = {}, {}
    for title, probes in GROUPS.items():
        group = {name: probe for name, probe in probes.items() if name in needed}
        if group:
            print(f"== {title}", flush=True)
            samples, missing = measure(group, scene, asked)
            absent |= missing
            sides |= {name: side(name, found) for name, found in samples.items() if name not in missing}
    return [judge(name, sides, absent) for name in names]


def write(rows: Sequence[Row], out: Path, versions: dict[str, str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report.document(rows, versions), indent=2, ensure_ascii=False) + "\n")
    print(f"written to {out}")


def main() -> int:
    asked = arguments()
    began = time.monotonic()
    asked.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=asked.cache, prefix="work-") as folder:
        rows = measure_rows(asked.only or list(ROWS), scene(asked, Path(folder)), asked)
    print()
    for row in rows:
        print(report.line(row))
    whole = not (asked.only or asked.quick or asked.slide or asked.no_peers or asked.out)
    out = asked.out or (ROOT / "docs/benchmarks.json" if whole else asked.cache / "benchmarks.json")
    write(rows, out, peers.versions(asked.cache / "peers"))
    picture = ROOT / "docs/images/benchmarks.png" if whole else out.with_suffix(".png")
    subprocess.run([sys.executable, "-m", "benchmarks.plot", out, picture], check=True, cwd=ROOT)
    if whole:
        report.put(ROOT / "docs/scale.md", "benchmarks", report.table(rows))
    print(f"{time.monotonic() - began:.0f} s; {sum(row.met is False for row in rows)} rows miss their limit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
