"""cuCIM on the CPU: all tiles in one read_region call, its fastest way, each halved by area.

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
    done = 0
    for batch in slide.read_region(corners, (side, side), level=0, num_workers=1, batch_size=32):
        pixels = np.asarray(batch)
        for region in pixels if pixels.ndim == 4 else [pixels]:
            cv2.resize(region, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
            done += 1
    return done


cv2.setNumThreads(1)
report(tiles)
