"""Training, validation and test parts that never share a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of each part, ascending; every row is in exactly one."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split_groups(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
) -> Split:
    """Cut rows into train, validation and test; whole groups only, classes as evenly as groups allow.

    `labels`: class number of each row, (n,); `groups`: group number of each row, (n,); `shares`: of train,
    validation and test, each above 0. Every class first gets one group in each part, small groups in test
    and validation; then groups go, largest first, where they bring the class counts nearest to the shares.
    Ties follow an order drawn with `seed`, so the same arguments give the same parts. `classes`: their names,
    for the message.

    >>> parts = split_groups(np.array([0, 0, 0, 1, 1, 1]), np.arange(6))
    >>> sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist())
    [0, 1, 2, 3, 4, 5]

    Raises RequestError when a class cannot be in every part.
    """
    if abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise RequestError(f"shares {shares}", "do not make a split", "give three above 0 that sum to 1")
    counts, rows_group = _count(labels, groups)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    part = _reserve(counts, order)
    _fill(counts, order, part, np.asarray(shares))
    _check(counts, part, classes or tuple(map(str, range(counts.shape[1]))))
    rows = part[rows_group]
    return Split(*(np.flatnonzero(rows == number) for number in range(len(PARTS))))


def split_beside(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    aside: int,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
) -> Split:
    """As `split_groups`, but the last `aside` rows, and whole groups that hold one, are all in train.

    What is left is cut as if they were not there, so that a figure of its test part can be compared with that
    of a model that never saw them.

    >>> parts = split_beside(np.array([0, 0, 0, 1, 1, 1, 0]), np.array([0, 1, 2, 3, 4, 5, 6]), 1)
    >>> 6 in parts.train.tolist()
    True

    Raises RequestError as `split_groups`, and for a class that is left in none of the others.
    """
    if not aside:
        return split_groups(labels, groups, shares, seed, classes)
    learnt = np.isin(groups, groups[-aside:])
    rest = np.flatnonzero(~learnt)
    absent = np.setdiff1d(labels, labels[rest])
    if len(absent):
        names = [classes[number] if classes else str(number) for number in absent.tolist()]
        raise RequestError(
            "the labels",
            f"hold {' and '.join(names)} among the corrections only, or in their groups",
            "give at least three other groups of every class, or rename what is called otherwise there",
        )
    part = split_groups(labels[rest], groups[rest], shares, seed, classes)
    train = np.union1d(rest[part.train], np.flatnonzero(learnt))
    return Split(train, rest[part.validation], rest[part.test])


def _count(
    labels: NDArray[np.integer], groups: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Rows per (group, class), and the position of each row's group in it."""
    names, where = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (where, labels), 1)
    return counts, where


def _reserve(counts: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """One group of each class for each part, rarest class first; −1 marks groups still free."""
    part = np.full(len(counts), -1, np.intp)
    for label in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        holders = [group for group in order[::-1] if counts[group, label]]
        for number in (2, 1, 0):
            if any(part[group] == number for group in holders):
                continue
            free = [group for group in holders if part[group] < 0]
            if free:
                part[free[0]] = number
    return part


def fold_groups(
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    folds: int,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
) -> NDArray[np.intp]:
    """A fold, 0 to `folds` − 1, for each row; whole groups only, classes as evenly as groups allow.

    Arguments as for `split_groups`, and as there the same give the same. Raises RequestError when a class
    cannot be in every fold.

    >>> np.bincount(fold_groups(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 3)).tolist()
    [2, 2, 2]
    """
    counts, rows_group = _count(labels, groups)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    fold = np.full(len(counts), -1, np.intp)
    _fill(counts, order, fold, np.full(folds, 1 / folds))
    for label in np.flatnonzero(counts.any(axis=0)):
        if len(np.unique(fold[counts[:, label] > 0])) < folds:
            name = (classes or tuple(map(str, range(counts.shape[1]))))[label]
            raise RequestError(
                "the labels",
                f"hold too few groups of the class {name} for {folds} folds",
                "ask for fewer folds, or give more patients or slides of it",
            )
    return fold[rows_group]


def _fill(
    counts: NDArray[np.int64], order: NDArray[np.intp], part: NDArray[np.intp], shares: NDArray[np.float64]
) -> None:
    """Give each free group to the part where it lowers the summed squared error of the class shares most."""
    total = np.maximum(counts.sum(axis=0), 1)
    missing = shares[:, None] * np.ones(counts.shape[1])
    for number in range(len(shares)):
        missing[number] -= counts[part == number].sum(axis=0) / total
    for group in order[part[order] < 0]:
        share = counts[group] / total
        gain = (missing**2).sum(axis=1) - ((missing - share) ** 2).sum(axis=1)
        part[group] = int(np.argmax(gain))
        missing[part[group]] -= share


def _check(counts: NDArray[np.int64], part: NDArray[np.intp], classes: tuple[str, ...]) -> None:
    for number, name in enumerate(PARTS):
        absent = np.flatnonzero(counts[part == number].sum(axis=0) == 0)
        absent = [classes[label] for label in absent if counts[:, label].any()]
        if absent:
            raise RequestError(
                "the labels",
                f"leave no group of the class {' and '.join(absent)} for the {name} part",
                "give at least three groups (files, slides or patients) of every class, better thirty",
            )
