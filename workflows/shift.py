"""How far a slide as a whole lies from what a model learnt from: in its colours, and in its features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.result import Measurement


@dataclass(frozen=True, slots=True)
class Shift:
    """The tiles' distances from training. `median`: of the `n` tiles that have one; None where none has, or
    the package holds no statistics. `limit`: the package's, for one tile. `strange`: share of the `n` tiles
    beyond it."""

    what: str
    of: str
    median: float | None
    limit: float | None
    strange: float | None
    n: int

    @property
    def note(self) -> str | None:
        """What a reader must know of the figure; None where it is unremarkable."""
        if self.limit is None:
            return f"not known: the package holds no statistics of {self.of}"
        if self.median is None:
            return "not known: no tile is stained"
        if self.median > self.limit:
            return f"beyond the package's limit of {self.limit:.3g}: {self.of} unlike those it learnt from"
        return None

    def measurement(self) -> Measurement:
        limit = "" if self.limit is None else f"; the package's limit for a tile is {self.limit:.3g}"
        return Measurement(
            name=f"{self.what} shift",
            value=self.median,
            unit="1",
            method=f"median over the tiles of the distance of their {self.of} from those of training{limit}",
            n=self.n,
            note=self.note,
        )


def feature_shift(distances: NDArray[np.floating] | None, limit: float | None) -> Shift:
    """From the distances of the tiles' features (n,), None where the package has no statistics of them."""
    return _shift("feature", "features", distances, limit)


def colour_shift(distances: NDArray[np.floating] | None, limit: float | None) -> Shift:
    """From the distances of the tiles' colours (n,), NaN for tiles without stain; None as above."""
    return _shift("colour", "colours", distances, limit)


def _shift(what: str, of: str, distances: NDArray[np.floating] | None, limit: float | None) -> Shift:
    if distances is None or limit is None:
        return Shift(what, of, None, None, None, 0)
    known = distances[np.isfinite(distances)]
    if not len(known):
        return Shift(what, of, None, limit, None, 0)
    return Shift(what, of, float(np.median(known)), limit, float((known > limit).mean()), len(known))
