"""Rules of histology: the values that were published, and their edges."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from coverslip.errors import RequestError
from coverslip.workflows.rules.gleason import grade_group, main_patterns
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.workflows.rules.mitoses import elston_score, field_area_mm2, per_fields, per_mm2
from coverslip.workflows.rules.nodes import deposit_category, possible_categories, stage_of
from coverslip.workflows.rules.stroma import in_steps, stroma_category, stroma_share, stromal_til, til_band

ITC, MICRO, MACRO = "isolated tumour cells", "micrometastasis", "macrometastasis"


@pytest.mark.parametrize(
    ("size", "cells", "category"),
    [
        (0.15, 150, ITC),
        (0.20, None, ITC),
        (0.18, 250, MICRO),
        (2.0, None, MICRO),
        (2.1, None, MACRO),
        (0.0, 0, ITC),
        (0.201, None, MICRO),
        (0.2, 200, ITC),
        (0.2, 201, MICRO),
        (0.3, 100, MICRO),
        (2.1, 100, MACRO),
    ],
)
def test_a_deposit_has_its_category(size: float, cells: int | None, category: str) -> None:
    assert deposit_category(size, cells) == category


def test_a_laboratory_can_read_the_text_that_fits_both_the_other_way() -> None:
    rules = load_guideline("nodes")
    theirs = replace(rules, values={**rules.values, "where_both_fit": "by cells"})
    assert deposit_category(0.3, 100, theirs) == ITC
    assert deposit_category(0.3, 200, theirs) == MICRO
    assert deposit_category(2.1, 100, theirs) == MACRO


@pytest.mark.parametrize(
    ("low", "high", "categories"),
    [
        (0.0, 0.2, (ITC,)),
        (0.0, 0.224, (ITC, MICRO)),
        (0.2, 2.0, (ITC, MICRO)),
        (0.21, 2.0, (MICRO,)),
        (1.9, 2.1, (MICRO, MACRO)),
        (0.1, 3.0, (ITC, MICRO, MACRO)),
        (2.01, 5.0, (MACRO,)),
    ],
)
def test_an_interval_that_crosses_a_cut_off_has_several_categories(low, high, categories) -> None:
    assert possible_categories(low, high) == categories


def test_a_macrometastasis_alone_is_no_single_stage() -> None:
    assert [stage_of(name) for name in (ITC, MICRO, MACRO)] == ["pN0(i+)", "pN1mi", "pN1 or higher"]


@pytest.mark.parametrize(
    ("pair", "group"),
    [
        ((3, 3), 1),
        ((2, 3), 1),
        ((1, 1), 1),
        ((3, 4), 2),
        ((4, 3), 3),
        ((4, 4), 4),
        ((3, 5), 4),
        ((5, 3), 4),
        ((4, 5), 5),
        ((5, 4), 5),
        ((5, 5), 5),
    ],
)
def test_a_gleason_score_has_its_grade_group(pair: tuple[int, int], group: int) -> None:
    assert grade_group(*pair) == group


@pytest.mark.parametrize("pair", [(2, 5), (5, 2), (6, 3), (0, 3)])
def test_a_pair_that_is_in_no_table_has_no_group(pair: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="no grade group"):
        grade_group(*pair)


def test_every_pair_of_the_patterns_in_use_has_a_group_and_worse_is_never_lower() -> None:
    groups = {(a, b): grade_group(a, b) for a, b in product((3, 4, 5), (3, 4, 5))}
    for (a, b), group in groups.items():
        assert all(groups[worse] >= group for worse in groups if worse[0] >= a and worse[1] >= b)


@pytest.mark.parametrize(
    ("areas", "least", "pair"),
    [
        ({3: 6, 4: 3, 5: 1}, None, (3, 4)),
        ({3: 1, 4: 3, 5: 6}, None, (5, 4)),
        ({3: 95, 4: 5}, None, (3, 4)),
        ({3: 95.1, 4: 4.9}, None, (3, 3)),
        ({3: 95.1, 4: 4.9}, 0.0, (3, 4)),
        ({3: 60, 4: 40}, 0.5, (3, 3)),
        ({4: 1}, None, (4, 4)),
        ({3: 1, 4: 1}, None, (4, 3)),
        ({3: 0, 4: 0}, None, None),
        ({}, None, None),
    ],
)
def test_the_main_patterns_are_the_largest(areas, least, pair) -> None:
    assert main_patterns(areas, least) == pair


@pytest.mark.parametrize(
    ("diameter", "area"),
    [(0.40, 0.1257), (0.50, 0.1963), (0.55, 0.2376), (0.59, 0.2734), (0.65, 0.3318), (0.69, 0.3739)],
)
def test_a_field_of_view_has_its_area(diameter: float, area: float) -> None:
    assert field_area_mm2(diameter) == pytest.approx(area, abs=5e-5)


def test_mitoses_per_area_and_per_ten_fields() -> None:
    density = per_mm2(12, 2.0)
    assert density == 6.0
    assert per_fields(density, 0.55) == pytest.approx(14.3, abs=0.05)
    assert per_fields(density, 0.59) == pytest.approx(6 * 2.734, abs=0.001)


def test_elstons_cut_offs_hold_for_ten_fields_of_0_59_mm() -> None:
    ten = 10 * field_area_mm2(0.59)
    assert [elston_score(count / ten) for count in (0, 9.99, 10.01, 19.99, 20.01)] == [1, 1, 2, 2, 3]


def test_lymphocytes_cover_a_share_of_the_stroma_with_them() -> None:
    assert stromal_til(0.3, 2.0) == pytest.approx(15)
    assert stromal_til(0, 2.0) == 0
    assert stromal_til(2.0, 2.0) == 100


@pytest.mark.parametrize(
    ("percent", "band"),
    [(0, "low"), (4.99, "low"), (5, "intermediate"), (29.9, "intermediate"), (30, "high")],
)
def test_lymphocytes_have_a_band(percent: float, band: str) -> None:
    assert til_band(percent) == band


def test_a_laboratory_can_put_a_bound_in_the_lower_band() -> None:
    rules = load_guideline("stil")
    theirs = replace(rules, values={**rules.values, "bound_belongs_to": "lower"})
    assert [til_band(percent, theirs) for percent in (5, 30)] == ["low", "intermediate"]


def test_stroma_is_high_above_half() -> None:
    assert stroma_share(1.0, 1.0) == 50
    assert stroma_share(3.0, 1.0) == 75
    assert [stroma_category(percent) for percent in (0, 50, 50.001, 100)] == [
        "stroma-low",
        "stroma-low",
        "stroma-high",
        "stroma-high",
    ]


@pytest.mark.parametrize(
    ("rule", "percent", "steps"),
    [("stil", 12.4, 10), ("stil", 12.5, 15), ("tsr", 44.9, 40), ("tsr", 45, 50), ("tsr", 0, 0)],
)
def test_shares_are_reported_in_steps(rule: str, percent: float, steps: int) -> None:
    assert in_steps(percent, load_guideline(rule)) == steps


@pytest.mark.parametrize(
    "call",
    [
        lambda: deposit_category(-0.1),
        lambda: deposit_category(float("nan")),
        lambda: deposit_category(0.1, -1),
        lambda: field_area_mm2(0),
        lambda: per_mm2(3, 0),
        lambda: stromal_til(0.1, 0),
        lambda: stromal_til(3, 2),
        lambda: stroma_share(0, 0),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(RequestError):
        call()


def test_what_no_source_confirmed_is_said_where_it_is_used() -> None:
    assert load_guideline("nodes").use().unverified == ("where_both_fit",)
    assert load_guideline("gleason-isup").use("least_share", "by_sum").unverified == ("least_share",)
    assert load_guideline("gleason-isup").use("by_sum").unverified == ()
