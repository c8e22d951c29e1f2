"""openslide-python: read_region of level 0 for each tile, RGB, halved by area.

SLIDE CORNERS.json SIDE START STOP: corners [[x, y], …] in level-0 pixels; SIDE level-0 pixels per tile.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import openslide
from clock import report

slide, (side, start, stop) = openslide.OpenSlide(sys.argv[1]), map(int, sys.argv[3:6])
corners = json.loads(Path(sys.argv[2]).read_text())[start:stop]


def tiles() -> int:
    for x, y in corners:
        region = np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))
        cv2.resize(region, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    return len(corners)


cv2.setNumThreads(1)
report(tiles)
