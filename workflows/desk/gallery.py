"""Pictures of what decided, side by side; they are read from the slide in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QLabel, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from coverslip.errors import CoverslipError
from coverslip.workflows.desk.background import Background
from coverslip.workflows.desk.objects import Target
from coverslip.workflows.desk.place import Place
from coverslip.wsi import Field, Size, Slide

SIDE_PX = 96
MOST = 60
# What is smaller is shown with this much around it.
LEAST_UM = 40.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One place with what stands under it; `target` where it is a row of a table."""

    place: Place
    caption: str
    target: Target | None = None


class Gallery(QWidget):
    """`chosen`: a Picture that was clicked, or reached by arrow keys. It reads on a thread of its own."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.title = QLabel()
        self.list = QListWidget()
        self.list.setViewMode(QListWidget.ViewMode.IconMode)
        self.list.setFlow(QListWidget.Flow.LeftToRight)
        self.list.setWrapping(False)
        self.list.setMovement(QListWidget.Movement.Static)
        self.list.setIconSize(QSize(SIDE_PX, SIDE_PX))
        self.list.setSpacing(2)
        self.list.setUniformItemSizes(True)
        self.list.setFixedHeight(SIDE_PX + 50)
        self.list.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.currentRowChanged.connect(self._moved)
        self.list.itemClicked.connect(lambda item: self._moved(self.list.row(item)))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.setSpacing(2)
        layout.addWidget(self.title)
        layout.addWidget(self.list)
        self._background = Background(self)
        self._pictures: tuple[Picture, ...] = ()
        self._number, self._said = 0, -1

    @property
    def busy(self) -> bool:
        return self._background.busy

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return self._pictures

    def show_pictures(self, title: str, pictures: Sequence[Picture], slide: Slide | None) -> None:
        """Of the first `MOST`; grey squares until they are read. `slide` must stay open meanwhile."""
        self._number += 1
        self._said = -1
        self._pictures = tuple(pictures[:MOST])
        more = f" (the first {MOST} of {len(pictures)})" if len(pictures) > MOST else ""
        self.title.setText(f"{title}{more}" if pictures else title)
        self.list.setVisible(bool(pictures))
        self.list.blockSignals(True)
        self.list.clear()
        for picture in self._pictures:
            self.list.addItem(_waiting(picture))
        self.list.blockSignals(False)
        if slide is None:
            return
        for n, picture in enumerate(self._pictures):
            self._ask(self._number, n, picture, slide)

    def select(self, row: int) -> None:
        self.list.setCurrentRow(row)

    def close_background(self) -> None:
        self._number += 1
        self._background.close()

    def _ask(self, number: int, n: int, picture: Picture, slide: Slide) -> None:
        def read() -> NDArray[np.uint8] | None:
            return thumbnail(slide, picture.place) if number == self._number else None

        def show(rgb: NDArray[np.uint8] | None) -> None:
            item = self.list.item(n)
            if number == self._number and rgb is not None and item is not None:
                item.setIcon(QIcon(pixmap(rgb)))

        def leave(_: CoverslipError) -> None:
            """A place that cannot be read stays grey."""

        self._background.do(read, show, leave)

    def _moved(self, row: int) -> None:
        if 0 <= row < len(self._pictures) and row != self._said:
            self._said = row
            self.chosen.emit(self._pictures[row])


def _waiting(picture: Picture) -> QListWidgetItem:
    blank = QPixmap(SIDE_PX, SIDE_PX)
    blank.fill(Qt.GlobalColor.gray)
    item = QListWidgetItem(QIcon(blank), picture.caption)
    item.setToolTip(picture.caption)
    return item


def thumbnail(slide: Slide, place: Place) -> NDArray[np.uint8]:
    """(SIDE_PX, SIDE_PX, 3) of the square of glass around a place."""
    mpp = slide.mpp
    side = max(place.width * mpp.x, place.height * mpp.y, LEAST_UM)
    x, y = place.middle
    corner = x - side / mpp.x / 2, y - side / mpp.y / 2
    return slide.read_field(Field(*corner, Size(SIDE_PX, SIDE_PX), side / SIDE_PX)).rgb


def pixmap(rgb: NDArray[np.uint8]) -> QPixmap:
    """uint8 (h, w, 3)."""
    held = np.ascontiguousarray(rgb)
    image = QImage(held.data, held.shape[1], held.shape[0], 3 * held.shape[1], QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy())
