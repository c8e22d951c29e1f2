"""Oestrogen and progesterone receptor: share of stained tumour nuclei, of any intensity."""

from __future__ import annotations

from coverslip.workflows.rules.bands import Verdict, exact, judge_share, percent
from coverslip.workflows.rules.guideline import Guideline


def receptor_status(positive: int, total: int, guideline: Guideline) -> Verdict:
    """The category with what the guideline asks to be added: a comment, and the state of the controls.

    >>> from coverslip.workflows.rules.guideline import load_guideline
    >>> receptor_status(5, 500, load_guideline("er-asco-cap-2020")).category
    'ER Low Positive'
    """
    verdict = judge_share(positive, total, guideline)
    if verdict.category is None:
        return verdict
    said = [verdict.text]
    if percent(positive, total) <= exact(guideline["controls_at_most"]):
        said.append("state the internal and external controls")
    return Verdict(verdict.category, verdict.urgency, "; ".join(said))
