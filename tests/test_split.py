"""Splits: whole groups, every class, every row once, always the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coverslip.errors import RequestError
from coverslip.models.split import split_groups


@st.composite
def single_class_groups(draw):
    """(labels, groups) where each group is of one class and each class has at least three groups."""
    sizes = draw(st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=12), min_size=2, max_size=5))
    labels = [label for label, groups in enumerate(sizes) for size in groups for _ in range(size)]
    flat = [size for groups in sizes for size in groups]
    groups = [group for group, size in enumerate(flat) for _ in range(size)]
    order = draw(st.permutations(range(len(labels))))
    return np.array(labels)[order], np.array(groups)[order]


@st.composite
def mixed_groups(draw):
    """(labels, groups) with groups of any mixture of classes, as slides are."""
    n = draw(st.integers(2, 80))
    labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(0, 15), min_size=n, max_size=n))
    return np.array(labels), np.array(groups)


def _parts(split):
    return split.train, split.validation, split.test


@given(mixed_groups(), st.integers(0, 5))
def test_no_group_is_cut_and_no_row_is_lost(rows, seed):
    labels, groups = rows
    try:
        split = split_groups(labels, groups, seed=seed)
    except RequestError:
        return
    assert sorted(np.concatenate(_parts(split)).tolist()) == list(range(len(labels)))
    held = [set(groups[part].tolist()) for part in _parts(split)]
    assert sum(map(len, held)) == len(set(groups.tolist()))


@given(single_class_groups(), st.integers(0, 5))
def test_three_groups_of_a_class_are_enough_for_every_part(rows, seed):
    labels, groups = rows
    split = split_groups(labels, groups, seed=seed)
    for part in _parts(split):
        assert set(labels[part].tolist()) == set(labels.tolist())


@given(single_class_groups(), st.integers(0, 5))
def test_the_same_seed_gives_the_same_parts_whatever_the_numbers_of_groups(rows, seed):
    labels, groups = rows
    first, second = split_groups(labels, groups, seed=seed), split_groups(labels, groups * 7 + 3, seed=seed)
    for one, other in zip(_parts(first), _parts(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shares_are_met_per_class_when_every_row_is_its_own_group():
    labels = np.repeat([0, 1, 2], [200, 100, 20])
    split = split_groups(labels, np.arange(320))
    assert np.bincount(labels[split.train]).tolist() == [140, 70, 14]
    assert np.bincount(labels[split.validation]).tolist() == [30, 15, 3]
    assert np.bincount(labels[split.test]).tolist() == [30, 15, 3]


def test_another_seed_gives_another_split():
    labels = np.repeat([0, 1], 50)
    tests = {tuple(split_groups(labels, np.arange(100), seed=seed).test) for seed in range(5)}
    assert len(tests) == 5


def test_a_class_of_two_groups_is_refused_by_name_of_the_part():
    labels = np.array([0, 0, 0, 0, 1, 1])
    with pytest.raises(RequestError, match="no group of the class SCC for the train part"):
        split_groups(labels, np.arange(6), classes=("NILM", "SCC"))


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (0.8, 0.2, 0.0)])
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(RequestError, match="do not make a split"):
        split_groups(np.array([0, 1]), np.arange(2), shares)
