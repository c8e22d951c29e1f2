"""Any marker: share of stained nuclei and H-score, without a rule that makes a category of them."""

from __future__ import annotations

from coverslip.workflows.ihc.reading import Counted, Judgement
from coverslip.workflows.result import Abstention


def read_intensity(counted: Counted) -> Judgement:
    settings, score = counted.choices.score, counted.score
    note = None if score.sufficient else f"fewer than {settings.enough_nuclei} nuclei"
    positive = counted.share("positive nuclei", score.positive, score.total, counted.bins, note=note)
    h_score = counted.h_score().model_copy(update={"note": note})
    if score.h_score is None:
        summary = "no nuclei found"
    else:
        doubt = "" if score.sufficient else " (few nuclei)"
        share = f"{positive.value or 0:.1f} % of {score.total} nuclei positive"
        summary = f"{share}, H-score {score.h_score:.0f}{doubt}"
    return Judgement(summary, (positive, h_score, *counted.counts()), abstentions=_abstentions(counted))


def _abstentions(counted: Counted) -> tuple[Abstention, ...]:
    score, settings = counted.score, counted.choices.score
    if counted.doubt is not None or score.sufficient:
        return ()
    if score.total == 0:
        why = "there is tissue, but no nucleus was found in it"
        return (Abstention(what="positive nuclei and H-score", why=why),)
    why = f"{score.total} nuclei were counted, fewer than the {settings.enough_nuclei} asked for"
    return (Abstention(what="reliability of the score", why=why),)
