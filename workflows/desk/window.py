"""Opening the desk: for a path a person names, or drops on napari."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coverslip.errors import CoverslipError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.desk.batch import batch_of
from coverslip.workflows.desk.opened import Opened, open_here
from coverslip.workflows.desk.person import reviewer_of
from coverslip.workflows.desk.plan import plan_of
from coverslip.workflows.layers import Given, describe, result_folder
from coverslip.workflows.outputs import RESULT
from coverslip.workflows.review.reviewer import Reviewer

if TYPE_CHECKING:
    from napari import Viewer

    from coverslip.workflows.desk.desk import Desk

# What the desk is found by in napari's window.
DESK = "coverslip desk"


def is_reviewed(path: Path) -> bool:
    """Whether a path is of a result, of a run with results, or of its worklist."""
    return (path / RESULT).is_file() or batch_of(path) is not None or _one_result(path)


def _one_result(path: Path) -> bool:
    try:
        return (path / "slides").is_dir() and result_folder(path) is not None
    except CoverslipError:
        return True


@contextmanager
def reviewing(
    path: Path,
    reviewer: Reviewer | None,
    mpp: Given = None,
    beside: Path | None = None,
    queue: Path | None = None,
) -> Iterator[tuple[Viewer, Desk]]:
    """A viewer with the desk around the first case of a path; closed at the end of the block.

    `reviewer` None: nothing is written. `queue`: a review queue of the run `path`. Raises the errors of
    `describe` and `read_queue` before a window is opened.
    """
    from coverslip.workflows.view import WINDOW, close_viewer

    with ExitStack() as stack:
        plan = plan_of(path, queue)
        # Before the case is opened, which nobody would close if this failed.
        other = stack.enter_context(closing(describe(beside))) if beside is not None else None
        reading = begin_reading(plan.first, reviewer, mpp)
        napari = require("napari")
        _warm()
        opened = reading.result()
        viewer = napari.Viewer(title=RUO)
        stack.callback(close_viewer, viewer)
        viewer.window.resize(*WINDOW)
        desk = _new_desk(viewer, reviewer)
        stack.callback(desk.close)
        desk.begin(plan, opened)
        if other is not None:
            desk.put_second(other)
        yield viewer, desk


def begin_reading(path: Path, reviewer: Reviewer | None, mpp: Given = None) -> Future[Opened]:
    """`open_here` on a thread of its own, while napari or the panels are imported."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="coverslip-reading")
    reading = thread.submit(open_here, path, reviewer, mpp)
    thread.shutdown(wait=False)
    return reading


def dock(viewer: Viewer, path: Path, reviewer: Reviewer | None) -> Desk:
    """Open a path at the desk of a viewer's window; where it has none, at a new one of `reviewer`."""
    plan, found = plan_of(path, None), _desk_in(viewer)
    # An own case that is open there is closed before it is opened again.
    reading = begin_reading(plan.first, reviewer) if found is None else None
    desk = found or _new_desk(viewer, reviewer)
    desk.begin(plan, reading)
    if reading is not None:
        _warm()
    return desk


def _warm() -> None:
    from coverslip.workflows.desk.shown import warm

    warm()


def desk_of(viewer: Viewer) -> Desk:
    """The desk of a viewer's window; docked there, for who reviewed last here, where there is none."""
    return _desk_in(viewer) or _new_desk(viewer, reviewer_of(None, None))


def _desk_in(viewer: Viewer) -> Desk | None:
    return viewer.window._qt_window.findChild(require("qtpy.QtCore").QObject, DESK)


def _new_desk(viewer: Viewer, reviewer: Reviewer | None) -> Desk:
    # Imported here: without a window there need be no Qt.
    from coverslip.workflows.desk.desk import Desk

    desk = Desk(viewer, reviewer)
    desk.setObjectName(DESK)
    return desk


def dock_current(path: Path) -> bool:
    """Open what was dropped on napari at the desk of that window; whether there is one to dock it on."""
    viewer = require("napari").current_viewer()
    if viewer is None or not is_reviewed(path):
        return False
    dock(viewer, path, reviewer_of(None, None))
    return True


def first_shown(path: Path) -> Path:
    """The slide or result that is seen first of a path. Raises RequestError for a run without results."""
    return plan_of(path, None).first if is_reviewed(path) else path
