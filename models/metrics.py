"""How often the model is right, per class and together, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from coverslip.models.document import ClassAccuracy, Metrics

LEVEL = 0.95
RESAMPLES = 2000


def confusion_matrix(
    true: NDArray[np.integer], called: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Counts (classes, classes): rows the true class, columns the called one.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(true * classes + called, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(confusion: NDArray[np.number]) -> float:
    """Mean recall over the classes that occur (Brodersen 2010, ICPR); NaN when none does.

    >>> balanced_accuracy(np.array([[1, 1], [0, 1]]))
    0.75
    """
    n = confusion.sum(axis=1)
    return float(np.mean(np.diag(confusion)[n > 0] / n[n > 0])) if n.any() else float("nan")


def bootstrap_interval(
    true: NDArray[np.integer],
    called: NDArray[np.integer],
    groups: NDArray[np.integer],
    classes: int,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the balanced accuracy (Efron 1979), resampling whole groups 2,000 times.

    Tiles of one group are alike, so groups are drawn, not tiles. A class that a draw misses is left out of
    that draw's mean. With few groups the interval is too narrow, as every percentile bootstrap is.
    """
    names, where = np.unique(groups, return_inverse=True)
    per_group = np.zeros((len(names), classes, classes), np.int64)
    np.add.at(per_group, (where, true, called), 1)
    flat = per_group.reshape(len(names), -1)
    times = resampled(len(names), seed)
    figures = [balanced_accuracy((count @ flat).reshape(classes, classes)) for count in times]
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval_of_mean(
    values: NDArray[np.number] | NDArray[np.bool_], groups: NDArray[np.integer], seed: int = 0
) -> tuple[float, float]:
    """As `bootstrap_interval`, of the mean of `values` (n,) with their groups (n,)."""
    names, where = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(where, values), np.bincount(where)
    found = [(times @ sums) / (times @ sizes) for times in resampled(len(names), seed)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled(groups: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """For each of `RESAMPLES` bootstrap draws, how often each group is in it, (groups,)."""
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(groups, size=groups), minlength=groups)


def measure(
    true: NDArray[np.integer],
    called: NDArray[np.integer],
    groups: NDArray[np.integer],
    classes: tuple[str, ...],
    data: str,
) -> Metrics:
    """All figures for tiles whose class is known. `data` says which tiles they are."""
    confusion = confusion_matrix(true, called, len(classes))
    return Metrics(
        data=data,
        classes=tuple(
            _per_class(name, row, i) for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
        ),
        n=len(true),
        groups=len(np.unique(groups)),
        balanced_accuracy=balanced_accuracy(confusion),
        interval=bootstrap_interval(true, called, groups, len(classes)),
        level=LEVEL,
        resamples=RESAMPLES,
        confusion=tuple(tuple(map(int, row)) for row in confusion),
    )


def _per_class(name: str, row: NDArray[np.int64], own: int) -> ClassAccuracy:
    n = int(row.sum())
    return ClassAccuracy(name=name, n=n, accuracy=float(row[own] / n) if n else None)
