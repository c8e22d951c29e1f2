"""Opening the desk: for a path a person names, or drops on napari."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coverslip.errors import CoverslipError
from coverslip.extras import require
from coverslip.ruo import RUO
from coverslip.workflows.desk.batch import batch_of
from coverslip.workflows.desk.opened import open_here
from coverslip.workflows.desk.person import reviewer_of
from coverslip.workflows.desk.plan import plan_of
from coverslip.workflows.layers import Given, describe, result_folder
from coverslip.workflows.outputs import RESULT
from coverslip.workflows.review.reviewer import Reviewer

if TYPE_CHECKING:
    from napari import Viewer

    from coverslip.workflows.desk.desk import Desk


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
    from coverslip.workflows.desk.desk import Desk
    from coverslip.workflows.view import WINDOW, close_viewer

    with ExitStack() as stack:
        plan = plan_of(path, queue)
        opened = open_here(plan.first, reviewer, mpp)
        other = stack.enter_context(closing(describe(beside))) if beside is not None else None
        viewer = require("napari").Viewer(title=RUO)
        stack.callback(close_viewer, viewer)
        viewer.window.resize(*WINDOW)
        desk = Desk(viewer, reviewer)
        stack.callback(desk.close)
        desk.begin(plan, opened)
        if other is not None:
            desk.put_second(other)
        yield viewer, desk


def desk_of(viewer: Viewer) -> Desk:
    """The desk of a viewer's window; docked there, for who reviewed last here, where there is none."""
    from coverslip.workflows.desk.desk import Desk

    found = viewer.window._qt_window.findChildren(Desk)
    return found[0] if found else Desk(viewer, reviewer_of(None, None))


def dock_current(path: Path) -> bool:
    """Open what was dropped on napari at the desk of that window; whether there is one to dock it on."""
    viewer = require("napari").current_viewer()
    if viewer is None or not is_reviewed(path):
        return False
    desk = desk_of(viewer)
    plan = plan_of(path, None)
    desk.begin(plan, open_here(plan.first, desk.reviewer))
    return True


def first_shown(path: Path) -> Path:
    """The slide or result that is seen first of a path. Raises RequestError for a run without results."""
    return plan_of(path, None).first if is_reviewed(path) else path
