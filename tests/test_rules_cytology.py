"""The Bethesda System's rules: the golden values of its adequacy, and a category that false positives cannot
give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from coverslip.errors import RequestError
from coverslip.workflows.rules.adequacy import Adequacy, assess_adequacy
from coverslip.workflows.rules.bethesda import (
    OperatingPoint,
    Rate,
    false_positive_tail,
    judge,
    severity,
    triage_score,
    worst_category,
)
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import load_guideline

PUBLISHED = load_guideline("bethesda-2014")
# Whether NILM may be called is a test of its own.
BETHESDA = replace(PUBLISHED, values={**PUBLISHED.values, "largest_unseen_share": 1.0})
POINTS = (
    OperatingPoint("ASC-US", 0.9, Rate(2, 200), None, Rate(60, 100)),
    OperatingPoint("HSIL", 0.6, Rate(1, 200), Rate(3, 60), Rate(20, 40)),
)


def adequacy(cells: int, preparation: str | None = "liquid-based", **more) -> Adequacy:
    return assess_adequacy(BETHESDA, cells=cells, preparation=preparation, **more)  # pyright: ignore


def test_one_cell_short_is_unsatisfactory() -> None:
    assert adequacy(4999).category == "unsatisfactory"
    assert adequacy(5000).category == "satisfactory"


def test_a_count_that_may_hold_others_is_judged_where_both_ends_agree() -> None:
    assert adequacy(4999, share=2 / 3).category == "unsatisfactory"
    assert adequacy(7500, share=2 / 3).category == "satisfactory"
    between = adequacy(7499, share=2 / 3)
    assert between.category is None
    assert "7499" in between.why
    assert "4999" in between.why
    assert adequacy(5000, share=0.1, abnormal=True).category == "satisfactory"


def test_one_abnormal_cell_makes_it_satisfactory() -> None:
    found = adequacy(4999, abnormal=True)
    assert found.category == "satisfactory"
    assert worst_category({"NILM": 4998, "HSIL": 1}, BETHESDA) == "HSIL"


def test_mostly_obscured_is_unsatisfactory() -> None:
    assert adequacy(6000, obscured=0.80).category == "unsatisfactory"
    assert adequacy(6000, obscured=0.75).category == "satisfactory"
    assert adequacy(6000, obscured=0.80, abnormal=True).category == "satisfactory"


def test_an_absent_transformation_zone_is_no_fault() -> None:
    found = adequacy(6000, endocervical=0)
    assert (found.category, found.transformation_zone) == ("satisfactory", False)
    assert adequacy(6000, endocervical=9).transformation_zone is False
    assert adequacy(6000, endocervical=10).transformation_zone is True
    assert adequacy(6000).transformation_zone is None


def test_a_conventional_smear_needs_more() -> None:
    assert adequacy(5500, "conventional").category == "unsatisfactory"
    assert adequacy(8000, "conventional").category == "satisfactory"


def test_fewer_are_enough_only_for_special_populations_and_that_is_unverified() -> None:
    assert adequacy(2000).category == "unsatisfactory"
    assert adequacy(2000, population="special").category == "satisfactory"
    assert adequacy(1999, population="special").category == "unsatisfactory"
    assert "least_cells_special" in BETHESDA.use().unverified


def test_without_a_preparation_it_is_not_judged() -> None:
    found = adequacy(6000, None)
    assert found.category is None
    assert "preparation" in found.why
    assert adequacy(6000, None, obscured=0.9).category == "unsatisfactory"


@pytest.mark.parametrize(
    "wrong",
    [{"cells": -1}, {"cells": 1, "obscured": 1.5}, {"share": 2.0}, {"cells": 1, "preparation": "cell block"}],
    ids=["count", "obscured", "share", "preparation"],
)
def test_what_is_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(RequestError):
        adequacy(**{"cells": 1, **wrong})


def test_categories_have_urgencies_and_codes() -> None:
    urgency = BETHESDA["urgency"]
    assert set(urgency) == {"NILM", *severity(BETHESDA)}
    assert [urgency[name] for name in ("NILM", "ASC-US", "LSIL")] == ["routine", "attention", "attention"]
    urgent = ("ASC-H", "HSIL", "SCC", "AGC", "AIS")
    assert {urgency[name] for name in urgent} == {"urgent"}
    assert code_of("HSIL") == "SNOMED CT 62061000119107"
    assert severity(BETHESDA).index("SCC") > severity(BETHESDA).index("HSIL")


@pytest.mark.parametrize(("cells", "hits", "of"), [(50, 0, 20), (400, 3, 80), (1000, 10, 200)])
def test_false_positives_scatter_as_a_beta_binomial(cells: int, hits: int, of: int) -> None:
    point = OperatingPoint("ASC-US", None, Rate(hits, of), None, Rate(1, 2))
    known = stats.betabinom(cells, hits + 0.5, of - hits + 0.5)
    np.testing.assert_allclose(
        false_positive_tail(cells, point), known.sf(np.arange(cells + 1) - 1), atol=1e-9
    )


def test_milder_cells_add_their_own_false_positives() -> None:
    point = OperatingPoint("HSIL", None, Rate(1, 100), Rate(10, 50), Rate(30, 40))
    rng = np.random.default_rng(0)
    normal = rng.binomial(180, rng.beta(1.5, 99.5, 100_000))
    drawn = normal + rng.binomial(20, rng.beta(10.5, 40.5, 100_000))
    tail = false_positive_tail(200, point, milder=20)
    for x in (2, 5, 10, 15):
        assert tail[x] == pytest.approx((drawn >= x).mean(), abs=0.006)


@pytest.mark.parametrize("cells", [200, 5000])
def test_slides_of_normal_cells_are_called_abnormal_no_more_often_than_stated(cells: int) -> None:
    """The rate of false positives is as uncertain as the cells it was counted on leave it."""
    rng, level = np.random.default_rng(cells), BETHESDA["false_positive_level"]
    drawn = {p.category: rng.binomial(cells, rng.beta(*p.normal.beta, 20_000)) for p in POINTS}
    called = [false_positive_tail(cells, p)[drawn[p.category]] <= level / len(POINTS) for p in POINTS]
    assert np.any(called, axis=0).mean() <= level + 0.005
    # Any cell at all would call nearly every one of them.
    assert (drawn["ASC-US"] > 0).mean() > 0.8
    for n in range(0, 20_000, 2_000):
        found = judge({name: int(counts[n]) for name, counts in drawn.items()}, cells, POINTS, BETHESDA)
        assert (found.category in ("ASC-US", "HSIL")) == any(one[n] for one in called)


def test_the_worst_category_in_excess_is_given() -> None:
    found = judge({"ASC-US": 60, "HSIL": 40}, 400, POINTS, BETHESDA)
    assert found.category == "HSIL"
    assert found.confidence is not None
    assert found.confidence > 0.95
    assert "40 of 400" in found.why


def test_milder_cells_alone_are_not_taken_for_worse() -> None:
    """120 abnormal cells of a milder kind: 5 % of them are taken for HSIL, and that is no HSIL."""
    assert judge({"ASC-US": 72, "HSIL": 8}, 400, POINTS, BETHESDA).category == "ASC-US"
    assert judge({"ASC-US": 4, "HSIL": 12}, 400, POINTS, BETHESDA).category == "HSIL"


def test_no_excess_is_nilm_with_what_would_have_been_seen() -> None:
    found = judge({"ASC-US": 4, "HSIL": 2}, 400, POINTS, BETHESDA)
    assert found.category == "NILM"
    assert found.confidence is not None
    assert 0.5 < found.confidence < 0.95
    seen = found.excesses[0].visible
    assert seen is not None
    more = judge({"ASC-US": round(400 * (0.0125 + 1.5 * seen * 0.6)), "HSIL": 2}, 400, POINTS, BETHESDA)
    assert more.category == "ASC-US"


def test_nilm_is_not_called_where_abnormal_cells_could_hide() -> None:
    assert judge({"ASC-US": 4, "HSIL": 2}, 400, POINTS, BETHESDA).category == "NILM"
    found = judge({"ASC-US": 4, "HSIL": 2}, 400, POINTS, PUBLISHED)
    assert found.category is None
    assert "could miss" in found.why
    assert found.excesses[0].visible > PUBLISHED["largest_unseen_share"]  # pyright: ignore
    sure = OperatingPoint("ASC-US", None, Rate(0, 5000), None, Rate(95, 100))
    assert judge({"ASC-US": 0}, 5000, [sure], PUBLISHED).category == "NILM"
    assert judge({"ASC-US": 50}, 5000, [sure], PUBLISHED).category == "ASC-US"


def test_between_both_there_is_no_category() -> None:
    categories = [judge({"ASC-US": n, "HSIL": 2}, 400, POINTS, BETHESDA).category for n in range(4, 40)]
    first, last = categories.index(None), len(categories) - categories[::-1].index(None)
    assert set(categories[:first]) == {"NILM"}
    assert set(categories[first:last]) == {None}
    assert set(categories[last:]) == {"ASC-US"}


def test_more_cells_to_learn_the_rate_from_show_smaller_excesses() -> None:
    few, many = (
        OperatingPoint("ASC-US", None, rate, None, Rate(60, 100)) for rate in (Rate(1, 100), Rate(10, 1000))
    )
    seen = [judge({"ASC-US": 0}, 2000, [point], BETHESDA).excesses[0].visible for point in (few, many)]
    assert seen[1] is not None
    assert seen[0] is None or seen[1] < seen[0]


def test_no_cells_no_category() -> None:
    found = judge({"ASC-US": 0, "HSIL": 0}, 0, POINTS, BETHESDA)
    assert (found.category, found.confidence) == (None, None)


@pytest.mark.parametrize("observed", [{"ASC-US": 5, "HSIL": 0}, {"ASC-US": -1, "HSIL": 0}])
def test_counts_beyond_the_cells_are_refused(observed: dict[str, int]) -> None:
    with pytest.raises(RequestError):
        judge(observed, 4, POINTS, BETHESDA)


def test_triage_looks_at_the_most_suspicious_and_is_no_category() -> None:
    quiet = {"HSIL": np.full(5000, 0.01), "ASC-US": np.full(5000, 0.1)}
    one = {name: values.copy() for name, values in quiet.items()}
    one["HSIL"][17] = 0.99
    before, _ = triage_score(quiet, BETHESDA)
    after, suspicion = triage_score(one, BETHESDA)
    assert 0 <= before < after <= 1
    assert suspicion.argmax() == 17
    assert triage_score({"HSIL": np.zeros(0)}, BETHESDA)[0] == 0


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(RequestError, match="dust"):
        worst_category({"dust": 1}, BETHESDA)
    assert worst_category({}, BETHESDA) == "NILM"
