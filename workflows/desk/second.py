"""A second slide at the desk, such as H&E beside IHC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coverslip.workflows.desk.beside import put_beside
from coverslip.workflows.layers import Scene

if TYPE_CHECKING:
    from napari import Viewer


class Second:
    """Owns the scene that is shown right of the slide."""

    def __init__(self, viewer: Viewer, scene: Scene):
        self.scene = scene
        self.beside = put_beside(viewer, scene)

    def toggle(self) -> None:
        """Link the cameras, or let each move by itself. Raises RequestError without µm/px."""
        self.beside.toggle()

    def close(self) -> None:
        self.beside.close()
        self.scene.close()
