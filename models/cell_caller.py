"""Classes of cells whose places are known: a tile about each, as a tile model learnt them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.conformal import members
from coverslip.models.document import ModelDocument
from coverslip.models.engine import Engine
from coverslip.models.library import find_model

# Tiles cut and looked at together: 32 of 192 px are 4 MB.
BATCH = 32
# A centre half way between two pixels goes to the same one from every picture that holds it, though adding a
# picture's corner changes its last bits.
TIE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Called:
    """What a model says of n cells.

    `probabilities`: float32 (n, classes), at the package's temperature. `strange`: bool (n,), further from
    what the model learnt from than its `out_of_distribution` limit; `undecided`: bool (n,), with several
    classes or none in the prediction set. Both are False throughout where the package has no such statistics.
    """

    probabilities: NDArray[np.float32]
    strange: NDArray[np.bool_]
    undecided: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.probabilities)


@dataclass(frozen=True, slots=True, eq=False)
class CellCaller:
    """A package's network that calls cells one by one; threads share it. Make one with `open_caller`."""

    engine: Engine

    @property
    def document(self) -> ModelDocument:
        return self.engine.package.document

    @property
    def document_sha256(self) -> str:
        return self.engine.package.document_sha256

    @property
    def classes(self) -> tuple[str, ...]:
        return self.document.classes

    @property
    def reach_um(self) -> float:
        """Around a cell's centre, what decides on it: half of a tile's side, and a pixel for rounding, µm."""
        return (self.document.tile.size / 2 + 1) * self.document.tile.mpp

    def check_fit(self, subject: str, mpp: float) -> None:
        """Raises ModelMismatchError for pictures too coarse; finer ones are reduced.

        `mpp`: their µm/px; up to the package's tolerance above its own they are enlarged.
        """
        tile = self.document.tile
        coarsest = tile.mpp * (1 + tile.tolerance)
        if mpp > coarsest + 1e-9:
            raise ModelMismatchError(
                subject,
                f"has cells at {mpp:.3g} µm/px, too coarse for the model {self.document.name}, made for "
                f"{tile.mpp:.3g}",
                f"scan it at {coarsest:.3g} µm/px or finer, or name a model made for {mpp:.3g}",
            )

    def call(
        self, rgb: NDArray[np.uint8], mpp: float, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> Called:
        """The classes of the cells of one picture.

        `rgb`: uint8 (h, w, 3) at `mpp` µm/px; `x`, `y`: (n,) their centres in its pixels, the centre of the
        first pixel is at (0.5, 0.5). What a tile holds beyond the picture is the picture mirrored: give it a
        halo of `reach_um`. A tile's side is a whole number of the picture's pixels, at the nearest of them.
        Raises RequestError for a picture that is not RGB, ModelMismatchError as `check_fit`.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise RequestError(f"a picture {rgb.dtype} {rgb.shape}", "is not RGB", "give uint8 (h, w, 3)")
        self.check_fit("the picture", mpp)
        tile = self.document.tile
        return self.call_tiles(cut_tiles(rgb, tile.mpp / mpp, tile.size, x, y))

    def call_tiles(self, tiles: NDArray[np.uint8]) -> Called:
        """The classes of cells of which each lies in the middle of a tile uint8 (n, size, size, 3) at the
        package's µm/px. Raises RequestError for another shape."""
        parts = (tiles[start : start + BATCH] for start in range(0, max(len(tiles), 1), BATCH))
        found = list(self.engine.examine_each(parts))
        probabilities = np.concatenate([part.probabilities for part in found])
        known, sets = self.document.out_of_distribution, self.document.prediction_sets
        strange, undecided = np.zeros((2, len(probabilities)), bool)
        if known is not None:
            distances = [part.distance for part in found if part.distance is not None]
            strange = np.concatenate(distances) > known.limit
        if sets is not None:
            undecided = members(sets, probabilities).sum(axis=1) != 1
        return Called(probabilities, strange, undecided)


def cut_tiles(
    rgb: NDArray[np.uint8], scale: float, size: int, x: NDArray[np.floating], y: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Tiles uint8 (n, size, size, 3) about places of a picture uint8 (h, w, 3), in its pixels.

    `scale`: the picture's pixels per pixel of a tile; above 1 areas are averaged, below 1 it is linear.

    >>> picture = np.arange(36, dtype=np.uint8).reshape(6, 6, 1).repeat(3, axis=2)
    >>> cut_tiles(picture, 1, 2, np.array([2.0]), np.array([3.0]))[0, ..., 0].tolist()
    [[13, 14], [19, 20]]
    """
    side = max(1, round(size * scale))
    tiles = np.empty((len(x), size, size, 3), np.uint8)
    padded = cv2.copyMakeBorder(rgb, side, side, side, side, cv2.BORDER_REFLECT) if len(x) else rgb
    how = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    # Centres beyond the picture would leave what mirrors it.
    corners = [
        np.clip(np.floor(np.asarray(place, np.float64) - side / 2 + 0.5 + TIE).astype(int) + side, 0, most)
        for place, most in ((x, rgb.shape[1] + side), (y, rgb.shape[0] + side))
    ]
    for tile, left, top in zip(tiles, *corners, strict=True):
        square = padded[top : top + side, left : left + side]
        tile[:] = square if side == size else cv2.resize(square, (size, size), interpolation=how)
    return tiles


_LOADING = threading.Lock()


def open_caller(model: str, threads: int | None = 1) -> CellCaller:
    """This process's caller of a model, by what `coverslip.models.library.locate_model` takes: loaded once.

    `threads`: as for `Engine`. Raises ModelUnavailableError, RequestError.
    """
    with _LOADING:
        return _open(model, threads)


@lru_cache(maxsize=2)
def _open(model: str, threads: int | None) -> CellCaller:
    return CellCaller(Engine(find_model(model), threads=threads))
