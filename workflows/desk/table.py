"""What the parts of the desk share: the window's panels, and the slide that lies on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QSplitter, QTabWidget, QWidget

from coverslip.workflows.desk.banner import Banner
from coverslip.workflows.desk.card_panel import CardPanel
from coverslip.workflows.desk.correct_panel import CorrectPanel
from coverslip.workflows.desk.findings_panel import FindingsPanel
from coverslip.workflows.desk.gallery import Gallery
from coverslip.workflows.desk.look_panel import LookPanel
from coverslip.workflows.desk.objects import Known, Target
from coverslip.workflows.desk.opened import Opened
from coverslip.workflows.desk.session import Session
from coverslip.workflows.desk.shown import Shown
from coverslip.workflows.desk.sign_panel import SignPanel
from coverslip.workflows.desk.stage import Stage
from coverslip.workflows.desk.worklist_panel import WorklistPanel
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Objects
from coverslip.workflows.review.recompute import labels_of
from coverslip.workflows.review.reviewer import Reviewer

if TYPE_CHECKING:
    from napari import Viewer

# Widths of the panels' columns; the slide has what is left of 1280 pixels or more.
# Narrow where the window is below `WIDE_PX`.
LEFT_PX, RIGHT_PX, WIDE_PX = 440, 480, 1500
NARROW_LEFT_PX, NARROW_RIGHT_PX = 320, 390


class Table(QObject):
    """`opened`: what is shown; `session`: its corrections, None where it is looked at only.

    `revised`: the result after them; `standing`: of tiles and cells the class of each row, (n,) of
    `labels_of`. `target`: what is selected; `lasso`: rows of the cells or tiles in the lasso; `active`: the
    class that the next lasso gives. `note`: why this slide is looked at, where a queue is walked. `out`: the
    run's folder.
    """

    def __init__(self, viewer: Viewer, reviewer: Reviewer | None):
        super().__init__(viewer.window._qt_window)
        self.viewer, self.reviewer = viewer, reviewer
        self.opened: Opened | None = None
        self.session: Session | None = None
        self.stage: Stage | None = None
        self.known: Known | None = None
        self.revised: SlideResult | None = None
        self.standing: dict[Objects, NDArray[np.int32]] = {}
        self.target: Target | None = None
        self.active: int | None = None
        self.lasso: tuple[int, ...] = ()
        self.out: Path | None = None
        self.note = ""
        self.shown: Shown | None = None
        self._make_panels()

    def _make_panels(self) -> None:
        self.banner, self.worklist, self.look = Banner(), WorklistPanel(), LookPanel()
        self.findings, self.card, self.gallery = FindingsPanel(), CardPanel(), Gallery()
        self.correct, self.sign = CorrectPanel(), SignPanel()
        self.tabs = QTabWidget()
        for title, panel in (("Findings", self.findings), ("Correct", self.correct), ("Sign", self.sign)):
            self.tabs.addTab(panel, title)
        right = QSplitter(Qt.Orientation.Vertical)
        right.addWidget(self.tabs)
        right.addWidget(self.card)
        right.setStretchFactor(0, 1)
        right.setCollapsible(0, False)
        left = QSplitter(Qt.Orientation.Vertical)
        left.addWidget(self.worklist)
        left.addWidget(self.look)
        left.setStretchFactor(0, 1)
        self.docks = {
            "top": self._dock(self.banner, "Coverslip", "top", bare=True),
            "left": self._dock(left, "Worklist and layers", "left"),
            "right": self._dock(right, "Review", "right"),
            "bottom": self._dock(self.gallery, "Gallery", "bottom", bare=True),
        }
        window = self.viewer.window._qt_window
        for dock in window.findChildren(QDockWidget):
            if dock.objectName() in ("layer controls", "layer list"):
                window.tabifyDockWidget(self.docks["left"], dock)
        for corner in (Qt.Corner.BottomLeftCorner, Qt.Corner.BottomRightCorner):
            left_side = corner == Qt.Corner.BottomLeftCorner
            area = (
                Qt.DockWidgetArea.LeftDockWidgetArea if left_side else Qt.DockWidgetArea.RightDockWidgetArea
            )
            window.setCorner(corner, area)
        # napari lays its docks out when the event loop turns next
        QTimer.singleShot(0, self, self._lay_out)
        if self.reviewer is not None:
            self.sign.show_reviewer(self.reviewer)

    def _lay_out(self) -> None:
        """Our list on top of napari's own, and most of the window for the slide."""
        window = self.viewer.window._qt_window
        self.docks["left"].show()
        self.docks["left"].raise_()
        wide = [self.docks["left"], self.docks["right"]]
        widths = [LEFT_PX, RIGHT_PX] if window.width() >= WIDE_PX else [NARROW_LEFT_PX, NARROW_RIGHT_PX]
        window.resizeDocks(wide, widths, Qt.Orientation.Horizontal)

    def _dock(self, widget: QWidget, name: str, area: str, *, bare: bool = False) -> QDockWidget:
        dock = self.viewer.window.add_dock_widget(widget, name=name, area=area, allowed_areas=None)
        if bare:
            dock.setTitleBarWidget(QWidget())
        return dock

    def class_of(self, target: Target) -> str | None:
        """The class a row has now; None for none."""
        standing = self.standing.get(target.of)
        number = -1 if standing is None else int(standing[target.row])
        return self.labels(target.of)[number] if number >= 0 else None

    def labels(self, of: Objects) -> tuple[str, ...]:
        """Classes that cells or tiles of what is open can be given."""
        base = self.opened.base if self.opened is not None else None
        return () if base is None else labels_of(base, of)

    @property
    def giving(self) -> Objects:
        """What the number keys give a class to: what is selected, or what the next lasso holds."""
        if self.target is not None:
            return self.target.of
        return self.opened.of if self.opened is not None else "cells"

    def point_at(self, target: Target | None) -> None:
        """Select it, and offer the classes it can be given."""
        before, self.target = self.giving, target
        if target is None:
            self.card.show_card(None)
        if self.opened is not None and self.giving != before:
            self.correct.show_classes(self.labels(self.giving), self.opened.colours_of(self.giving))

    def refresh(self, name: str) -> None:
        for layer in self.shown.layers if self.shown is not None else ():
            if layer.name == name:
                layer.refresh()
