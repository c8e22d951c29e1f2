"""The rows as a document, as lines on a terminal and as a table in the documentation."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.rows import MB, TIMES, Row, Side

SCHEMA = "coverslip.benchmarks/2"
HEADING = (
    "| work | Coverslip | beside | CPU | wall s | peak MB | reached | limit | met |",
    "|---|---|---|---|---|---|---|---|---|",
)


def processor() -> str:
    """The processor's own name, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def document(rows: Sequence[Row], versions: dict[str, str]) -> dict:
    machine = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {"schema": SCHEMA, "machine": machine, "peers": versions, "rows": [asdict(row) for row in rows]}


def read_rows(path: Path) -> list[Row]:
    """The rows of a document that was written."""
    sides = ("ours", "peer")
    return [
        Row(**row | {name: Side(**row[name]) if row[name] else None for name in sides})
        for row in json.loads(path.read_text())["rows"]
    ]


def value(row: Row) -> str:
    return "–" if row.value is None else _number(row.value, row.value_unit)


def limit(row: Row) -> str:
    if row.limit is None:
        return "–"
    return ("≥ " if row.at_least else "≤ ") + _number(row.limit, row.value_unit)


def met(row: Row) -> str:
    return {True: "yes", False: "no", None: "not measured"}[row.met]


def line(row: Row) -> str:
    """A row on a terminal."""
    sides = " | ".join(f"{side.what} {_cost(side)}" for side in (row.ours, row.peer) if side)
    return f"{row.row:24} {value(row):>10}  {limit(row):>10}  {met(row):12} {row.note or sides}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    return "\n".join((*HEADING, *map(_table_row, rows)))


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of that name in a page, which must be there."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{page} has no {begin.strip()} … {end}")
    page.write_text(f"{before}{begin}{text}\n{end}{after}")


def _table_row(row: Row) -> str:
    ours, peer = row.ours, row.peer
    costs = " : ".join(_cost(side) for side in (ours, peer) if side)
    wall = " : ".join(f"{side.wall_s:.3g}" for side in (ours, peer) if side)
    peaks = " : ".join(f"{side.peak_mb:.0f}" for side in (ours, peer) if side)
    cells = (row.work, ours.what if ours else "", peer.what if peer else row.note, costs, wall, peaks)
    return "| " + " | ".join((*cells, value(row), limit(row), met(row))) + " |"


def _cost(side: Side) -> str:
    if side.unit == "start":
        return f"{side.cpu_s:.2g} s"
    return f"{side.cpu_ms_per_unit:.3g} ms per {side.unit}"


def _number(number: float, unit: str) -> str:
    if unit == MB:
        return f"{number:.0f} MB"
    return f"{number:.3g}" + (f" {unit}" if unit != TIMES else unit)
