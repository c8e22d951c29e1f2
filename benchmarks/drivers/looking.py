"""One napari window on one store, opened, panned and zoomed as a person would; prints what each step took.

looking.py SIDE PATH: SIDE is "desk" (PATH a result, opened for review with all panels), "ours" (PATH a result
or store, its layers alone) or "napari-ome-zarr". Opening begins when an empty napari window is shown and has
drawn. Steps are timed by the same code on all sides: from the change of the camera to the drawn canvas.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (1600, 960)
STEPS, LASSO, PLACES = 15, 10_000, 200
BEAT_MS = 2


def timed(work: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def middle(samples: list[dict[str, float]]) -> dict[str, float]:
    """Median, and the longest."""
    walls, cpus = [s["wall_s"] for s in samples], [s["cpu_s"] for s in samples]
    return {
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "longest_wall_s": max(walls),
        "times": len(samples),
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Beat:
    """How long the event loop was kept from beating, at the longest."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self._timer, self._last, self.longest = QTimer(), time.perf_counter(), 0.0
        self._timer.timeout.connect(self._beat)
        self._timer.start(BEAT_MS)

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now

    def stop(self) -> float:
        self._beat()
        self._timer.stop()
        return self.longest


class Looker:
    """A napari window and what is done with it."""

    def __init__(self) -> None:
        import napari
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        self.process = QApplication.processEvents
        self.desk: Any = None
        self.draw()

    def wait(self) -> None:
        """For whatever is next; a loop that asked all the time would take half of Python from the threads."""
        from qtpy.QtCore import QEventLoop

        self.process(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)

    def draw(self) -> None:
        self.process()
        self.viewer.screenshot(canvas_only=True, flash=False)

    def open_desk(self, path: str) -> Any:
        """What napari does with a result that is dropped on it."""
        from coverslip.workflows.desk.window import dock
        from coverslip.workflows.review.reviewer import Reviewer

        self.desk = dock(self.viewer, Path(path), Reviewer("Benchmark"))
        while self.desk.opened is None:
            self.wait()
        self.draw()
        return self.desk.opened.scene

    def open_ours(self, path: str) -> Any:
        from coverslip.workflows.layers import describe
        from coverslip.workflows.view import add_layers, dress

        scene = describe(path)
        dress(self.viewer, scene)
        add_layers(self.viewer, scene)
        self.whole()
        return scene

    def open_peer(self, path: str) -> None:
        self.viewer.open(path, plugin="napari-ome-zarr")
        self.whole()

    def whole(self) -> None:
        self.viewer.reset_view()
        self.draw()

    def rest(self) -> None:
        """Until nothing is done in the background any more."""
        while self.desk is not None and self.desk.busy:
            self.wait()
        self.draw()

    def stall(self, work: Callable[[], Any]) -> float:
        """Seconds for which the window did not answer, at the longest, until all of the work was done."""
        beat = Beat()
        work()
        for _ in range(3):
            while self.desk.busy:
                self.wait()
            self.process()
        return beat.stop()

    def to(self, zoom: float, y: float, x: float) -> None:
        self.viewer.scene.camera.zoom = zoom
        self.viewer.scene.camera.center = (0.0, y, x)
        self.draw()

    def pan(self, zoom: float, extent: tuple[float, float]) -> dict[str, float]:
        """Steps of a quarter of the screen along a diagonal, from places of the slide not seen before."""
        samples = []
        step = 0.25 * SIZE[1] / zoom
        y, x = 0.3 * extent[0] + 137 * step, 0.3 * extent[1] + 211 * step
        if step * 300 > min(extent):
            y, x = 0.5 * extent[0], 0.5 * extent[1]
        self.to(zoom, y, x)
        for n in range(1, STEPS + 1):
            at = (
                y + (n % 5 - 2) * step / 2,
                x + n * step if step * 300 <= min(extent) else x + (n % 5) * step,
            )
            samples.append(timed(lambda at=at: self.to(zoom, *at)))
        return middle(samples)


def look(side: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    made: list[Any] = []
    found["napari"] = timed(lambda: made.append(Looker()))
    looker: Looker = made[0]
    found["napari_mb"] = peak_mb()
    opened: list[Any] = []
    work = {"desk": looker.open_desk, "ours": looker.open_ours}.get(side, looker.open_peer)
    found["open"] = timed(lambda: opened.append(work(path)))
    found["rest"] = timed(looker.rest)
    layer = looker.viewer.layers[0]
    height, width = (np.array(layer.extent.world[1]) - layer.extent.world[0])[-2:].tolist()
    pixel = float(layer.scale[-1])
    looker.whole()
    full = float(looker.viewer.scene.camera.zoom)
    for name, zoom in (("full", full), ("middle", (full / pixel) ** 0.5), ("1:1", 1 / pixel)):
        found[name] = looker.pan(zoom, (height, width))
    found["peak_mb"] = peak_mb()
    scene = opened[0]
    if side == "ours" and scene.cells is not None:
        found |= correct(looker, scene)
    if side == "desk":
        found |= review(looker, scene, path)
        looker.desk.close()
    found["peak_mb_after"] = peak_mb()
    return found


def correct(looker: Looker, scene: Any) -> dict[str, Any]:
    """Find one cell, and give about ten thousand in view another class."""
    cells, layer = scene.cells, looker.viewer.layers["cells"]
    select = middle([timed(lambda at=at: cells.index.nearest(*at, 40.0)) for at in _places(cells)])
    ring = _ring(looker, scene)
    samples, count = [], 0

    def relabel(value: int) -> None:
        nonlocal count
        rows = cells.index.inside(ring)
        count = len(rows)
        cells.recolour(rows, value)
        layer.refresh()
        looker.draw()

    for n in range(6):
        samples.append(timed(lambda n=n: relabel(n % len(cells.names))))
    return {"find": select, "redraw": {**middle(samples), "cells": count}}


def review(looker: Looker, scene: Any, path: str) -> dict[str, Any]:
    """At the desk: click on cells, relabel ten thousand, take it back, open the case again."""
    from coverslip.workflows.review.corrections import Relabel

    desk, cells = looker.desk, scene.cells
    ring = _ring(looker, scene)
    looker.draw()
    places = _places(cells, ring)
    click = [timed(lambda at=at: desk.stage.clicked.emit(*at, 1.0)) for at in places[:50]]
    rows = tuple(cells.index.inside(ring).tolist())
    relabel, stalls = [], []
    for name in cells.names[:3]:
        change = Relabel(of="cells", rows=rows, label=name)
        stalls.append(looker.stall(lambda change=change: desk.session.correct(change)))
        undone: list[float] = []
        relabel.append(timed(lambda undone=undone: undone.append(looker.stall(desk.session.undo))))
        stalls += undone
    again = looker.stall(lambda: desk.show_path(Path(path)))
    return {
        "click": middle(click),
        "relabel": {**middle(relabel), "cells": len(rows), "stall_s": max(stalls)},
        "again": {"stall_s": again},
    }


def _places(cells: Any, ring: Any = None) -> list[tuple[float, float]]:
    """Anywhere on the slide; on cells inside of a ring."""
    rng = np.random.default_rng(0)
    if ring is None:
        return rng.uniform((0, 0), (cells.size.width, cells.size.height), (PLACES, 2)).tolist()
    rows = rng.choice(cells.index.inside(ring), PLACES)
    return np.stack([cells.cells.x[rows], cells.cells.y[rows]], axis=1).tolist()


def _ring(looker: Looker, scene: Any) -> Any:
    """Around `LASSO` cells in the middle of the slide, (k, 2) level-0 pixels x, y; the camera goes there."""
    cells = scene.cells
    width, height = cells.size.width, cells.size.height
    radius = (LASSO / len(cells.cells)) ** 0.5 / np.pi**0.5
    turns = np.linspace(0, 2 * np.pi, 100)
    y, x = (v * s for v, s in zip((height / 2, width / 2), scene.pixel, strict=True))
    looker.to(0.5 * SIZE[1] / (2 * radius * height * scene.pixel[0]), y, x)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return (0.5 + radius * circle) * (width, height)


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[1], sys.argv[2])))
