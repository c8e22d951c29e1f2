"""A run: slides in, a folder of results out. What `coverslip run` does, and the same from Python."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from coverslip.atomic import discard
from coverslip.errors import RequestError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.workflows.batch import BatchReport, run_jobs
from coverslip.workflows.clock import now
from coverslip.workflows.cluster import connected
from coverslip.workflows.files import write_json
from coverslip.workflows.inputs import Inputs, gather, slide_ids
from coverslip.workflows.job import Job, RunSettings
from coverslip.workflows.outputs import discard_result
from coverslip.workflows.progress import Silent, Watcher
from coverslip.workflows.workflow import Workflow
from coverslip.workflows.worklist import write_worklist
from coverslip.wsi import SlideRef

RUN_SCHEMA = "coverslip.run/1"
FAILURES_SCHEMA = "coverslip.failures/1"
Watching = Callable[[int], AbstractContextManager[Watcher]]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All that a run will do, before it does anything."""

    out: Path
    jobs: tuple[Job, ...]
    inputs: Inputs
    workflow: Workflow
    settings: RunSettings

    @property
    def request(self) -> str:
        """Digest of what is asked of every slide: results of different requests do not mix in one folder."""
        asked = {
            "workflow": self.workflow.name,
            "workflow_settings": self.workflow.settings(),
            "model": None if self.workflow.model is None else self.workflow.model.sha256,
            "settings": asdict(self.settings),
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def run(
    paths: Sequence[str],
    out: str | Path,
    workflow: Workflow,
    *,
    settings: RunSettings | None = None,
    slides_csv: str | Path | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    watching: Watching | None = None,
) -> BatchReport:
    """Run a workflow over slides; results go to `out` in the layout of `docs/results.md`.

    `paths`: files, folders, globs, URLs. `slides_csv`: per-slide µm/px and names. `mpp`: µm per level-0
    pixel of all slides it does not name. `workers`: threads of the cluster in this process; `scheduler`:
    address of a running Dask scheduler instead. A run that was stopped continues; `overwrite` starts anew.

    A slide that fails is in `BatchReport.failures` and `failures.json`, and stops no other.
    Raises RequestError when nothing can be run as asked.
    """
    plan = plan_run(
        paths, out, workflow, settings or RunSettings(), Path(slides_csv) if slides_csv else None, mpp
    )
    return execute(plan, workers, scheduler, overwrite, watching or (lambda _: nullcontext(Silent())))


def plan_run(
    paths: Sequence[str],
    out: str | Path,
    workflow: Workflow,
    settings: RunSettings,
    slides_csv: Path | None = None,
    mpp: float | None = None,
) -> RunPlan:
    """Find the slides and name their folders."""
    inputs = gather(paths, slides_csv, mpp)
    out = Path(out).absolute()
    ids = slide_ids([item.path for item in inputs.slides])
    jobs = tuple(
        Job(
            ids[item.path],
            SlideRef(item.path, item.mpp),
            str(out / "slides" / ids[item.path]),
            workflow,
            settings,
            item.case,
            item.stain,
        )
        for item in inputs.slides
    )
    return RunPlan(out, jobs, inputs, workflow, settings)


def execute(
    plan: RunPlan, workers: int | None, scheduler: str | None, overwrite: bool, watching: Watching
) -> BatchReport:
    """Run the plan and write what holds for all slides: run.json, failures.json, the worklist."""
    _prepare_folder(plan, overwrite)
    started = now()
    _write_run(plan, started, None)
    with connected(scheduler, workers) as client, watching(len(plan.jobs)) as watcher:
        report = run_jobs(plan.jobs, client, watcher, plan.out / "errors")
    _write_failures(plan, report)
    write_worklist(plan.out, plan.jobs, report)
    _write_run(plan, started, report)
    return report


def _prepare_folder(plan: RunPlan, overwrite: bool) -> None:
    """Refuse a folder that holds something else; with `overwrite`, remove these slides' earlier results."""
    try:
        for left in plan.out.glob(".*.tmp"):
            # Of a run killed while it wrote its own records; those of slides are cleared with each slide.
            discard(left)
        if not overwrite:
            _refuse_other(plan)
        plan.out.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for job in plan.jobs:
                discard_result(job.home)
        discard(plan.out / "errors")
    except OSError as error:
        raise RequestError(
            str(plan.out), f"cannot be written ({error.strerror})", "name another folder with -o"
        ) from error


def _refuse_other(plan: RunPlan) -> None:
    record = plan.out / "run.json"
    if record.exists():
        if _earlier_request(record) != plan.request:
            raise RequestError(
                str(plan.out),
                "holds results of another workflow, model or settings",
                "name another folder with -o, or replace them with --overwrite",
            )
    elif plan.out.is_dir() and any(plan.out.iterdir()):
        raise RequestError(str(plan.out), "is not empty and holds no run", "name another folder with -o")


def _earlier_request(record: Path) -> str | None:
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreVersionError(
            str(record), f"cannot be read ({error})", "name another folder with -o"
        ) from error
    return document.get("request") if isinstance(document, dict) else None


def _write_run(plan: RunPlan, started: str, report: BatchReport | None) -> None:
    failed = {failure.path for failure in report.failures} if report else set()
    slides = [
        {
            "id": job.id,
            "path": job.ref.path,
            "status": "under way" if report is None else "failed" if job.ref.path in failed else "done",
        }
        for job in plan.jobs
    ]
    document = {
        "schema": RUN_SCHEMA,
        "notice": RUO,
        "coverslip": version("coverslip"),
        "request": plan.request,
        "workflow": plan.workflow.name,
        "workflow_settings": plan.workflow.settings(),
        "model": plan.workflow.model.model_dump() if plan.workflow.model else None,
        "settings": asdict(plan.settings),
        "started": started,
        "finished": now() if report else None,
        "slides": slides,
        "ignored": list(plan.inputs.ignored),
        "exit_code": report.exit_code if report else None,
    }
    write_json(plan.out / "run.json", json.loads(json.dumps(document, default=str)))


def _write_failures(plan: RunPlan, report: BatchReport) -> None:
    failures = [asdict(failure) for failure in report.failures]
    write_json(plan.out / "failures.json", {"schema": FAILURES_SCHEMA, "notice": RUO, "failures": failures})
