"""The canvas: where the camera looks, what is framed on it, what is drawn on it, where it was clicked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from coverslip.extras import require
from coverslip.workflows.desk.drawn import Area, Outline, changes, rings_of
from coverslip.workflows.desk.place import Aim, Place, World, aim, around
from coverslip.workflows.review.corrections import Exclude

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer, Shapes

FRAME, AREAS, LASSO = "frame", "areas", "lasso"
OURS = (FRAME, AREAS, LASSO)
# Okabe and Ito's sky blue for what is looked at, purple for regions, vermilion for what does not count.
FRAME_COLOUR, REGION_COLOUR, EXCLUDE_COLOUR, LASSO_COLOUR = "#56b4e9", "#cc79a7", "#d55e00", "#f0e442"
# A click is no drag: pixels of the screen between press and release.
STILL_PX = 4
# Width of lines on the screen, in its pixels.
LINE_PX = 2.0


class Stage(QObject):
    """Layers of our own over the slide `image` of a viewer whose world is `world`: a frame, areas, a lasso.

    `clicked`: level-0 pixels (x, y), and how far one pixel of the screen reaches there. `lassoed`: ring
    (k, 2) of the world. `outlined`: a new ring of an area. `edited`: corrections of areas that were changed.
    `magnified`: pixels of the screen per unit of the world.
    """

    clicked = Signal(float, float, float)
    lassoed = Signal(object)
    outlined = Signal(object)
    edited = Signal(object)
    magnified = Signal(float)

    def __init__(self, viewer: Viewer, image: Layer, world: World, parent: QObject | None = None):
        super().__init__(parent)
        self.viewer, self.image, self.world = viewer, image, world
        self._areas: dict[str, Area] = {}
        self._ids: list[str] = []
        self._quiet = False
        self._layers: dict[str, Shapes] = {}
        viewer.mouse_drag_callbacks.append(self._pressed)
        viewer.scene.camera.events.zoom.connect(self._zoomed)

    def _layer(self, name: str) -> Shapes:
        """Made when it is first drawn on; again when somebody removed it."""
        if name in self._layers and self._layers[name] in self.viewer.layers:
            return self._layers[name]
        colour = {FRAME: FRAME_COLOUR, AREAS: REGION_COLOUR, LASSO: LASSO_COLOUR}[name]
        active = self.viewer.layers.selection.active
        layer = require("napari").layers.Shapes(
            ndim=2,
            name=name,
            units=self.image.units,
            edge_color=colour,
            face_color="transparent",
            edge_width=self._line(),
        )
        self.viewer.add_layer(layer)
        layer.current_edge_color = colour
        layer.current_face_color = "transparent"
        if active is not None:
            self.viewer.layers.selection.active = active
        if name in (AREAS, LASSO):
            layer.events.data.connect(self._areas_changed if name == AREAS else self._lasso_changed)
        self._layers[name] = layer
        return layer

    def _line(self) -> float:
        return LINE_PX / max(self.viewer.scene.camera.zoom, 1e-9)

    def close(self) -> None:
        """Take our layers and callbacks from the viewer."""
        self.viewer.scene.camera.events.zoom.disconnect(self._zoomed)
        if self._pressed in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._pressed)
        for layer in self._layers.values():
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height in pixels of the screen."""
        height, width = self.viewer.canvas.size
        return int(width), int(height)

    def go(self, places: Sequence[Place], *, frame: bool = True) -> None:
        """Show all of the places, and frame each."""
        if not places:
            return
        self.aim_at(aim(around(places), self.canvas, self.world))
        if frame:
            self.frame(places)

    def aim_at(self, to: Aim) -> None:
        camera = self.viewer.scene.camera
        camera.zoom = to.zoom
        camera.center = (0.0, *to.centre)

    def zoom(self, zoom: float) -> None:
        """Keep the middle."""
        self.viewer.scene.camera.zoom = zoom

    def whole(self) -> None:
        """The whole slide."""
        self.viewer.reset_view(layers=[self.image], margin=0.02)

    def frame(self, places: Sequence[Place]) -> None:
        """Rectangles around these places and no others."""
        if not places and FRAME not in self._layers:
            return
        layer = self._layer(FRAME)
        layer.data = []
        if places:
            corners = [np.array(self.world.corners(place)) for place in places]
            layer.add(corners, shape_type="polygon", edge_width=self._line(), edge_color=FRAME_COLOUR)
        layer.selected_data = set()

    def ring(self, points: NDArray[np.floating]) -> None:
        """Frame one object by its outline, (k, 2) level-0 pixels x, y."""
        at = np.array([self.world.point(float(x), float(y)) for x, y in points])
        layer = self._layer(FRAME)
        layer.data = []
        layer.add([at], shape_type="polygon", edge_width=self._line(), edge_color=FRAME_COLOUR)
        layer.selected_data = set()

    def show_areas(self, areas: Mapping[str, Area]) -> None:
        """Draw these and no others; what was selected stays so."""
        if not areas and AREAS not in self._layers:
            return
        layer, rings, colours, ids = self._layer(AREAS), [], [], []
        for id_, area in areas.items():
            for ring in rings_of(area, self.world):
                rings.append(ring)
                ids.append(id_)
                colours.append(EXCLUDE_COLOUR if isinstance(area, Exclude) else REGION_COLOUR)
        chosen = {id_ for n, id_ in enumerate(self._ids) if n in layer.selected_data}
        self._areas, self._ids = dict(areas), ids
        self._quiet = True
        try:
            layer.data = []
            if rings:
                layer.add(rings, shape_type="polygon", edge_width=self._line(), edge_color=colours)
            layer.selected_data = {n for n, id_ in enumerate(ids) if id_ in chosen}
        finally:
            self._quiet = False

    def draw_lasso(self) -> None:
        self._draw(LASSO, "add_polygon_lasso")

    def draw_area(self, colour: str) -> None:
        self._layer(AREAS).current_edge_color = colour
        self._draw(AREAS, "add_polygon_lasso")

    def edit_areas(self) -> None:
        """Corners can be moved; what is selected is deleted with the delete key."""
        self._draw(AREAS, "direct")

    @property
    def drawing(self) -> bool:
        return any(str(layer.mode) != "pan_zoom" for layer in self._layers.values())

    def look(self) -> None:
        """No drawing: dragging moves the slide."""
        for layer in self._layers.values():
            layer.mode = "pan_zoom"
        self.viewer.layers.selection.active = self.image

    def clear_lasso(self) -> None:
        if LASSO in self._layers:
            self._quietly(lambda: setattr(self._layers[LASSO], "data", []))

    def _draw(self, name: str, mode: str) -> None:
        for other in self._layers.values():
            other.mode = "pan_zoom"
        layer = self._layer(name)
        layer.visible = True
        layer.current_edge_width = self._line()
        self.viewer.layers.selection.active = layer
        layer.mode = mode

    def _lasso_changed(self, event: Any) -> None:
        layer = self._layers[LASSO]
        if not self._quiet and str(event.action) == "added" and layer.nshapes:
            # napari goes on drawing after this event: what follows may change the layer only then
            ring = np.array(layer.data[-1])
            QTimer.singleShot(0, self, lambda: self.lassoed.emit(ring))

    def _areas_changed(self, event: Any) -> None:
        if self._quiet:
            return
        layer = self._layers[AREAS]
        action = str(event.action)
        if action == "removing":
            gone = {index % max(1, len(self._ids)) for index in event.data_indices}
            self._ids = [id_ for n, id_ in enumerate(self._ids) if n not in gone]
            return
        if action not in ("added", "changed", "removed"):
            return
        self._ids += [""] * (layer.nshapes - len(self._ids))
        outlines = [Outline(id_, np.array(ring)) for id_, ring in zip(self._ids, layer.data, strict=False)]
        found, new = changes(self._areas, outlines, self.world)
        if found:
            self.edited.emit(found)
        if new and action == "added":
            points = new[-1].points
            QTimer.singleShot(0, self, lambda: self.outlined.emit(points))

    def _pressed(self, viewer: Viewer, event: Any) -> Iterator[None]:
        """napari steps through this while a button is held."""
        begin, left = np.array(event.pos, float), event.button == 1
        yield
        while event.type == "mouse_move":
            yield
        if not left or self.drawing or np.abs(np.array(event.pos) - begin).max() > STILL_PX:
            return
        y, x = event.position[-2:]
        reach = 1 / (viewer.scene.camera.zoom * min(self.world.pixel))
        self.clicked.emit(*self.world.place(float(y), float(x)), reach)

    def _zoomed(self, event: Any = None) -> None:
        width = self._line()
        for layer in self._layers.values():
            if layer.nshapes:
                self._quietly(lambda layer=layer: setattr(layer, "edge_width", width))
        self.magnified.emit(float(self.viewer.scene.camera.zoom))

    def _quietly(self, change: Callable[[], None]) -> None:
        before, self._quiet = self._quiet, True
        try:
            change()
        finally:
            self._quiet = before
