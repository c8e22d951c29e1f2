"""What is known of the tile or cell that was clicked."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QWidget

from coverslip.workflows.desk.objects import Card
from coverslip.workflows.desk.scrolled import Scrolled

MOST_CLASSES = 6
LEAST_PX = 200
EMPTY = "Click a cell or a tile to see what is known of it; number keys give it another class."


class CardPanel(Scrolled):
    """Class, probabilities, area and score of one object."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(LEAST_PX, parent)
        self.title = QLabel(EMPTY, wordWrap=True)
        self._body = QWidget()
        self.column.setContentsMargins(8, 6, 8, 6)
        self.column.addWidget(self.title)
        self.column.addWidget(self._body)
        self.column.addStretch()
        self._grid = QGridLayout(self._body)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(1, 1)
        self._body.hide()

    def show_card(self, card: Card | None) -> None:
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = item.widget() if item is not None else None
            if widget is not None:
                widget.setParent(None)
                widget.deleteLater()
        self._body.setVisible(card is not None)
        self.title.setText(f"<b>{_escaped(card.title)}</b>" if card else EMPTY)
        if card is None:
            return
        for name, value in card.likely[:MOST_CLASSES]:
            bar = QProgressBar(minimum=0, maximum=1000, value=round(value * 1000), textVisible=True)
            bar.setFormat(f"{value:.1%}")
            self._row(name, bar)
        facts = list(card.facts)
        for n in range(0, len(facts), 2):
            pair = facts[n : n + 2]
            text = "   ".join(f"{name}: {value}" for name, value in pair)
            label = QLabel(text, wordWrap=True, textFormat=Qt.TextFormat.PlainText)
            self._grid.addWidget(label, self._grid.rowCount(), 0, 1, 2)

    def _row(self, name: str, widget: QWidget) -> None:
        at = self._grid.rowCount()
        self._grid.addWidget(QLabel(name, textFormat=Qt.TextFormat.PlainText), at, 0)
        self._grid.addWidget(widget, at, 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
