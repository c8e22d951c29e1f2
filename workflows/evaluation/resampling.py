"""How far a figure might lie from itself on other slides: bootstrap over what is alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.models.labels_file import numbered
from coverslip.models.metrics import LEVEL, RESAMPLES, resampled
from coverslip.workflows.result import Interval

# Figures of the rows, given how often each is there; NaN for one that is not evaluable.
OfWeights = Callable[[NDArray[np.intp]], Sequence[float] | NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Resampling:
    """`unit`: what a group is, such as patient; groups are drawn whole."""

    unit: str
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What a document says of it."""
        return {"unit": self.unit, "seed": self.seed, "resamples": RESAMPLES, "level": LEVEL}


@dataclass(frozen=True, slots=True)
class Spread:
    """`interval` is None where there is none to give; `note` says why, or what to know of it."""

    interval: Interval | None
    note: str = ""


def bootstrap(of: OfWeights, groups: Sequence[str], how: Resampling) -> tuple[Spread, ...]:
    """95 % percentile interval (Efron 1979) of each figure, resampling whole groups 2,000 times.

    `groups`: of each row. Draws in which a figure is not evaluable are left out and counted in the note.
    With few groups the interval is too narrow, as every percentile bootstrap is; with one there is none.
    """
    where = numbered(groups)
    count = int(where.max()) + 1 if len(where) else 0
    if count < 2:
        none = Spread(None, f"no interval: it takes two {how.unit}s at least")
        return (none,) * len(of(np.ones(len(where), np.intp)))
    found = np.array([of(times[where]) for times in resampled(count, how.seed)])
    method = f"percentile bootstrap over {count} {how.unit}s"
    return tuple(_spread(draws, method) for draws in found.T)


def _spread(draws: NDArray[np.float64], method: str) -> Spread:
    kept = draws[~np.isnan(draws)]
    lost = len(draws) - len(kept)
    if lost > RESAMPLES / 2:
        return Spread(None, f"no interval: not evaluable in {lost} of {RESAMPLES} bootstrap draws")
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    note = f"{lost} of {RESAMPLES} bootstrap draws were not evaluable and left out" if lost else ""
    return Spread(Interval(low=float(low), high=float(high), level=LEVEL, method=method), note)
