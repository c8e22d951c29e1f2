"""Schistocytes: the share of red cells that are fragments. Cut-offs: `guidelines/schistocytes-*.yaml`."""

from __future__ import annotations

from coverslip.workflows.rules.bands import Verdict, band_of, judge_share, percent
from coverslip.workflows.rules.guideline import Guideline, load_guideline

SCHISTOCYTES = "schistocytes-icsh-2021"


def schistocyte_verdict(schistocytes: int, red_cells: int, rules: Guideline | None = None) -> Verdict:
    """Whether the share is raised, and its grade; withheld where too few red cells were counted.

    `red_cells` includes the schistocytes. Raises RequestError for more of these than red cells.

    >>> schistocyte_verdict(11, 1000).category, schistocyte_verdict(10, 1000).category
    ('schistocytes raised', 'schistocytes not raised')
    """
    rules = rules or load_guideline(SCHISTOCYTES)
    verdict = judge_share(schistocytes, red_cells, rules)
    if verdict.category is None:
        return verdict
    grade = band_of(percent(schistocytes, red_cells), rules, "grades").category
    return Verdict(verdict.category, verdict.urgency, f"{verdict.text} ({grade})")
