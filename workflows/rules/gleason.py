"""Gleason patterns by area, their score, and the ISUP grade group. Table: `guidelines/gleason-isup.yaml`."""

from __future__ import annotations

from collections.abc import Mapping

from coverslip.errors import RequestError
from coverslip.workflows.rules.guideline import Guideline, load_guideline

GLEASON = "gleason-isup"


def grade_group(primary: int, secondary: int, rules: Guideline | None = None) -> int:
    """The ISUP grade group, 1 to 5, of two Gleason patterns. Raises RequestError for a pair of no group.

    >>> grade_group(3, 4), grade_group(4, 3), grade_group(3, 5)
    (2, 3, 4)
    """
    rules = rules or load_guideline(GLEASON)
    total, known = primary + secondary, rules["patterns"]
    if primary in known and secondary in known:
        if total <= rules["lowest_sum"]:
            return rules["lowest_group"]
        group = rules["by_patterns"].get(f"{primary}+{secondary}", rules["by_sum"].get(total))
        if group is not None:
            return group
    raise RequestError(f"Gleason {primary}+{secondary}", "is in no grade group", f"see {rules.source}")


def main_patterns(
    areas: Mapping[int, float], least_share: float | None = None, rules: Guideline | None = None
) -> tuple[int, int] | None:
    """Primary and secondary pattern: the two of largest area; None where no pattern has any.

    `areas`: pattern → area in any unit. The second must have `least_share` of all (None: the rule's), or else
    the primary is both. Of two of one area the higher comes first.

    >>> main_patterns({3: 6.0, 4: 3.0, 5: 0.1})
    (3, 4)
    >>> main_patterns({3: 9.7, 4: 0.3})
    (3, 3)
    """
    rules = rules or load_guideline(GLEASON)
    least = rules["least_share"] if least_share is None else least_share
    there = sorted(((area, pattern) for pattern, area in areas.items() if area > 0), reverse=True)
    if not there:
        return None
    total = sum(area for area, _ in there)
    primary = there[0][1]
    enough = [pattern for area, pattern in there[1:] if area >= least * total]
    return primary, enough[0] if enough else primary
