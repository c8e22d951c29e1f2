"""A case in the window: changes saved one after the other, and the result computed again beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from coverslip.errors import CoverslipError
from coverslip.workflows.desk.background import Background, Latest
from coverslip.workflows.review.case import Case
from coverslip.workflows.review.corrections import Correction, Objects
from coverslip.workflows.review.presence import Presence
from coverslip.workflows.review.recompute import recompute, standing_labels

# A sign of life for those on other machines; a look at who else is there, which reads a few small files.
BEAT_MS, LOOK_MS = 60_000, 3_000


@dataclass(frozen=True, slots=True)
class State:
    """What is saved. `others`: who else has it open; `opinions`: other reviewers with how many corrections.
    `signed_before`: whether this reviewer signed it already."""

    corrections: tuple[Correction, ...]
    can_undo: bool
    can_redo: bool
    others: tuple[Presence, ...]
    opinions: tuple[tuple[str, int], ...]
    signed_before: bool


class Session(QObject):
    """Owns a case; after `close` others are told that this reviewer left.

    `saved`: State, after each change is on disk. `standing`: of each table `of` the class of each row, (n,)
    of `labels_of`; `revised`: SlideResult: both of the newest state only. `refused`: a change that was not
    made, as CoverslipError. `signed`: the folder of the signed result. `met`: State, when somebody else has
    come or left. `touched`: whether anything was changed here since it was opened.
    """

    saved = Signal(object)
    standing = Signal(object)
    revised = Signal(object)
    refused = Signal(object)
    signed = Signal(object)
    met = Signal(object)

    def __init__(self, case: Case, of: Sequence[Objects], parent: QObject | None = None):
        super().__init__(parent)
        self.case = case
        self._of = tuple(of)
        self._changes, self._labels, self._results = Background(self), Latest(self), Latest(self)
        self.state, self.touched = _state(case), False
        self._timers = [self._every(BEAT_MS, self._beat), self._every(LOOK_MS, self._look)]

    @property
    def busy(self) -> bool:
        """Whether something is being saved or computed."""
        return self._changes.busy or self._labels.busy or self._results.busy

    def begin(self) -> None:
        """Say what stands, and compute it."""
        self._say(self.state)

    def correct(self, *corrections: Correction) -> None:
        """Save these, each as an entry of its own."""

        def save() -> State:
            for one in corrections:
                self.case.correct(one)
            return _state(self.case)

        self._do(save)

    def undo(self) -> None:
        self._change(lambda case: case.undo())

    def redo(self) -> None:
        self._change(lambda case: case.redo())

    def adopt(self, name: str) -> None:
        """Take over what another reviewer corrected."""
        self._change(lambda case: case.adopt(name))

    def sign(self, status: Literal["final", "amended"], comment: str) -> None:
        def save() -> Path:
            return self.case.sign(status, comment)

        self._changes.do(save, self._say_signed, self.refused.emit)

    def close(self) -> None:
        """Waits until what was asked for is saved, and closes the case."""
        for timer in self._timers:
            timer.stop()
        self._labels.close()
        self._results.close()
        self._changes.close(finish=True)
        self.case.close()

    def _change(self, change: Callable[[Case], object]) -> None:
        def save() -> State:
            change(self.case)
            return _state(self.case)

        self._do(save)

    def _do(self, save: Callable[[], State]) -> None:
        self.touched = True
        self._changes.do(save, self._say, self._refuse)

    def _refuse(self, error: CoverslipError) -> None:
        """What stands is said again: the window may show what was refused."""
        self.refused.emit(error)
        self._changes.do(lambda: _state(self.case), self._say, self.refused.emit)

    def _say(self, state: State) -> None:
        self.state = state
        self.saved.emit(state)
        base, kinds, corrections = self.case.base, self._of, state.corrections

        def stand() -> dict[Objects, NDArray[np.int32]]:
            return {of: standing_labels(base, corrections, of) for of in kinds}

        self._labels.do(stand, self.standing.emit, self.refused.emit)
        self._results.do(lambda: recompute(base, corrections), self.revised.emit, self.refused.emit)

    def _say_signed(self, folder: Path) -> None:
        self.signed.emit(folder)
        self._changes.do(lambda: _state(self.case), self._say, self.refused.emit)

    def _every(self, ms: int, then: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.timeout.connect(then)
        timer.start(ms)
        return timer

    def _beat(self) -> None:
        self._changes.do(self.case.beat, lambda _: None, self.refused.emit)

    def _look(self) -> None:
        self._changes.do(lambda: self.case.others, self._meet, self.refused.emit)

    def _meet(self, others: tuple[Presence, ...]) -> None:
        """Their signs of life are no news."""
        if [(one.name, one.since) for one in others] != [(o.name, o.since) for o in self.state.others]:
            self.state = replace(self.state, others=others)
            self.met.emit(self.state)


def _state(case: Case) -> State:
    apart = [one for one in case.opinions() if one.name != case.reviewer.name and one.corrections]
    return State(
        case.corrections,
        case.can_undo,
        case.can_redo,
        case.others,
        tuple((one.name, len(one.corrections)) for one in apart),
        bool(case.opinion.signed),
    )
