"""Rules of immunohistochemistry against their golden values; nothing is rounded before it is compared."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coverslip.errors import RequestError
from coverslip.workflows.ihc.markers import known_markers, marker_of
from coverslip.workflows.rules.allred import allred, allred_of_counts, proportion_score
from coverslip.workflows.rules.bands import band_of, exact, judge, judge_share, percent
from coverslip.workflows.rules.guideline import known_guidelines, load_guideline, read_guideline
from coverslip.workflows.rules.her2 import Membranes, her2_score, her2_status
from coverslip.workflows.rules.ki67 import CountedField, mean_index, weighted_index
from coverslip.workflows.rules.pdl1 import PdL1Cells, cps, immune_class, judge_pdl1, sp142_verdict, tps
from coverslip.workflows.rules.receptor import receptor_status
from coverslip.workflows.scores import IhcScoreSettings

HER2 = load_guideline("her2-asco-cap-2023")
NSCLC = load_guideline("pdl1-22c3-nsclc")
OURS = [
    name for name in known_guidelines() if name.startswith(("ki67", "er-", "pr-", "allred", "her2", "pdl1"))
]


@pytest.mark.parametrize(
    ("positive", "total", "category"),
    [
        (25, 500, "low"),
        (26, 500, "indeterminate"),
        (30, 500, "indeterminate"),
        (140, 500, "indeterminate"),
        (149, 500, "indeterminate"),
        (150, 500, "high"),
        (0, 500, "low"),
        (500, 500, "high"),
    ],
)
def test_ki67_has_the_categories_of_the_working_group(positive, total, category):
    assert judge_share(positive, total, load_guideline("ki67-ikwg-2021")).category == category


@pytest.mark.parametrize(("total", "withheld"), [(0, True), (400, True), (499, True), (500, False)])
def test_ki67_on_too_few_nuclei_has_no_category(total, withheld):
    verdict = judge_share(total // 2, total, load_guideline("ki67-ikwg-2021"))
    assert (verdict.category is None) is withheld
    assert ("insufficient (<500)" in verdict.text) is withheld
    assert (verdict.urgency == "unevaluable") is withheld


@pytest.mark.parametrize(
    ("guideline", "value", "category"),
    [
        ("ki67-st-gallen-2011", "13.9", "low"),
        ("ki67-st-gallen-2011", "14", "high"),
        ("ki67-st-gallen-2013", "19.9", "low"),
        ("ki67-st-gallen-2013", "20", "high"),
        ("ki67-abemaciclib", "19.99", "below 20 %"),
        ("ki67-abemaciclib", "20", "20 % or more"),
        ("ki67-net-who", "2.99", "G1"),
        ("ki67-net-who", "3", "G2"),
        ("ki67-net-who", "20", "G2"),
        ("ki67-net-who", "20.01", "G3"),
    ],
)
def test_other_cut_offs_of_ki67_are_guidelines_of_their_own(guideline, value, category):
    assert judge(Fraction(value), 500, load_guideline(guideline)).category == category


def test_weighted_and_unweighted_fields_have_the_golden_indices():
    fields = [
        CountedField(positive, 100, Fraction(weight))
        for positive, weight in ((0, "0.4"), (5, "0.3"), (20, "0.2"), (60, "0.1"))
    ]
    assert mean_index(fields) == Fraction("21.25")
    assert weighted_index(fields) == Fraction("11.5")
    twice = [CountedField(f.positive, f.total, 2 * f.weight) for f in fields]
    assert weighted_index(twice) == weighted_index(fields)


@pytest.mark.parametrize("fields", [[], [CountedField(1, 2, Fraction(0))]])
def test_no_fields_or_no_weights_give_no_index(fields):
    with pytest.raises(RequestError):
        weighted_index(fields) if fields else mean_index(fields)


@pytest.mark.parametrize(
    ("positive", "total", "er", "pr"),
    [
        (4, 500, "negative", "negative"),
        (5, 500, "ER Low Positive", "positive"),
        (50, 500, "ER Low Positive", "positive"),
        (51, 500, "positive", "positive"),
        (499, 50_000, "negative", "negative"),
        (5_001, 50_000, "positive", "positive"),
        (0, 100, "negative", "negative"),
        (50, 99, None, None),
        (0, 0, None, None),
    ],
)
def test_receptors_have_the_categories_of_asco_and_cap(positive, total, er, pr):
    for marker, expected in (("er", er), ("pr", pr)):
        verdict = receptor_status(positive, total, load_guideline(f"{marker}-asco-cap-2020"))
        assert verdict.category == expected
        asks = total >= 100 and 10 * positive <= total
        assert ("controls" in verdict.text) is asks


@pytest.mark.parametrize(
    ("share", "intensity", "registry", "qupath"),
    [
        ("85", 3, 8, 8),
        ("85", 2, 7, 7),
        ("0.5", 1, 2, 2),
        ("1", 1, 3, 3),
        ("10", 2, 4, 5),
        ("33.4", 2, 5, 6),
        ("0", 0, 0, 0),
        ("66.4", 1, 5, 5),
        ("66.5", 1, 6, 5),
        ("67", 1, 6, 6),
    ],
)
def test_allred_has_its_golden_scores_by_both_tables(share, intensity, registry, qupath):
    for name, expected in (("allred-registry", registry), ("allred-qupath", qupath)):
        found = allred(Fraction(share), intensity, load_guideline(name))
        assert found.total == expected
        assert found.positive is (expected >= 3)


def test_allred_of_counts_averages_the_positive_nuclei():
    for name in ("allred-registry", "allred-qupath"):
        found = allred_of_counts((10, 20, 30, 40), load_guideline(name))
        assert (found.proportion, found.intensity, found.total) == (5, 2, 7)


@pytest.mark.parametrize(
    ("counts", "intensity"),
    [((0, 1, 2, 0), 1), ((0, 100, 201, 0), 2), ((0, 0, 2, 1), 2), ((0, 0, 199, 101), 3), ((9, 0, 0, 0), 0)],
)
def test_the_intensity_score_is_reached_only_above_its_limits(counts, intensity):
    assert allred_of_counts(counts, load_guideline("allred-qupath")).intensity == intensity


def test_a_range_of_intensities_cannot_be_scored():
    found = allred(Fraction(85), (2, 3), load_guideline("allred-registry"))
    assert (found.total, found.positive) == (None, None)


@pytest.mark.parametrize(
    ("share", "intensity"), [("50", 0), ("101", 1), ("-1", 1), ("50", 4), ("50", (3, 2))]
)
def test_allred_refuses_what_cannot_be(share, intensity):
    with pytest.raises(RequestError):
        allred(Fraction(share), intensity, load_guideline("allred-qupath"))
    with pytest.raises(RequestError):
        allred_of_counts((0, 0, 0, 0), load_guideline("allred-qupath"))


@given(st.integers(0, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(max(n, 1)))))
def test_both_tables_differ_by_one_at_most(case):
    share = percent(*case)
    scores = [proportion_score(share, load_guideline(f"allred-{name}")) for name in ("registry", "qupath")]
    assert abs(scores[0] - scores[1]) <= 1
    assert (scores[0] == 0) is (scores[1] == 0) is (case[0] == 0)


@pytest.mark.parametrize(
    ("cells", "score", "footnote"),
    [
        (Membranes(100, intense_complete=12), "3+", None),
        (Membranes(1000, intense_complete=101), "3+", None),
        (Membranes(100, intense_complete=10), "2+", None),
        (Membranes(1000, intense_complete=1), "2+", None),
        (Membranes(100, weak_to_moderate_complete=30), "2+", None),
        (Membranes(100, weak_to_moderate_complete=10), "0", "ultralow"),
        (Membranes(100, weak_to_moderate_complete=6, faint_incomplete=6), "1+", None),
        (Membranes(100, intense_incomplete=11), "2+", None),
        (Membranes(100, intense_incomplete=10), "0", "ultralow"),
        (Membranes(100, faint_incomplete=25), "1+", None),
        (Membranes(100, faint_incomplete=10), "0", "ultralow"),
        (Membranes(100, faint_incomplete=8), "0", "ultralow"),
        (Membranes(100), "0", "null"),
        (Membranes(99, intense_complete=99), None, None),
    ],
)
def test_her2_has_its_golden_scores(cells, score, footnote):
    found = her2_score(cells, HER2)
    assert (found.score, found.footnote) == (score, footnote)
    assert (found.urgency == "unevaluable") is (score is None)


@pytest.mark.parametrize(
    ("score", "footnote", "ish", "status"),
    [
        ("2+", None, "negative", "low"),
        ("2+", None, "positive", "positive"),
        ("2+", None, None, "equivocal"),
        ("3+", None, None, "positive"),
        ("3+", None, "negative", "positive"),
        ("1+", None, None, "low"),
        ("0", "ultralow", None, "ultralow"),
        ("0", "null", None, "null"),
    ],
)
def test_low_and_ultralow_are_overlays(score, footnote, ish, status):
    assert her2_status(score, footnote, ish) == status


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.integers(0, 3))
def test_more_her2_staining_never_lowers_the_score(parts, more):
    names = ("faint_incomplete", "intense_incomplete", "weak_to_moderate_complete", "intense_complete")
    less = dict(zip(names, parts, strict=True))
    greater = {**less, names[more]: less[names[more]] + 5}
    scores = [her2_score(Membranes(300, **counts), HER2).score for counts in (less, greater)]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] <= scores[1]


def test_counts_of_membranes_that_do_not_add_up_are_refused():
    with pytest.raises(RequestError):
        Membranes(10, intense_complete=6, faint_incomplete=5)
    with pytest.raises(RequestError):
        Membranes(10, intense_complete=-1)


@pytest.mark.parametrize(
    ("cells", "proportion", "combined"),
    [
        (PdL1Cells(200, 30, 12, 8), 15, 25),
        (PdL1Cells(150, 140, 25, 15), Fraction(280, 3), 100),
        (PdL1Cells(100, 0, 1, 0), 0, 1),
        (PdL1Cells(200, 30, 12, 8, others=10), 15, 25),
        (PdL1Cells(99, 50, 1, 1), None, None),
    ],
)
def test_pdl1_has_its_golden_scores(cells, proportion, combined):
    assert tps(cells, NSCLC) == proportion
    assert cps(cells, NSCLC) == combined


@pytest.mark.parametrize(
    ("guideline", "cells", "category"),
    [
        ("pdl1-22c3-nsclc", PdL1Cells(1000, 9), "TPS < 1 %"),
        ("pdl1-22c3-nsclc", PdL1Cells(100, 1), "TPS 1–49 %"),
        ("pdl1-22c3-nsclc", PdL1Cells(1000, 499), "TPS 1–49 %"),
        ("pdl1-22c3-nsclc", PdL1Cells(100, 50), "TPS ≥ 50 %"),
        ("pdl1-22c3-gastric", PdL1Cells(100, 0, 1), "CPS ≥ 1"),
        ("pdl1-22c3-gastric", PdL1Cells(1000, 0, 9), "CPS < 1"),
        ("pdl1-22c3-tnbc", PdL1Cells(100, 9), "CPS < 10"),
        ("pdl1-22c3-tnbc", PdL1Cells(100, 5, 3, 2), "CPS ≥ 10"),
        ("pdl1-22c3-cervix", PdL1Cells(100, 1), "CPS ≥ 1"),
        ("pdl1-22c3-hnscc", PdL1Cells(100, 19), "CPS ≥ 1"),
        ("pdl1-22c3-hnscc", PdL1Cells(100, 20), "CPS ≥ 20"),
        ("pdl1-22c3-hnscc", PdL1Cells(99, 99), None),
    ],
)
def test_the_rule_belongs_to_clone_and_indication(guideline, cells, category):
    rule = load_guideline(guideline)
    assert judge_pdl1(cells, rule).category == category
    assert (rule["clone"], bool(rule["indication"])) == ("22C3", True)


@pytest.mark.parametrize(
    ("area", "immune"),
    [("0.99", "IC0"), ("1", "IC1"), ("4.99", "IC1"), ("5", "IC2"), ("9.99", "IC2"), ("10", "IC3")],
)
def test_sp142_classes_have_their_bounds(area, immune):
    assert immune_class(Fraction(area), load_guideline("pdl1-sp142-nsclc")) == immune


@pytest.mark.parametrize(
    ("indication", "tumour", "area", "category"),
    [
        ("urothelial", None, "5", "criterion met"),
        ("urothelial", "100", "4.99", "criterion not met"),
        ("urothelial", "100", None, None),
        ("nsclc", "50", None, "criterion met"),
        ("nsclc", "49.9", "10", "criterion met"),
        ("nsclc", "49.9", "9.9", "criterion not met"),
        ("nsclc", "49.9", None, None),
        ("nsclc", None, "9.9", None),
    ],
)
def test_sp142_is_met_by_either_and_withheld_where_the_other_is_missing(indication, tumour, area, category):
    rule = load_guideline(f"pdl1-sp142-{indication}")
    found = sp142_verdict(tumour and Fraction(tumour), area and Fraction(area), rule)
    assert found.category == category
    assert (found.urgency == "unevaluable") is (category is None)


def test_an_area_rule_scores_no_cells():
    with pytest.raises(RequestError, match="SP142"):
        judge_pdl1(PdL1Cells(100, 1), load_guideline("pdl1-sp142-nsclc"))


def test_what_is_not_confirmed_is_said():
    assert load_guideline("pdl1-22c3-hnscc").use("categories").unverified == ("categories",)
    assert "intense_incomplete_is_2+" in HER2.use().unverified
    assert "levels" in load_guideline("ki67-ikwg-2021").use("levels").unverified


def test_a_cut_off_is_the_number_that_is_written():
    assert exact(0.1) == Fraction(1, 10)
    assert exact("100/3") * 3 == 100


def test_every_guideline_of_ours_can_be_used_and_every_marker_has_one():
    assert len(OURS) >= 17
    for name in OURS:
        assert load_guideline(name).use().source
    for name in known_markers():
        assert (marker_of(name).guideline in OURS) is (name != "generic")


def test_a_guideline_without_an_end_is_refused_where_it_says_nothing():
    text = "name: x\nversion: '1'\nsource: s\nvalues: {categories: [{name: low, below: 5}]}"
    rule = read_guideline("own", text, "own.yaml")
    assert band_of(Fraction(4), rule).category == "low"
    with pytest.raises(RequestError, match="no category"):
        band_of(Fraction(5), rule)
    with pytest.raises(RequestError):
        percent(5, 4)


def test_the_default_thresholds_are_those_of_the_guideline():
    assert list(IhcScoreSettings().thresholds) == load_guideline("intensity-qupath")["thresholds"]
