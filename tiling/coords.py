"""Tile coordinates as CLAM and TRIDENT keep them, so that their feature extractors take a plan."""

from __future__ import annotations

import os
from pathlib import PurePath

import h5py
import numpy as np

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.plan import TilePlan
from coverslip.wsi.geometry import Level, Mpp
from coverslip.wsi.slide import Slide

# 10 µm/px is 1× by convention of both programs (20× = 0.5 µm/px).
UM_PER_MAGNIFICATION = 10.0
# Both programs know square pixels only; a pixel less square than this moves a tile's rim by over one pixel.
SQUARE = 0.004
# A stored level this near the plan's µm/px may be read unscaled, as CLAM does.
SAME = 0.004


def write_coords(plan: TilePlan, slide: Slide, path: str | os.PathLike[str]) -> None:
    """HDF5 with one data set `coords`, int64 (n, 2): x, y of top-left corners, level-0 pixels.

    Its attributes, as in TRIDENT's `trident/IO.py` and CLAM's `wsi_core/WholeSlideImage.py`:

    - `patch_size`: side of a tile in pixels at the target resolution; `overlap` in the same pixels.
    - `patch_size_level0`: side in level-0 pixels, rounded.
    - `level0_magnification`, `target_magnification`: 10 over the µm/px; TRIDENT scales tiles by their
      ratio, so they are exact and not rounded to 20 or 40.
    - `level0_width`, `level0_height`: the slide's size.
    - `name`: the slide's file name without its ending; `savetodir`: the folder's name.
    - `patch_level`, `downsample`, `level_dim`, `downsampled_level_dim`: CLAM reads `patch_size` pixels of
      that level unscaled; written only when a stored level has the plan's µm/px. Otherwise CLAM stops
      for want of the attribute, and does not read the wrong piece of glass.

    Raises RequestError when the slide's pixels are not square, which neither format can say.
    """
    mpp = plan.slide_mpp
    if not is_square(mpp):
        raise RequestError(
            f"{plan.slide} ({mpp.x:g} × {mpp.y:g} µm/px)",
            "has pixels that are not square, which CLAM and TRIDENT files cannot say",
            "use the tile plan (Parquet)",
        )
    with replacing(path) as part, h5py.File(part, "w") as file:
        add_coords(file, plan, slide, PurePath(path).parent.name)


def add_coords(file: h5py.File, plan: TilePlan, slide: Slide, folder: str) -> None:
    """The data set `coords` of `write_coords`, in a file beside others, and the file's attribute `notice`,
    which neither program reads. `folder`: the name of its folder."""
    file.attrs["notice"] = RUO
    coords = np.stack([plan.x, plan.y], axis=1).astype(np.int64)
    data = file.create_dataset(
        "coords", data=coords, maxshape=(None, 2), chunks=(max(1, min(len(plan), 4096)), 2)
    )
    for name, value in _attributes(plan, slide, folder).items():
        data.attrs[name] = value


def is_square(mpp: Mpp) -> bool:
    """Whether both programs can tell where the tiles of such a slide lie."""
    return abs(mpp.x / mpp.y - 1) <= SQUARE


def _attributes(plan: TilePlan, slide: Slide, folder: str) -> dict[str, int | float | str | tuple]:
    mpp = plan.slide_mpp.mean
    attributes: dict[str, int | float | str | tuple] = {
        "patch_size": plan.size,
        "patch_size_level0": round(plan.size * plan.mpp / mpp),
        "level0_magnification": _number(UM_PER_MAGNIFICATION / mpp),
        "target_magnification": _number(UM_PER_MAGNIFICATION / plan.mpp),
        "overlap": plan.overlap,
        "level0_width": plan.slide_size.width,
        "level0_height": plan.slide_size.height,
        "name": PurePath(plan.slide).stem,
        "savetodir": folder,
    }
    for number, level in enumerate(slide.levels):
        if _has(level, plan.slide_mpp, plan.mpp):
            size = (level.size.width, level.size.height)
            attributes |= {"patch_level": number, "downsample": (level.downsample_x, level.downsample_y)}
            attributes |= {"level_dim": size, "downsampled_level_dim": size}
            break
    return attributes


def _has(level: Level, mpp: Mpp, wanted: float) -> bool:
    sides = (mpp.x * level.downsample_x, mpp.y * level.downsample_y)
    return all(abs(side / wanted - 1) <= SAME for side in sides)


def _number(value: float) -> int | float:
    """Whole magnifications as integers, as both programs write them."""
    return round(value) if abs(value - round(value)) < 1e-6 else value
