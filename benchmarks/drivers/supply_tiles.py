"""Coverslip's supply: the same tiles, one process.

SLIDE PLAN.parquet START STOP scaled|exact
"""

from __future__ import annotations

import sys

from clock import report

from coverslip import SupplySettings, open_slide, supply
from coverslip.tiling.planfile import read_plan

slide, plan = open_slide(sys.argv[1]), read_plan(sys.argv[2])
rows, settings = (
    range(int(sys.argv[3]), int(sys.argv[4])),
    SupplySettings(batch=32, exact=sys.argv[5] == "exact"),
)


def tiles() -> int:
    return sum(len(batch.pixels) for batch in supply(slide, plan, rows, settings))


report(tiles)
