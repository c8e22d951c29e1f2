"""A second slide in the same window, H&E beside IHC, whose camera follows the first one's.

What is linked is the place in µm and the magnification: sections that were turned or stretched apart fit only
around the point they were laid on each other at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coverslip.errors import RequestError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.layers import Scene

if TYPE_CHECKING:
    from napari import Viewer

# World (y, x).
Point = tuple[float, float]


class Beside:
    """`scene` on a canvas of its own, right of the slide in `viewer`. The scene must outlive it.

    `linked`: panning and zooming one moves the other. `offset`: from a place on the first slide to the same
    place on the second, (y, x) µm; at first the slides' upper left corners are laid on each other.
    """

    def __init__(self, viewer: Viewer, scene: Scene):
        from coverslip.workflows.view import add_layers, dress

        self.viewer, self.scene = viewer, scene
        self.model = require("napari.components").ViewerModel(title=f"{scene.title} — {RUO}")
        dress(self.model, scene)
        # the canvas before the layers: it finds out which level of each to read
        self.canvas = require("napari.qt").QtViewer(self.model)
        self.dock = viewer.window.add_dock_widget(self.canvas, name=scene.title, area="right", tabify=False)
        window = viewer.window._qt_window
        central = viewer.window._qt_viewer.width() + self.canvas.width()
        horizontal = require("qtpy.QtCore").Qt.Orientation.Horizontal
        window.resizeDocks([self.dock], [central // 2], horizontal)
        add_layers(self.model, scene)
        self.offset: Point = (0.0, 0.0)
        self.linked, self._moving = False, False
        for camera in self._cameras:
            camera.events.center.connect(self._moved)
            camera.events.zoom.connect(self._moved)
        for canvas in (viewer.canvas, self.model.canvas):
            canvas.events.size.connect(self._resized)
        if self._comparable:
            self.linked = True
            self._follow(self._cameras[0])
        else:
            self.model.reset_view(layers=[self.model.layers[0]], margin=0.02)

    @property
    def _cameras(self) -> tuple[Any, Any]:
        return self.viewer.scene.camera, self.model.scene.camera

    @property
    def _comparable(self) -> bool:
        """Whether both worlds are in µm."""
        unit = str(self.viewer.layers[0].units[-1]) if len(self.viewer.layers) else ""
        return self.scene.unit == "µm" and unit == "micrometer"

    def link(self) -> None:
        """What is in the middle of both canvases stays together. Raises RequestError without µm."""
        if not self._comparable:
            raise RequestError(
                self.scene.title, "cannot be in step: one slide has no µm/px", "give its µm/px"
            )
        here, there = (_centre(camera) for camera in self._cameras)
        self.align(here, there)

    def unlink(self) -> None:
        """Each moves by itself, to find the same place on both."""
        self.linked = False

    def toggle(self) -> None:
        """`unlink`, or `link`."""
        if self.linked:
            self.unlink()
        else:
            self.link()

    def align(self, here: Point, there: Point) -> None:
        """Put a point of the first slide on one of the second, world (y, x), and link."""
        self.offset = there[0] - here[0], there[1] - here[1]
        self.linked = True
        self._follow(self._cameras[0])

    def close(self) -> None:
        """Take the second canvas out of the window; the caller closes the scene."""
        for camera in self._cameras:
            camera.events.center.disconnect(self._moved)
            camera.events.zoom.disconnect(self._moved)
        for canvas in (self.viewer.canvas, self.model.canvas):
            canvas.events.size.disconnect(self._resized)
        self.model.layers.clear()
        self.viewer.window.remove_dock_widget(self.dock)
        self.canvas.close()

    def _moved(self, event: Any) -> None:
        if self.linked and not self._moving:
            self._follow(event.source)

    def _resized(self, event: Any = None) -> None:
        """A canvas of another size shows another magnification until it is told."""
        if self.linked and not self._moving:
            self._follow(self._cameras[0])

    def _follow(self, leader: Any) -> None:
        """The other camera looks where the leader does."""
        first, second = self._cameras
        follower, sign = (second, 1) if leader is first else (first, -1)
        y, x = _centre(leader)
        with self._alone():
            follower.zoom = leader.zoom
            follower.center = (0.0, y + sign * self.offset[0], x + sign * self.offset[1])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._moving = True
        try:
            yield
        finally:
            self._moving = False


def put_beside(viewer: Viewer, scene: Scene) -> Beside:
    """Show a scene right of the slide in a viewer, in step with it where both know their µm/px."""
    return Beside(viewer, scene)


def _centre(camera: Any) -> Point:
    y, x = camera.center[-2:]
    return float(y), float(x)
