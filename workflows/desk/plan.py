"""What a person asked to see: a batch, a review queue, or one result or slide; and what comes first of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import CoverslipError, RequestError
from coverslip.workflows.desk.batch import Row, batch_of, read_batch
from coverslip.workflows.layers import result_folder
from coverslip.workflows.review.queue import Suggestion, read_queue


@dataclass(frozen=True, slots=True)
class Plan:
    """`first`: the result or slide to begin with. `out`: the run's folder, None for a result alone."""

    first: Path
    out: Path | None = None
    rows: tuple[Row, ...] = ()
    queue: tuple[Suggestion, ...] = ()


def plan_of(path: Path, queue: Path | None) -> Plan:
    """`path`: a run's folder or its worklist, a result, a slide; `queue`: of `coverslip suggest` on the run.

    Raises RequestError where there is nothing to begin with, or the errors of `read_queue`.
    """
    out = batch_of(path)
    rows = read_batch(path) if out is not None else ()
    if queue is not None:
        return _queued(path, queue, rows)
    if out is None or path.absolute().parent == out / "slides":
        home = result_folder(path) or path
        return Plan(home.absolute() if home.exists() else home, out, rows or _alone(home))
    first = next((row.home for row in rows if row.home is not None), None)
    if first is None:
        raise RequestError(str(path), "holds no result", "run a workflow into it first")
    return Plan(first, out, rows)


def _alone(home: Path) -> tuple[Row, ...]:
    """None where the result cannot be read: the desk says why when it opens it."""
    try:
        return read_batch(home)
    except CoverslipError:
        return ()


def _queued(path: Path, file: Path, rows: tuple[Row, ...]) -> Plan:
    out = batch_of(path) or path.absolute()
    queue = read_queue(file, out)
    if not queue:
        raise RequestError(str(file), "suggests nothing", "ask coverslip suggest for more")
    return Plan(home_of(out, queue[0]), out, rows, queue)


def home_of(out: Path, one: Suggestion) -> Path:
    """The result a suggestion is of."""
    home = out / "slides" / one.slide
    return home if home.is_dir() else out
