"""Prediction sets hold the true class as often as they say, also where tiles of a patient are alike."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from coverslip.errors import RequestError
from coverslip.models.conformal import (
    fit_sets,
    group_quantile,
    least_groups,
    measure_coverage,
    members,
    nonconformity,
)
from coverslip.models.doubt import SetMethod

DRAWS = 1500


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_of_single_tiles_the_quantile_is_that_of_split_conformal(scores, coverage):
    n, place = len(scores), ceil((len(scores) + 1) * coverage - 1e-9)
    expected = sorted(scores)[place - 1] if place <= n else 1.0
    assert group_quantile(np.array(scores), np.arange(n), coverage) == expected


def test_a_group_counts_once_whatever_its_size():
    """Nine groups: eight of one tile with score 0.1, one of a thousand tiles with 0.7."""
    scores = np.r_[np.full(8, 0.1), np.full(1000, 0.7)]
    groups = np.r_[np.arange(8), np.full(1000, 8)]
    assert group_quantile(scores, groups, 0.8) == 0.1
    assert group_quantile(scores, groups, 0.9) == 0.7
    assert group_quantile(scores, groups, 0.91) == 1.0


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_fewest_groups_are_the_fewest_that_give_a_threshold(coverage):
    least = least_groups(coverage)
    scores = np.linspace(0.1, 0.6, least)
    assert group_quantile(scores, np.arange(least), coverage) < 1
    assert group_quantile(scores[1:], np.arange(least - 1), coverage) == 1


def test_sets_by_hand():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]])
    known = fit_sets(probabilities, np.array([0, 1, 2]), np.arange(3), coverage=0.5)
    assert known.thresholds == pytest.approx((0.4,) * 3)
    assert members(known, probabilities).tolist() == [
        [True, False, False],
        [False, False, False],
        [False, False, True],
    ]
    aps = known.model_copy(update={"method": "aps", "thresholds": (0.75,) * 3})
    assert members(aps, probabilities).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, False, True],
    ], "the last tile's first class alone is beyond the threshold, and stays"


@given(st.integers(0, 100))
def test_the_score_of_the_last_class_is_that_of_all(seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(4), 5)
    scores = nonconformity(probabilities, "aps")
    assert scores.max(axis=1) == pytest.approx(np.ones(5))
    assert np.array_equal(scores.argmin(axis=1), probabilities.argmax(axis=1))


def world(
    rng: np.random.Generator, groups: int, each: int, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and groups of tiles; a model is too sure of them, and fails whole patients.

    `spread`: how much patients differ in how hard they are; 0 where tiles are exchangeable.
    """
    n = groups * each
    group = np.repeat(np.arange(groups), each)
    hard = np.exp(spread * rng.normal(size=groups))[group]
    labels = rng.choice(3, n, p=(0.6, 0.3, 0.1))
    logits = 3 * np.eye(3)[labels] + hard[:, None] * rng.normal(0, 2, (n, 3))
    odds = np.exp(2 * (logits - logits.max(axis=1, keepdims=True)))
    return odds / odds.sum(axis=1, keepdims=True), labels, group


def hits(method: SetMethod, coverage: float, groups: int, each: int, spread: float, by_class: bool = False):
    """Over many calibrations: whether one tile of a new patient has its class in its set; its class."""
    held, true = np.zeros(DRAWS, bool), np.zeros(DRAWS, int)
    for draw in range(DRAWS):
        rng = np.random.default_rng((draw, 7))
        known = fit_sets(*world(rng, groups, each, spread), coverage, method, by_class)
        probabilities, labels, _ = world(rng, 1, 1, spread)
        held[draw], true[draw] = members(known, probabilities)[0, labels[0]], labels[0]
    return held, true


def test_coverage_is_what_it_says_for_single_tiles():
    """40 tiles: the coverage is exactly ⌈41 · 0.9⌉ / 41 = 37 / 41, since no two scores are equal."""
    held, _ = hits("lac", 0.9, 40, 1, 0.0)
    low, high = binom.ppf([0.001, 0.999], DRAWS, 37 / 41)
    assert low <= held.sum() <= high


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_coverage_holds_where_tiles_of_a_patient_are_alike(method):
    """At least what it says, and not by holding everything: fewer than 19 of 20."""
    held, _ = hits(method, 0.8, 20, 8, 1.0)
    assert held.sum() >= binom.ppf(0.001, DRAWS, 0.8)
    assert held.mean() < 0.95


def uneven(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20 patients: half give 60 easy tiles each, half three hard ones."""
    parts = [world(rng, 1, 60 if easy else 3, 0.0) for easy in rng.random(20) < 0.5]
    hard = [len(labels) == 3 for _, labels, _ in parts]
    blurred = [
        (np.full_like(found, 1 / 3) * 0.5 + found[:, rng.permutation(3)] * 0.5 if doubt else found)
        for (found, _, _), doubt in zip(parts, hard, strict=True)
    ]
    group = np.repeat(np.arange(20), [len(labels) for _, labels, _ in parts])
    return np.concatenate(blurred), np.concatenate([labels for _, labels, _ in parts]), group


def test_taking_tiles_for_patients_covers_less():
    """What the groups are for: patients with many tiles are easy, and the next patient may be another."""
    covered = []
    for draw in range(DRAWS):
        rng = np.random.default_rng((draw, 8))
        probabilities, labels, group = uneven(rng)
        fits = [fit_sets(probabilities, labels, by, 0.8) for by in (group, np.arange(len(group)))]
        new, truth, patients = uneven(rng)
        first = np.flatnonzero(patients == 0)[0]
        covered.append([members(known, new)[first, truth[first]] for known in fits])
    by_group, by_tile = np.sum(covered, axis=0)
    assert by_group >= binom.ppf(0.001, DRAWS, 0.8)
    assert by_tile < binom.ppf(1e-6, DRAWS, 0.8)


def test_by_class_the_rare_class_is_covered_too():
    """Over all, the common class makes up for the rare one; by class it does not."""
    alone, true = hits("lac", 0.8, 120, 1, 0.0, by_class=True)
    rare = true == 2
    assert rare.sum() > 100
    assert alone[rare].sum() >= binom.ppf(0.001, rare.sum(), 0.8)
    assert alone[~rare].sum() >= binom.ppf(0.001, (~rare).sum(), 0.8)


def test_a_class_with_too_few_groups_is_in_every_set():
    probabilities, labels, groups = world(np.random.default_rng(0), 60, 1, 0.0)
    labels = np.where(labels == 2, 1, labels)
    labels[:2] = 2
    known = fit_sets(probabilities, labels, groups, 0.9, by_class=True)
    assert known.thresholds[2] == 1
    assert max(known.thresholds[:2]) < 1
    assert members(known, probabilities)[:, 2].all()


def test_what_is_measured_is_counted():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.52, 0.48], [0.2, 0.8]])
    known = fit_sets(probabilities, np.array([0, 0, 1, 1]), np.arange(4), 0.8)
    assert known.thresholds == pytest.approx((0.52, 0.52))
    found = measure_coverage(known, np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([1, 1]), np.arange(2))
    assert (found.coverage, found.one, found.several, found.none) == (0.5, 0.5, 0.5, 0.0)
    assert found.interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "groups", "coverage", "said"),
    [
        ([0, 1], [0, 1], 1.0, "cannot cover 1"),
        ([0], [0, 1], 0.9, "different lengths"),
        ([0, 1], [0], 0.9, "different lengths"),
        ([0, 3], [0, 1], 0.9, "labels beyond the classes"),
        ([-1, 0], [0, 1], 0.9, "labels beyond the classes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels, groups, coverage, said):
    with pytest.raises(RequestError, match=said):
        fit_sets(np.full((2, 3), 1 / 3), np.array(labels), np.array(groups), coverage)
