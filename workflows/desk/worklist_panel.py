"""The batch as a list: those slides first that want somebody first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor, QKeyEvent, QResizeEvent
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

COLUMNS = ("Slide", "Call, urgency", "Signed by")
SLIDE, CALL, SIGNED = range(len(COLUMNS))
# Widths of the others than the slide's: shares of all, and what the longest word of theirs takes. Nothing is
# left to scroll to, text goes over several lines.
SHARES, LEAST_PX = (0.31, 0.27), (112, 80)
# After these a name may go on in the next line: Qt breaks at blanks alone.
BREAKS = re.compile(r"(?<=[_.\-/\\])(?=\w)")
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
            about = "\n".join(filter(None, (row.id, row.note, row.quality, row.about)))
            for column, text in enumerate(_texts(row)):
                item = QTableWidgetItem(text)
                item.setToolTip(about)
                item.setTextAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
                if column == CALL and row.urgency in URGENT:
                    item.setForeground(QBrush(QColor(URGENT[row.urgency])))
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


def _texts(row: Row) -> tuple[str, str, str]:
    """Of the columns, in lines."""
    return f"{breakable(row.id)}\n{row.quality}", f"{breakable(row.call)}\n{row.urgency}", row.signed


def breakable(name: str) -> str:
    """With places, which are not seen, where a line may end.

    >>> [part for part in breakable("H-11_Ki67.ome.tif").split(chr(0x200B))]
    ['H-', '11_', 'Ki67.', 'ome.', 'tif']
    """
    return BREAKS.sub("\u200b", name)


class _Table(QTableWidget):
    opened = Signal(int)

    def __init__(self, rows: int, columns: int):
        super().__init__(rows, columns)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(True)
        self.setStyleSheet("QTableView::item { padding: 3px; border-bottom: 1px solid #5a626c; }")
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        all_ = self.viewport().width()
        widths = [max(least, int(share * all_)) for share, least in zip(SHARES, LEAST_PX, strict=True)]
        for column, width in zip((SLIDE, CALL, SIGNED), (max(80, all_ - sum(widths)), *widths), strict=True):
            self.setColumnWidth(column, width)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit(self.currentRow())
            return
        super().keyPressEvent(event)
