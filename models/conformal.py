"""Prediction sets: every class that cannot be ruled out, so that the true one is in the set as often as said.

Split conformal prediction (Vovk 2005; Angelopoulos & Bates 2021, arXiv:2107.07511). Rows are tiles or slides,
whatever is to be classified; the arithmetic is the same.

Tiles of one patient are not exchangeable, patients are. So a threshold is a quantile over groups: each of
the K groups weighs 1 / (K + 1), shared evenly by its rows, and a further group that nobody has seen weighs as
much and is worse than all (Lee, Barber & Willett 2023, arXiv:2306.06342, hierarchical conformal prediction).
A row drawn from a new group then has its true class in its set with at least the stated coverage. Where every
row is a group of its own this is the ordinary quantile ⌈(n + 1)(1 − α)⌉ / n. One score per group, drawn at
random, would hold too, but throws the other rows away and depends on the draw (Dunn, Wasserman & Ramdas 2023,
JASA 118:2491).
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.doubt import PredictionSets, SetCoverage, SetMethod
from coverslip.models.metrics import LEVEL, RESAMPLES, interval_of_mean

# A sum of weights that should be equal to the coverage differs from it by rounding only.
ROUNDING = 1e-9


def least_groups(coverage: float) -> int:
    """Fewest groups for which the coverage can be stated; below it every class is in every set.

    >>> least_groups(0.9), least_groups(0.95)
    (9, 19)
    """
    return ceil(coverage / (1 - coverage) - ROUNDING)


def fit_sets(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    coverage: float = 0.9,
    method: SetMethod = "lac",
    by_class: bool = False,
) -> PredictionSets:
    """Thresholds from rows whose class is known and which the model did not learn from.

    `probabilities`: (n, classes), rows sum to 1; `labels`: class numbers (n,); `groups`: (n,), what is alike
    shares one. `by_class`: a threshold for each class from its own rows (Mondrian, Vovk 2005), so that the
    coverage holds for each class; a class with fewer groups than `least_groups` is then in every set.
    Raises RequestError for arrays that do not fit together, or a coverage not between 0 and 1.
    """
    _check(probabilities, labels, groups, coverage)
    classes = probabilities.shape[1]
    scores = nonconformity(probabilities, method)[np.arange(len(labels)), labels]
    if by_class:
        own = [labels == number for number in range(classes)]
        thresholds = [group_quantile(scores[of], groups[of], coverage) for of in own]
    else:
        thresholds = [group_quantile(scores, groups, coverage)] * classes
    return PredictionSets(
        method=method,
        coverage=coverage,
        by_class=by_class,
        thresholds=tuple(thresholds),
        n=len(labels),
        groups=len(np.unique(groups)),
        measured=None,
    )


def members(known: PredictionSets, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which classes are in each row's set, (n, classes).

    With "lac" a set may be empty: no class is probable enough. With "aps" the most probable is always in it.
    """
    inside = nonconformity(probabilities, known.method) <= np.asarray(known.thresholds)
    if known.method == "aps" and len(inside):
        inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside


def nonconformity(probabilities: NDArray[np.floating], method: SetMethod) -> NDArray[np.float64]:
    """How badly each class fits its row, 0 to 1, (n, classes).

    "lac": 1 − its probability (Sadinle 2019, JASA 114:223), which gives the smallest sets. "aps": the
    probability of all classes down to it (Romano 2020, NeurIPS), without their random tie-breaking: larger
    sets, whose size follows the difficulty of the row.

    >>> nonconformity(np.array([[0.5, 0.125, 0.375]]), "aps").tolist()
    [[0.5, 1.0, 0.875]]
    """
    probabilities = np.asarray(probabilities, np.float64)
    if method == "lac":
        return np.clip(1 - probabilities, 0, 1)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    summed = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
    scores = np.empty_like(summed)
    np.put_along_axis(scores, order, np.clip(summed, 0, 1), axis=1)
    return scores


def group_quantile(scores: NDArray[np.floating], groups: NDArray[np.integer], coverage: float) -> float:
    """The least score at or below which lie `coverage` of the groups' rows and of one unseen group's.

    1, which no score exceeds, where there are too few groups; see the module's docstring.

    >>> group_quantile(np.arange(10) / 10, np.arange(10), 0.8)
    0.8
    >>> group_quantile(np.arange(10) / 10, np.arange(10), 0.95)
    1.0
    """
    names, where, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / ((len(names) + 1) * sizes[where[order]]))
    place = int(np.searchsorted(reached, coverage - ROUNDING))
    return float(scores[order[place]]) if place < len(order) else 1.0


def measure_coverage(
    known: PredictionSets,
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
) -> SetCoverage:
    """How often the true class is in the set, on rows kept out of every choice; arguments as `fit_sets`."""
    inside = members(known, probabilities)
    right, sizes = inside[np.arange(len(labels)), labels], inside.sum(axis=1)
    return SetCoverage(
        n=len(labels),
        groups=len(np.unique(groups)),
        coverage=float(right.mean()),
        interval=interval_of_mean(right, groups),
        level=LEVEL,
        resamples=RESAMPLES,
        one=float((sizes == 1).mean()),
        several=float((sizes > 1).mean()),
        none=float((sizes == 0).mean()),
    )


def _check(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    coverage: float,
) -> None:
    subject, remedy = "prediction sets", "give a row, a class number and a group for each tile or slide"
    if not 0 < coverage < 1:
        raise RequestError(subject, f"cannot cover {coverage:g}", "give a coverage between 0 and 1")
    n = len(labels)
    if not n or probabilities.ndim != 2 or len(probabilities) != n or groups.shape != (n,):
        raise RequestError(subject, "have probabilities, labels and groups of different lengths", remedy)
    if not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise RequestError(subject, "have labels beyond the classes", remedy)
