"""Looking: a napari window with a slide or a result, or a picture of it, for which no screen is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coverslip.errors import MissingExtraError, RequestError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.desk.window import first_shown, is_reviewed, reviewing
from coverslip.workflows.layers import Given, Scene, describe
from coverslip.workflows.napari_plugin import OUTLINE, scene_data
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.screen import GET_XVFB, has_screen, virtual_screen

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import ViewerModel

# Pixels of the window in a picture: a full HD screen less what desktops take.
WINDOW = (1600, 960)
# Calmer beside white glass than black is, and plainly not part of the slide.
CANVAS = (0.18, 0.19, 0.21, 1.0)
# Seconds for a picture: a slide without coarse levels is read whole for its first one.
PICTURE_S = 900
# A picture is ready when two in a row are the same; a blinking cursor must not make it wait for ever.
MOST_DRAWS = 20


def show(
    path: str | Path,
    screenshot: str | Path | None = None,
    mpp: Given = None,
    beside: str | Path | None = None,
    *,
    reviewer: Reviewer | None = None,
    queue: str | Path | None = None,
) -> None:
    """Open a window with what `describe` tells of `path`, and return when it is closed.

    `beside`: a second slide or result to its right, in step with it. `screenshot`: instead write a PNG of the
    window to this file; without a screen, on one of its own.
    `mpp`: µm per level-0 pixel where the slide does not say. `reviewer`: who reviews a result; without, and
    for a screenshot, nothing is written. `queue`: a review queue of the run `path`.

    Raises the errors of `describe`; MissingExtraError where napari, or without a screen Xvfb, is not
    installed; RequestError for a window without a screen, or a picture that cannot be written.
    """
    napari = require("napari")
    if screenshot is not None:
        return _picture_elsewhere(path, _writable(Path(screenshot)), mpp, beside, queue)
    if not has_screen():
        raise RequestError("the viewer", "needs a screen", "give --screenshot FILE to have a picture")
    other = None if beside is None else Path(beside)
    if is_reviewed(Path(path)):
        with reviewing(Path(path), reviewer, mpp, other, None if queue is None else Path(queue)):
            napari.run()
        return
    _refuse_queue(path, queue)
    with viewing(path, mpp, beside):
        napari.run()


def _writable(file: Path) -> Path:
    if file.suffix.lower() != ".png":
        raise RequestError(str(file), "is no PNG", "give the picture a name that ends in .png")
    if not file.parent.is_dir():
        raise RequestError(str(file), f"there is no folder {file.parent}", "make it first")
    return file


@contextmanager
def viewing(path: str | Path, mpp: Given = None, beside: str | Path | None = None) -> Iterator[Viewer]:
    """A viewer with the layers of a path; closed, and the slides with it, at the end of the block."""
    from coverslip.workflows.desk.beside import put_beside

    with ExitStack() as stack:
        scene = stack.enter_context(closing(describe(path, mpp)))
        other = stack.enter_context(closing(describe(beside))) if beside is not None else None
        viewer = open_viewer(scene)
        stack.callback(close_viewer, viewer)
        if other is not None:
            put_beside(viewer, other)
        yield viewer


def close_viewer(viewer: Viewer) -> None:
    """Nothing where it is closed already."""
    try:
        viewer.close()
    except RuntimeError:  # the person closed it: Qt has deleted the window already
        return


def open_viewer(scene: Scene) -> Viewer:
    """A new napari viewer with the layers of a scene, dressed. The scene must outlive it."""
    napari = require("napari")
    viewer = napari.Viewer(title=f"{scene.title} — {RUO}")
    dress(viewer, scene)
    add_layers(viewer, scene)
    bind_toggles(viewer)
    # the status bar tells what the active layer has under the cursor
    viewer.layers.selection.active = next(
        viewer.layers[name]
        for name in ("cells", "classes", "attention_rank", "nuclei", scene.layers[0].name)
        if name in viewer.layers
    )
    viewer.reset_view(layers=[viewer.layers[0]], margin=0.02)
    return viewer


def add_layers(viewer: ViewerModel, scene: Scene) -> None:
    """The layers of a scene, bottom first."""
    create = require("napari").layers.Layer.create
    for layer in scene_data(scene):
        viewer.add_layer(create(*layer))


def bind_toggles(viewer: Viewer) -> None:
    """The keys of the table that show and hide layers."""
    from coverslip.workflows.desk.keys import KEYS
    from coverslip.workflows.desk.shortcuts import toggle

    for key in KEYS:
        if key.action == "toggle":
            viewer.bind_key(key.sequences[0], partial(_press, toggle, key.what), overwrite=True)


def _press(toggle: Callable[[Any, str], None], role: str, viewer: Any) -> None:
    toggle(viewer, role)


def dress(viewer: ViewerModel, scene: Scene) -> None:
    """All that is about the layers of a scene: `prepare` and `inscribe`."""
    prepare(viewer)
    inscribe(viewer, scene)


def prepare(viewer: ViewerModel) -> None:
    """The canvas's colour; outlines of labels to come."""
    ColorValue = require("napari.utils.color").ColorValue
    viewer.layers.events.inserted.connect(outline_labels)
    viewer.canvas.background_color_override = ColorValue(CANVAS)


def inscribe(viewer: ViewerModel, scene: Scene) -> None:
    """Scale bar; the magnification, which follows the zoom, the scene's notes and the sentence every screen
    carries."""
    overlays = viewer.canvas.overlays
    overlays.scale_bar.visible = True
    overlays.scale_bar.position = "bottom_right"
    overlays.scale_bar.font_size = 11
    overlays.text.visible = True
    overlays.text.position = "top_left"
    overlays.text.font_size = 9
    zoomed = viewer.scene.camera.events.zoom
    for callback in zoomed.callbacks:
        if isinstance(callback, Caption):  # of the slide that was shown before
            zoomed.disconnect(callback)
    caption = Caption(viewer, scene)
    zoomed.connect(caption)
    caption()


@dataclass(frozen=True, slots=True, eq=False)
class Caption:
    """What is written in the corner: the magnification, the scene's notes, what the pictures are not for."""

    viewer: ViewerModel
    scene: Scene

    def __call__(self, event: Any = None) -> None:
        camera, scene = self.viewer.scene.camera, self.scene
        said = (magnification(1 / camera.zoom),) if scene.unit == "µm" else ()
        self.viewer.canvas.overlays.text.text = "\n".join((*said, *scene.notes, RUO))


def magnification(um_per_pixel: float) -> str:
    """What people call a picture of so many µm per pixel of the screen.

    10× is 1 µm per pixel, and 40× 0.25, as scanners count. It is not that of an eyepiece, and a screen whose
    system enlarges windows shows as much less.

    >>> magnification(0.25), magnification(6.25)
    ('40×  0.25 µm per pixel', '1.6×  6.25 µm per pixel')
    """
    times = 10 / um_per_pixel
    return f"{times:.3g}×  {um_per_pixel:.3g} µm per pixel"


def outline_labels(event: Any) -> None:
    """Show labels as outlines where their spec says so, once they are in a viewer."""
    outline = event.value.metadata.get(OUTLINE, 0)
    if outline:
        event.value.contour = outline


def dress_current(scene: Scene) -> None:
    """`dress` the viewer a path was dropped on; nothing where layers are read without one."""
    viewer = require("napari").current_viewer()
    if viewer is not None:
        dress(viewer, scene)


def take_picture(viewer: Viewer, file: Path, *, canvas_only: bool = False, whole: bool = True) -> None:
    """PNG of the window, or of its canvas, once all that is in view is drawn. `whole`: of the whole slide."""
    viewer.window.resize(*WINDOW)
    _drawn(viewer, canvas_only)
    if whole:
        viewer.reset_view(layers=[viewer.layers[0]], margin=0.02)
    picture = _drawn(viewer, canvas_only)
    for _ in range(MOST_DRAWS):
        before, picture = picture, _drawn(viewer, canvas_only)
        if before.shape == picture.shape and np.array_equal(before, picture):
            break
    require("napari").utils.io.imsave(str(file), picture)


def _drawn(viewer: Viewer, canvas_only: bool) -> np.ndarray:
    require("qtpy.QtWidgets").QApplication.processEvents()
    return np.asarray(viewer.screenshot(canvas_only=canvas_only, flash=False))


def _picture_elsewhere(
    path: str | Path, file: Path, mpp: Given, beside: str | Path | None, queue: str | Path | None
) -> None:
    """In a process of its own: Qt connects to one screen for the life of a process.

    There, napari runs with its own defaults (NAPARI_CONFIG empty): the picture is the same for everybody, is
    drawn in order (no loading in the background), and nobody's settings are changed.
    """
    if not is_reviewed(Path(path)):
        _refuse_queue(path, queue)
    describe(
        first_shown(Path(path)) if is_reviewed(Path(path)) else path, mpp
    ).close()  # what cannot be shown is said here, not through an exit code
    if beside is not None:
        describe(beside).close()
    names = [None if other is None else str(other) for other in (beside, queue)]
    request = json.dumps([str(path), str(file), mpp, *names])
    screen = nullcontext(dict(os.environ)) if has_screen() else virtual_screen()
    with screen as environment:
        environment |= {"NAPARI_CONFIG": "", "NAPARI_ASYNC": "0"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "coverslip.workflows.view", request],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=PICTURE_S,
            )
        except subprocess.TimeoutExpired as error:
            raise RequestError(
                str(path),
                f"was not drawn within {PICTURE_S} s",
                "convert it first: coarse levels draw at once",
            ) from error
    if done.returncode or not file.is_file():
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MissingExtraError("the viewer", f"cannot open its window ({said})", GET_XVFB)


def _picture_here(request: str) -> None:
    """Of a result nothing is written."""
    path, file, mpp, beside, queue = json.loads(request)
    mpp = tuple(mpp) if isinstance(mpp, list) else mpp
    if not is_reviewed(Path(path)):
        with viewing(path, mpp, beside) as viewer:
            take_picture(viewer, Path(file))
        return
    other, listed = (None if name is None else Path(name) for name in (beside, queue))
    with reviewing(Path(path), None, mpp, other, listed) as (viewer, desk):
        viewer.window.resize(*WINDOW)
        while desk.busy:
            require("qtpy.QtWidgets").QApplication.processEvents()
        take_picture(viewer, Path(file), whole=queue is None)


def _refuse_queue(path: str | Path, queue: str | Path | None) -> None:
    if queue is not None:
        raise RequestError(
            str(path), "is no run's folder, so it has no review queue", "name the run's folder"
        )


if __name__ == "__main__":
    _picture_here(sys.argv[1])
