"""The prediction sets of a slide's tiles: columns, measurements, and the reason for no call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.models.conformal import members
from coverslip.models.doubt import PredictionSets
from coverslip.workflows.result import Measurement


@dataclass(frozen=True, slots=True, eq=False)
class TileSets:
    """`inside`: which classes are in each tile's set, bool (tiles, classes), in the order of `classes`."""

    known: PredictionSets
    classes: tuple[str, ...]
    inside: NDArray[np.bool_]

    @property
    def sizes(self) -> NDArray[np.int16]:
        return self.inside.sum(axis=1, dtype=np.int16)

    @property
    def several(self) -> float:
        return float((self.sizes > 1).mean())

    @property
    def none(self) -> float:
        return float((self.sizes == 0).mean())

    @property
    def why(self) -> str:
        """The reason for no call, where most tiles are undecided."""
        return (
            f"{self.several + self.none:.0%} of the tiles are undecided: the prediction sets of "
            f"{self.several:.0%} hold several classes, those of {self.none:.0%} none"
        )

    def add_to(self, table: pa.Table) -> pa.Table:
        """With `set_size`, and `set`: the names of the classes in it, in the model's order."""
        rows = [[self.classes[number] for number in np.flatnonzero(row)] for row in self.inside]
        sets = pa.array(rows, pa.list_(pa.string()))
        return table.append_column("set_size", pa.array(self.sizes)).append_column("set", sets)

    def measurements(self) -> tuple[Measurement, ...]:
        """Shares of the tiles whose set holds one class, several, none; no tile weighs more than another."""
        method = (
            f"prediction sets ({self.known.method}) that hold the true class on {self.known.coverage:.0%} of "
            "tiles like those the model was calibrated on"
        )
        shares = {
            "with one class": 1 - self.several - self.none,
            "with several classes": self.several,
            "with no class": self.none,
        }
        return tuple(
            Measurement(
                name=f"tiles {name} in their set",
                value=100 * max(share, 0.0),
                unit="%",
                method=method,
                n=len(self.inside),
            )
            for name, share in shares.items()
        )


def tile_sets(
    known: PredictionSets | None, classes: tuple[str, ...], probabilities: NDArray[np.floating]
) -> TileSets | None:
    """From probabilities (tiles, classes); None where the model gives no sets."""
    return TileSets(known, classes, members(known, probabilities)) if known else None
