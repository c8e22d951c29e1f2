"""The desk of a reviewer: one case at a time in a napari viewer, of a worklist, a review queue, or alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QFileDialog

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows.desk.account import Account
from coverslip.workflows.desk.background import Background
from coverslip.workflows.desk.batch import Row, reviewed_batch
from coverslip.workflows.desk.course import Course
from coverslip.workflows.desk.editor import Editor
from coverslip.workflows.desk.guide import Guide
from coverslip.workflows.desk.keys import layer_keys
from coverslip.workflows.desk.lines import sections_of
from coverslip.workflows.desk.objects import Known, kinds_of
from coverslip.workflows.desk.opened import Opened, open_here
from coverslip.workflows.desk.person import remember
from coverslip.workflows.desk.plan import Plan, home_of
from coverslip.workflows.desk.second import Second
from coverslip.workflows.desk.session import Session
from coverslip.workflows.desk.shortcuts import bind, show_keys, toggle
from coverslip.workflows.desk.shown import Shown
from coverslip.workflows.desk.stage import Stage
from coverslip.workflows.desk.table import Table
from coverslip.workflows.layers import Scene, describe
from coverslip.workflows.outputs import RESULT
from coverslip.workflows.review.reviewer import Reviewer

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class Desk(Table):
    """Opens, walks, signs and closes; `guide` goes to places, `editor` corrects, `account` tells.

    `reviewer` None: nothing is written, and nothing can be corrected. Closing the window closes the case.
    """

    def __init__(self, viewer: Viewer, reviewer: Reviewer | None):
        super().__init__(viewer, reviewer)
        self.second: Second | None = None
        self.course = Course()
        self._asked = 0
        self._unseen: list[Opened] = []
        self._background, self._lists = Background(self), Background(self)
        self.guide = Guide(self)
        self.editor = Editor(self)
        self.account = Account(self, self.guide, self._lists)
        self._connect()
        self.shortcuts = bind(viewer.window._qt_window, self._actions())
        viewer.window._qt_window.installEventFilter(self)

    def _connect(self) -> None:
        self.worklist.chosen.connect(self.open_row)
        self.findings.chosen.connect(self.guide.go_to_line)
        self.gallery.chosen.connect(self.guide.go_to_picture)
        self.correct.classed.connect(self.editor.give_class)
        self.correct.tool.connect(self.editor.use_tool)
        self.correct.undone.connect(self.editor.undo)
        self.correct.redone.connect(self.editor.redo)
        self.sign.signing.connect(self.sign_case)
        self.sign.renamed.connect(self.rename)
        self.banner.adopted.connect(self.editor.adopt)
        self.banner.again.connect(self.open_again)
        self.banner.begun.connect(partial(self.open_again, anew=True))
        self.look.times.connect(self.guide.magnify)
        self.look.second.connect(self.open_second)

    def _actions(self) -> Mapping[str, Callable[[str], object]]:
        """What keys do, by the names of the table of keys."""
        show = self.tabs.setCurrentWidget
        return {
            "toggle": partial(toggle, self.viewer),
            "class": lambda what: self.editor.give_class(int(what) - 1),
            "tool": self.editor.use_tool,
            "times": lambda what: self.guide.magnify(float(what)),
            "step": lambda what: self.step(int(what)),
            "undo": lambda _: self.editor.undo(),
            "redo": lambda _: self.editor.redo(),
            "look": lambda _: self.editor.look_again(),
            "keys": lambda _: show_keys(self.viewer.window._qt_window),
            "sign": lambda _: show(self.sign),
            "findings": lambda _: show(self.findings),
            "gallery": lambda _: self.gallery.list.setFocus(),
            "beside": lambda _: self.open_second(),
            "link": lambda _: self.link_second(),
        }

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Close:
            self.close()
        return False

    def close(self) -> None:
        """Save what was asked for, and let go of the slide. Nothing when done again."""
        self.leave()
        if self.second is not None:
            self.second.close()
            self.second = None
        self._background.close()
        for opened in self._unseen:
            _let_go(opened)
        self._unseen.clear()
        self._lists.close(finish=True)
        self.gallery.close_background()

    @property
    def busy(self) -> bool:
        """Whether something is being opened, saved, computed or read."""
        working = self.session is not None and self.session.busy
        laying = self.shown is not None and self.shown.busy
        return working or laying or self._background.busy or self._lists.busy or self.gallery.busy

    def begin(self, plan: Plan, opened: Opened | Future[Opened] | None = None) -> None:
        """Show what was planned, and what comes first of it: read already, being read, or yet to be read."""
        self.leave()
        self.out, self.course = plan.out, Course(plan.queue)
        self.worklist.show_rows(plan.rows)
        if isinstance(opened, Opened):
            self.show(opened)
        else:
            self.show_path(plan.first, reading=opened)

    def open_row(self, row: Row) -> None:
        """What failed has nothing to show but why."""
        if row.home is None:
            self.banner.say(f"{row.id} has no result: {row.note}")
        elif self.opened is None or row.home != self.opened.home:
            self.show_path(row.home)

    def open_again(self, *, anew: bool = False) -> None:
        """`anew`: on a result that changed, see `open_case`."""
        if self.opened is not None and self.opened.home is not None:
            self.show_path(self.opened.home, anew=anew)

    def show_path(self, path: Path, *, anew: bool = False, reading: Future[Opened] | None = None) -> None:
        """Read in the background, or waited for there; what is shown stays until then."""
        self._asked += 1
        asked, reviewer = self._asked, self.reviewer
        if self.session is not None and self.opened is not None and self.opened.home == path:
            self.leave()
        self.banner.say(f"Opening {path.name} …", plain=True)

        def read() -> Opened:
            opened = open_here(path, reviewer, anew=anew) if reading is None else reading.result()
            self._unseen.append(opened)
            return opened

        def show(opened: Opened) -> None:
            self._unseen.remove(opened)
            if asked != self._asked:
                _let_go(opened)
            else:
                self.show(opened)

        self._background.do(read, show, self.account.refuse)

    def show(self, opened: Opened) -> None:
        self.leave()
        self.opened = opened
        with self._drawn_once():
            self.shown = Shown(self.viewer, opened.scene, self)
            self.shown.drawn.connect(partial(self._begin, opened))
            self.shown.grown.connect(self._list_layers)
            self.viewer.title = f"{opened.scene.title} — {RUO}"
            self.stage = self._stage(opened, self.shown.image)
            self._show_base(opened)

    @contextlib.contextmanager
    def _drawn_once(self) -> Iterator[None]:
        """napari draws the canvas again with each layer; a person sees them all appear."""
        window = self.viewer.window._qt_window
        window.setUpdatesEnabled(False)
        try:
            yield
        finally:
            window.setUpdatesEnabled(True)

    def _list_layers(self) -> None:
        self.look.show_layers(self.viewer, layer_keys(self.viewer.layers))

    def _stage(self, opened: Opened, image: Layer) -> Stage:
        stage = Stage(self.viewer, image, opened.world, self)
        stage.clicked.connect(self.guide.click)
        stage.lassoed.connect(self.editor.take_lasso)
        stage.outlined.connect(self.editor.take_outline)
        stage.edited.connect(self.editor.take_edits)
        stage.magnified.connect(self.account.show_zoom)
        stage.look()
        stage.whole()
        return stage

    def _show_base(self, opened: Opened) -> None:
        """What there is to see of a result before anything is corrected."""
        self.worklist.mark(opened.home)
        self.sign.clear()
        self.card.show_card(None)
        self.gallery.show_pictures("", (), None)
        self._list_layers()
        self.account.show_zoom(self.viewer.scene.camera.zoom)
        self.correct.show_classes(opened.labels, opened.colours)
        self.correct.show_corrections((), can_undo=False, can_redo=False)
        for panel in (self.correct, self.sign):
            panel.setEnabled(opened.case is not None)
        base = opened.base
        if base is None:
            self.findings.show_sections("No result: a slide to look at." if not opened.home else "", ())
            return
        self.known = Known(base, opened.cells.index if opened.cells is not None else None)
        self.revised = base.result
        self.findings.show_sections(base.result.summary, sections_of(base.result, base.result))

    def _begin(self, opened: Opened) -> None:
        """What reads files and computes, once the slide is seen."""
        if opened.base is not None:
            self.guide.show_first(opened.base.result)
        if opened.case is None:
            self.account.say_state(None)
        else:
            self.session = Session(opened.case, kinds_of(opened.case.base), self)
            self.session.saved.connect(self.account.saved)
            self.session.met.connect(self.account.say_state)
            self.session.standing.connect(self.account.stands)
            self.session.revised.connect(self.account.say_revised)
            self.session.refused.connect(self.account.refuse)
            self.session.signed.connect(self._was_signed)
            self.session.begin()
        self.account.read_signatures()
        if self.course:
            self._go_on()

    def leave(self) -> None:
        """Close what is open, if anything is."""
        if self.opened is None:
            return
        self.correct.question.drop()
        session, self.session, opened, self.opened = self.session, None, self.opened, None
        if session is not None:
            session.close()
            session.deleteLater()
        elif opened.case is not None:
            opened.case.close()
        if self.stage is not None:
            self.stage.close()
            self.stage = None
        self.gallery.show_pictures("", (), None)
        if self.shown is not None:
            self.shown.remove()
            self.shown.deleteLater()
            self.shown = None
        self.target = self.revised = self.known = None
        self.standing = {}
        self.lasso, self.active, self.note = (), None, ""
        opened.scene.close()
        if opened.case is not None and opened.home is not None:
            self._list_again(opened.home)

    def _list_again(self, home: Path) -> None:
        """The worklist, on disk and in its panel, with what was reviewed of a result."""
        rows, out = self.worklist.rows, self.out

        def show(found: tuple[Row, ...]) -> None:
            if self.worklist.rows == rows and found != rows:
                self.worklist.show_rows(found)
                self.worklist.mark(self.opened.home if self.opened is not None else None)

        self._lists.do(lambda: reviewed_batch(rows, home, out), show, self.account.refuse)

    def step(self, by: int) -> None:
        """The next or previous suggestion, or slide of the worklist."""
        home = self.opened.home if self.opened is not None else None
        if not self.course:
            self.worklist.step(by, home)
        elif not self.course.step(by):
            self.banner.say("The review queue ends here.", plain=True)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """To where the queue is."""
        one = self.course.now
        assert self.out is not None
        home = home_of(self.out, one)
        if self.opened is None or self.opened.home != home:
            self.show_path(home)
            return
        self.note = self.course.told
        self.guide.go_to_suggestion(one)
        self.account.say_state(self.session.state if self.session is not None else None)

    def rename(self, name: str, role: str) -> None:
        """Another person, or another role: the case is closed and opened in that name."""
        try:
            person = Reviewer(name, role)
        except RequestError as error:
            self.sign.show_refusal(str(error))
            return
        if self.reviewer is None or person == self.reviewer:
            return
        self.reviewer = person
        remember(person)
        self.open_again()

    def sign_case(self, status: Any, comment: str) -> None:
        if self.session is not None:
            self.sign.show_busy()
            self.session.sign(status, comment)

    def _was_signed(self, folder: Path) -> None:
        self.sign.show_signed(folder)
        if self.reviewer is not None:
            remember(self.reviewer)
        self.account.read_signatures()
        if self.opened is not None and self.opened.home is not None:
            self._list_again(self.opened.home)

    def open_second(self) -> None:
        """A slide or result of the person's choice beside this one; again takes it away."""
        if self.second is not None:
            self.second.close()
            self.second = None
            return
        window = self.viewer.window._qt_window
        chosen, _ = QFileDialog.getOpenFileName(window, "Second slide, or the result.json of one")
        if chosen:
            file = Path(chosen)
            path = file.parent if file.name == RESULT else file
            self._background.do(lambda: describe(path), self.put_second, self.account.refuse)

    def put_second(self, scene: Scene) -> None:
        """Right of the slide, in step with it."""
        self.second = Second(self.viewer, scene)

    def link_second(self) -> None:
        """In step, or each by itself."""
        if self.second is not None:
            try:
                self.second.toggle()
            except RequestError as error:
                self.account.refuse(error)


def _let_go(opened: Opened) -> None:
    if opened.case is not None:
        opened.case.close()
    opened.scene.close()
