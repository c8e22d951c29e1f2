"""What is shown over the slide and how strongly, a row per layer; magnifications; a second slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from coverslip.workflows.desk.place import as_times
from coverslip.workflows.desk.stage import OURS
from coverslip.workflows.heat import STEPS, above

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

TIMES = (2, 5, 10, 20, 40)
HEAT = ("probability of ", "attention")
PERCENT = 100
BUTTON_PX = 34


class LookPanel(QWidget):
    """`times`: a magnification was asked for, 0 for the whole slide. `second`: a slide beside is wanted."""

    times = Signal(float)
    second = Signal()

    def __init__(self, parent: QWidget | None = None):
        super().__init__(parent)
        self.now = QLabel("–")
        self.now.setStyleSheet("font-weight: bold;")
        row = QHBoxLayout()
        row.setSpacing(3)
        row.addWidget(self.now)
        for value in (0, *TIMES):
            button = QPushButton("whole" if not value else f"{value}×")
            button.setStyleSheet("padding: 3px 2px;")
            button.setMinimumWidth(BUTTON_PX)
            button.clicked.connect(lambda _=False, value=value: self.times.emit(float(value)))
            row.addWidget(button)
        self._grid = QGridLayout()
        self._grid.setColumnStretch(1, 1)
        layers = QGroupBox("Layers")
        inside = QVBoxLayout(layers)
        inside.addLayout(self._grid)
        self.beside = QPushButton("Second slide beside …")
        self.beside.clicked.connect(self.second)
        layout = QVBoxLayout(self)
        layout.addLayout(row)
        layout.addWidget(layers)
        layout.addWidget(self.beside)
        layout.addStretch()
        self.threshold: QSlider | None = None

    def show_zoom(self, times: float | None) -> None:
        """None where nobody knows the µm/px."""
        self.now.setText("–" if times is None else as_times(times))

    def show_layers(self, viewer: Viewer, keys: dict[str, str]) -> None:
        """A row for each layer but the slide and ours. `keys`: layer name → key that toggles it."""
        while self._grid.count():
            item = self._grid.takeAt(0)
            widget = item.widget() if item is not None else None
            if widget is not None:
                widget.deleteLater()
        self.threshold = None
        rows = [layer for layer in list(viewer.layers)[1:] if layer.name not in OURS]
        for n, layer in enumerate(reversed(rows)):
            self._row(n, layer, keys.get(layer.name, ""))
        heats: list[Any] = [layer for layer in rows if layer.name.startswith(HEAT)]
        if heats:
            self._threshold(len(rows), heats)

    def _row(self, n: int, layer: Layer, key: str) -> None:
        box = QCheckBox(f"{layer.name}   {key}".rstrip())
        box.setChecked(layer.visible)
        box.setMinimumWidth(1)
        box.toggled.connect(lambda on: setattr(layer, "visible", on))
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(0, PERCENT)
        slider.setToolTip("opacity")
        slider.setAccessibleName(f"opacity of {layer.name}")
        slider.setValue(round(layer.opacity * PERCENT))
        slider.valueChanged.connect(lambda value: setattr(layer, "opacity", value / PERCENT))

        def follow(event: Any = None) -> None:
            box.setChecked(layer.visible)

        layer.events.visible.connect(follow)
        box.destroyed.connect(lambda: layer.events.visible.disconnect(follow))
        self._grid.addWidget(box, n, 0)
        self._grid.addWidget(slider, n, 1)

    def _threshold(self, n: int, heats: list[Any]) -> None:
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setRange(0, PERCENT)
        slider.setToolTip("Heat maps show what is at least this probable")
        said = QLabel("shown from 0 %")
        colours = {layer.name: dict(layer.colormap.color_dict) for layer in heats}

        def cut(value: int) -> None:
            said.setText(f"shown from {value} %")
            for layer in heats:
                layer.colormap = _cut(colours[layer.name], value / PERCENT)

        slider.valueChanged.connect(cut)
        self.threshold = slider
        self._grid.addWidget(said, n, 0)
        self._grid.addWidget(slider, n, 1)


def _cut(colours: dict[int | None, Any], threshold: float) -> dict[int | None, Any]:
    """Of label values 1 to 255, those of less than the threshold are not seen."""
    steps = {value: colour for value, colour in colours.items() if value and 1 <= value <= STEPS}
    return {**colours, **above(steps, threshold)}
