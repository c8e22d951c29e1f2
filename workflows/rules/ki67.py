"""Ki-67: the labelling index of all cells counted, and of fields that stand for parts of the tumour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from coverslip.errors import RequestError
from coverslip.workflows.rules.bands import percent


@dataclass(frozen=True, slots=True)
class CountedField:
    """Positive of all nuclei in one field. `weight`: the share of the tumour that it stands for."""

    positive: int
    total: int
    weight: Fraction


def mean_index(fields: Sequence[CountedField]) -> Fraction:
    """Unweighted mean of the fields' labelling indices, %. Raises RequestError without fields."""
    if not fields:
        raise RequestError("labelling index", "has no fields", "count at least one")
    return sum((percent(f.positive, f.total) for f in fields), Fraction()) / len(fields)


def weighted_index(fields: Sequence[CountedField]) -> Fraction:
    """The same, weighed by the share each field stands for; the weights need not add up to 1.

    Raises RequestError when no weight is above 0.
    """
    whole = sum((field.weight for field in fields), Fraction())
    if whole <= 0 or min(field.weight for field in fields) < 0:
        raise RequestError("labelling index", "has no weights", "give shares of the tumour, 0 or more")
    return sum((field.weight * percent(field.positive, field.total) for field in fields), Fraction()) / whole
