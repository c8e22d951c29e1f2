"""Focal planes of one place: which is sharpest, and one picture of the sharpest parts of all.

A stack is uint8 (planes, h, w, 3), planes in the file's order. What decides on a pixel is local and counted
in integers, so that a tile cut with a halo of `fusion_reach` is fused as it would be within the whole slide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import SupplySettings, TileBatch, supply
from coverslip.wsi import Slide

Stack = NDArray[np.uint8]
FocusMeasure = Literal["laplacian", "tenengrad"]
FUSION = (
    "modified Laplacian, highest local sum (Nayar and Nakajima 1994), median of 5 px over the planes chosen"
)
# Sums of a modified Laplacian of 8-bit values stay below 1021; so many parts of it fit into 16 bits.
PARTS = 64
# What a Gaussian weighs beyond is 0.3 %.
REACH = 3.0
SPECK = 5


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """`window_um`: standard deviation of the window in which sharpness is summed: about half a coarse
    chromatin clump, so that a nucleus is taken from few planes and its neighbour may come from others."""

    window_um: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.window_um <= 20:
            raise RequestError(f"window {self.window_um:g} µm", "is no window", "give 0 to 20 µm, best 1")


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """`rgb`: uint8 (h, w, 3), every pixel as one of the planes has it. `plane`: uint8 (h, w), which."""

    rgb: NDArray[np.uint8]
    plane: NDArray[np.uint8]


def focus_of(stack: Stack, measure: FocusMeasure = "laplacian") -> NDArray[np.float64]:
    """How sharp each plane is, (planes,); comparable within a stack, not between stacks.

    "laplacian": variance of the Laplacian (Pech-Pacheco et al. 2000, ICPR 3:314). "tenengrad": mean squared
    Sobel gradient (Tenenbaum 1970; Krotkov 1987, Int J Comput Vis 1:223). Both are compared in Pertuz et al.
    2013, Pattern Recognition 46:1415.
    """
    greys = [grey_of(plane) for plane in _checked(stack)]
    if measure == "tenengrad":
        return np.array([_tenengrad(grey) for grey in greys])
    return np.array([float(np.var(_laplacian(grey))) for grey in greys])


def best_focus(stack: Stack, measure: FocusMeasure = "laplacian") -> int:
    """Number of the sharpest plane; of equally sharp ones the first."""
    return int(focus_of(stack, measure).argmax())


def fuse(stack: Stack, mpp: float, settings: FusionSettings | None = None) -> Fused:
    """One picture in which each pixel is that of the plane sharpest around it; see `FUSION`.

    `mpp`: µm per pixel. Pixels are chosen, not mixed: colours are those of the slide. Where nothing is
    sharper than anything else the first plane is taken. Raises RequestError for no stack.
    """
    energy = local_sharpness(stack, mpp, settings)
    chosen = np.asarray(cv2.medianBlur(energy.argmax(axis=0).astype(np.uint8), SPECK), np.uint8)
    return Fused(np.take_along_axis(stack, chosen[None, :, :, None], axis=0)[0], chosen)


def local_sharpness(stack: Stack, mpp: float, settings: FusionSettings | None = None) -> NDArray[np.uint16]:
    """uint16 (planes, h, w): the sum-modified Laplacian (Nayar and Nakajima 1994, IEEE TPAMI 16:824) in a
    Gaussian window."""
    sigma = (settings or FusionSettings()).window_um / mpp
    side = (2 * ceil(REACH * sigma) + 1,) * 2
    blurred = [
        cv2.GaussianBlur(_modified(grey_of(plane)), side, sigma, borderType=cv2.BORDER_REFLECT)
        for plane in _checked(stack)
    ]
    return np.stack(blurred).astype(np.uint16, copy=False)


def fusion_reach(mpp: float, settings: FusionSettings | None = None) -> int:
    """Pixels around one that decide which plane it is taken from."""
    return ceil(REACH * (settings or FusionSettings()).window_um / mpp) + 1 + SPECK // 2


def sharpest_about(
    energy: NDArray[np.uint16], x: NDArray[np.floating], y: NDArray[np.floating], radius: int
) -> NDArray[np.intp]:
    """The plane sharpest within a square about each place: (planes, h, w) of `local_sharpness` to (n,).

    `radius`: half of its side, pixels. Of equally sharp planes the first.
    """
    found = np.zeros(len(x), np.intp)
    for n, (column, row) in enumerate(zip(np.floor(x).astype(int), np.floor(y).astype(int), strict=True)):
        window = np.s_[
            :, max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1
        ]
        found[n] = energy[window].sum(axis=(1, 2), dtype=np.int64).argmax()
    return found


def supply_stacks(
    planes: Sequence[Slide], plan: TilePlan, rows: range, settings: SupplySettings
) -> Iterator[tuple[TileBatch, Stack]]:
    """Tiles of all planes of a slide: the first plane's batch, and its one tile's stack (planes, h, w, 3).

    A pixel is valid in a batch when it is so in every plane, damaged when it is so in any. Raises
    RequestError for more than a tile at a time.
    """
    if settings.batch != 1:
        raise RequestError(f"batch {settings.batch}", "is no stack of one place", "give batch 1")
    with ExitStack() as stopped:
        sources = [supply(plane, plan, rows, settings) for plane in planes]
        for source in sources:
            stopped.callback(getattr(source, "close", lambda: None))
        for batches in zip(*sources, strict=True):
            first = batches[0]
            first.valid[:] = np.logical_and.reduce([batch.valid for batch in batches])
            first.damaged[:] = np.logical_or.reduce([batch.damaged for batch in batches])
            yield first, np.stack([batch.pixels[0] for batch in batches])


def grey_of(rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Luma of ITU-R BT.601 in whole numbers, (h, w)."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)).astype(np.int16)


def _checked(stack: Stack) -> Stack:
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8 or not 0 < len(stack) < 256:
        raise RequestError(
            f"a stack {stack.dtype} {stack.shape}", "has no focal planes", "give uint8 (planes, h, w, 3)"
        )
    return stack


def _laplacian(grey: NDArray[np.int16]) -> NDArray[np.int16]:
    padded = np.pad(grey, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return around - 4 * grey


def _modified(grey: NDArray[np.int16]) -> NDArray[np.uint16]:
    """|second difference along x| + |along y|, in `PARTS`."""
    padded = np.pad(grey, 1, mode="edge")
    along_x = np.abs(2 * grey - padded[1:-1, :-2] - padded[1:-1, 2:])
    along_y = np.abs(2 * grey - padded[:-2, 1:-1] - padded[2:, 1:-1])
    return (along_x + along_y).astype(np.uint16) * PARTS


def _tenengrad(grey: NDArray[np.int16]) -> float:
    along_x, along_y = (
        np.asarray(cv2.Sobel(grey, cv2.CV_32F, dx, dy), np.float64) for dx, dy in ((1, 0), (0, 1))
    )
    return float((along_x**2 + along_y**2).mean())
