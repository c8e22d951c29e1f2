"""coverslip.convert as a call, pass-through: SLIDE OUT.ome.zarr"""

from __future__ import annotations

import os
import sys

from clock import report

from coverslip import convert, open_slide

slide = open_slide(sys.argv[1])


def megapixels() -> float:
    convert(slide, sys.argv[2], workers=os.cpu_count() or 1)
    return slide.size.area / 1e6


report(megapixels)
