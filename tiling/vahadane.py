"""Two dyes by sparse non-negative factors: Vahadane et al. (2016), IEEE Trans Med Imaging 35:1962."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.dyes import Dyes, chosen_pixels, dyes_of, stained_density, too_few
from coverslip.tiling.stain import H_E, StainVectors
from coverslip.tiling.unfitted import Unfitted

# The paper's λ, 0.1 in natural logarithm, as StainTools and TIAToolbox have it.
SPARSITY = 0.1 / math.log(10)
# Pixels fitted: a factor of three numbers each needs no more, and 20,000 take a quarter of a second.
FITTED = 20_000
MOST_STEPS = 300
# The largest change of a unit vector's component that counts as none: 0.01°.
STILL = 2e-4


def fit_vahadane(
    rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, default: StainVectors = H_E
) -> Dyes | Unfitted:
    """The dyes of uint8 (h, w, 3) or (n, h, w, 3), as `fit_macenko` gives them.

    Minimises ½‖V − W H‖² + λ Σ H with W and H ≥ 0 and columns of W of unit length, V the stained densities,
    in turn over H and W, from the default stains; nothing is drawn by chance.
    """
    density = stained_density(chosen_pixels(rgb, mask), default.background)
    few = too_few(len(density))
    if few is not None:
        return few
    sample = density[:: max(1, len(density) // FITTED)]
    return dyes_of(_factors(sample, np.asarray(default.rows[:2])), density, default)


def _factors(density: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """W transposed, (2, 3), of densities (n, 3)."""
    dyes = start
    for _ in range(MOST_STEPS):
        amounts = _amounts(density, dyes)
        before, dyes = dyes, _dictionary(density, amounts, dyes)
        if np.abs(dyes - before).max() < STILL:
            break
    return dyes


def _amounts(density: NDArray[np.float64], dyes: NDArray[np.float64]) -> NDArray[np.float64]:
    """H transposed, (n, 2): exact, since two non-negative numbers leave four cases (Karush-Kuhn-Tucker)."""
    likeness = min(float(dyes[0] @ dyes[1]), 1 - 1e-6)
    alone = density @ dyes.T - SPARSITY
    both = (alone - likeness * alone[:, ::-1]) / (1 - likeness**2)
    other_absent = (both < 0)[:, ::-1]
    amounts = np.where(other_absent, alone, both)
    return np.where(both < 0, 0, np.maximum(amounts, 0))


def _dictionary(
    density: NDArray[np.float64], amounts: NDArray[np.float64], dyes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """One step of block coordinate descent (Mairal et al. 2010, JMLR 11:19, algorithm 2)."""
    shared, seen = amounts.T @ amounts, amounts.T @ density
    dyes = dyes.copy()
    for number in range(2):
        if shared[number, number] > 0:
            step = (seen[number] - shared[number] @ dyes) / shared[number, number]
            moved = np.maximum(dyes[number] + step, 0)
            dyes[number] = moved / max(float(np.linalg.norm(moved)), 1e-12)
    return dyes
