"""Forward of ready tiles through Coverslip's engine, one thread: MODEL TILES"""

from __future__ import annotations

import sys

import numpy as np
from clock import report

from coverslip.models.engine import Engine
from coverslip.models.package import load_package

package, count = load_package(sys.argv[1]), int(sys.argv[2])
side = package.document.tile.size
tiles = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
engine = Engine(package, threads=1)
engine.predict(tiles[:32])


def forward() -> int:
    for start in range(0, count, 32):
        engine.predict(tiles[start : start + 32])
    return count


report(forward)
