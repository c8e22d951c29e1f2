"""The structured result: what the machine said, and beside it what holds after corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QBrush, QColor, QFont
from qtpy.QtWidgets import QHeaderView, QLabel, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from coverslip.workflows.desk.lines import Line, Section
from coverslip.workflows.desk.place import Place
from coverslip.workflows.desk.wrapped import Wrapped

COLUMNS = ("", "Machine", "Revised")
CHANGED = "#e6a93a"
LINE = Qt.ItemDataRole.UserRole
WHERE = "↗ "


class FindingsPanel(QWidget):
    """`chosen`: a Line that was clicked, or reached by the arrow keys."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.summary = QLabel(
            wordWrap=True, textInteractionFlags=Qt.TextInteractionFlag.TextSelectableByMouse
        )
        self.tree = QTreeWidget()
        self.tree.setColumnCount(len(COLUMNS))
        self.tree.setHeaderLabels(COLUMNS)
        self.tree.setIndentation(12)
        self.tree.setWordWrap(True)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.tree.setUniformRowHeights(False)
        self.tree.setItemDelegate(Wrapped(self.tree))
        header = self.tree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
        self.tree.setColumnWidth(1, 122)
        self.tree.setColumnWidth(2, 104)
        self.tree.itemClicked.connect(self._clicked)
        self.tree.itemActivated.connect(self._clicked)
        layout = QVBoxLayout(self)
        layout.addWidget(self.summary)
        layout.addWidget(self.tree)

    def show_sections(self, summary: str, sections: Sequence[Section]) -> None:
        """Where it was scrolled to, and what was selected, stays."""
        chosen = self.selected()
        at = self.tree.verticalScrollBar().value()
        self.summary.setText(summary)
        self.tree.clear()
        for section in sections:
            head = QTreeWidgetItem(self.tree, [section.title])
            head.setFirstColumnSpanned(True)
            head.setFont(0, _bold(self.font()))
            head.setFlags(Qt.ItemFlag.ItemIsEnabled)
            for line in section.lines:
                head.addChild(_item(line, self.font()))
            head.setExpanded(True)
            for n, line in enumerate(section.lines):
                if line.kind == "notice":
                    tree_line = head.child(n)
                    assert tree_line is not None
                    tree_line.setFirstColumnSpanned(True)
        changed = any(line.changed for section in sections for line in section.lines)
        self.tree.setColumnHidden(2, not changed)
        self.tree.verticalScrollBar().setValue(at)
        if chosen is not None:
            self.select(chosen.kind, chosen.name)

    def item(self, kind: str, name: str) -> QTreeWidgetItem | None:
        for item in self._items():
            line: Line = item.data(0, LINE)
            if (line.kind, line.name) == (kind, name):
                return item
        return None

    def _items(self) -> Iterator[QTreeWidgetItem]:
        """Of all lines, from the first on."""
        for n in range(self.tree.topLevelItemCount()):
            head = self.tree.topLevelItem(n)
            for m in range(head.childCount() if head is not None else 0):
                item = head.child(m) if head is not None else None
                if item is not None:
                    yield item

    def select(self, kind: str, name: str) -> None:
        """Without going there."""
        item = self.item(kind, name)
        if item is not None:
            self.tree.setCurrentItem(item)
            self.tree.scrollToItem(item)

    def selected(self) -> Line | None:
        item = self.tree.currentItem()
        return item.data(0, LINE) if item else None

    def finding_at(self, x: float, y: float) -> Line | None:
        """The finding with the smallest place that holds a point of level 0."""
        found: list[tuple[float, Line]] = []
        for item in self._items():
            line: Line = item.data(0, LINE)
            if line.kind == "finding":
                found += [(_area(place), line) for place in line.places if place.holds(x, y)]
        return min(found, key=lambda one: one[0])[1] if found else None

    def _clicked(self, item: QTreeWidgetItem) -> None:
        line = item.data(0, LINE)
        if line is not None:
            self.chosen.emit(line)


def _area(place: Place) -> float:
    return place.width * place.height


def _bold(font: QFont) -> QFont:
    bold = QFont(font)
    bold.setBold(True)
    return bold


def _item(line: Line, font: QFont) -> QTreeWidgetItem:
    name = (WHERE if line.places else "") + line.name
    item = QTreeWidgetItem([name, line.original, line.revised])
    item.setData(0, LINE, line)
    for column in range(3):
        item.setToolTip(column, line.note or line.name)
        item.setTextAlignment(column, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    if line.changed:
        item.setForeground(2, QBrush(QColor(CHANGED)))
        item.setFont(2, _bold(font))
    if line.rejected:
        struck = QFont(font)
        struck.setStrikeOut(True)
        item.setFont(0, struck)
        item.setFont(1, struck)
    if line.kind == "notice":
        slanted = QFont(font)
        slanted.setItalic(True)
        item.setFont(0, slanted)
    return item
