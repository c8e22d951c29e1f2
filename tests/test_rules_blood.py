"""Rules of the blood smear: the differential, what is counted apart from it, its flags, and schistocytes."""

from __future__ import annotations

import pytest

from coverslip.errors import RequestError
from coverslip.workflows.rules.differential import (
    Counting,
    Differential,
    Rules,
    differential,
    flags,
    reported,
    verdict,
)
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.workflows.rules.schistocytes import schistocyte_verdict
from coverslip.workflows.scores import wilson

FIVE = ("neutrophils", "lymphocytes", "monocytes", "eosinophils", "basophils")


def counted(*numbers: int, **others: int) -> Differential:
    named = {name.replace("_", " "): number for name, number in others.items()}
    return differential({**dict(zip(FIVE, numbers, strict=True)), **named})


def values(found: Differential) -> list[float]:
    return [100 * part.share.value for part in found.parts if part.share]


def test_one_hundred_white_cells_give_their_shares() -> None:
    """The golden value of the reference."""
    assert values(counted(60, 30, 6, 3, 1)) == [60.0, 30.0, 6.0, 3.0, 1.0, 0.0, 0.0]


def test_each_share_has_the_interval_of_wilson() -> None:
    part = counted(60, 30, 6, 3, 1).parts[0]
    assert part.share == wilson(60, 100)
    assert part.share is not None
    assert (round(100 * part.share.low, 1), round(100 * part.share.high, 1)) == (50.2, 69.1)


def test_simultaneous_intervals_are_those_at_a_share_of_the_error() -> None:
    counts: dict[str, int] = dict(zip(FIVE, (60, 30, 6, 3, 1), strict=True))
    found = differential(counts, Counting(simultaneous=True))
    assert found.parts[0].share == wilson(60, 100, 1 - 0.05 / 7)
    assert all(
        wide.share.low <= one.share.low and one.share.high <= wide.share.high
        for wide, one in zip(found.parts, differential(counts).parts, strict=True)
        if wide.share and one.share
    )


@pytest.mark.parametrize(("cells", "evaluable"), [(99, False), (100, True)])
def test_below_a_hundred_cells_nothing_is_evaluable(cells: int, evaluable: bool) -> None:
    found = counted(cells, 0, 0, 0, 0)
    assert (found.why_not is None) is evaluable
    assert evaluable or flags(found) == ()
    assert verdict(found, flags(found), Rules().guideline).urgency == (
        "attention" if evaluable else "unevaluable"
    )


def test_erythroblasts_smudges_and_platelets_are_not_among_the_white_cells() -> None:
    found = counted(60, 30, 6, 3, 1, erythroblasts=5, smudge_cells=7, platelets=9)
    assert found.total == 100
    assert values(found)[:5] == [60.0, 30.0, 6.0, 3.0, 1.0]
    assert dict(found.apart) == {"erythroblasts": 5, "smudge cells": 7, "platelets": 9}
    assert found.erythroblasts is not None
    assert found.erythroblasts.value == 5.0
    assert found.erythroblasts.low < 5 < found.erythroblasts.high


def test_there_may_be_more_erythroblasts_than_white_cells() -> None:
    found = counted(60, 30, 6, 3, 1, erythroblasts=250)
    assert found.erythroblasts is not None
    assert found.erythroblasts.value == 250
    assert [flag.name for flag in flags(found)] == ["erythroblasts"]


def test_a_normal_differential_has_no_flag_and_an_end_of_a_range_is_normal() -> None:
    for counts in ((60, 30, 6, 3, 1), (75, 20, 5, 0, 0), (52, 36, 10, 0, 2)):
        found = counted(*counts)
        assert flags(found) == ()
        said = verdict(found, (), Rules().guideline)
        assert (said.category, said.urgency) == ("normal differential", "routine")


@pytest.mark.parametrize(
    ("counts", "others", "names", "urgency"),
    [
        ((76, 20, 4, 0, 0), {}, ["neutrophils high"], "attention"),
        ((39, 45, 10, 6, 0), {}, ["neutrophils low"], "attention"),
        ((60, 30, 6, 1, 0), {"immature_granulocytes": 3}, ["immature granulocytes"], "attention"),
        ((60, 30, 6, 2, 0), {"immature_granulocytes": 2}, [], "routine"),
        ((60, 30, 6, 3, 0), {"blasts": 1}, ["blasts"], "urgent"),
        ((20, 30, 6, 3, 0), {"blasts": 41}, ["blasts", "neutrophils low"], "urgent"),
        ((60, 30, 6, 3, 1), {"erythroblasts": 1}, [], "routine"),
        ((60, 30, 6, 3, 1), {"erythroblasts": 2}, ["erythroblasts"], "attention"),
    ],
)
def test_what_is_over_a_cut_off_is_flagged_most_urgent_first(
    counts: tuple[int, ...], others: dict[str, int], names: list[str], urgency: str
) -> None:
    found = counted(*counts, **others)
    raised = flags(found)
    assert [flag.name for flag in raised] == names
    said = verdict(found, raised, Rules().guideline)
    assert said.urgency == urgency
    assert said.category == (f"flagged: {', '.join(names)}" if names else "normal differential")


def test_a_flag_says_when_chance_alone_could_explain_it() -> None:
    near, far = flags(counted(76, 20, 4, 0, 0))[0], flags(counted(95, 3, 2, 0, 0))
    assert "interval reaches the range" in near.text
    assert not any(
        "interval reaches the range" in flag.text for flag in far if flag.name == "neutrophils high"
    )


def test_nothing_is_rounded_before_it_is_compared() -> None:
    """751 of 1,000 are 75.1 %, which is above 75."""
    assert [flag.name for flag in flags(counted(751, 200, 49, 0, 0))] == ["neutrophils high"]
    assert flags(counted(750, 200, 50, 0, 0)) == ()


def test_a_laboratory_counts_more_cells_where_it_says_so() -> None:
    found = differential({"neutrophils": 150}, Counting(least_cells=200))
    assert found.why_not == "insufficient (<200): 150 cells were counted"
    for wrong in ({"least_cells": 0}, {"confidence": 1.0}):
        with pytest.raises(RequestError):
            Counting(**wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError):
        differential({"neutrophils": -1})


def test_no_cells_have_no_shares() -> None:
    found = differential({})
    assert [part.share for part in found.parts] == [None] * 7
    assert found.erythroblasts is None
    assert found.why_not is not None


def test_classes_are_known_by_their_usual_names() -> None:
    known = {
        "IG": "immature granulocytes",
        "band-neutrophil": "neutrophils",
        "RBC": "red",
        "NRBC": "erythroblasts",
    }
    assert {name: reported(name) for name in known} == known
    assert reported("zebra") is None


@pytest.mark.parametrize(
    ("schistocytes", "red", "category", "urgency"),
    [
        (11, 1000, "schistocytes raised", "urgent"),
        (10, 1000, "schistocytes not raised", "routine"),
        (8, 800, None, "unevaluable"),
        (0, 0, None, "unevaluable"),
    ],
)
def test_schistocytes_are_raised_above_one_per_cent_of_a_thousand(
    schistocytes: int, red: int, category: str | None, urgency: str
) -> None:
    """The golden values of the reference."""
    said = schistocyte_verdict(schistocytes, red)
    assert (said.category, said.urgency) == (category, urgency)
    assert category is not None or said.text.startswith("insufficient")


def test_grades_of_schistocytes_and_of_preterm_neonates() -> None:
    graded = [schistocyte_verdict(n, 1000).text.rpartition("(")[2] for n in (9, 10, 20, 21)]
    assert graded == ["1+)", "2+)", "2+)", "3+)"]
    preterm = load_guideline("schistocytes-icsh-2021-preterm")
    assert schistocyte_verdict(50, 1000, preterm).category == "schistocytes not raised"
    assert schistocyte_verdict(51, 1000, preterm).category == "schistocytes raised"


def test_what_no_source_confirmed_is_said() -> None:
    assert set(load_guideline("differential-5-part").unverified) >= {"least_cells", "ranges", "flags"}
    assert load_guideline("schistocytes-icsh-2021").use().unverified == ("grades",)
