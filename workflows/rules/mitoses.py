"""Mitoses per area and per fields of a microscope. Figures: `guidelines/mitoses.yaml`."""

from __future__ import annotations

from math import pi

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline, load_guideline

MITOSES = "mitoses"


def field_area_mm2(diameter_mm: float) -> float:
    """π (d / 2)², of a field of view.

    >>> round(field_area_mm2(0.55), 4)
    0.2376
    """
    if not diameter_mm > 0:
        raise RequestError(f"a field of {diameter_mm} mm", "has no area", "give its diameter in mm")
    return pi * (diameter_mm / 2) ** 2


def per_mm2(mitoses: int, area_mm2: float) -> float:
    """Raises RequestError for no area."""
    if not area_mm2 > 0:
        raise RequestError(f"mitoses in {area_mm2} mm²", "have no density", "give the area looked at")
    return mitoses / area_mm2


def per_fields(density: float, diameter_mm: float, rules: Guideline | None = None) -> float:
    """Mitoses per mm² as mitoses per ten fields (the rule's `fields`) of this diameter.

    >>> round(per_fields(6.0, 0.55), 1)
    14.3
    """
    return density * (rules or load_guideline(MITOSES))["fields"] * field_area_mm2(diameter_mm)


def elston_score(density: float, rules: Guideline | None = None) -> int:
    """1, 2 or 3 by Elston's cut-offs, from mitoses per mm², which are stated for one diameter of field.

    >>> elston_score(2.0), elston_score(6.0), elston_score(8.0)
    (1, 2, 3)
    """
    rules = rules or load_guideline(MITOSES)
    counted = per_fields(density, rules["elston_diameter_mm"], rules)
    low, high = rules["elston"]
    return 1 if counted < low else 2 if counted <= high else 3
