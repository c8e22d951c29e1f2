"""Which of many doubtful rows to show, so that fifty are not fifty alike.

Greedy k-centre, also called farthest-first: each time the row farthest from those already taken (Gonzalez
1985, Theor. Comput. Sci. 38, 293–306; for choosing what to label Sener & Savarese 2018, ICLR, "Active
learning for convolutional neural networks: a core-set approach", where what is already labelled is taken to
begin with). Here the distance is weighed by the doubt, and only the most doubtful rows stand for choice, as
in Zhdanov 2019 (arXiv:1901.05954, "Diverse mini-batch active learning").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def farthest_first(
    vectors: NDArray[np.float32],
    doubt: NDArray[np.floating],
    count: int,
    settled: NDArray[np.float32] | None = None,
) -> NDArray[np.intp]:
    """Rows of `vectors` (n, d) in the order they are taken, `count` or all.

    Each time the row for which its `doubt` (n,), 0 or more, times its Euclidean distance to the nearest one
    taken or `settled` (m, d) is largest; with nothing taken yet the one of most doubt. The first of equals is
    taken, so the same arrays give the same rows. Memory is that of `vectors` and a few columns.
    """
    n = len(vectors)
    free = np.ones(n, bool)
    near = np.full(n, np.inf)
    for start in settled if settled is not None else ():
        near = np.minimum(near, _squared(vectors, start))
    taken: list[int] = []
    for _ in range(min(count, n)):
        worth = np.asarray(doubt, np.float64) * (1.0 if np.isinf(near).all() else np.sqrt(near))
        row = int(np.argmax(np.where(free, worth, -1.0)))
        taken.append(row)
        free[row] = False
        near = np.minimum(near, _squared(vectors, vectors[row]))
    return np.array(taken, np.intp)


def _squared(vectors: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float64]:
    return ((vectors - one) ** 2).sum(axis=1, dtype=np.float64)


def standardised(figures: NDArray[np.floating]) -> NDArray[np.float32]:
    """Columns (n, d) with mean 0 and standard deviation 1; 0 where a column is constant or has no figure.

    Divided by √d, so that two rows lie about √2 apart however many columns there are.
    """
    values = np.asarray(figures, np.float64)
    if not values.size:
        return np.zeros(values.shape, np.float32)
    known = np.isfinite(values)
    n = np.maximum(known.sum(axis=0), 1)
    held = np.where(known, values, 0.0)
    mean = held.sum(axis=0) / n
    away = np.where(known, values - mean, 0.0)
    spread = np.sqrt((away**2).sum(axis=0) / n)
    # A column that differs in its last digits only says nothing, and would weigh as much as any other.
    flat = spread <= 1e-9 * np.maximum(1.0, np.abs(mean))
    return (np.where(flat, 0.0, away / np.where(flat, 1.0, spread)) / np.sqrt(values.shape[1])).astype(
        np.float32
    )
