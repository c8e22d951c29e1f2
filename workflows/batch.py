"""The batch: many slides through one Dask cluster, each on its own, none able to stop the others.

Slides are begun largest first, so that what is left for the end is small; and each before the work on those
begun earlier runs out, so that nobody waits while one slide's last tasks end.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from coverslip.errors import CoverslipError, SlideError
from coverslip.workflows import steps
from coverslip.workflows.clock import now
from coverslip.workflows.conclude import finish
from coverslip.workflows.job import Job, stored_bytes
from coverslip.workflows.progress import Watcher
from coverslip.workflows.result import SlideResult

if TYPE_CHECKING:
    from distributed import Client, Future

# Tasks given out and not done, per worker thread, below which the next slide is begun: one under way, and
# enough beside it that a thread whose last task was short finds another. More slides than that are never
# half done, so that a night's end leaves whole ones.
AHEAD = 3
# Workers come and go; the scheduler is asked how many there are this often.
SECONDS_BETWEEN_COUNTS = 5.0
# A slide with no more tasks than this is done whole by the task that prepares it: handing them round takes as
# long as the work, and another process would have to open the slide again.
FEW_TASKS = 2
# Of Dask's priorities the higher goes first. The work on the batch's first slide has 0, on the next -2, …;
# a slide is begun before the work on the last one begun, and after that on those before it. One that only has
# to be put together goes first: it frees what it holds.
PER_PLACE = -2
TO_BEGIN = 3
TO_FINISH = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A slide without a result: which error, what is wrong, what the user can do."""

    path: str
    error: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of every slide, in the order given."""

    results: tuple[SlideResult, ...]
    failures: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """0 when every slide is done, 3 when some failed."""
        return 3 if self.failures else 0


@dataclass(eq=False)
class _Slide:
    """A slide under way, its place in the order of the batch, and the tasks it waits for."""

    job: Job
    place: int
    prepared: steps.Prepared | None = None
    waits_for: set[Future] = field(default_factory=set)


class Batch:
    """One pass over a list of jobs. Use `run_jobs`."""

    def __init__(self, client: Client, watcher: Watcher, errors: Path):
        # Imported here: distributed takes a second, and most commands do without.
        from distributed import as_completed

        self._client, self._watcher, self._errors = client, watcher, errors
        self._stream = as_completed(loop=client.loop)
        self._slides: dict[Future, _Slide] = {}
        self._results: dict[str, SlideResult] = {}
        self._failures: dict[str, Failure] = {}
        self._threads, self._counted = 1, float("-inf")

    def run(self, jobs: Sequence[Job]) -> BatchReport:
        waiting = deque(enumerate(sorted(jobs, key=stored_bytes, reverse=True)))
        while True:
            while waiting and len(self._slides) < AHEAD * self._count_threads():
                place, job = waiting.popleft()
                self._submit(_Slide(job, place), TO_BEGIN + PER_PLACE * place, start, now())
            if not self._slides:
                return self._report(jobs)
            self._take(next(self._stream))

    def _count_threads(self) -> int:
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            threads: dict[str, int] = cast(Any, self._client.nthreads())
            self._threads, self._counted = max(1, sum(threads.values())), time.monotonic()
        return self._threads

    def _submit(self, slide: _Slide, priority: int, step: Callable[..., Any], *args: object) -> None:
        future = self._client.submit(step, slide.job, *args, pure=False, priority=priority)
        self._slides[future] = slide
        slide.waits_for.add(future)
        self._stream.add(future)

    def _take(self, future: Future) -> None:
        slide = self._slides.pop(future, None)
        if slide is None:
            return
        slide.waits_for.discard(future)
        # A synchronous client gives the value itself; its type hints speak of the asynchronous one.
        error = cast("BaseException | None", future.exception())
        if error is not None:
            self._fail(slide, error, future)
        else:
            self._go_on(slide, future.result())

    def _go_on(self, slide: _Slide, value: steps.Prepared | steps.Worked | SlideResult) -> None:
        if isinstance(value, SlideResult):
            self._results[slide.job.id] = value
            self._watcher.finished(slide.job.id, value.summary)
            return
        if isinstance(value, steps.Prepared):
            slide.prepared = value
            if not value.done:
                self._watcher.planned(slide.job.id, value.tiles)
            for number in range(value.shares):
                self._submit(slide, PER_PLACE * slide.place, steps.score, value, number)
            for number in range(value.copies):
                self._submit(slide, PER_PLACE * slide.place, steps.copy, value, number)
        else:
            self._watcher.advanced(slide.job.id, value.tiles)
        if not slide.waits_for:
            self._submit(slide, TO_FINISH, finish, slide.prepared)

    def _fail(self, slide: _Slide, error: BaseException, future: Future) -> None:
        for other in slide.waits_for:
            del self._slides[other]
        self._client.cancel(list(slide.waits_for))
        if isinstance(error, SlideError):
            # What is wrong with the slide stays wrong: there is nothing to continue. Tasks that had begun
            # may still write there; what they leave is discarded when the slide is next prepared.
            shutil.rmtree(slide.job.parts, ignore_errors=True)
        self._failures[slide.job.id] = describe(slide.job, error, future.traceback(), self._errors)
        self._watcher.finished(slide.job.id, f"failed: {self._failures[slide.job.id].message}")

    def _report(self, jobs: Sequence[Job]) -> BatchReport:
        results, failures = self._results, self._failures
        return BatchReport(
            tuple(results[job.id] for job in jobs if job.id in results),
            tuple(failures[job.id] for job in jobs if job.id in failures),
        )


def start(job: Job, started: str) -> steps.Prepared | SlideResult:
    """The first task of a slide: prepares it, and does all the rest too where that is little."""
    prepared = steps.prepare(job, started)
    if prepared.shares + prepared.copies > FEW_TASKS:
        return prepared
    for number in range(prepared.shares):
        steps.score(job, prepared, number)
    for number in range(prepared.copies):
        steps.copy(job, prepared, number)
    return finish(job, prepared)


def run_jobs(jobs: Sequence[Job], client: Client, watcher: Watcher, errors: Path) -> BatchReport:
    """Run every job to its end on the client's workers.

    A job's failure cancels the rest of that job only. An error that is not one of Coverslip's own is a
    fault of ours: it is reported as one, and its traceback goes to `errors/<slide id>.log`.
    """
    return Batch(client, watcher, errors).run(jobs)


def describe(job: Job, error: BaseException, trace: Any, errors: Path) -> Failure:
    """The failure as a user reads it."""
    if isinstance(error, CoverslipError):
        return Failure(job.ref.path, type(error).__name__, error.problem, error.remedy)
    name = type(error).__name__
    if name == "KilledWorker":
        remedy = "give the workers more memory, or fewer threads with --workers, and run again"
        return Failure(job.ref.path, name, "the worker processes died while they worked on it", remedy)
    if isinstance(error, MemoryError):
        return Failure(job.ref.path, name, "there was not enough memory", "use fewer workers and run again")
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "see that the output folder has space and may be written, and run again"
        return Failure(job.ref.path, name, f"{error.strerror} ({error.filename})", remedy)
    log = errors / f"{job.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(type(error), error, trace)), encoding="utf-8")
    return Failure(job.ref.path, name, f"a fault in Coverslip ({error})", f"please report it, with {log}")
