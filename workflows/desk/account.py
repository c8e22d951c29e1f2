"""What is told of the case on the desk: who is at it, what stands, what it comes to, who signed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import CoverslipError
from coverslip.workflows.desk.background import Background
from coverslip.workflows.desk.batch import told
from coverslip.workflows.desk.guide import Guide
from coverslip.workflows.desk.lines import sections_of
from coverslip.workflows.desk.opened import Opened
from coverslip.workflows.desk.place import magnification
from coverslip.workflows.desk.session import State
from coverslip.workflows.desk.table import Table
from coverslip.workflows.desk.tile_map import CLASSES
from coverslip.workflows.layers import CELL_LAYER
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Objects, areas_of
from coverslip.workflows.review.presence import Presence
from coverslip.workflows.review.rejection import rejections
from coverslip.workflows.review.sentence import sentence
from coverslip.workflows.review.signature import Signature, signatures


class Account:
    """Writes into the panels; reads signatures in `background`."""

    def __init__(self, desk: Table, guide: Guide, background: Background):
        self.desk, self._guide, self._background = desk, guide, background

    def refuse(self, error: CoverslipError) -> None:
        """A plain sentence, and what to do."""
        self.desk.banner.say(str(error), retry="open it again" in error.remedy)
        self.desk.correct.say(str(error))
        self.desk.sign.show_refusal(str(error))

    def saved(self, state: State) -> None:
        self.desk.correct.show_corrections(
            [sentence(one) for one in state.corrections], can_undo=state.can_undo, can_redo=state.can_redo
        )
        count = len(state.corrections)
        self.desk.correct.say(f"{count} {'correction stands' if count == 1 else 'corrections stand'}, saved.")
        if self.desk.stage is not None and not self.desk.lasso:
            self.desk.stage.show_areas(areas_of(state.corrections))
        self.say_state(state)
        self.desk.sign.show_what("", signed_before=state.signed_before)

    def say_state(self, state: State | None) -> None:
        """Who else is at it, whose corrections there are, and what was mended when it was opened."""
        opened, session = self.desk.opened, self.desk.session
        if opened is None:
            return
        if opened.problem:
            self.desk.banner.say(opened.problem, retry=True, anew=opened.changed)
            return
        note = self.desk.note
        if state is None or session is None:
            looking = "Looking only: nothing is written." if opened.base is not None else ""
            self.desk.banner.say(note or looking or opened.scene.title, plain=True)
            return
        parts = [_told_present(one) for one in state.others]
        parts += [f"{name} made {_times(number)}." for name, number in state.opinions]
        parts += [f"Note: {text}." for text in session.case.notes if not session.touched]
        loud, adopt = bool(parts), next((name for name, _ in state.opinions), "")
        said = parts or [] if note else parts or [f"{opened.scene.title}, reviewed by {self.desk.reviewer}"]
        self.desk.banner.say(" ".join(filter(None, (note, *said))), adopt=adopt, plain=not loud)

    def stands(self, standing: dict[Objects, NDArray[np.int32]]) -> None:
        """Colour the rows that have another class than is shown."""
        opened = self.desk.opened
        if opened is None:
            return
        self.desk.standing = standing
        if "cells" in standing and self.desk.labels("cells"):
            self._colour_cells(opened, standing["cells"], len(self.desk.labels("cells")))
        tiles, now = opened.tiles, standing.get("tiles")
        if tiles is not None and now is not None and tiles.show(opened.labels, opened.machine, now):
            self.desk.refresh(CLASSES)
        if self.desk.target is not None:
            self._guide.show_card(self.desk.target)

    def _colour_cells(self, opened: Opened, standing: NDArray[np.int32], classes: int) -> None:
        if opened.cells is None:
            return
        named = standing >= 0
        shown = opened.cells.classes
        excluded = ~named & (shown >= 0) & (shown < classes)
        rows = np.flatnonzero((named & (shown != standing)) | excluded)
        if len(rows):
            opened.cells.recolour(rows, standing[rows])
            self.desk.refresh(CELL_LAYER)

    def say_revised(self, result: SlideResult) -> None:
        opened, session = self.desk.opened, self.desk.session
        if opened is None or opened.base is None or session is None:
            return
        self.desk.revised = result
        case = session.case
        gone = {name: str(one) for name, one in rejections(case.opinion, case.trail.entries).items()}
        machine = opened.base.result
        summary = machine.summary
        if result.summary != machine.summary:
            summary = f"Revised: {result.summary}\nMachine: {machine.summary}"
        self.desk.findings.show_sections(summary, sections_of(machine, result, gone))
        call = (result.call.category if result.call else None) or "no category"
        count = len(session.state.corrections)
        self.desk.sign.show_what(
            f"You sign: {call}, after {_times(count)}.\n{result.summary}",
            signed_before=session.state.signed_before,
        )

    def read_signatures(self) -> None:
        home = self.desk.opened.home if self.desk.opened is not None else None
        if home is None:
            self.desk.sign.show_opinions(())
            return

        def show(found: tuple[Signature, ...]) -> None:
            if self.desk.opened is not None and self.desk.opened.home == home:
                self.desk.sign.show_opinions([told(one) for one in found])

        self._background.do(lambda: signatures(home), show, self.refuse)

    def show_zoom(self, zoom: float) -> None:
        um = self.desk.stage is not None and self.desk.stage.world.um
        self.desk.look.show_zoom(magnification(zoom) if um else None)


def _told_present(one: Presence) -> str:
    who = f"{one.name} ({one.role})" if one.role else one.name
    since = one.since[:16].replace("T", " ")
    return f"{who} has had this open since {since} UTC on {one.host}; your corrections are kept apart."


def _times(count: int) -> str:
    return f"{count} correction" + ("" if count == 1 else "s")
