"""Correcting: classes by number key, lasso and areas, rejecting and calling with a reason; what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFrame,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from coverslip.workflows.desk.scrolled import Scrolled
from coverslip.workflows.palette import Rgba

# What is usually said; another reason can be typed.
EXCLUDE_REASONS = ("out of focus", "fold", "necrosis", "crush or thermal artefact", "not tumour", "pen")
REJECT_REASONS = ("artefact", "not what it is called", "outside the lesion", "out of focus")
MOST_KEYS = 9
SWATCH_PX = 14
LEAST_PX = 300
COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Question:
    """What has to be said before something is done. `choices`: texts to choose from; `free`: others may be
    typed. `answered` gets the text; `dropped` is called when it is not done after all."""

    text: str
    choices: tuple[str, ...]
    action: str
    answered: Callable[[str], None]
    dropped: Callable[[], None]
    free: bool = True


class QuestionBar(QFrame):
    """One question at a time, beside the slide instead of over it."""

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.setObjectName("coverslip-question")
        self.setStyleSheet("#coverslip-question { border: 1px solid #e6a93a; border-radius: 2px; }")
        self._question: Question | None = None
        self.text = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.answer = QComboBox(editable=True, insertPolicy=QComboBox.InsertPolicy.NoInsert)
        self.yes, self.no = QPushButton("Apply"), QPushButton("Cancel (Esc)")
        self.yes.clicked.connect(self.apply)
        self.no.clicked.connect(self.drop)
        edit = self.answer.lineEdit()
        if edit is not None:
            edit.returnPressed.connect(self.apply)
            edit.textChanged.connect(lambda text: self.yes.setEnabled(bool(text.strip())))
        buttons = QHBoxLayout()
        buttons.addWidget(self.yes)
        buttons.addWidget(self.no)
        layout = QVBoxLayout(self)
        layout.addWidget(self.text)
        layout.addWidget(self.answer)
        layout.addLayout(buttons)
        self.hide()

    @property
    def open(self) -> bool:
        return self._question is not None

    def ask(self, question: Question) -> None:
        """The earlier question, if one is open, is dropped."""
        self.drop()
        self._question = question
        self.text.setText(question.text)
        self.answer.clear()
        self.answer.addItems(question.choices)
        self.answer.setVisible(question.free or len(question.choices) > 1)
        edit = self.answer.lineEdit()
        if edit is not None:
            edit.setReadOnly(not question.free)
            edit.setPlaceholderText("reason")
        if question.free:
            self.answer.setCurrentIndex(-1)
            self.answer.setEditText("")
        self.yes.setText(question.action)
        self.yes.setEnabled(not question.free)
        self.show()
        self.answer.setFocus()

    def apply(self) -> None:
        question, text = self._question, self.answer.currentText().strip()
        if question is None or not text:
            return
        self._close()
        question.answered(text)

    def drop(self) -> None:
        question = self._question
        if question is not None:
            self._close()
            question.dropped()

    def _close(self) -> None:
        self._question = None
        self.hide()


class CorrectPanel(Scrolled):
    """`classed`: a class's number was asked for. `tool`: one of `TOOLS` was. `undone`, `redone`: likewise."""

    classed = Signal(int)
    tool = Signal(str)
    undone = Signal()
    redone = Signal()

    def __init__(self, parent: QWidget | None = None):
        super().__init__(LEAST_PX, parent)
        self.question = QuestionBar()
        self._classes = QGridLayout()
        self._classes.setContentsMargins(0, 0, 0, 0)
        self._buttons: list[QPushButton] = []
        self._group = QButtonGroup(self, exclusive=False)
        self.about = QLabel(wordWrap=True)
        classes = QGroupBox("Classes")
        inside = QVBoxLayout(classes)
        inside.addLayout(self._classes)
        inside.addWidget(self.about)
        self.tools = {name: self._tool(name, text, tip) for name, text, tip in TOOLS}
        tools = QGroupBox("Tools")
        grid = QGridLayout(tools)
        for n, button in enumerate(self.tools.values()):
            grid.addWidget(button, n // COLUMNS, n % COLUMNS)
        self.list = QListWidget()
        self.list.setWordWrap(True)
        self.undo, self.redo = QPushButton("Undo  Ctrl+Z"), QPushButton("Redo  Ctrl+Shift+Z")
        self.undo.clicked.connect(self.undone)
        self.redo.clicked.connect(self.redone)
        self.saved = QLabel(wordWrap=True)
        row = QHBoxLayout()
        row.addWidget(self.undo)
        row.addWidget(self.redo)
        for widget in (self.question, classes, tools, QLabel("Corrections, the last on top")):
            self.column.addWidget(widget)
        self.column.addWidget(self.list, 1)
        self.column.addLayout(row)
        self.column.addWidget(self.saved)
        self.show_classes((), {})

    def _tool(self, name: str, text: str, tip: str) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.setCheckable(name in DRAWING)
        button.clicked.connect(lambda _=False: self.tool.emit(name))
        return button

    def show_classes(self, names: Sequence[str], colours: dict[str, Rgba]) -> None:
        """With the keys that give them; of more than nine the others by click."""
        for button in self._buttons:
            self._group.removeButton(button)
            self._classes.removeWidget(button)
            button.deleteLater()
        self._buttons = []
        for n, name in enumerate(names):
            key = f"{n + 1}  " if n < MOST_KEYS else ""
            button = QPushButton(_swatch(colours.get(name)), f"{key}{name}")
            button.setCheckable(True)
            button.setStyleSheet("text-align: left; padding: 4px 8px;")
            button.setToolTip(f"Make what is selected {name}; with nothing selected, what the lasso gives")
            button.clicked.connect(lambda _=False, n=n: self.classed.emit(n))
            self._group.addButton(button)
            self._buttons.append(button)
            self._classes.addWidget(button, n // COLUMNS, n % COLUMNS)
        told = (
            "Select a cell or tile and press its number; or choose a class, then draw a lasso."
            if names
            else "This workflow has no classes to give: areas, findings and the call can be corrected."
        )
        self.about.setText(told)
        self.tools["lasso"].setEnabled(bool(names))

    def show_active(self, active: int | None) -> None:
        """The class that the lasso gives."""
        for n, button in enumerate(self._buttons):
            button.setChecked(n == active)

    def show_tool(self, name: str | None) -> None:
        for other, button in self.tools.items():
            if button.isCheckable():
                button.setChecked(other == name)

    def show_corrections(self, told: Sequence[str], *, can_undo: bool, can_redo: bool) -> None:
        """Oldest first, as sentences."""
        self.list.clear()
        for n, text in reversed(list(enumerate(told, 1))):
            self.list.addItem(f"{n}. {text}")
        self.undo.setEnabled(can_undo)
        self.redo.setEnabled(can_redo)

    def say(self, text: str) -> None:
        self.saved.setText(text)


TOOLS = (
    ("lasso", "Lasso  L", "Draw around cells, or tiles, to give them all a class"),
    ("region", "Region  R", "Draw an area and name it"),
    ("exclude", "Exclude  X", "Draw an area in which nothing counts"),
    ("edit", "Edit areas  E", "Move corners; click an area and press Delete to take it back"),
    ("reject", "Reject finding …", "The finding selected in the list does not hold"),
    ("call", "Change the call …", "Your own category for the slide"),
)
DRAWING = {"lasso", "region", "exclude", "edit"}


def _swatch(colour: Rgba | None) -> QIcon:
    picture = QPixmap(SWATCH_PX, SWATCH_PX)
    picture.fill(QColor(*colour) if colour else Qt.GlobalColor.gray)
    return QIcon(picture)
