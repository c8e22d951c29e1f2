"""A result after corrections, by the rules that the machine's was made by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.layout import Layout
from coverslip.workflows.quality import STAIN, evaluated, stain_said_again
from coverslip.workflows.result import Abstention, Call, Measurement, SlideResult
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import Correction
from coverslip.workflows.review.hiding import quality_of, without_hidden
from coverslip.workflows.review.overruling import overruled
from coverslip.workflows.review.revising import labels_of as labels_of
from coverslip.workflows.review.revising import refuse_unfit as refuse_unfit
from coverslip.workflows.review.revising import revision_of
from coverslip.workflows.revision import MACHINE, Objects, Revision
from coverslip.workflows.workflow import Conclusion

ALL_EXCLUDED = "not evaluable: the reviewer excluded all of the tissue"


def standing_labels(base: Base, corrections: tuple[Correction, ...], of: Objects) -> NDArray[np.int32]:
    """(n,): index into `labels_of` of each row after the corrections; -1 for excluded or none.

    Raises RequestError, see `refuse_unfit`.
    """
    table = base.table(of)
    if base.judge is None or table is None or not labels_of(base, of):
        return np.full(0 if table is None else len(table), MACHINE, np.int32)
    revision = revision_of(base, corrections)
    found = base.judge.standing(of, table)
    given, kept = revision.given(of), revision.kept(of)
    if given is not None:
        found = np.where(given == MACHINE, found, given)
    return found if kept is None else np.where(kept, found, MACHINE).astype(np.int32)


def recompute(base: Base, corrections: tuple[Correction, ...]) -> SlideResult:
    """The result after the corrections; () gives the machine's own figures, found again.

    What is on disk, provenance and times stay as they are. Raises RequestError, see `refuse_unfit`.
    """
    revision, layout = revision_of(base, corrections), base.layout
    quality = base.result.quality
    if layout is not None and revision.hidden is not None:
        layout = without_hidden(layout, revision.hidden, base.settings)
        kept = revision.kept("tiles")
        quality = quality_of(quality, layout, quality.tiles if kept is None else int(kept.sum()))
    conclusion = overruled(_concluded(base, layout, revision), corrections, base.judge)
    changes = {
        "summary": conclusion.summary,
        "call": conclusion.call,
        "findings": conclusion.findings,
        "measurements": conclusion.measurements,
        "guidelines": conclusion.guidelines,
        "abstentions": conclusion.abstentions,
        "quality": quality,
    }
    return base.result.model_copy(update=changes)


def _concluded(base: Base, layout: Layout | None, revision: Revision) -> Conclusion:
    if revision.hidden is not None and layout is not None and not _is_anything_left(base, layout, revision):
        return _nothing_left(base.result)
    if base.judge is None or layout is None or not len(layout.plan):
        return _as_it_was(base.result, revision)
    grounds = replace(base.grounds, tissue=layout.tissue)
    found = base.judge.revise(grounds, base.tables, revision)
    doubted = tuple(one for one in base.result.abstentions if one.what == STAIN)
    # What is said of a slide's stain when it is looked at; no rule says it again.
    found = stain_said_again(found, doubted, base.result.quality.stain)
    return evaluated(found, layout.quality, layout.tissue, base.settings.min_evaluable)


def _is_anything_left(base: Base, layout: Layout, revision: Revision) -> bool:
    """Of tissue; and of tiles, where these are what is counted."""
    kept = revision.kept("tiles")
    counted = base.judge is not None and bool(base.judge.labels("tiles"))
    return not layout.tissue.is_empty and (not counted or kept is None or bool(kept.any()))


def _as_it_was(result: SlideResult, revision: Revision) -> Conclusion:
    """Where no rule can say it again."""
    left: tuple[Abstention, ...] = ()
    if revision.hidden is not None:
        why = "the figures still count them: this workflow's cannot be found again without its network"
        left = (Abstention(what="excluded areas", why=why),)
    return Conclusion(
        summary=result.summary,
        measurements=result.measurements,
        findings=result.findings,
        abstentions=(*left, *result.abstentions),
        call=result.call,
        guidelines=result.guidelines,
    )


def _nothing_left(result: SlideResult) -> Conclusion:
    """No figure of any kind."""
    return Conclusion(
        summary=ALL_EXCLUDED,
        measurements=tuple(_not_evaluable(one) for one in result.measurements),
        abstentions=(Abstention(what="everything", why=ALL_EXCLUDED),),
        call=Call(category=None, text=ALL_EXCLUDED, urgency="unevaluable"),
    )


def _not_evaluable(measured: Measurement) -> Measurement:
    return measured.model_copy(update={"value": None, "n": None, "interval": None, "note": ALL_EXCLUDED})
