"""Findings and the call after a reviewer rejected or changed them, over what the rules come to."""

from __future__ import annotations

from dataclasses import replace

from coverslip.workflows.result import Abstention, Call, Finding, Urgency
from coverslip.workflows.review.corrections import ChangeCall, Correction, RejectFinding
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.tile_judge import CALL
from coverslip.workflows.workflow import Conclusion, Judge


def overruled(conclusion: Conclusion, corrections: tuple[Correction, ...], judge: Judge | None) -> Conclusion:
    """The last word on the call holds. Rejecting the finding that is the slide's call withdraws it."""
    why = {one.finding: one.why for one in corrections if isinstance(one, RejectFinding)}
    found = replace(conclusion, findings=tuple(_marked(one, why) for one in conclusion.findings))
    if CALL in why:
        found = _withdrawn(found, why[CALL])
    changes = [one for one in corrections if isinstance(one, ChangeCall)]
    if not changes:
        return found
    last = changes[-1]
    own = conclusion.call or _called(conclusion)
    if last.category is None:
        return _withdrawn(replace(found, call=own), last.why)
    call = _given(last.category, last.why, own, judge)
    return replace(found, call=call, summary=call.text)


def _marked(finding: Finding, why: dict[str, str]) -> Finding:
    rejected = why.get(finding.name)
    return finding if rejected is None else finding.model_copy(update={"rejected": rejected})


def _called(conclusion: Conclusion) -> Call | None:
    """Of a workflow that gives its call as a finding."""
    found = next((one for one in conclusion.findings if one.name == CALL), None)
    return None if found is None else Call(category=None, text=found.text, confidence=found.confidence)


def _given(category: str, why: str, own: Call | None, judge: Judge | None) -> Call:
    """The reviewer's; the rules' own beside it. Not calibrated, since no probability is known of a person."""
    text = f"{category}, as the reviewer says: {why}; {_own(own)}"
    return Call(
        category=category,
        text=text,
        triage=None if own is None else own.triage,
        urgency=_urgency(category, own, judge),
        code=code_of(category),
    )


def _urgency(category: str, own: Call | None, judge: Judge | None) -> Urgency:
    """The rules' for this category; somebody must look at one that they do not know."""
    known = None if judge is None else judge.urgency_of(category)
    if known is None and own is not None and own.category == category:
        return own.urgency
    return known or "attention"


def _withdrawn(conclusion: Conclusion, why: str) -> Conclusion:
    """No category; what was urgent stays so, until somebody gives another."""
    own = conclusion.call or _called(conclusion)
    text = f"the reviewer withdrew the call: {why}; {_own(own)}"
    urgency: Urgency = "urgent" if own is not None and own.urgency == "urgent" else "unevaluable"
    call = Call(category=None, text=text, triage=None if own is None else own.triage, urgency=urgency)
    left = Abstention(what="call", why=f"the reviewer withdrew it: {why}")
    return replace(conclusion, call=call, summary=text, abstentions=(left, *conclusion.abstentions))


def _own(own: Call | None) -> str:
    if own is None:
        return "the rules give no call"
    if own.category is None or own.text.startswith(own.category):
        return f"the rules say: {own.text}"
    return f"the rules say {own.category}: {own.text}"
