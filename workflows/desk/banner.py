"""What a reviewer has to know before anything else, in a line over the slide."""

from __future__ import annotations

from qtpy.QtCore import QRect, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QWidget

from coverslip.ruo import RUO

LEAST_PX, MARGIN_PX = 32, 12


class Banner(QFrame):
    """`adopted`: name of the reviewer whose corrections are to be taken over. `again`: try to open again;
    `begun`: begin anew on a result that changed."""

    adopted = Signal(str)
    again = Signal()
    begun = Signal()

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("coverslip-banner")
        self.text = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.adopt = QPushButton()
        self.adopt.clicked.connect(lambda: self.adopted.emit(self._of))
        self.retry = QPushButton("Open again")
        self.retry.clicked.connect(self.again)
        self.anew = QPushButton("Begin anew")
        self.anew.setToolTip("What was corrected on the earlier result stays in the audit trail")
        self.anew.clicked.connect(self.begun)
        self.ruo = QLabel(RUO, alignment=Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.ruo.setStyleSheet("font-style: italic;")
        self._of = ""
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 4, 10, 4)
        layout.addWidget(self.text, 1)
        for widget in (self.adopt, self.anew, self.retry, self.ruo):
            layout.addWidget(widget)
        self.setMinimumHeight(LEAST_PX)
        self.say("")

    def say(
        self, text: str, *, adopt: str = "", retry: bool = False, anew: bool = False, plain: bool = False
    ) -> None:
        """`adopt`: offer to take over this person's corrections; `retry`: to open again; `anew`: to begin
        anew. `plain`: nothing to look out for."""
        self._of = adopt
        self.text.setText(text)
        self.adopt.setText(f"Take over {adopt}'s corrections")
        self.adopt.setVisible(bool(adopt))
        self.retry.setVisible(retry)
        self.anew.setVisible(anew)
        loud = bool(text) and not plain
        self.setStyleSheet(
            "#coverslip-banner { background: #5c4a12; } #coverslip-banner QLabel { color: #ffffff; }"
            if loud
            else ""
        )
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """At least as high as the text is at this width: docks do not ask for it, and may be higher."""
        room = QRect(0, 0, max(50, self.text.width()), 10_000)
        lines = self.text.fontMetrics().boundingRect(room, Qt.TextFlag.TextWordWrap, self.text.text())
        button = (
            self.adopt.sizeHint().height()
            if any(one.isVisibleTo(self) for one in (self.adopt, self.retry, self.anew))
            else 0
        )
        self.setMinimumHeight(max(LEAST_PX, lines.height() + MARGIN_PX, button + MARGIN_PX))
