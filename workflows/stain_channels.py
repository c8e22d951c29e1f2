"""One stain at a time: what a slide would look like had it only that one, computed where somebody looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.stain import H_DAB, H_E, StainVectors, Vector, separate
from coverslip.workflows.mosaic import Mosaic, Read
from coverslip.wsi import Box

# Of 8 bit pixels no density is higher (log10 255 = 2.4); in steps that cannot be told apart.
MOST_DENSITY, STEPS = 2.55, 256
# Where the run did not say which vectors it used: the defaults of the stain that was recognised.
BY_KIND: Mapping[str, StainVectors] = {"H&E": H_E, "IHC": H_DAB}


def vectors_of(folder: Path) -> StainVectors | None:
    """The vectors in a result's provenance, else the defaults of its stain; None if neither is known."""
    try:
        derived = json.loads((folder / "result.json").read_text(encoding="utf-8"))["provenance"]["derived"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _stated(derived.get("stain_vectors")) or BY_KIND.get(
        str((derived.get("quality") or {}).get("stain_kind"))
    )


def _stated(said: Any) -> StainVectors | None:
    try:
        one, two, three = (_vector(*row) for row in said["rows"])
        first, second, rest = map(str, said["names"])
        red, green, blue = map(int, said["background"])
        names, rows = (first, second, rest), (one, two, three)
        return StainVectors(names, rows, said["source"], (red, green, blue), said["convention"])
    except (KeyError, TypeError, ValueError, RequestError):
        return None


def _vector(red: float, green: float, blue: float) -> Vector:
    return float(red), float(green), float(blue)


def channel_names(vectors: StainVectors) -> tuple[str, str]:
    """Of the layers, in the order of the vectors."""
    return f"{vectors.names[0]} alone", f"{vectors.names[1]} alone"


def channel(level: Mosaic, pixels: Read, vectors: StainVectors, stain: int) -> Mosaic:
    """A level of RGB as one stain (0 or 1) alone on white; `pixels` gives those of a box of the level.

    The picture of an amount is 255 · 10^(-amount · vector), Lambert and Beer's law as
    `coverslip.tiling.stain.separate` inverts it; amounts below 0 are white.
    """
    seen = _colours(np.asarray(vectors.rows[stain]))

    def read(box: Box) -> NDArray[np.uint8]:
        amounts = separate(pixels(box), vectors)[..., stain]
        steps = np.clip(amounts * ((STEPS - 1) / MOST_DENSITY), 0, STEPS - 1).astype(np.uint8)
        return seen[steps]

    return Mosaic(level.shape, level.dtype, read, level.downsample, level.tile, stored=False)


def _colours(vector: NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGB (256, 3) of amounts 0 to `MOST_DENSITY`."""
    amounts = np.linspace(0, MOST_DENSITY, STEPS)[:, None]
    return np.rint(255 * 10 ** (-amounts * vector)).astype(np.uint8)
