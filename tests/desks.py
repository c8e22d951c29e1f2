"""A run of `ihc` to sit down at, and a desk that is used as a person uses it: with clicks and keys."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from reviewed import picture
from scenes import write_slide

from coverslip.workflows.batch import BatchReport, Failure, start
from coverslip.workflows.job import Job, RunSettings
from coverslip.workflows.registry import build_workflow, find_workflow
from coverslip.workflows.result import SlideResult
from coverslip.workflows.workflow import Workflow
from coverslip.workflows.worklist import write_worklist
from coverslip.wsi import SlideRef

if TYPE_CHECKING:
    from coverslip.workflows.desk.desk import Desk

PATIENCE_S = 60


def write_batch(out: Path) -> Path:
    """Two slides that are done, one with more brown than the other, and one that failed."""
    workflow = ki67()
    jobs = []
    for name, seed in (("a.tif", 0), ("b.tif", 1), ("broken.tif", 2)):
        slide = out.parent / "slides" / name
        slide.parent.mkdir(parents=True, exist_ok=True)
        write_slide(slide, picture(seed=seed))
        ref = SlideRef(str(slide), None)
        jobs.append(Job(name, ref, str(out / "slides" / name), workflow, RunSettings(pyramid=None)))
    results = tuple(start(job, "2030-01-01T00:00:00Z") for job in jobs[:2])
    assert all(isinstance(result, SlideResult) for result in results)
    failure = Failure(jobs[2].ref.path, "DamagedSlideError", "half of it is missing", "scan it again")
    write_worklist(out, jobs, BatchReport(results, (failure,)))
    return out


def write_tiles(out: Path) -> Path:
    """A result of `tiles`, by a network that was taught nothing: its classes are somewhere."""
    from networks import network_of, write_network

    from coverslip.workflows.tile_classes import TileClassSettings, tile_classes

    out.mkdir(parents=True)
    model = write_network(out / "model", network_of(), classes=("gland", "stroma", "tumour"))
    write_slide(out / "tiled.tif", picture(side=384))
    settings = TileClassSettings(strange_share=1.0)
    return concluded(out, "tiled.tif", tile_classes(Path(model.folder), settings))


def write_sections(out: Path) -> Path:
    """A result of `histology` with mitoses, by a network that calls everything tumour."""
    from networks import network_of, write_network
    from slides import write_tiff
    from test_histology import with_finder

    from coverslip.workflows.histology.settings import HistologySettings
    from coverslip.workflows.histology.workflow import histology
    from coverslip.workflows.tile_classes import TileClassSettings

    out.mkdir(parents=True)
    network = network_of()
    network.reset_classifier(len(SECTION))
    last = network.get_classifier()
    last.weight.data[:] = 0
    last.bias.data[:] = last.bias.data.new_tensor([0.0, 0.0, 0.0, 3.0])
    model = write_network(out / "model", network, classes=SECTION)
    rgb = picture(side=384)
    for x, y in ((120, 120), (220, 150), (90, 300), (200, 250), (300, 90)):
        rgb[y, x] = (0, 250, 2)
    write_tiff(out / "section.tif", rgb, 0.5, compression="deflate")
    tiles = TileClassSettings(strange_share=1.0, call_share=0.0)
    choices = HistologySettings(specimen="lymph node", least_mm2=0.0, tiles=tiles)
    with pytest.MonkeyPatch.context() as patch:
        return concluded(out, "section.tif", with_finder(histology(Path(model.folder), choices), patch))


def write_smear(out: Path, field: Path) -> Path:
    """A result of `cytology` on a part of a real field of a Pap smear."""
    from PIL import Image
    from slides import write_tiff

    from coverslip.workflows.cytology.workflow import CytologySettings, cytology

    out.mkdir(parents=True)
    rgb = np.asarray(Image.open(field).convert("RGB"))[590:949, 440:1080]
    write_tiff(out / "pap.tif", rgb, 0.25, compression="deflate")
    choices = CytologySettings(tile=1024, preparation="conventional")
    return concluded(out, "pap.tif", cytology(choices=choices))


def write_blood(out: Path) -> Path:
    """A result of `blood` on a drawn smear."""
    from networks import network_of, write_network
    from slides import write_tiff
    from smears import draw_smear
    from test_blood import CLASSES, SURE, spread_calls

    from coverslip.models.document import TileFit
    from coverslip.workflows.blood.workflow import BloodSettings, blood
    from coverslip.workflows.rules.differential import Counting

    out.mkdir(parents=True)
    smear, network = draw_smear(), network_of()
    padded = np.pad(smear.rgb, ((32, 32), (32, 32), (0, 0)), mode="edge")
    corners = smear.white.astype(int).tolist()
    spread_calls(network, np.stack([padded[y : y + 64, x : x + 64] for x, y in corners]))
    fit = TileFit(size=64, mpp=0.25, tolerance=0.1)
    write_network(out / "caller", network, classes=CLASSES, tile=fit, prediction_sets=SURE)
    write_tiff(out / "smear.tif", smear.rgb, 0.25, compression="deflate")
    counting = Counting(least_cells=10)
    choices = BloodSettings(
        finder="classical", classifier=str(out / "caller"), counting=counting, unsure_share=1.0
    )
    return concluded(out, "smear.tif", blood(choices))


def concluded(out: Path, name: str, workflow: Workflow) -> Path:
    """The folder of the result of one slide."""
    job = Job(
        name,
        SlideRef(str(out / name), None),
        str(out / "slides" / name),
        workflow,
        RunSettings(accept_stain=True),
    )
    assert isinstance(start(job, "2030-01-01T00:00:00Z"), SlideResult)
    return job.home


def ki67() -> Workflow:
    """With a hot spot small enough for the picture."""
    fields = {"hotspot_mm2": 0.01, "hotspot_cells": 20}
    return build_workflow(find_workflow("ihc"), {"marker": "ki67", "fields": fields})


def settle(desk: Desk) -> None:
    """Until nothing is opened, saved, computed or read any more."""
    from qtpy.QtWidgets import QApplication

    ends = time.monotonic() + PATIENCE_S
    QApplication.processEvents()
    while desk.busy:
        assert time.monotonic() < ends, "the desk is still busy"
        QApplication.processEvents()
        time.sleep(0.002)
    for _ in range(3):
        QApplication.processEvents()


def press(desk: Desk, key: str) -> None:
    """A key of the window, as Qt writes it."""
    from qtpy.QtGui import QKeySequence
    from qtpy.QtTest import QTest

    window = desk.viewer.window._qt_window
    window.activateWindow()
    QTest.qWaitForWindowActive(window)
    window.setFocus()
    combination = QKeySequence(key)[0]
    QTest.keyClick(window, combination.key(), combination.keyboardModifiers())
    settle(desk)


def at(desk: Desk, x: float, y: float):
    """Where on the canvas a place of level 0 is."""
    from qtpy.QtCore import QPoint

    assert desk.stage is not None
    camera, world = desk.viewer.scene.camera, desk.stage.world
    width, height = desk.stage.canvas
    off = (np.array(world.point(x, y)) - np.asarray(camera.center[-2:])) * camera.zoom
    return QPoint(round(width / 2 + off[1]), round(height / 2 + off[0]))


def click_slide(desk: Desk, x: float, y: float) -> None:
    """At a place of level 0."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    canvas = desk.viewer.window._qt_viewer.canvas.native
    no = Qt.KeyboardModifier.NoModifier
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, no, at(desk, x, y))
    settle(desk)


def draw(desk: Desk, *corners: tuple[float, float]) -> None:
    """Along the corners, level-0 pixels, with the button held."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    canvas = desk.viewer.window._qt_viewer.canvas.native
    left, no = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    places = [at(desk, *corner) for corner in corners]
    QTest.mousePress(canvas, left, no, places[0])
    for before, to in zip(places, [*places[1:], places[0]], strict=True):
        for share in (0.25, 0.5, 0.75, 1.0):
            QTest.mouseMove(canvas, before + (to - before) * share)
            QApplication.processEvents()
    QTest.mouseRelease(canvas, left, no, places[0])
    settle(desk)


def drag(desk: Desk, begin: tuple[float, float], to: tuple[float, float]) -> None:
    """From a place of level 0 to another, with the button held."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    canvas = desk.viewer.window._qt_viewer.canvas.native
    left, no = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    first, last = at(desk, *begin), at(desk, *to)
    for place in (first - (last - first) * 0.1, first):
        QTest.mouseMove(canvas, place)
        QApplication.processEvents()
    QTest.mousePress(canvas, left, no, first)
    for share in (0.25, 0.5, 0.75, 1.0):
        QTest.mouseMove(canvas, first + (last - first) * share)
        QApplication.processEvents()
    QTest.mouseRelease(canvas, left, no, last)
    settle(desk)


def drop(desk: Desk, path: Path) -> None:
    """On napari's canvas, from a list of files."""
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDropEvent

    dragged = QMimeData()
    dragged.setUrls([QUrl.fromLocalFile(str(path))])
    left, no = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(200, 200), Qt.DropAction.CopyAction, dragged, left, no)
    desk.viewer.window._qt_viewer.dropEvent(event)
    settle(desk)


def press_canvas(desk: Desk, key: str) -> None:
    """A key while the slide has the focus."""
    from qtpy.QtGui import QKeySequence
    from qtpy.QtTest import QTest

    canvas = desk.viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    QTest.keyClick(canvas, QKeySequence(key)[0].key())
    settle(desk)


def until(holds: Callable[[], bool]) -> None:
    """Turn the event loop until something holds."""
    from qtpy.QtWidgets import QApplication

    ends = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends, "it never came to hold"
        QApplication.processEvents()
        time.sleep(0.02)


def click(widget) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def click_line(desk: Desk, kind: str, name: str) -> None:
    """A line of the findings."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    desk.tabs.setCurrentWidget(desk.findings)
    settle(desk)
    tree, item = desk.findings.tree, desk.findings.item(kind, name)
    assert item is not None
    tree.scrollToItem(item)
    place = tree.visualItemRect(item).center()
    QTest.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, place)
    settle(desk)


def answer(desk: Desk, text: str) -> None:
    """What the open question asks for, typed and sent off."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    edit = desk.correct.question.answer.lineEdit()
    assert edit is not None
    assert desk.correct.question.open
    QTest.keyClicks(edit, text)
    QTest.keyClick(edit, Qt.Key.Key_Return)
    settle(desk)


def main() -> None:
    """`python desks.py FOLDER FIELD`: write the results of networks there; without a window, since some of
    torch ends a process that imports it after one was shown. `python desks.py - HOME NAME`: relabel three
    cells and exclude an area, say so, and wait to be killed."""
    if sys.argv[1] != "-":
        folder, field = Path(sys.argv[1]), Path(sys.argv[2])
        write_tiles(folder / "tiled")
        write_blood(folder / "smear")
        write_sections(folder / "section")
        write_smear(folder / "pap", field)
        return
    from coverslip.workflows.desk.window import reviewing
    from coverslip.workflows.review.reviewer import Reviewer

    with reviewing(Path(sys.argv[2]), Reviewer(sys.argv[3])) as (_, desk):
        settle(desk)
        for x, y in CELLS:
            click_slide(desk, x, y)
            assert desk.target is not None
            press(desk, "1" if desk.class_of(desk.target) == "3+" else "4")
        press(desk, "X")
        draw(desk, (330, 330), (500, 330), (500, 500), (330, 500))
        answer(desk, "fold")
        print("saved", len(desk.session.state.corrections) if desk.session else 0, flush=True)
        time.sleep(PATIENCE_S)


SECTION = ("LYM", "NORM", "STR", "TUM")
# Middles of nuclei that `picture` draws.
CELLS = ((64, 64), (100, 64), (136, 64))


if __name__ == "__main__":
    main()
