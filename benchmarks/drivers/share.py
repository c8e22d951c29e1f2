"""Read and score one share of a plan in this process with one thread, once a line comes on standard input.

SLIDE PLAN.parquet MODEL START STOP
"""

from __future__ import annotations

import sys

from clock import report

from coverslip import SupplySettings, open_slide, supply
from coverslip.models.engine import Engine
from coverslip.models.package import load_package
from coverslip.tiling.planfile import read_plan

slide, plan, engine = (
    open_slide(sys.argv[1]),
    read_plan(sys.argv[2]),
    Engine(load_package(sys.argv[3]), threads=1),
)
rows = range(int(sys.argv[4]), int(sys.argv[5]))


def score() -> int:
    return sum(
        len(engine.predict(batch.pixels)) for batch in supply(slide, plan, rows, SupplySettings(batch=32))
    )


# Whatever is made at the first batch is made before the clock starts.
engine.predict(next(supply(slide, plan, range(rows.start, rows.start + 1), SupplySettings())).pixels)
print("ready", flush=True)
sys.stdin.readline()
report(score)
