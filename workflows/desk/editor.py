"""Correcting: what a person does to the slide on the desk becomes corrections of its session."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.desk.correct_panel import EXCLUDE_REASONS, REJECT_REASONS, Question
from coverslip.workflows.desk.drawn import new_id, polygon_of
from coverslip.workflows.desk.stage import EXCLUDE_COLOUR, REGION_COLOUR
from coverslip.workflows.desk.table import Table
from coverslip.workflows.review.corrections import (
    ChangeCall,
    DrawRegion,
    Exclude,
    RejectFinding,
    Relabel,
    areas_of,
)

TUMOUR = "tumour"


class Editor:
    """The tools, and the questions that come with them."""

    def __init__(self, desk: Table):
        self.desk, self._tool = desk, ""

    def give_class(self, number: int) -> None:
        """To what the lasso holds, else to what is selected; else it is what the next lasso gives."""
        opened, session = self.desk.opened, self.desk.session
        of = self.desk.giving
        if opened is None or session is None or number >= len(self.desk.labels(of)):
            return
        label = self.desk.labels(of)[number]
        self.desk.correct.show_active(self.desk.active)
        if self.desk.lasso:
            rows, self.desk.lasso = self.desk.lasso, ()
            self.desk.correct.question.drop()
            self._end_lasso()
            session.correct(Relabel(of=of, rows=rows, label=label))
        elif self.desk.target is not None:
            if self.desk.class_of(self.desk.target) != label:
                session.correct(Relabel(of=of, rows=(self.desk.target.row,), label=label))
        else:
            self.desk.active = None if self.desk.active == number else number
            self.desk.correct.show_active(self.desk.active)

    def use_tool(self, name: str) -> None:
        """One of `correct_panel.TOOLS`, or "look"."""
        if self.desk.session is None or self.desk.stage is None:
            return
        self.desk.correct.question.drop()
        if name in ("lasso", "region", "exclude", "edit"):
            self.desk.tabs.setCurrentWidget(self.desk.correct)
            self.desk.correct.show_tool(name)
        self._tool = name
        if name == "lasso":
            self.desk.point_at(None)
            self.desk.stage.frame(())
            self.desk.stage.draw_lasso()
        elif name in ("region", "exclude"):
            self.desk.stage.draw_area(REGION_COLOUR if name == "region" else EXCLUDE_COLOUR)
        elif name == "edit":
            self.desk.stage.edit_areas()
        elif name == "reject":
            self._ask_reject()
        elif name == "call":
            self._ask_call()
        else:
            self.look_again()

    def look_again(self) -> None:
        """No tool, no question, nothing selected with the lasso."""
        self.desk.correct.question.drop()
        self.desk.lasso = ()
        self.desk.correct.show_tool(None)
        if self.desk.stage is not None:
            self.desk.stage.clear_lasso()
            self.desk.stage.look()

    def take_lasso(self, ring: NDArray[np.float64]) -> None:
        """Holds the cells whose middle is in it; tiles where these are given classes."""
        opened, stage, known = self.desk.opened, self.desk.stage, self.desk.known
        if opened is None or stage is None or known is None:
            self.look_again()
            return
        self.desk.point_at(None)
        corners = np.array([stage.world.place(float(y), float(x)) for y, x in ring[:, -2:]])
        rows, what = known.inside(opened.of, corners), opened.of
        if not rows:
            self.desk.correct.say(f"No {what[:-1]} lies in the lasso.")
            self._end_lasso()
            return
        counted = f"{len(rows)} {what if len(rows) > 1 else what[:-1]}"
        self.desk.lasso = rows
        if self.desk.active is not None:
            self.give_class(self.desk.active)
            return
        self._ask(
            Question(
                f"{counted} in the lasso: press the number of their class, or choose it.",
                opened.labels,
                "Give this class",
                lambda label: self.give_class(opened.labels.index(label)),
                self._drop_lasso,
                free=False,
            )
        )

    def _drop_lasso(self) -> None:
        self.desk.lasso = ()
        self._end_lasso()

    def _end_lasso(self) -> None:
        if self.desk.stage is not None:
            self.desk.stage.clear_lasso()
            self.desk.stage.look()
        self.desk.correct.show_tool(None)

    def take_outline(self, ring: NDArray[np.float64]) -> None:
        """A new area: what it is has to be said."""
        stage, session = self.desk.stage, self.desk.session
        if stage is None or session is None:
            return
        geometry = polygon_of([ring], stage.world)
        if geometry is None:
            self._restore_areas()
            return
        exclude = self._tool == "exclude"
        stage.look()
        self.desk.correct.show_tool(None)

        def save(text: str) -> None:
            if exclude:
                session.correct(Exclude(id=new_id(), geometry=geometry, why=text))
            else:
                session.correct(DrawRegion(id=new_id(), label=text, geometry=geometry))

        self._ask(
            Question(
                "Why does nothing in this area count?" if exclude else "What is this region?",
                EXCLUDE_REASONS if exclude else (TUMOUR, "stroma", "necrosis", "note"),
                "Exclude it" if exclude else "Keep the region",
                save,
                self._restore_areas,
            )
        )

    def _restore_areas(self) -> None:
        if self.desk.stage is not None and self.desk.session is not None:
            self.desk.stage.show_areas(areas_of(self.desk.session.state.corrections))

    def take_edits(self, corrections: tuple[Any, ...]) -> None:
        if self.desk.session is not None:
            self.desk.session.correct(*corrections)

    def _ask_reject(self) -> None:
        line, session = self.desk.findings.selected(), self.desk.session
        if line is None or line.kind != "finding" or line.rejected or session is None:
            self.desk.tabs.setCurrentWidget(self.desk.findings)
            self.desk.banner.say("Select the finding that does not hold, then reject it.", plain=True)
            return

        def save(text: str) -> None:
            session.correct(RejectFinding(finding=line.name, why=text))

        self._ask(Question(f"Why does “{line.name}” not hold?", REJECT_REASONS, "Reject it", save, _nothing))

    def _ask_call(self) -> None:
        session, opened = self.desk.session, self.desk.opened
        if session is None or opened is None or opened.base is None:
            return

        def name(category: str) -> None:
            def save(text: str) -> None:
                session.correct(ChangeCall(category=category, why=text))

            self._ask(Question(f"Why is it {category}?", (), "Change the call", save, _nothing))

        self._ask(Question("What do you call the slide?", self._categories(), "Next: why", name, _nothing))

    def _categories(self) -> tuple[str, ...]:
        """Those of the guideline that was used."""
        assert self.desk.opened is not None
        assert self.desk.opened.base is not None
        found: dict[str, None] = {}
        for use in self.desk.opened.base.result.guidelines:
            listed = use.cut_offs.get("categories", ())
            for one in listed if isinstance(listed, list | tuple) else ():
                if isinstance(one, dict) and "name" in one:
                    found[str(one["name"])] = None
        return tuple(found)

    def _ask(self, question: Question) -> None:
        self.desk.tabs.setCurrentWidget(self.desk.correct)
        self.desk.correct.question.ask(question)

    def undo(self) -> None:
        if self.desk.session is not None:
            self.desk.session.undo()

    def redo(self) -> None:
        if self.desk.session is not None:
            self.desk.session.redo()

    def adopt(self, name: str) -> None:
        if self.desk.session is not None:
            self.desk.session.adopt(name)


def _nothing() -> None:
    """What was asked is simply not done."""
