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
# Texts longer than this stand over all columns, below the name they are of.
SHORT = 24
# Of the columns "Machine" and "Revised": figures and their intervals go over two lines where there are both.
ALONE_PX, BOTH_PX = 126, 112


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
        self.tree.setColumnWidth(1, ALONE_PX)
        self.tree.setColumnWidth(2, BOTH_PX)
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
                item = head.child(n)
                assert item is not None
                item.setFirstColumnSpanned(not (item.text(1) or item.text(2)))
                for text, told in _below(line):
                    _add_below(item, line, text, told, self.font())
        self._fit(any(line.changed for section in sections for line in section.lines))
        self.tree.verticalScrollBar().setValue(at)
        if chosen is not None:
            self.select(chosen.kind, chosen.name)

    def _fit(self, both: bool) -> None:
        """Widths as a person set them stay until there is a column more, or one less."""
        if both == self.tree.isColumnHidden(2):
            self.tree.setColumnHidden(2, not both)
            self.tree.setColumnWidth(1, BOTH_PX if both else ALONE_PX)

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


def _in_columns(line: Line) -> tuple[str, str]:
    """The machine's and the revised text where they fit there; two that are compared stand in one place."""
    both = max(len(line.original), len(line.revised)) <= SHORT
    return line.original if both else "", line.revised if len(line.revised) <= SHORT else ""


def _below(line: Line) -> Iterator[tuple[str, str]]:
    """What stands below a line, and who says so: "machine", "revised", or "reason" of a reviewer."""
    original, revised = _in_columns(line)
    if line.original != original:
        yield line.original, "machine"
    if line.revised != revised:
        yield line.revised, "revised"
    if line.rejected:
        yield f"Rejected: {line.rejected}", "reason"


def _add_below(item: QTreeWidgetItem, line: Line, text: str, told: str, font: QFont) -> None:
    """Over all columns; a click on it is one on the line it is of."""
    below = QTreeWidgetItem(item, [text])
    below.setData(0, LINE, line)
    below.setToolTip(0, text)
    if told == "machine" and line.rejected:
        below.setFont(0, _struck(font))
    if told != "machine":
        below.setForeground(0, QBrush(QColor(CHANGED)))
    if told == "revised":
        below.setFont(0, _bold(font))
    below.setFirstColumnSpanned(True)
    item.setExpanded(True)


def _struck(font: QFont) -> QFont:
    struck = QFont(font)
    struck.setStrikeOut(True)
    return struck


def _item(line: Line, font: QFont) -> QTreeWidgetItem:
    name = (WHERE if line.places else "") + line.name
    item = QTreeWidgetItem([name, *_in_columns(line)])
    item.setData(0, LINE, line)
    for column in range(3):
        item.setToolTip(column, line.note or line.name)
        item.setTextAlignment(column, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    if line.changed:
        item.setForeground(2, QBrush(QColor(CHANGED)))
        item.setFont(2, _bold(font))
    if line.rejected:
        item.setFont(0, _struck(font))
        item.setFont(1, _struck(font))
    if line.kind == "notice":
        slanted = QFont(font)
        slanted.setItalic(True)
        item.setFont(0, slanted)
    return item
