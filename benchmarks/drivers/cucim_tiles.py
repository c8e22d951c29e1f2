"""cuCIM on the CPU: read_region of level 0 for each tile, halved by area.

All tiles in one call, with its own batches, take a third longer.

SLIDE CORNERS.json SIDE START STOP: corners [[x, y], …] in level-0 pixels; SIDE level-0 pixels per tile.
"""

# pyright: reportMissingImports=false, reportArgumentType=false
# It runs in the peer's environment.

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from clock import report
from cucim import CuImage

slide, (side, start, stop) = CuImage(sys.argv[1]), map(int, sys.argv[3:6])
corners = json.loads(Path(sys.argv[2]).read_text())[start:stop]


def tiles() -> int:
    for corner in corners:
        region = np.asarray(slide.read_region(corner, (side, side), level=0))
        cv2.resize(region, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    return len(corners)


cv2.setNumThreads(1)
report(tiles)
