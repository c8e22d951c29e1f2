"""Text in lists that goes over several lines instead of being cut."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QStyledItemDelegate, QStyleOptionViewItem, QTreeWidget

PADDING_PX = 6


class Wrapped(QStyledItemDelegate):
    """Rows of a tree as high as their text is at the width of its column."""

    def __init__(self, tree: QTreeWidget):
        super().__init__(tree)
        self._tree = tree
        tree.header().sectionResized.connect(lambda *_: tree.scheduleDelayedItemsLayout())

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        tree, text = self._tree, str(index.data(Qt.ItemDataRole.DisplayRole) or "")
        width = tree.columnWidth(index.column())
        item = tree.itemFromIndex(index)
        if item is not None and item.isFirstColumnSpanned():
            width = tree.viewport().width()
        if index.column() == 0:
            width -= tree.indentation() * _depth(index)
        room = QRect(0, 0, max(20, width - PADDING_PX), 10_000)
        metrics = option.fontMetrics if item is None else QFontMetrics(item.font(index.column()))
        height = metrics.boundingRect(room, Qt.TextFlag.TextWordWrap, text).height()
        return QSize(width, height + PADDING_PX // 2)


def _depth(index: QModelIndex | QPersistentModelIndex) -> int:
    """From 1 on."""
    depth, above = 1, index.parent()
    while above.isValid():
        depth, above = depth + 1, above.parent()
    return depth
