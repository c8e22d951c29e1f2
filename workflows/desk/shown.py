"""The layers of a scene in a viewer: first those that are seen, the others once these are drawn."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from coverslip.extras import require
from coverslip.workflows.layers import LayerSpec, Scene
from coverslip.workflows.napari_plugin import layer_data
from coverslip.workflows.view import inscribe, prepare

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

# After the first the canvas has been drawn; in the others, between two layers, the window answers.
FIRST_PAUSE_MS, PAUSE_MS = 250, 30


class Shown(QObject):
    """The slide's picture does not wait for what is hidden, nor for scale bar and caption.

    `drawn`: what is seen was drawn, and what takes long can begin. `grown`: another layer is in the viewer.
    """

    drawn = Signal()
    grown = Signal()

    def __init__(self, viewer: Viewer, scene: Scene, parent: QObject | None = None):
        super().__init__(parent)
        self._viewer, self._scene = viewer, scene
        self._layers: dict[LayerSpec, Layer] = {}
        hidden = [partial(self._grow, spec) for spec in scene.layers if not spec.visible]
        self._waiting = [self.drawn.emit, partial(inscribe, viewer, scene), *hidden]
        prepare(viewer)
        for spec in scene.layers:
            if spec.visible:
                self._lay(spec)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._go_on)
        self._timer.start(FIRST_PAUSE_MS)

    @property
    def busy(self) -> bool:
        """Whether something is missing yet."""
        return self._timer.isActive()

    @property
    def image(self) -> Layer:
        """The slide."""
        return self._layers[self._scene.layers[0]]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those that are there, in no order."""
        return tuple(self._layers.values())

    def remove(self) -> None:
        """Take them all from the viewer. Nothing where its window is closed."""
        self._timer.stop()
        with suppress(RuntimeError), _no_collection():
            for layer in self._layers.values():
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)

    def _go_on(self) -> None:
        self._timer.setInterval(PAUSE_MS)
        self._waiting.pop(0)()
        if not self._waiting:
            self._timer.stop()

    def _grow(self, spec: LayerSpec) -> None:
        self._lay(spec)
        self.grown.emit()

    def _lay(self, spec: LayerSpec) -> None:
        """Over those that the scene has below it; what was active stays so."""
        active = self._viewer.layers.selection.active
        self._layers[spec] = layer = require("napari").layers.Layer.create(*layer_data(spec, self._scene))
        self._viewer.layers.insert(self._place(spec), layer)
        if active is not None:
            self._viewer.layers.selection.active = active

    def _place(self, spec: LayerSpec) -> int:
        below = self._scene.layers[: self._scene.layers.index(spec)]
        there = [self._layers[one] for one in below if one in self._layers]
        present = [self._viewer.layers.index(layer) for layer in there if layer in self._viewer.layers]
        return max(present) + 1 if present else len(self._viewer.layers)


def warm() -> None:
    """What napari imports and reads for its first layers, a second of work, while a slide is being read."""
    layers = require("napari").layers
    layers.Image(np.zeros((2, 2, 3), np.uint8), rgb=True)
    layers.Labels(np.zeros((2, 2), np.uint8))


@contextmanager
def _no_collection() -> Iterator[None]:
    """napari collects garbage after each layer that is removed, a third of a second in which the window does
    not answer; what is frozen meanwhile is collected as always afterwards."""
    frozen = gc.get_freeze_count() > 0  # by another, who may want it so
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
