"""The batch: many slides through one Dask cluster, each on its own, none able to stop the others."""

from __future__ import annotations

import shutil
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
from coverslip.workflows.job import Job
from coverslip.workflows.progress import Watcher
from coverslip.workflows.result import SlideResult

if TYPE_CHECKING:
    from distributed import Client, Future

# Slides under way at once, per worker thread: enough that nobody waits while one slide ends, few enough
# that a folder of thousands is not all half done when the night is over.
SLIDES_PER_THREAD = 2


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
    """A slide under way, and the tasks it waits for."""

    job: Job
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

    def run(self, jobs: Sequence[Job]) -> BatchReport:
        waiting = deque(jobs)
        threads: dict[str, int] = cast(Any, self._client.nthreads())
        most = min(steps.CACHED_SLIDES, SLIDES_PER_THREAD * max(1, sum(threads.values())))
        while True:
            while waiting and self._under_way() < most:
                self._submit(_Slide(waiting.popleft()), steps.prepare, now())
            if not self._slides:
                return self._report(jobs)
            self._take(next(self._stream))

    def _under_way(self) -> int:
        return len(set(self._slides.values()))

    def _submit(self, slide: _Slide, step: Callable[..., Any], *args: object) -> None:
        future = self._client.submit(step, slide.job, *args, pure=False)
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
            for number in range(len(value.shards)):
                self._submit(slide, steps.score, value, number)
            for number in range(value.copies):
                self._submit(slide, steps.copy, value, number)
        else:
            self._watcher.advanced(slide.job.id, value.tiles)
        if not slide.waits_for:
            self._submit(slide, finish, slide.prepared)

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
