"""What keys do at the desk; text fields keep the letters that are typed into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QGridLayout, QLabel, QVBoxLayout, QWidget

from coverslip.ruo import RUO
from coverslip.workflows.desk.keys import KEYS, layer_of

if TYPE_CHECKING:
    from napari import Viewer


def bind(window: QWidget, actions: Mapping[str, Callable[[str], object]]) -> dict[str, QShortcut]:
    """A shortcut of the window for each key of the table, by its key.

    `actions`: what to do by the name of the action, given the key's `what`. Raises KeyError for one that is
    not there.
    """
    found = {}
    for key in KEYS:
        for sequence in key.sequences:
            shortcut = QShortcut(QKeySequence(sequence), window)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.activated.connect(partial(actions[key.action], key.what))
            found[sequence] = shortcut
    return found


def toggle(viewer: Viewer, role: str) -> None:
    """All layers of a role, hidden where any is seen."""
    layers = [layer for layer in viewer.layers if layer_of(layer) == role]
    seen = any(layer.visible for layer in layers)
    for layer in layers:
        layer.visible = not seen


def show_keys(window: QWidget) -> QDialog:
    """The table, until it is closed; the slide can be used meanwhile."""
    dialog = QDialog(window)
    dialog.setWindowTitle("Keys")
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    grid, layout = QGridLayout(), QVBoxLayout(dialog)
    grid.setHorizontalSpacing(18)
    half = -(-len(KEYS) // 2)
    for n, key in enumerate(KEYS):
        column = 2 * (n // half)
        grid.addWidget(QLabel(f"<b>{' or '.join(key.sequences)}</b>"), n % half, column)
        grid.addWidget(QLabel(key.text), n % half, column + 1)
    layout.addLayout(grid)
    layout.addWidget(QLabel(f"<i>{RUO}</i>"))
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    buttons.rejected.connect(dialog.close)
    layout.addWidget(buttons)
    dialog.show()
    return dialog
