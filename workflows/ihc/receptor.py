"""Oestrogen and progesterone receptor: category by share of stained nuclei, H-score, both Allred scores."""

from __future__ import annotations

from coverslip.workflows.ihc.reading import Counted, Judgement, refused, use_of
from coverslip.workflows.result import Measurement
from coverslip.workflows.rules.allred import allred_of_counts
from coverslip.workflows.rules.bands import insufficient
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.rules.receptor import receptor_status

ALLRED = ("allred-registry", "allred-qupath")


def read_receptor(counted: Counted, rule: Guideline) -> Judgement:
    score, marker = counted.score, counted.choices.kind.name
    why = counted.doubt or insufficient(score.total, rule)
    positive = counted.share(
        f"{marker} positive",
        score.positive,
        score.total,
        f"nuclei of any intensity; {counted.bins}",
        code_of(f"{marker} positive"),
        why=why,
    )
    verdict = receptor_status(score.positive, score.total, rule)
    figure = "" if positive.value is None else f" {positive.value:.1f} % ({score.positive} of {score.total})"
    call = counted.call(verdict, marker + figure, code_of(f"{marker} status"))
    bins = [load_guideline(name) for name in ALLRED]
    return Judgement(
        summary=call.text,
        measurements=(
            positive,
            *(_allred(counted, guideline, why) for guideline in bins),
            counted.h_score(why),
            *counted.counts(),
        ),
        call=call,
        guidelines=(
            use_of(rule, "categories", "controls_at_most", "least_cells"),
            *(guideline.use() for guideline in bins),
            counted.thresholds_used(),
        ),
        abstentions=refused(call, f"category of {marker}"),
    )


def _allred(counted: Counted, guideline: Guideline, why: str | None) -> Measurement:
    """Not evaluable on too few nuclei."""
    counts = counted.score.counts
    found = None if why else allred_of_counts(counts, guideline)
    said = "" if found is None else f"; proportion {found.proportion}, intensity {found.intensity}"
    return Measurement(
        name=guideline.name,
        value=None if found is None else found.total,
        unit="1",
        method=f"proportion score and intensity score, 0 or 2 to 8{said}",
        n=counted.score.total,
        note=why,
    )
