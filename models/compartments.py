"""Cells around their nuclei: how much of a stain lies in nucleus, cytoplasm and membrane, and how far round.

A cell is its nucleus grown by a stated width, not into its neighbours (QuPath's "cell expansion"; Bankhead
et al. 2017, Sci Rep 7:16878). Where its membrane really lies is not seen: it is looked for, sector by sector
around the nucleus's centroid, as the strongest staining between the nucleus's edge and the cell's. Staining
of the cytoplasm can therefore pass for membrane.

All of it is local and in integers, so that tiles with a halo of `reach_um` more give the cells of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.nuclei import STEPS, Amount, Fixed, Labels, Mask, Nuclei

# Takes noise of single pixels out before the strongest is sought; half of it is lost over this many pixels.
CALM_SIGMA_PX = 0.8
# Share of growing steps that also go diagonally: what makes of squares and diamonds a regular octagon.
CORNERS = math.sqrt(2) - 1
# Sectors begin at an angle that no pixel lies at, so that rounding never moves one to the next sector.
FIRST_ANGLE = 1 / math.e


@dataclass(frozen=True, slots=True)
class CellShape:
    """`expansion_um`: how far a cell reaches beyond its nucleus, µm; QuPath's default is 5. `membrane_um`:
    width of the rim that is left out of the cytoplasm. `sectors`: parts of the circumference that are looked
    at one by one. `complete`: a membrane stained in at least this share of them is complete; `partial`: in
    fewer than this share it is not stained. Both are this program's, not a guideline's: guidelines say
    "complete" and leave it to the eye."""

    expansion_um: float = 5.0
    membrane_um: float = 1.0
    sectors: int = 16
    complete: float = 0.8
    partial: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.membrane_um <= self.expansion_um < 50 or not 4 <= self.sectors <= 128:
            raise RequestError(
                "cell shape", "is out of range", "0 < membrane_um ≤ expansion_um < 50 µm, 4 to 128 sectors"
            )
        if not 0 < self.partial <= self.complete <= 1:
            raise RequestError("cell shape", "has shares out of range", "give 0 < partial ≤ complete ≤ 1")


def reach_um(shape: CellShape, largest_radius_um: float) -> float:
    """How much wider a halo must be than nuclei alone need, µm: to the neighbour that a cell meets halfway,
    and all of that neighbour's nucleus."""
    return 2 * shape.expansion_um + 2 * largest_radius_um


def grow(nuclei: Labels, width_px: float) -> Labels:
    """Every label grown by about `width_px` pixels (an octagon, within 8 % of a circle), not over another.

    int32 (h, w), 0 outside. Where two arrive together the label that counts later has the pixel.
    """
    # float32 holds labels up to 2^24 exactly, and OpenCV dilates no int32
    cells = nuclei.astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    cross = np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.uint8)
    for step in range(max(1, round(width_px))):
        corner = int((step + 1) * CORNERS) > int(step * CORNERS)
        wider = cv2.dilate(cells, square if corner else cross)
        cv2.copyTo(wider, (cells == 0).astype(np.uint8), cells)
    return cells.astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Compartments:
    """One row per cell, arrays of length n in the order of the labels; densities are log10 optical density.

    `cell_area_um2`: with the nucleus. `cytoplasm`: mean between nucleus and membrane; NaN where there is
    none. `peaks`: (n, sectors), the strongest of each sector from the nucleus's edge outwards; NaN where a
    sector is empty. Amounts below 0 count as 0.
    """

    cell_area_um2: NDArray[np.float64]
    cytoplasm: NDArray[np.float64]
    peaks: NDArray[np.float64]

    def completeness(self, threshold: float) -> NDArray[np.float64]:
        """Share of each cell's sectors, 0 to 1, whose peak is at least so dense; an empty one has none."""
        return (np.nan_to_num(self.peaks, nan=-1.0) >= threshold).mean(axis=1)

    def membrane(self, threshold: float) -> NDArray[np.float64]:
        """Mean peak of the sectors at least so dense; of all sectors where none is; 0 without any."""
        peaks = np.nan_to_num(self.peaks, nan=-1.0)
        stained = peaks >= threshold
        counted = np.where(stained.any(axis=1, keepdims=True), stained, peaks >= 0)
        total = np.where(counted, peaks, 0.0).sum(axis=1)
        return total / np.maximum(counted.sum(axis=1), 1)


def measure_compartments(
    labels: Labels, cells: Labels, nuclei: Nuclei, stain: Amount, mpp: float, shape: CellShape
) -> Compartments:
    """Measure cells: `labels` of nuclei, `cells` as `grow` gives them, `nuclei` as measured, `stain` float32
    of the same shape (h, w)."""
    if not labels.shape == cells.shape == stain.shape:
        raise RequestError(f"cells {cells.shape}", f"do not fit {labels.shape}", "give equal shapes")
    fixed = np.minimum(np.maximum(stain, 0) * STEPS + 0.5, 65535).astype(np.uint16)
    n, area = len(nuclei), np.bincount(cells.ravel(), minlength=len(nuclei) + 1)[1:] * mpp**2
    return Compartments(
        cell_area_um2=area.astype(np.float64),
        cytoplasm=_cytoplasm(labels, cells, fixed, n, shape.membrane_um / mpp),
        peaks=_peaks(labels, cells, nuclei, fixed, shape.sectors),
    )


def _cytoplasm(labels: Labels, cells: Labels, stain: Fixed, n: int, rim_px: float) -> NDArray[np.float64]:
    inside = (labels == 0) & (cells > 0) & (_border(cells, round(rim_px)) == 0)
    owner = cells[inside]
    pixels = np.bincount(owner, minlength=n + 1)[1:]
    total = np.bincount(owner, stain[inside], minlength=n + 1)[1:]
    return np.divide(total / STEPS, pixels, out=np.full(n, np.nan), where=pixels > 0)


def _border(labels: Labels, width_px: int) -> Mask:
    """1 where another label, or none, lies within so many pixels; at least one."""
    element = np.ones((2 * max(1, width_px) + 1,) * 2, np.uint8)
    values = labels.astype(np.float32)
    unlike = (cv2.dilate(values, element) != values) | (cv2.erode(values, element) != values)
    return unlike.astype(np.uint8)


def _peaks(labels: Labels, cells: Labels, nuclei: Nuclei, stain: Fixed, sectors: int) -> NDArray[np.float64]:
    """Where nuclei touch, the outermost pixels of the nucleus stand for the membrane between them."""
    calm = np.asarray(cv2.GaussianBlur(stain, (3, 3), CALM_SIGMA_PX), np.uint16)
    beyond = _strongest((cells > 0) & (labels == 0), cells, nuclei, calm, sectors)
    rim = _strongest((labels > 0) & (_border(labels, 1) > 0), labels, nuclei, calm, sectors)
    found = np.where(beyond >= 0, beyond, rim)
    return np.where(found >= 0, found / STEPS, np.nan)


def _strongest(
    chosen: NDArray[np.bool_], owners: Labels, nuclei: Nuclei, stain: Fixed, sectors: int
) -> NDArray[np.int64]:
    """(n, sectors), of the chosen pixels; -1 in a sector without any."""
    row, column = np.nonzero(chosen)
    owner = owners[row, column] - 1
    angle = np.arctan2(row + 0.5 - nuclei.y[owner], column + 0.5 - nuclei.x[owner]) - FIRST_ANGLE
    sector = np.floor(angle * (sectors / (2 * math.pi))).astype(np.int64) % sectors
    peak = np.full(len(nuclei) * sectors, -1, np.int64)
    np.maximum.at(peak, owner * sectors + sector, stain[row, column].astype(np.int64))
    return peak.reshape(len(nuclei), sectors)
