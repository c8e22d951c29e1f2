"""One result under review by one person: corrections saved as they are made, taken back, and signed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal

from coverslip.errors import RequestError, ResultChangedError, ReviewOpenError
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.chain import Draft, Entry, Person
from coverslip.workflows.review.corrections import ChangeCall, Correction, write_correction
from coverslip.workflows.review.leftovers import clear_leftovers
from coverslip.workflows.review.machine import TABLES, machine_digest, refuse_altered
from coverslip.workflows.review.opinion import Opinion, Step, opinion_of, opinions
from coverslip.workflows.review.presence import (
    Presence,
    all_present,
    announce,
    leave,
    presence_of,
    present,
)
from coverslip.workflows.review.recompute import recompute
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.signature import set_aside_unsigned
from coverslip.workflows.review.trail import Trail
from coverslip.workflows.review.wording import draft_of


class Case:
    """Use `open_case`. Not for several threads at once.

    What a call changes is on disk before it returns, and nothing is written when it raises. Of two processes
    of one reviewer only one goes on: the other is refused with ReviewOpenError at its next change.

    `notes`: what was found and mended when it was opened, sentences for the reviewer.
    """

    def __init__(
        self, base: Base, reviewer: Reviewer, trail: Trail, presence: Presence, notes: tuple[str, ...]
    ):
        self.base, self.reviewer, self.notes = base, reviewer, notes
        self.trail, self._presence = trail, presence
        self.opinion = opinion_of(trail.entries, reviewer.name)
        self._revised: tuple[tuple[Correction, ...], SlideResult] | None = None
        self._closed = False

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """Those that stand, oldest first."""
        return self.opinion.corrections

    @property
    def can_undo(self) -> bool:
        return bool(self.opinion.done)

    @property
    def can_redo(self) -> bool:
        return bool(self.opinion.undone)

    @property
    def others(self) -> tuple[Presence, ...]:
        """Who else has it open."""
        return tuple(one for one in all_present(self.base.home) if one.name != self.reviewer.name)

    @property
    def changed_since_signed(self) -> bool:
        """Whether something else stands than this reviewer signed last."""
        return self.opinion.changed_since

    @property
    def person(self) -> Person:
        return Person(name=self.reviewer.name, role=self.reviewer.role)

    def revised(self) -> SlideResult:
        """The result after the corrections, by the same rules; kept until they change."""
        corrections = self.corrections
        if self._revised is None or self._revised[0] != corrections:
            self._revised = corrections, recompute(self.base, corrections)
        return self._revised[1]

    def correct(self, correction: Correction) -> None:
        """Raises RequestError for a correction that this result has no place for."""
        now = self.revised() if isinstance(correction, ChangeCall) else self.base.result
        self.add(draft_of(self.base, self.corrections, now, correction, self.person))

    def undo(self) -> Correction | None:
        """Take the last step back; its last correction, None where there is none."""
        if not self.opinion.done:
            return None
        step = self.opinion.done[-1]
        self.add(self._turn("undo", "took back", step))
        return step.corrections[-1]

    def redo(self) -> Correction | None:
        """The inverse of `undo`."""
        if not self.opinion.undone:
            return None
        step = self.opinion.undone[-1]
        self.add(self._turn("redo", "made again", step))
        return step.corrections[-1]

    def _turn(self, event: Literal["undo", "redo"], verb: str, step: Step) -> Draft:
        entry = self.trail.entries[step.number - 1]
        before, after = (entry.after, entry.before) if event == "undo" else (entry.before, entry.after)
        what = f"{verb} entry {step.number}: {entry.what}"
        return Draft(event, self.person, what, before, after, details={"entry": step.number})

    def adopt(self, other_name: str) -> tuple[Correction, ...]:
        """Take over what stands of another reviewer, after one's own and as one step; what was taken over.

        Raises RequestError where there is nothing.
        """
        with self.trail.held():
            self.catch_up()
        other = opinion_of(self.trail.entries, other_name)
        if other_name == self.reviewer.name or other.machine != self.opinion.machine or not other.done:
            names = [one.name for one in self.opinions() if one.done and one.name != self.reviewer.name]
            raise RequestError(
                f"the opinion of {other_name}",
                "holds no corrections of this result to take over",
                f"name one of {', '.join(names)}" if names else "nobody else has corrected it",
            )
        documents = tuple(write_correction(one) for one in other.corrections)
        number = len(documents)
        what = f"took over {number} {'correction' if number == 1 else 'corrections'} of {other.name}"
        details = {"of": other.name, "up_to_entry": other.last}
        self.add(Draft("adopt", self.person, what, None, what, "", documents, details))
        return other.corrections

    def opinions(self) -> tuple[Opinion, ...]:
        """Of everybody who has this very result under review, as far as this process has read."""
        found = opinions(self.trail.entries)
        return tuple(one for one in found if one.machine == self.opinion.machine)

    def sign(self, status: Literal["final", "amended"], comment: str) -> Path:
        """The folder of the signed result. Raises NotSignableError with the reason."""
        # Imported here: what draws a report is not needed until somebody signs.
        from coverslip.workflows.review.signing import sign

        return sign(self, status, comment)  # pyright: ignore[reportArgumentType]  # its folder has two names

    def beat(self) -> None:
        """Give a sign of life; once a minute keeps others, on other machines, told."""
        with self.trail.held():
            announce(self.base.home, self.reviewer, self._presence)

    def close(self) -> None:
        """Nothing is lost without it; with it, others are told that this one has left."""
        if self._closed:
            return
        self._closed = True
        with self.trail.held():
            self.trail.refresh()
            if not self._went_on():
                self.trail.add(Draft("close", self.person, "closed the case"))
                leave(self.base.home, self.reviewer)

    def __enter__(self) -> Case:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, draft: Draft) -> Entry:
        """An entry of this reviewer, after whatever others added. Raises ReviewOpenError."""
        with self.trail.held():
            self.catch_up()
            return self.take(draft)

    def take(self, draft: Draft) -> Entry:
        """As `add`, where the trail is held and caught up with."""
        entry = self.trail.add(draft)
        self.opinion = self.opinion.after(entry)
        return entry

    def catch_up(self) -> None:
        """What others added; call while the trail is held. Raises ReviewOpenError."""
        if self._closed:
            raise RequestError(str(self.base.home), "is closed", "open it again")
        self.trail.refresh()
        if self._went_on():
            raise self.gone_on()

    def _went_on(self) -> bool:
        """Whether this reviewer added something that is not shown here."""
        since = self.trail.entries[self.opinion.last :]
        return any(entry.reviewer.name == self.reviewer.name for entry in since)

    def gone_on(self) -> ReviewOpenError:
        return ReviewOpenError(
            str(self.base.home),
            f"was changed by {self.reviewer.name} in another window since what is shown here",
            "open it again: all that was saved there is shown then",
        )


def open_case(home: Path, reviewer: Reviewer, *, anew: bool = False) -> Case:
    """Open a result for review; what this reviewer corrected earlier stands.

    `anew`: begin on a result that changed; what was corrected on the earlier one stays in the trail, and no
    longer counts. Raises ResultChangedError without it, StoreIncompleteError for a result that is not whole,
    TrailAlteredError, and ReviewOpenError where the same reviewer has it open in another process.
    """
    home = Path(home).absolute()
    base = read_base(home)
    refuse_altered(home, base.result, TABLES)
    digest = machine_digest(base.result)
    trail = Trail(home)
    with trail.held():
        trail.refresh()
        clear_leftovers(home)
        left = _refuse_open(home, reviewer)
        earlier = opinion_of(trail.entries, reviewer.name)
        if not anew:
            _refuse_changed(home, earlier, digest)
        presence = present(reviewer)
        notes = (*trail.notes, *set_aside_unsigned(home, trail.entries))
        notes += () if left is None else (f"it was left open: {left}",)
        trail.add(_opening(base, reviewer, earlier, digest, notes))
        announce(home, reviewer, presence)
    return Case(base, reviewer, trail, presence, notes)


def _opening(base: Base, reviewer: Reviewer, earlier: Opinion, digest: str, notes: tuple[str, ...]) -> Draft:
    first = earlier.machine is None
    what = "opened the result" if earlier.machine in (None, digest) else "began anew on a changed result"
    details = {
        "result": digest,
        "slide": {"id": base.result.slide.id, "digest": base.result.slide.digest},
        "tables": {name: base.result.outputs[name] for name in TABLES if name in base.result.outputs},
        "notes": list(notes),
    }
    before = None if first else {"result": earlier.machine}
    person = Person(name=reviewer.name, role=reviewer.role)
    return Draft("open", person, what, before, {"result": digest}, details=details)


def _refuse_open(home: Path, reviewer: Reviewer) -> Presence | None:
    """This reviewer's presence that a killed process left. Raises ReviewOpenError where it is alive."""
    found = presence_of(home, reviewer)
    if found is not None and found.alive:
        raise ReviewOpenError(
            str(home),
            f"is open for {found} (process {found.pid})",
            "close it there; where that machine is gone, wait ten minutes",
        )
    return found


def _refuse_changed(home: Path, earlier: Opinion, digest: str) -> None:
    if earlier.machine not in (None, digest):
        raise ResultChangedError(
            str(home),
            f"was computed again with another outcome since {earlier.name} began to review it",
            "put the earlier result back to go on with that review, or begin anew: what was corrected stays "
            "in the audit trail",
        )
