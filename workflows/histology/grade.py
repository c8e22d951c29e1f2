"""Gleason score and ISUP grade group from the areas of patterns."""

from __future__ import annotations

from dataclasses import dataclass

from coverslip.workflows.histology.reading import WEIGHED, Reading, lacking
from coverslip.workflows.histology.tumour import Tumour
from coverslip.workflows.result import Finding, Measurement
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.gleason import grade_group, main_patterns
from coverslip.workflows.rules.guideline import Guideline

SCORE, GROUP = "Gleason score", "ISUP grade group"


@dataclass(frozen=True, slots=True)
class Grade:
    """`patterns`: primary and secondary; None where there is no tumour, which has a group of its own."""

    patterns: tuple[int, int] | None
    group: int

    @property
    def text(self) -> str:
        if self.patterns is None:
            return "benign"
        first, second = self.patterns
        return f"Gleason {first}+{second}={first + second}, {GROUP} {self.group}"


def find_grade(tumour: Tumour, least_share: float | None, rules: Guideline) -> Grade | None:
    """None for a model without patterns, or tumour none of whose tiles has one."""
    if not tumour.roles.gleason:
        return None
    patterns = main_patterns(_areas(tumour), least_share, rules)
    if patterns is not None:
        return Grade(patterns, grade_group(*patterns, rules))
    return None if tumour.foci else Grade(None, rules["benign"])


def _areas(tumour: Tumour) -> dict[int, float]:
    """Area of each pattern, mm²; several classes of one pattern add up."""
    found: dict[int, float] = {}
    for pattern, name in tumour.roles.gleason:
        there = tumour.inside & tumour.tiles.of((name,))
        found[pattern] = found.get(pattern, 0.0) + tumour.tiles.area_mm2(there)
    return found


def read_grade(tumour: Tumour, grade: Grade | None, least_share: float | None, rules: Guideline) -> Reading:
    """Shares of the patterns, score and group. `least_share`: as for `main_patterns`."""
    if not tumour.roles.gleason:
        return lacking(f"{SCORE} and {GROUP}", "Gleason patterns")
    areas = _areas(tumour)
    total = sum(areas.values())
    shares = tuple(
        Measurement(
            name=f"Gleason pattern {pattern}, share of the patterns",
            value=100 * area / total,
            unit="%",
            method=f"{area:.3g} mm²: {WEIGHED}",
        )
        for pattern, area in areas.items()
        if total
    )
    least = rules["least_share"] if least_share is None else least_share
    method = (
        f"the two patterns of largest area, the second with at least {least:.0%} of all, else the first twice"
    )
    found = (Finding(name=SCORE, text=grade.text),) if grade is not None else ()
    return Reading((*shares, *_score(grade, method)), found, guidelines=(rules.use(),))


def _score(grade: Grade | None, method: str) -> tuple[Measurement, ...]:
    if grade is None:
        why = "there is tumour, but of no pattern"
        return tuple(
            Measurement(name=n, value=None, unit="1", method=method, note=why) for n in (SCORE, GROUP)
        )
    group = Measurement(
        name=GROUP,
        value=grade.group,
        unit="1",
        method=method,
        code=code_of(f"{GROUP} {grade.group}"),
    )
    if grade.patterns is None:
        return (group,)
    score = Measurement(
        name=SCORE,
        value=sum(grade.patterns),
        unit="1",
        method=method,
        code=code_of(SCORE),
    )
    return score, group
