"""How far the review of one result has come, for its line in a worklist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coverslip.errors import CoverslipError
from coverslip.workflows.outputs import REPORT, REVIEW
from coverslip.workflows.review.signature import SIGNED, Signature, signatures_in
from coverslip.workflows.review.trail import read_trail

# `begun`: opened, not signed; `discordant`: the signed calls of several reviewers differ; `changed`: somebody
# corrected more after signing; `earlier`: signed on a result that has been computed anew since, with another
# outcome; `altered`: the audit trail is not as it was written, so that nothing of it is shown.
State = Literal["none", "begun", "signed", "amended", "discordant", "changed", "earlier", "altered"]


@dataclass(frozen=True, slots=True)
class Signed:
    """`by`, `calls`: of each reviewer's last signature, oldest first. `at`, `report`: of the last of all, the
    report as a path below the result's folder."""

    state: State
    by: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    at: str | None = None
    report: str | None = None


def signed_state(home: Path) -> Signed:
    """Of the result in `home`, by its audit trail."""
    if not (home / REVIEW).is_dir():
        return Signed("none")
    try:
        entries = read_trail(home)
    except CoverslipError:
        return Signed("altered")
    last = tuple(one for one in signatures_in(home, entries) if one.standing)
    if not last:
        return Signed("begun" if entries else "none")
    # Who signed the result that is there now has said all that those of an earlier one could say.
    standing = tuple(one for one in last if one.present) or last
    calls = tuple(one.category or one.summary for one in standing)
    return Signed(
        state=_state(standing),
        by=tuple(one.name for one in standing),
        calls=calls[:1] if len(set(calls)) == 1 else calls,
        at=standing[-1].at,
        report=f"{REVIEW}/{SIGNED}/{standing[-1].folder.name}/{REPORT}",
    )


def _state(standing: tuple[Signature, ...]) -> State:
    """What wants somebody goes before what is settled."""
    if not standing[0].present:
        return "earlier"
    if any(one.changed_since for one in standing):
        return "changed"
    if len({one.category for one in standing}) > 1:
        return "discordant"
    return "amended" if any(one.status == "amended" for one in standing) else "signed"
