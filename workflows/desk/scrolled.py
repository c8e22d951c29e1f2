"""A panel that scrolls where the window has not enough room for it, instead of making the window higher."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

# What lines of text are higher at the width that a scroll bar leaves.
SPARE_PX = 18


class Scrolled(QScrollArea):
    """Put its widgets into `column`. `least_px`: what is at least seen of it, where there is so much."""

    def __init__(self, least_px: int, parent: QWidget | None = None):
        super().__init__(parent)
        self._least = least_px
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._inside = QWidget()
        self.column = QVBoxLayout(self._inside)
        self.setWidget(self._inside)
        self._inside.installEventFilter(self)

    def minimumSizeHint(self) -> QSize:
        inside = self._inside.minimumSizeHint()
        return QSize(inside.width(), min(self._height(), self._least))

    def sizeHint(self) -> QSize:
        return QSize(super().sizeHint().width(), self._height())

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self._inside and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    def _height(self) -> int:
        """Of all that is in it, at the width it has."""
        width = self.viewport().width()
        high = self.column.heightForWidth(width) if self.column.hasHeightForWidth() else -1
        return SPARE_PX + (high if high > 0 else self._inside.minimumSizeHint().height())
