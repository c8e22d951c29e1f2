"""libvips through pyvips: the slide's level 0 as a pyramid of JPEG tiles at quality 80.

SLIDE TARGET dzsave|tiffsave. The package's own libvips reads the file as the TIFF it is, through libtiff and
libjpeg-turbo, at twice to four times the speed of the system's, which goes through OpenSlide.
"""

# pyright: reportMissingImports=false
# It runs in the peer's environment.

from __future__ import annotations

import sys

import pyvips
from clock import report

TIFF = {"tile": True, "tile_width": 256, "tile_height": 256, "pyramid": True, "bigtiff": True}


def megapixels() -> float:
    slide = pyvips.Image.new_from_file(sys.argv[1], access="sequential")
    if sys.argv[3] == "dzsave":
        slide.dzsave(sys.argv[2], suffix=".jpg[Q=80]")
    else:
        slide.tiffsave(sys.argv[2], compression="jpeg", Q=80, **TIFF)
    return slide.width * slide.height / 1e6


report(megapixels)
