"""What napari's Plugins menu opens: the desk in the window that is there, and a button to fill it."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QVBoxLayout, QWidget

from coverslip.errors import CoverslipError, RequestError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.desk.window import desk_of, dock_current

ABOUT = "Choose a run's folder or one result. They can also be dropped on the window."


class StartPanel(QWidget):
    """Docks the desk's panels in the current viewer's window, unless they are there."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        # what napari would hand over keeps its window to itself
        self._desk = desk_of(require("napari").current_viewer())
        self.open = QPushButton("Open a run or a result …")
        self.open.clicked.connect(self._choose)
        self.said = QLabel(ABOUT)
        self.said.setWordWrap(True)
        self.said.setTextFormat(Qt.TextFormat.PlainText)
        layout = QVBoxLayout(self)
        for widget in (self.said, self.open, QLabel(f"<i>{RUO}</i>")):
            layout.addWidget(widget)
        layout.addStretch()

    def _choose(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A run's folder, or one result")
        if not chosen:
            return
        try:
            if not dock_current(Path(chosen)):
                raise RequestError(chosen, "holds no result", "choose the folder a run was written to")
        except CoverslipError as error:
            self._desk.account.refuse(error)
