"""Evaluation: figures against reference values, and against the same computed the long way."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from coverslip.errors import RequestError
from coverslip.models.metrics import confusion_matrix, interval_of_mean
from coverslip.workflows.evaluation.agreement import cohen_kappa, quadratic_kappa
from coverslip.workflows.evaluation.answers import Answer, Truth
from coverslip.workflows.evaluation.calibration import measure_calibration
from coverslip.workflows.evaluation.cases import Cases, Choice, gather_cases
from coverslip.workflows.evaluation.classification import confusion_of, figures_of
from coverslip.workflows.evaluation.figure import Figures, Share, measure_all, shares
from coverslip.workflows.evaluation.froc import RATES, Froc, Hits, match_points
from coverslip.workflows.evaluation.lesions import find_lesions, read_lesions
from coverslip.workflows.evaluation.names import match_slides
from coverslip.workflows.evaluation.points import Point
from coverslip.workflows.evaluation.resampling import Resampling, bootstrap
from coverslip.workflows.evaluation.roc import Ranking, area, curve, operating_point, sensitivity_at
from coverslip.workflows.result import Measurement

# One decimal: ties are frequent.
SCORES = st.integers(0, 10).map(lambda tenths: tenths / 10)
CAMELYON_MPP = 0.243


def ones(n: int) -> NDArray[np.intp]:
    return np.ones(n, np.intp)


# FROC

TUMOUR, NORMAL = Hits((0.7,), (0.9, 0.6), 2), Hits((0.8,), (), 0)
MISSED = Hits((0.7,), (0.9, 0.6, 0.0), 3)


@pytest.mark.parametrize(
    ("tumour", "lowest", "score", "sensitivities"),
    [
        (TUMOUR, False, 0.5, [0.5] * 6),
        (TUMOUR, True, 5 / 6, [0.5, 0.5, 1, 1, 1, 1]),
        (MISSED, False, 5 / 9, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3]),
        # The missed lesion, a threshold of 0, is missed there, too.
        (MISSED, True, 5 / 9, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3]),
    ],
)
def test_froc_has_the_reference_values(tumour: Hits, lowest: bool, score, sensitivities) -> None:
    froc = Froc.of([tumour, NORMAL], lowest)
    assert froc.score(ones(2)) == pytest.approx(score, abs=1e-12)
    assert froc.sensitivities(ones(2)) == pytest.approx(sensitivities, abs=1e-12)


def camelyon_curve(hits: list[Hits]) -> tuple[list[float], list[float]]:
    """Threshold by threshold: what the official script does, with the precision it has."""
    false = [score for one in hits for score in one.false]
    best = [np.float32(score) for one in hits for score in one.best]
    thresholds = sorted({*map(float, false), *map(float, best)})[1:]
    rates = [sum(score >= one for score in false) / len(hits) for one in thresholds]
    lesions = sum(one.lesions for one in hits)
    found = [sum(score >= np.float32(one) for score in best) / lesions for one in thresholds]
    return [*rates, 0.0], [*found, 0.0]


@st.composite
def some_hits(draw) -> Hits:
    best = draw(st.lists(SCORES, max_size=4))
    isolated = draw(st.integers(0, 1))
    return Hits(tuple(draw(st.lists(SCORES, max_size=5))), (*best, *[0.0] * isolated), len(best))


@given(
    st.lists(some_hits(), min_size=1, max_size=5).filter(lambda all_of: any(one.lesions for one in all_of))
)
def test_the_curve_is_that_of_the_script_threshold_by_threshold(hits: list[Hits]) -> None:
    rates, found = Froc.of(hits).curve(ones(len(hits)))
    wanted = camelyon_curve(hits)
    assert (rates.tolist(), found.tolist()) == wanted
    score = np.mean(np.interp(RATES, wanted[0][::-1], wanted[1][::-1]))
    assert Froc.of(hits).score(ones(len(hits))) == pytest.approx(score)


@given(
    st.lists(st.tuples(some_hits(), st.integers(0, 3)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_slide_drawn_twice_counts_as_two_slides(drawn: list[tuple[Hits, int]], lowest: bool) -> None:
    hits, times = [one for one, _ in drawn], np.array([often for _, often in drawn])
    repeated = [one for one, often in drawn for _ in range(often)]
    got = Froc.of(hits, lowest).curve(times)
    wanted = Froc.of(repeated, lowest).curve(ones(len(repeated)))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_lesions_froc_is_not_evaluable_and_without_detections_it_is_0() -> None:
    assert math.isnan(Froc.of([NORMAL]).score(ones(1)))
    assert Froc.of([Hits((), (0.0,), 1), Hits((), (), 0)]).score(ones(2)) == 0


# lesions, at level 5 of slides of 0.243 µm/px: 7.776 µm a pixel


def square(*corners: tuple[int, int, int], size: int = 200) -> NDArray[np.bool_]:
    """Squares by top row, left column, side."""
    mask = np.zeros((size, size), bool)
    for top, left, side in corners:
        mask[top : top + side, left : left + side] = True
    return mask


def middle(column: int, row: int) -> tuple[float, float]:
    return (column + 0.5) * 32, (row + 0.5) * 32


@pytest.mark.parametrize(("away", "hit"), [(0, True), (4, True), (5, False)])
def test_a_lesion_reaches_37_5_um_beyond_its_annotation(away: int, hit: bool) -> None:
    """75 / (0.243 · 2⁵ · 2) = 4.82 pixels, so that 4 pixels beside the last one are in and 5 are out."""
    lesions = find_lesions(square((50, 60, 60)), CAMELYON_MPP)
    assert lesions.count == 1
    for x, y in (
        middle(119 + away, 80),
        middle(60 - away, 80),
        middle(80, 50 - away),
        middle(80, 109 + away),
    ):
        assert bool(lesions.at(x, y)) == hit


def test_growth_is_in_um_whatever_the_slide() -> None:
    """At twice the µm/px it reaches half as many pixels: 2.41."""
    lesions = find_lesions(square((50, 60, 60)), 2 * CAMELYON_MPP)
    assert lesions.at(*middle(121, 80))
    assert not lesions.at(*middle(122, 80))


def test_holes_are_filled_and_parts_that_touch_by_a_corner_are_one() -> None:
    ring = square((50, 50, 80)) & ~square((65, 65, 50))
    lesions = find_lesions(ring, CAMELYON_MPP)
    assert lesions.count == 1
    assert lesions.at(*middle(90, 90)) == 1
    # What 4.82 px around these two pixels holds touches by a corner only.
    pair = find_lesions(square((50, 50, 1), (55, 59, 1)), CAMELYON_MPP)
    assert ndimage.label(pair.labels > 0)[1] == 2
    assert pair.count == 1


@pytest.mark.parametrize(("diameter_um", "isolated"), [(190, True), (215, False)])
def test_isolated_tumour_cells_are_below_200_um(diameter_um: float, isolated: bool) -> None:
    """A disc grown by 37.5 µm on each side has a major axis of its diameter and 75 µm; the limit is 275."""
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(y - 100, x - 100) < diameter_um / (CAMELYON_MPP * 32) / 2
    lesions = find_lesions(disc, CAMELYON_MPP)
    assert lesions.small == (frozenset({1}) if isolated else frozenset())


def test_a_hit_on_isolated_cells_is_neither_found_nor_false() -> None:
    lesions = find_lesions(square((20, 20, 60), (150, 150, 3)), CAMELYON_MPP)
    assert (lesions.count, len(lesions.small)) == (2, 1)
    points = [Point(*middle(151, 151), 0.9), Point(*middle(30, 30), 0.4), Point(*middle(40, 40), 0.6)]
    hits = match_points([*points, Point(*middle(120, 120), 0.3)], lesions, "a")
    assert hits == Hits((0.3,), (0.6, 0.0), 1)
    assert match_points(points, None, "a").false == (0.9, 0.4, 0.6)


def test_a_mask_is_looked_at_where_its_lesions_are_and_the_labels_lie_where_they_were() -> None:
    """Against the whole picture, grown, filled and numbered in one piece; lesions at the edge, too."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        places = [(int(y), int(x), int(side)) for y, x, side in rng.integers(0, 90, (4, 3))]
        mask = square(*places, size=100)
        lesions = find_lesions(mask, CAMELYON_MPP)
        grown = ndimage.distance_transform_edt(~mask) < 75 / (CAMELYON_MPP * 32 * 2)
        whole = ndimage.binary_fill_holes(grown)
        assert whole is not None
        got = np.array([[lesions.at(*middle(x, y)) for x in range(100)] for y in range(100)])
        np.testing.assert_array_equal(got > 0, whole)
        assert lesions.count == ndimage.label(whole, np.ones((3, 3)))[1]


def polygons(*squares: tuple[float, float, float], name: str = "Tumor") -> str:
    """Squares by left, top and side in level-0 pixels, as QuPath writes them."""
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "properties": {"classification": {"name": name, "color": [255, 0, 0]}},
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [[[x, y], [x + s, y], [x + s, y + s], [x, y + s], [x, y]]],
                    },
                }
                for x, y, s in squares
            ],
        }
    )


def test_polygons_are_the_lesions_of_the_mask_they_outline(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(polygons((60 * 32, 50 * 32, 60 * 32), (5 * 32, 130 * 32, 40 * 32)))
    drawn = read_lesions(path, CAMELYON_MPP, None, None)
    masked = find_lesions(square((50, 60, 60), (130, 5, 40)), CAMELYON_MPP)
    places = list(itertools.product(range(0, 200, 3), repeat=2))
    inside = [[bool(one.at(*middle(x, y))) for x, y in places] for one in (drawn, masked)]
    assert inside[0] == inside[1]
    assert drawn.count == masked.count == 2


def test_a_polygon_smaller_than_a_pixel_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(polygons((1000.0, 1000.0, 5.0)))
    lesions = read_lesions(path, CAMELYON_MPP, None, "tumor")
    assert (lesions.count, len(lesions.small)) == (1, 1)
    assert lesions.at(1002, 1002) == 1


def test_a_point_outside_the_slide_is_an_error() -> None:
    lesions = find_lesions(square((50, 50, 60)), CAMELYON_MPP)
    with pytest.raises(RequestError, match="outside the slide"):
        match_points([Point(201 * 32 + 1, 5, 0.5)], lesions, "a")
    assert match_points([Point(200 * 32, 5, 0.5)], lesions, "a").false == (0.5,)


# ROC

some_rows = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=30)


def ranking(rows: list[tuple[float, bool]]) -> Ranking:
    return Ranking.of(np.array([score for score, _ in rows]), np.array([positive for _, positive in rows]))


@given(some_rows)
def test_the_area_is_the_share_of_pairs_in_order(rows) -> None:
    high, low = ([score for score, positive in rows if positive is wanted] for wanted in (True, False))
    won = sum((a > b) + (a == b) / 2 for a in high for b in low)
    got = area(ranking(rows), ones(len(rows)))
    if not high or not low:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(won / len(high) / len(low))
        rates = curve(ranking(rows))
        assert np.trapezoid(rates[1], rates[0]) == pytest.approx(got)


@given(some_rows, st.sampled_from([0.0, 0.3, 0.5, 0.55, 0.9, 0.95, 1.0]))
def test_sensitivity_at_a_specificity_is_the_best_of_all_thresholds(rows, specificity: float) -> None:
    high, low = ([score for score, positive in rows if positive is wanted] for wanted in (True, False))
    point = operating_point(ranking(rows), ones(len(rows)), specificity)
    if not high or not low:
        assert point is None
        return
    best = 0.0
    for threshold in [-math.inf, *high, *low]:
        if sum(score <= threshold for score in low) >= specificity * len(low) - 1e-9:
            best = max(best, sum(score > threshold for score in high) / len(high))
    assert point is not None
    assert point.sensitivity == best
    assert point.specificity >= specificity - 1e-9
    assert point.sensitivity == sum(score > point.threshold for score in high) / len(high)
    assert point.specificity == sum(score <= point.threshold for score in low) / len(low)


def test_what_55_of_100_asks_for_is_55() -> None:
    scores = np.concatenate([np.arange(100), [54.5]])
    point = operating_point(Ranking.of(scores, scores == 54.5), ones(101), 0.55)
    assert point is not None
    assert (point.threshold, point.sensitivity, point.specificity) == (54, 1.0, 0.55)


@given(some_rows, st.randoms(use_true_random=False))
def test_weights_repeat_rows(rows, random) -> None:
    times = [random.randint(0, 3) for _ in rows]
    repeated = [row for row, often in zip(rows, times, strict=True) for _ in range(often)]
    if repeated:
        for figure in (area, lambda of, weights: sensitivity_at(of, weights, 0.7)):
            got = figure(ranking(rows), np.array(times))
            wanted = figure(ranking(repeated), ones(len(repeated)))
            assert got == pytest.approx(wanted, nan_ok=True)


# kappa


@pytest.mark.parametrize(
    ("truth", "called", "kappa"),
    [
        ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5), 1.0),
        ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 5, 4), 0.942857),
        ((0, 1, 2, 3, 4, 5), (0, 2, 2, 3, 4, 4), 0.931034),
        ((0, 0, 1, 2, 3, 4, 5, 5), (0, 1, 1, 3, 3, 4, 4, 5), 0.942308),
    ],
)
def test_quadratic_kappa_has_the_reference_values(truth, called, kappa: float) -> None:
    assert quadratic_kappa(confusion_matrix(np.array(truth), np.array(called), 6)) == pytest.approx(
        kappa, abs=5e-7
    )


grades = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30)


@given(grades)
def test_kappa_is_the_disagreement_beside_that_of_rows_shuffled(rows) -> None:
    """Expected disagreement is the mean over all pairs of a truth with a call."""
    truth, called = np.array(rows).T
    counts = confusion_matrix(truth, called, 5)
    for figure, cost in ((quadratic_kappa, lambda a, b: (a - b) ** 2), (cohen_kappa, lambda a, b: a != b)):
        seen = np.mean([cost(a, b) for a, b in rows])
        chance = np.mean([cost(a, b) for a in truth for b in called])
        got = figure(counts)
        assert math.isnan(got) if chance == 0 else got == pytest.approx(1 - seen / chance)


@pytest.mark.parametrize("counts", [np.zeros((3, 3)), np.diag([0, 7, 0])])
def test_kappa_of_one_class_is_not_evaluable(counts) -> None:
    assert math.isnan(quadratic_kappa(counts))
    assert math.isnan(cohen_kappa(counts))


# resampling


def share(right: NDArray[np.bool_], groups: list[str]) -> Measurement:
    one = Share("a", "b", right, np.ones(len(right), bool), "c")
    (found,) = measure_all([shares([one], groups)], Resampling("patient"))
    return found


def test_the_interval_is_that_of_the_mean_over_groups() -> None:
    rng = np.random.default_rng(1)
    right, numbers = rng.random(120) < 0.7, np.repeat(np.arange(30), 4)
    found = share(right, [str(number) for number in numbers])
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(interval_of_mean(right, numbers))
    assert found.interval.method == "percentile bootstrap over 30 patients"


def test_the_interval_is_that_of_the_seed() -> None:
    values = np.random.default_rng(0).random(50)

    def spread(seed: int):
        of = lambda weights: (float((values * weights).sum() / weights.sum()),)  # noqa: E731
        return bootstrap(of, [str(number) for number in range(50)], Resampling("slide", seed))

    assert spread(3) == spread(3)
    assert spread(3) != spread(4)


def test_one_group_has_no_interval_and_figures_that_do_not_vary_say_so() -> None:
    right = np.ones(8, bool)
    alone = share(right, ["p"] * 8)
    assert (alone.value, alone.interval) == (1.0, None)
    assert "two patients" in (alone.note or "")
    full = share(right, list("abcdefgh"))
    assert "Wilson, 95 %, slides taken as independent: 0.676 to 1.000" in (full.note or "")


def test_draws_that_are_not_evaluable_are_counted() -> None:
    """One of eight groups holds the positives: (7/8)⁸ of the draws miss it."""
    rank = Ranking.of(np.arange(8.0), np.arange(8) == 7)
    (spread,) = bootstrap(lambda weights: (area(rank, weights),), list("abcdefgh"), Resampling("slide"))
    assert spread.interval is not None
    lost = int(spread.note.split()[0])
    assert 0.30 < lost / 2000 < 0.39


# cases


def cases_of(rows: list[tuple[str, str | None, float | None]], **choice) -> Cases:
    """Of (truth, prediction, score)."""
    answers = [Answer(str(n), (str(n),), said, score) for n, (_, said, score) in enumerate(rows)]
    truths = [Truth(str(n), truth, str(n)) for n, (truth, _, _) in enumerate(rows)]
    return gather_cases(answers, truths, "slide", Choice(**choice), "a.csv")


def values(figures: tuple[Figures, ...]) -> dict[str, float]:
    return {
        named.name: value
        for one in figures
        for named, value in zip(one.named, one.of(ones(len(one.groups))), strict=True)
    }


def both(cases: Cases) -> tuple[dict[str, float], dict[str, float]]:
    answered, counted = (values(figures_of(cases, (0.5,), as_wrong)) for as_wrong in (False, True))
    assert list(answered) == list(counted)
    return answered, counted


def test_what_is_not_answered_counts_as_the_worst_answer() -> None:
    rows = [
        ("1", "1", 0.9),
        ("1", "0", 0.4),
        ("0", "0", 0.2),
        ("0", "1", 0.6),
        ("1", None, None),
        ("0", None, None),
    ]
    answered, counted = both(cases_of(rows))
    assert (answered["accuracy"], counted["accuracy"]) == (0.5, pytest.approx(2 / 6))
    assert (answered["sensitivity, positive"], counted["sensitivity, positive"]) == (
        0.5,
        pytest.approx(1 / 3),
    )
    assert (answered["specificity, positive"], counted["specificity, positive"]) == (
        0.5,
        pytest.approx(1 / 3),
    )
    assert (answered["AUC"], counted["AUC"]) == (0.75, pytest.approx(3 / 9))
    worst = [(truth, said or ("0" if truth == "1" else "1"), score) for truth, said, score in rows]
    quadratic = "quadratic weighted kappa"
    assert counted[quadratic] == pytest.approx(values(figures_of(cases_of(worst), (), False))[quadratic])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), SCORES), min_size=2, max_size=12))
def test_no_figure_is_better_for_what_was_not_answered(rows) -> None:
    """5 stands for no answer. Kappa is left out: its chance changes, too."""
    said = [
        (str(truth), None if call == 5 else str(call), None if call == 5 else score)
        for truth, call, score in rows
    ]
    if all(one is None for _, one, _ in said):
        return
    order = tuple("01234")
    answered, counted = both(cases_of(said, order=order, positive=("3", "4")))
    for name, value in answered.items():
        if "kappa" not in name and not math.isnan(value) and name != "balanced accuracy":
            assert counted[name] <= value + 1e-12, name


def test_quadratic_kappa_counts_no_answer_as_the_farthest_grade() -> None:
    rows = [(str(truth), str(truth), None) for truth in range(6)]
    said = [*rows, ("1", None, None), ("4", None, None), ("2", None, None)]
    worst = [*rows, ("1", "5", None), ("4", "0", None), ("2", "5", None)]
    name = "quadratic weighted kappa"
    assert both(cases_of(said))[1][name] == pytest.approx(both(cases_of(worst))[0][name])


def test_grades_that_nobody_has_are_still_between_the_others() -> None:
    """0 and 3 are three grades apart, and 3 called 2 is one: as with all six, not as with the ranks."""
    rows = [("0", "0", None), ("0", "3", None), ("3", "3", None), ("3", "2", None)]
    cases = cases_of(rows)
    assert cases.classes == ("0", "1", "2", "3")
    truth, called = np.array([0, 0, 3, 3]), np.array([0, 3, 3, 2])
    wanted = quadratic_kappa(confusion_matrix(truth, called, 6))
    assert both(cases)[0]["quadratic weighted kappa"] == pytest.approx(wanted)


def test_calls_from_a_grade_on_are_counted_at_each_grade() -> None:
    order = ("NILM", "ASC-US", "LSIL", "HSIL")
    rows = [
        ("NILM", "NILM", None),
        ("NILM", "ASC-US", None),
        ("LSIL", "ASC-US", None),
        ("HSIL", "LSIL", None),
    ]
    found = both(cases_of(rows, order=order))[0]
    assert found["sensitivity, ASC-US or above"] == 1
    assert found["specificity, ASC-US or above"] == 0.5
    assert found["sensitivity, LSIL or above"] == 0.5
    assert found["sensitivity, HSIL or above"] == 0
    assert found["specificity, HSIL or above"] == 1


def test_the_confusion_keeps_those_not_answered() -> None:
    counts = confusion_of(cases_of([("a", "a", None), ("a", None, None), ("b", "a", None)]))
    assert counts is not None
    assert counts.tolist() == [[1, 0, 1], [1, 0, 0]]


def test_a_slide_without_a_row_is_kept_and_one_without_truth_is_named() -> None:
    answers = [Answer("a.svs", ("a.svs",), "x"), Answer("c.svs", ("c.svs",), "y"), Answer("d", ("d",), "y")]
    truths = [Truth("a", "x", "p"), Truth("b", "y", "q"), Truth("c.svs", "y", "r")]
    cases = gather_cases(answers, truths, "patient", Choice(), "a.csv")
    assert cases.slides == ("a", "b", "c.svs")
    assert cases.unanswered.tolist() == [False, True, False]
    assert cases.why[1] == "no prediction"
    assert cases.without_truth == ("d",)


def test_a_triage_score_is_ranked_and_not_taken_for_a_probability() -> None:
    answers = [Answer(str(n), (str(n),), "ab"[n % 2], n / 10, triage=True) for n in range(6)]
    truths = [Truth(str(n), "ab"[n % 2], str(n)) for n in range(6)]
    cases = gather_cases(answers, truths, "slide", Choice(positive=("b",)), "out")
    assert "AUC" in both(cases)[0]
    found, (ece, brier) = measure_calibration(cases, 0)
    assert (found, ece.value, brier.value) == (None, None, None)
    assert "triage" in (ece.note or "")


@pytest.mark.parametrize(
    ("scores", "why"), [((0.2, 1.4), "between 0 and 1"), ((0.2, 0.9), None), ((-3.0, 2.0), "between 0 and 1")]
)
def test_scores_are_calibrated_where_they_are_probabilities(scores, why: str | None) -> None:
    cases = cases_of([("0", "0", scores[0]), ("1", "1", scores[1])] * 4)
    found, (ece, _) = measure_calibration(cases, 0)
    if why:
        assert ece.value is None
        assert why in (ece.note or "")
    else:
        assert found is not None
        assert ece.value == pytest.approx((0.2 + 0.1) / 2)


@pytest.mark.parametrize(
    ("rows", "choice", "problem"),
    [
        ([("a", "b", None)], {"order": ("a", "c")}, "--order does not name"),
        ([("a", "b", 0.5)], {}, "--positive"),
        ([("a", "b", 0.5)], {"positive": ("c",)}, "no class c"),
        ([("a", "b", 0.5)], {"positive": ("a", "b")}, "no negative class"),
        ([("a", "a", None)], {}, "one class only"),
        ([("1", None, None), ("900", None, None)], {}, "classes from 1 to 900"),
        ([("a", None, None), ("b", None, None)], {}, "neither predictions nor scores"),
        ([("a", "a", 0.1), ("b", "b", 0.2)], {"positive": ("a",), "threshold": 0.5}, "there are predictions"),
        ([("", "a", None)], {}, "no slide whose truth is known"),
    ],
)
def test_what_makes_no_sense_is_refused(rows, choice, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        cases_of(rows, **choice)


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        (["a.svs", "b"], {"a.svs": ["a.svs"], "b.svs": ["b.svs", "/x/b.svs"]}, ["a.svs", "b.svs"]),
        (["/slides/a.svs"], {"1": ["a.svs"]}, ["1"]),
        (["a.1"], {"a.2": ["a.2"]}, [None]),
        (["a.ome.tif"], {"a": ["a"]}, ["a"]),
        (["a.svs"], {"a.svs": ["a.svs"], "a.tif": ["a.tif"]}, ["a.svs"]),
    ],
)
def test_slides_are_matched_by_name(wanted, there, found) -> None:
    assert match_slides(wanted, there, "x") == found


@pytest.mark.parametrize(
    ("wanted", "there"),
    [(["a"], {"a.svs": ["a.svs"], "a.tif": ["a.tif"]}), (["a", "a.svs"], {"a.svs": ["a.svs"]})],
)
def test_slides_that_are_not_told_apart_are_refused(wanted, there) -> None:
    with pytest.raises(RequestError):
        match_slides(wanted, there, "x")
