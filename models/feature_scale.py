"""Features brought to one scale: encoders give figures of a thousandth or of tens, and rates suit neither."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class FeatureScale:
    """`mean`, `std`: float32 (d,), of the tiles that were learnt from."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, d), each feature 0 in mean and 1 in standard deviation over tiles like those."""
        return ((features - self.mean) / self.std).astype(np.float32)


def fit_scale(bags: Iterable[NDArray[np.floating]]) -> FeatureScale:
    """Over all tiles of the bags, each (n, d), held one at a time. A feature that never changes stays 0."""
    count, total, squares = 0, np.float64(0), np.float64(0)
    for bag in bags:
        wide = bag.astype(np.float64)
        count, total, squares = count + len(wide), total + wide.sum(axis=0), squares + (wide**2).sum(axis=0)
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # What is left of a constant after subtracting squares is rounding.
    still = std <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    return FeatureScale(mean.astype(np.float32), np.where(still, 1, std).astype(np.float32))
