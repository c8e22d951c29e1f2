"""Signing: who, as what, with which words; what stands against it; and where the signed report is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QButtonGroup,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QRadioButton,
    QWidget,
)

from coverslip.ruo import RUO
from coverslip.workflows.desk.scrolled import Scrolled
from coverslip.workflows.outputs import REPORT
from coverslip.workflows.review.reviewer import Reviewer

LEAST_PX = 300


class SignPanel(Scrolled):
    """`signing`: status and comment. `renamed`: a Reviewer, where name or role were changed."""

    signing = Signal(str, str)
    renamed = Signal(str, str)

    def __init__(self, parent: QWidget | None = None):
        super().__init__(LEAST_PX, parent)
        self.name, self.role = QLineEdit(), QLineEdit(placeholderText="such as pathologist")
        for field in (self.name, self.role):
            field.editingFinished.connect(self._edited)
        self.final, self.amended = QRadioButton("final"), QRadioButton("amended")
        self.final.setChecked(True)
        group = QButtonGroup(self)
        group.addButton(self.final)
        group.addButton(self.amended)
        kinds = QHBoxLayout()
        kinds.addWidget(self.final)
        kinds.addWidget(self.amended)
        kinds.addStretch()
        self.comment = QPlainTextEdit(
            placeholderText="Comment, shown on the signed report", tabChangesFocus=True
        )
        self.comment.setFixedHeight(84)
        # napari's style has none; seen on its dark and its light theme
        self.comment.setStyleSheet("border: 1px solid #7a828c; border-radius: 2px;")
        form = QFormLayout()
        form.addRow("Name", self.name)
        form.addRow("Role", self.role)
        form.addRow("Status", kinds)
        form.addRow("Comment", self.comment)
        self.what = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.sign = QPushButton("Sign")
        self.sign.clicked.connect(self._sign)
        self.said = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.open = QPushButton("Open the signed report")
        self.open.clicked.connect(self._open)
        self.open.hide()
        self.opinions = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.report: Path | None = None
        self.column.addLayout(form)
        for widget in (self.what, self.sign, self.said, self.open, self.opinions):
            self.column.addWidget(widget)
        self.column.addStretch()
        self.column.addWidget(QLabel(f"<i>{RUO}</i>", wordWrap=True))

    def show_reviewer(self, reviewer: Reviewer) -> None:
        self.name.setText(reviewer.name)
        self.role.setText(reviewer.role)

    def show_what(self, text: str, *, signed_before: bool) -> None:
        """What would be signed; one's second signature amends the first."""
        self.what.setText(text)
        (self.amended if signed_before else self.final).setChecked(True)

    def show_opinions(self, opinions: Sequence[str]) -> None:
        self.opinions.setText("\n".join(("Signed opinions:", *opinions)) if opinions else "")

    def show_busy(self) -> None:
        self.sign.setEnabled(False)
        self.said.setText("Signing: the report is made again from what you sign …")

    def show_refusal(self, problem: str) -> None:
        self.sign.setEnabled(True)
        self.said.setText(problem)
        self.open.hide()

    def show_signed(self, folder: Path) -> None:
        self.sign.setEnabled(True)
        self.report = folder / REPORT
        self.said.setText(f"Signed. The signed report is {self.report}")
        self.open.show()
        self.comment.clear()

    def clear(self) -> None:
        self.report = None
        self.said.clear()
        self.comment.clear()
        self.open.hide()
        self.sign.setEnabled(True)

    def _sign(self) -> None:
        status = "final" if self.final.isChecked() else "amended"
        self.signing.emit(status, self.comment.toPlainText())

    def _edited(self) -> None:
        self.renamed.emit(self.name.text(), self.role.text())

    def _open(self) -> None:
        if self.report is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.report)))
