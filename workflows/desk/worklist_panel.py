"""The batch as a list: those slides first that want somebody first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor, QKeyEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from coverslip.workflows.desk.batch import Row

COLUMNS = ("Slide", "Call", "Urgency", "Signed by", "Quality")
WIDTHS = (112, 78, 72, 128, 72)
SIGNED = COLUMNS.index("Signed by")
# Readable on napari's dark and light themes; the word says it too.
URGENT = {"urgent": "#ff7f66", "unevaluable": "#c9a0dc", "attention": "#e6a93a"}


# States of a review that somebody has to look at.
WANTING = ("discordant", "altered", "changed", "earlier")


class WorklistPanel(QWidget):
    """`chosen`: a Row that is to be opened."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.rows: tuple[Row, ...] = ()
        self.filter = QLineEdit(
            placeholderText="Filter: slide, call, urgency, name …", clearButtonEnabled=True
        )
        self.filter.textChanged.connect(self._filtered)
        self.table = _Table(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.opened.connect(self._open)
        self.table.cellDoubleClicked.connect(lambda row, _: self._open(row))
        self.count = QLabel()
        self.count.setWordWrap(True)
        layout = QVBoxLayout(self)
        for widget in (self.filter, self.table, self.count):
            layout.addWidget(widget)

    def show_rows(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.table.setRowCount(len(rows))
        for n, row in enumerate(rows):
            texts = (row.id, row.call, row.urgency, row.signed, row.quality)
            about = "\n".join(filter(None, (row.id, row.note, row.quality, row.about)))
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(about)
                if column == 2 and text in URGENT:
                    item.setForeground(QBrush(QColor(URGENT[text])))
                if column == SIGNED and row.state in WANTING:
                    item.setForeground(QBrush(QColor(URGENT["urgent"])))
                self.table.setItem(n, column, item)
        self._filtered(self.filter.text())

    def mark(self, home: Path | None) -> None:
        """Select the slide that is open."""
        for n, row in enumerate(self.rows):
            if row.home is not None and row.home == home:
                self.table.selectRow(n)
                return

    def step(self, by: int, home: Path | None) -> None:
        """Open the next or previous slide in view that has a result."""
        shown = [row for n, row in enumerate(self.rows) if not self.table.isRowHidden(n) and row.home]
        at = next((n for n, row in enumerate(shown) if row.home == home), None)
        to = (0 if by > 0 else len(shown) - 1) if at is None else at + by
        if 0 <= to < len(shown):
            self.chosen.emit(shown[to])

    def _filtered(self, words: str) -> None:
        for n, row in enumerate(self.rows):
            self.table.setRowHidden(n, not row.holds(words))
        shown = sum(row.holds(words) for row in self.rows)
        signed = sum(bool(row.by) for row in self.rows)
        some = "" if shown == len(self.rows) else f", {shown} shown"
        slides = "1 slide" if len(self.rows) == 1 else f"{len(self.rows)} slides"
        self.count.setText(f"{slides}{some}, {signed} signed")

    def _open(self, row: int) -> None:
        if 0 <= row < len(self.rows):
            self.chosen.emit(self.rows[row])


class _Table(QTableWidget):
    opened = Signal(int)

    def __init__(self, rows: int, columns: int):
        super().__init__(rows, columns)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft)
        for column, width in enumerate(WIDTHS):
            self.setColumnWidth(column, width)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit(self.currentRow())
            return
        super().keyPressEvent(event)
