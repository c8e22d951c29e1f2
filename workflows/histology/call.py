"""What a slide is called: from the tumour that a tile model finds, or by a slide-level model."""

from __future__ import annotations

from collections.abc import Sequence

from coverslip.workflows.foci import Focus
from coverslip.workflows.histology.grade import GROUP, Grade
from coverslip.workflows.histology.reading import ClassedTiles
from coverslip.workflows.histology.roles import Roles
from coverslip.workflows.histology.tumour import Tumour, deposit_categories, known
from coverslip.workflows.result import Call, Finding, Measurement
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline
from coverslip.workflows.rules.nodes import stage_of

NO_TUMOUR, TUMOUR = "no tumour", "tumour"


def not_called(why: str, triage: float | None) -> Call:
    return Call(category=None, text=f"no call: {why}", triage=triage, urgency="unevaluable")


def call_tumour(tumour: Tumour, grade: Grade | None, nodes: Guideline | None) -> Call:
    """By a tile model that knows tumour. `nodes`: the rule for deposits, for a lymph node.

    There is no confidence: a tile's probability is none of the slide. Triage is the largest probability of
    tumour of any tile.
    """
    triage = surest(tumour)
    if not tumour.foci:
        looked = f"no tumour found in {len(tumour.inside)} tiles, {tumour.tissue_mm2:.3g} mm² of tissue"
        category, text = (
            (NO_TUMOUR, looked) if grade is None else (f"{GROUP} {grade.group}", f"benign; {looked}")
        )
        return Call(category=category, text=text, triage=triage, urgency="routine", code=code_of(category))
    category, text = _found(tumour, grade, nodes)
    return Call(category=category, text=text, triage=triage, urgency="urgent", code=code_of(category))


def surest(tumour: Tumour) -> float | None:
    """The largest probability of tumour of any tile; None for a model that knows none."""
    return min(1.0, float(tumour.chance.max(initial=0.0))) if tumour.roles.tumour else None


def _found(tumour: Tumour, grade: Grade | None, nodes: Guideline | None) -> tuple[str, str]:
    first, count = tumour.foci[0], len(tumour.foci)
    share = "" if tumour.fraction is None else f", {100 * tumour.fraction:.2g} % of the tissue"
    many = f"{count} foci, the largest" if count > 1 else "one focus,"
    size = f"{many} {first.extent_mm:.3g} mm across ({known(first)}); {tumour.area_mm2:.3g} mm²{share}"
    if nodes is not None:
        categories = deposit_categories(first, nodes)
        return " or ".join(categories), f"{_staged(first, nodes)}: {size}"
    if grade is not None:
        return f"{GROUP} {grade.group}", f"{grade.text}: {size}"
    return TUMOUR, f"tumour: {size}"


def _staged(focus: Focus, nodes: Guideline) -> str:
    categories = deposit_categories(focus, nodes)
    return " or ".join(f"{name} ({stage_of(name, nodes)})" for name in categories)


def call_main_class(tiles: ClassedTiles, base: Finding) -> Call:
    """By a tile model that knows no tumour: the class that covers most, as the workflow `tiles` calls it."""
    areas = [tiles.area_mm2(tiles.best == number) for number in range(len(tiles.classes))]
    category = tiles.classes[areas.index(max(areas))]
    text = f"{base.text}; whether there is tumour the model cannot tell"
    return Call(category=category, text=text, urgency="attention", code=code_of(category))


def call_slide(
    base: Finding, measurements: Sequence[Measurement], classes: Sequence[str], roles: Roles
) -> Call:
    """By a slide-level model: its likeliest class, as the workflow `slide` calls it.

    Urgent for a class of tumour, routine for another of a model that knows tumour; of one that does not,
    somebody must look. Triage is the probability of tumour.
    """
    chance = probabilities(measurements, classes)
    category = max(classes, key=lambda name: chance[name])
    urgency = "attention" if not roles.tumour else "urgent" if category in roles.tumour else "routine"
    return Call(
        category=category,
        text=base.text,
        confidence=base.confidence,
        triage=slide_triage(chance, roles),
        urgency=urgency,
        code=code_of(category),
    )


def slide_triage(chance: dict[str, float], roles: Roles) -> float | None:
    """The probability of all classes of tumour; None for a model that knows none."""
    return min(1.0, sum(chance[name] for name in roles.tumour)) if roles.tumour else None


def probabilities(measurements: Sequence[Measurement], classes: Sequence[str]) -> dict[str, float]:
    """By class, from the measurements of the workflow `slide`."""
    values = {measured.name: measured.value for measured in measurements}
    return {name: values[f"{name}, probability"] or 0.0 for name in classes}
