"""Findings that a reviewer rejected: why, who says so, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coverslip.workflows.review.chain import Entry
from coverslip.workflows.review.corrections import RejectFinding
from coverslip.workflows.review.opinion import Opinion


@dataclass(frozen=True, slots=True)
class Rejection:
    """`by`: the reviewer; `of`: from whom it was taken over, "" for nobody. `at`: UTC, ISO 8601.

    >>> str(Rejection("hot spot", "fold", "Kim", "2030-01-02T03:04:05.678Z", of="Lee"))
    'fold (Kim, taken over from Lee, 2030-01-02 03:04 UTC)'
    """

    finding: str
    why: str
    by: str
    at: str
    of: str = ""

    def __str__(self) -> str:
        said = [self.by, *([f"taken over from {self.of}"] if self.of else [])]
        return f"{self.why} ({', '.join(said)}, {self.at[:16].replace('T', ' ')} UTC)"


def rejections(opinion: Opinion, entries: Sequence[Entry]) -> dict[str, Rejection]:
    """Those that stand in an opinion, by the finding. `entries`: of the trail it was gone through."""
    found = {}
    for step in opinion.done:
        entry = entries[step.number - 1]
        for one in step.corrections:
            if isinstance(one, RejectFinding):
                of = str(entry.details.get("of", ""))
                found[one.finding] = Rejection(one.finding, one.why, opinion.name, entry.at, of)
    return found
