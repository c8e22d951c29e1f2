"""Scoring rules against published and derived golden values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coverslip.errors import RequestError
from coverslip.workflows.scores import IhcScoreSettings, h_score, score_counts, score_ihc, wilson

SETTINGS = IhcScoreSettings()
COUNTS = st.tuples(*[st.integers(0, 10_000)] * 4)


@pytest.mark.parametrize(
    ("positive", "total", "percent", "low", "high"),
    [
        (25, 500, 5.0, 3.41, 7.28),
        (30, 500, 6.0, 4.23, 8.44),
        (140, 500, 28.0, 24.24, 32.09),
        (150, 500, 30.0, 26.15, 34.16),
    ],
)
def test_labelling_index_has_the_golden_wilson_interval(positive, total, percent, low, high):
    share = wilson(positive, total)
    assert 100 * share.value == pytest.approx(percent)
    assert round(100 * share.low, 2) == low
    assert round(100 * share.high, 2) == high


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_its_equation_and_holds_the_share(case):
    successes, total = case
    share = wilson(successes, total)
    assert 0 <= share.low <= share.value <= share.high <= 1
    z = 1.959963984540054
    for end in (share.low, share.high):
        assert abs(share.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), abs=1e-9)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_the_same_seen_from_the_other_side(case):
    successes, total = case
    share, other = wilson(successes, total), wilson(total - successes, total)
    assert share.low == pytest.approx(1 - other.high, abs=1e-12)


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_share_is_refused(successes, total):
    with pytest.raises(RequestError):
        wilson(successes, total)


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        ((0, 50, 50, 0), 150),
        ((20, 0, 0, 80), 240),
        ((10, 20, 30, 40), 200),
        ((0, 0, 0, 7), 300),
        ((9, 0, 0, 0), 0),
    ],
)
def test_h_score_has_the_golden_values(counts, score):
    assert h_score(counts) == pytest.approx(score)


def test_ten_negative_of_a_hundred_are_ninety_percent_positive():
    score = score_counts((10, 20, 30, 40), SETTINGS)
    assert (score.positive, score.total) == (90, 100)
    assert score.positive_fraction is not None
    assert score.positive_fraction.value == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("density", "bin_"), [(0.199, 0), (0.2, 1), (0.399, 1), (0.4, 2), (0.599, 2), (0.6, 3), (-0.1, 0), (9, 3)]
)
def test_a_threshold_is_reached_at_equality(density, bin_):
    expected = [0, 0, 0, 0]
    expected[bin_] = 1
    assert score_ihc([density], SETTINGS).counts == tuple(expected)


def test_no_nuclei_are_not_evaluable_and_not_zero():
    score = score_ihc(np.array([]), SETTINGS)
    assert score.counts == (0, 0, 0, 0)
    assert score.h_score is None
    assert score.positive_fraction is None
    assert not score.sufficient


@pytest.mark.parametrize(("total", "sufficient"), [(400, False), (499, False), (500, True)])
def test_too_few_nuclei_keep_their_value_and_are_flagged(total, sufficient):
    score = score_ihc(np.full(total, 0.3), SETTINGS)
    assert score.h_score == pytest.approx(100)
    assert score.sufficient is sufficient


@given(COUNTS)
def test_h_score_lies_between_0_and_300_and_grows_with_staining(counts):
    score = score_counts(counts, SETTINGS)
    if score.total == 0:
        assert score.h_score is None
        return
    assert score.h_score is not None
    assert 0 <= score.h_score <= 300
    assert score.positive_fraction is not None
    assert 100 * score.positive_fraction.value <= score.h_score + 1e-9
    assert score.h_score <= 300 * score.positive_fraction.value + 1e-9


@given(st.lists(st.floats(-1, 3), max_size=50))
def test_counts_agree_with_plain_comparison(densities):
    one, two, three = SETTINGS.thresholds
    expected = [0, 0, 0, 0]
    for density in densities:
        expected[(density >= one) + (density >= two) + (density >= three)] += 1
    assert score_ihc(densities, SETTINGS).counts == tuple(expected)


@pytest.mark.parametrize("densities", [[[0.1]], [math.nan], [math.inf]])
def test_densities_that_cannot_be_scored_are_refused(densities):
    with pytest.raises(RequestError):
        score_ihc(densities, SETTINGS)


@pytest.mark.parametrize(
    "thresholds", [(0.2, 0.2, 0.6), (0.6, 0.4, 0.2), (0, 0.4, 0.6), (0.2, 0.4, math.inf)]
)
def test_thresholds_that_do_not_rise_are_refused(thresholds):
    with pytest.raises(RequestError, match="do not rise"):
        IhcScoreSettings(thresholds=thresholds)


def test_negative_counts_and_impossible_confidence_are_refused():
    with pytest.raises(RequestError):
        h_score((-1, 0, 0, 3))
    with pytest.raises(RequestError):
        IhcScoreSettings(confidence=1.0)


def test_wider_confidence_gives_a_wider_interval():
    narrow, wide = wilson(30, 100, 0.9), wilson(30, 100, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
