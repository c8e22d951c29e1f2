"""ome-zarr-py: write_image of the slide's level 0, lazy through tifffile, with seven halvings.

SLIDE OUT.ome.zarr
"""

from __future__ import annotations

import sys
import warnings

import dask.array as da
import tifffile
import zarr
from clock import report
from ome_zarr.writer import write_image

warnings.simplefilter("ignore")


def megapixels() -> float:
    stored = zarr.open(tifffile.imread(sys.argv[1], aszarr=True, level=0), mode="r")
    image = da.from_zarr(stored).rechunk((512, 512, 3)).transpose(2, 0, 1)
    write_image(image, sys.argv[2], scale_factors=[2, 4, 8, 16, 32, 64, 128], axes="cyx")
    return image.shape[1] * image.shape[2] / 1e6


report(megapixels)
