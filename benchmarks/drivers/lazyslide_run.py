"""LazySlide: find_tissues, tile_tissues, feature_extraction with resnet18, 224 px at 0.5 µm/px, written.

SLIDE FOLDER
"""

# pyright: reportMissingImports=false, reportArgumentType=false
# It runs in the peer's environment.

from __future__ import annotations

import json
import sys

import lazyslide as zs
from wsidata import open_wsi

if __name__ == "__main__":
    slide = open_wsi(sys.argv[1])
    zs.pp.find_tissues(slide)
    zs.pp.tile_tissues(slide, 224, mpp=0.5)
    zs.tl.feature_extraction(slide, "resnet18", load_kws={"pretrained": False}, batch_size=32, pbar=False)
    slide.write(f"{sys.argv[2]}/slide.zarr")
    print(json.dumps({"units": len(slide.shapes["tiles"])}))
