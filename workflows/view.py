"""Looking: a napari window with a slide or a result, or a picture of it, for which no screen is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coverslip.errors import MissingExtraError, RequestError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.layers import Given, Scene, describe
from coverslip.workflows.napari_plugin import OUTLINE, scene_data
from coverslip.workflows.screen import GET_XVFB, has_screen, virtual_screen

if TYPE_CHECKING:
    from napari import Viewer

# Pixels of the window in a picture: a full HD screen less what desktops take.
WINDOW = (1600, 960)
# Calmer beside white glass than black is, and plainly not part of the slide.
CANVAS = (0.18, 0.19, 0.21, 1.0)
# Seconds for a picture: a slide without coarse levels is read whole for its first one.
PICTURE_S = 900
# A picture is ready when two in a row are the same; a blinking cursor must not make it wait for ever.
MOST_DRAWS = 20


def show(path: str | Path, screenshot: str | Path | None = None, mpp: Given = None) -> None:
    """Open a window with what `describe` tells of `path`, and return when it is closed.

    `screenshot`: instead write a PNG of the window to this file; without a screen, on one of its own.
    `mpp`: µm per level-0 pixel where the slide does not say.

    Raises the errors of `describe`; MissingExtraError where napari, or without a screen Xvfb, is not
    installed; RequestError for a window without a screen, or a picture that cannot be written.
    """
    napari = require("napari")
    if screenshot is not None:
        return _picture_elsewhere(path, _writable(Path(screenshot)), mpp)
    if not has_screen():
        raise RequestError("the viewer", "needs a screen", "give --screenshot FILE to have a picture")
    with viewing(path, mpp):
        napari.run()


def _writable(file: Path) -> Path:
    if file.suffix.lower() != ".png":
        raise RequestError(str(file), "is no PNG", "give the picture a name that ends in .png")
    if not file.parent.is_dir():
        raise RequestError(str(file), f"there is no folder {file.parent}", "make it first")
    return file


@contextmanager
def viewing(path: str | Path, mpp: Given = None) -> Iterator[Viewer]:
    """A viewer with the layers of a path; closed, and the slide with it, at the end of the block."""
    with closing(describe(path, mpp)) as scene:
        viewer = open_viewer(scene)
        try:
            yield viewer
        finally:
            _close(viewer)


def _close(viewer: Viewer) -> None:
    try:
        viewer.close()
    except RuntimeError:  # the person closed it: Qt has deleted the window already
        return


def open_viewer(scene: Scene) -> Viewer:
    """A new napari viewer with the layers of a scene, dressed. The scene must outlive it."""
    napari = require("napari")
    viewer = napari.Viewer(title=f"{scene.title} — {RUO}")
    dress(viewer, scene)
    for layer in scene_data(scene):
        viewer.add_layer(napari.layers.Layer.create(*layer))
    # the status bar tells what the active layer has under the cursor
    viewer.layers.selection.active = next(
        viewer.layers[name]
        for name in ("classes", "attention_rank", "nuclei", "cells", scene.layers[0].name)
        if name in viewer.layers
    )
    viewer.reset_view(layers=[viewer.layers[0]], margin=0.02)
    return viewer


def dress(viewer: Viewer, scene: Scene) -> None:
    """Scale bar, the sentence every screen carries under the scene's notes, outlines of labels to come."""
    ColorValue = require("napari.utils.color").ColorValue
    viewer.layers.events.inserted.connect(outline_labels)
    viewer.canvas.background_color_override = ColorValue(CANVAS)
    overlays = viewer.canvas.overlays
    overlays.scale_bar.visible = True
    overlays.scale_bar.position = "bottom_right"
    overlays.scale_bar.font_size = 11
    overlays.text.visible = True
    overlays.text.position = "bottom_left"
    overlays.text.font_size = 9
    overlays.text.text = "\n".join((*scene.notes, RUO))


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


def take_picture(viewer: Viewer, file: Path, *, canvas_only: bool = False) -> None:
    """PNG of the window, or of its canvas, once all that is in view is drawn."""
    viewer.window.resize(*WINDOW)
    _drawn(viewer, canvas_only)
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


def _picture_elsewhere(path: str | Path, file: Path, mpp: Given) -> None:
    """In a process of its own: Qt connects to one screen for the life of a process.

    There, napari runs with its own defaults (NAPARI_CONFIG empty): the picture is the same for everybody, is
    drawn in order (no loading in the background), and nobody's settings are changed.
    """
    describe(path, mpp).close()  # what cannot be shown is said here, not through an exit code
    request = json.dumps([str(path), str(file), mpp])
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
    path, file, mpp = json.loads(request)
    with viewing(path, tuple(mpp) if isinstance(mpp, list) else mpp) as viewer:
        take_picture(viewer, Path(file))


if __name__ == "__main__":
    _picture_here(sys.argv[1])
