"""One tile of a smear: its nuclei, clumps and small bodies, and what the model says of each nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.models.cell_caller import CellCaller
from coverslip.models.objects import Finder, Objects, areas
from coverslip.models.pap_finder import CLUMP, SMALL
from coverslip.tiling.focus_stack import (
    FusionSettings,
    Stack,
    fuse,
    local_sharpness,
    sharpest_about,
)
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import TileBatch
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.cell_table import OUTLINE, pack_outlines
from coverslip.workflows.ownership import owned
from coverslip.wsi import Slide

Focus = Literal["plane", "best", "fused"]
# Kinds that no cell model is asked about.
UNCALLED = (SMALL, CLUMP)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A tile with its halo. `rgb`: in which cells are looked for. `stack` and `sharpness`: of all planes,
    where each cell is looked at in its own; None where `rgb` serves for that, too."""

    rgb: NDArray[np.uint8]
    stack: Stack | None = None
    sharpness: NDArray[np.uint16] | None = None


def picture_of(stack: Stack, focus: Focus, mpp: float, fusion: FusionSettings) -> Picture:
    """From the planes (planes, h, w, 3) of a tile; "plane" takes the only one there is."""
    if focus == "plane" or len(stack) == 1:
        return Picture(stack[0])
    fused = fuse(stack, mpp, fusion).rgb
    if focus == "fused":
        return Picture(fused)
    return Picture(fused, stack, local_sharpness(stack, mpp, fusion))


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How tiles are looked at. `mpp`: of the tiles. `shrink`: their pixels per pixel of the finder's
    pictures. `planes`: whether the slide is looked at in several focal planes."""

    finder: Finder
    caller: CellCaller
    mpp: float
    shrink: int
    radius_um: float
    planes: bool = False

    @property
    def scored_kinds(self) -> NDArray[np.bool_]:
        return np.array([name not in UNCALLED for name in self.finder.classes])

    def at(
        self, picture: Picture, batch: TileBatch, slide: Slide, plan: TilePlan, tissue: TissueMask
    ) -> tuple[pa.Table, NDArray[np.uint8]]:
        """The objects whose centroid lies in the tile, and its block of the class image.

        A cell that crosses the tile's edge is drawn on both sides, from the halo, in the same class.
        """
        small = _shrunk(picture.rgb, self.shrink)
        found = self.finder.find(small)
        per_pixel = np.array([self.mpp / slide.mpp.x, self.mpp / slide.mpp.y])
        corner = np.array([batch.x[0], batch.y[0]], np.float64)
        inside = np.stack([found.x, found.y], axis=1) * self.shrink
        x, y = ((inside - batch.halo) * per_pixel + corner).T
        seen = tissue.contains(x, y)
        core = slice(batch.halo // self.shrink, small.shape[0] - batch.halo // self.shrink)
        mine = seen & owned(x, y, plan, int(batch.rows[0]), slide.bounds)
        drawn = np.zeros(len(found), bool)
        visible = np.unique(found.labels[core, core])
        drawn[visible[visible > 0] - 1] = True
        calls = self._call(picture, found, inside, self.scored_kinds[found.kind] & (mine | (drawn & seen)))
        block = np.concatenate([[0], np.where(seen, calls.value, 0)]).astype(np.uint8)[found.labels]
        table = self._rows(found, calls, np.flatnonzero(mine), (x, y), per_pixel)
        return table, np.kron(block[core, core], np.ones((self.shrink, self.shrink), np.uint8))

    def _call(
        self, picture: Picture, found: Objects, inside: NDArray[np.float64], asked: NDArray[np.bool_]
    ) -> _Calls:
        n, classes = len(found), self.caller.classes
        calls = _Calls(
            np.full((n, len(classes)), np.nan, np.float32),
            np.zeros(n, bool),
            np.zeros(n, bool),
            np.zeros(n, np.int16),
            np.zeros(n, np.intp),
        )
        rows = np.flatnonzero(asked)
        if picture.sharpness is not None and len(rows):
            radius = round(self.radius_um / self.mpp)
            calls.plane[rows] = sharpest_about(picture.sharpness, inside[rows, 0], inside[rows, 1], radius)
        for number in np.unique(calls.plane[rows]).tolist():
            these = rows[calls.plane[rows] == number]
            rgb = picture.rgb if picture.stack is None else picture.stack[number]
            called = self.caller.call(rgb, self.mpp, inside[these, 0], inside[these, 1])
            calls.probabilities[these] = called.probabilities
            calls.strange[these], calls.undecided[these] = called.strange, called.undecided
            calls.value[these] = called.probabilities.argmax(axis=1) + 1
        for offset, name in enumerate(UNCALLED):
            if name in self.finder.classes:
                kind = self.finder.classes.index(name)
                calls.value[found.kind == kind] = len(classes) + offset + 1
        return calls

    def _rows(
        self,
        found: Objects,
        calls: _Calls,
        keep: NDArray[np.intp],
        place: tuple[NDArray[np.float64], NDArray[np.float64]],
        per_pixel: NDArray[np.float64],
    ) -> pa.Table:
        x, y = place[0][keep], place[1][keep]
        drawn = [found.outlines[row] for row in keep.tolist()]
        middle = np.stack([found.x, found.y], axis=1)[keep]
        outlines = [
            (points - at) * self.shrink * per_pixel + (left, top)
            for points, at, left, top in zip(drawn, middle, x, y, strict=True)
        ]
        probabilities = calls.probabilities[keep]
        columns = {
            "x": x,
            "y": y,
            "area_um2": areas(drawn) * (self.mpp * self.shrink) ** 2,
            "kind": pa.array(self.finder.classes).take(pa.array(found.kind[keep], pa.int64())),
            "class": pa.array(class_names(self.caller.classes)).take(
                pa.array(calls.value[keep] - 1, pa.int64())
            ),
            "score": probabilities.max(axis=1) if len(keep) else np.zeros(0, np.float32),
            "strange": calls.strange[keep],
            "undecided": calls.undecided[keep],
            **{f"p_{name}": probabilities[:, n] for n, name in enumerate(self.caller.classes)},
        }
        if self.planes:
            columns["plane"] = calls.plane[keep]
        return pa.table(columns).append_column(OUTLINE, pack_outlines(outlines, x, y))


@dataclass(frozen=True, slots=True, eq=False)
class _Calls:
    """Of all objects of a tile; NaN and 0 for those the model was not asked about."""

    probabilities: NDArray[np.float32]
    strange: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    plane: NDArray[np.int16]
    value: NDArray[np.intp]


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """What `class` of a row can be: the model's classes, and the kinds it is not asked about."""
    return (*classes, *UNCALLED)


def _shrunk(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return rgb
    size = (rgb.shape[1] // factor, rgb.shape[0] // factor)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
