"""Writing the worklist of a run, for people (HTML) and programs.

Who signed what is read from the audit trails whenever it is written, by a run and by `refresh_worklist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import get_args

import pyarrow as pa
from markupsafe import Markup

from coverslip.atomic import replacing
from coverslip.errors import StoreError
from coverslip.ruo import RUO
from coverslip.workflows.batch import BatchReport, Failure
from coverslip.workflows.batch_plots import batch_plots
from coverslip.workflows.csv_table import write_csv
from coverslip.workflows.files import write_table
from coverslip.workflows.inputs import printable
from coverslip.workflows.job import Job
from coverslip.workflows.lock import locked
from coverslip.workflows.outputs import read_result
from coverslip.workflows.report import content_policy, environment, template_text
from coverslip.workflows.result import SlideResult, Urgency
from coverslip.workflows.review.state import Signed, signed_state
from coverslip.workflows.worklist_table import SCHEMA, TABLE, WORKLIST, Line, read_worklist

LOCK = ".worklist.lock"
ORDER: tuple[Urgency, ...] = get_args(Urgency)


def write_worklist(out: Path, jobs: Sequence[Job], report: BatchReport) -> None:
    """`worklist.html`, `.csv` and `.parquet`: a line per slide of the run, failed ones too."""
    with locked(out / LOCK):
        _write_run(out, jobs, report)


def refresh_worklist(out: Path) -> tuple[Line, ...]:
    """Write the worklist of a run again with what was reviewed and signed since; its lines.

    What the run said of each slide stays. Several processes may do so at once. () where there is none.
    """
    if not read_worklist(out):
        return ()
    with locked(out / LOCK):
        lines = [_reviewed(out, line) for line in read_worklist(out)]
        _write(out, lines, _results(out, lines))
    return tuple(lines)


def _results(out: Path, lines: Sequence[Line]) -> list[SlideResult]:
    """Those that can be read, in the order of their names."""
    found = []
    for line in sorted(lines, key=lambda line: line.id):
        try:
            if line.result:
                found.append(read_result(out / "slides" / line.id))
        except StoreError:
            continue  # it was removed or is being made again; its line says what the run said
    return found


def _reviewed(out: Path, line: Line) -> Line:
    state: Signed = signed_state(out / "slides" / line.id)
    report = f"slides/{line.id}/{state.report}" if state.report else None
    return replace(
        line,
        signed_by="; ".join(state.by) or None,
        signed_at=state.at,
        signed_call="; ".join(state.calls) or None,
        review_state=state.state,
        signed_report=report,
    )


def _write_run(out: Path, jobs: Sequence[Job], report: BatchReport) -> None:
    results = {result.slide.id: result for result in report.results}
    failures = {failure.path: failure for failure in report.failures}
    made = (_line(job, results.get(job.id), failures.get(job.ref.path)) for job in jobs)
    lines = [_reviewed(out, line) for line in sorted(made, key=_place)]
    _write(out, lines, [results[job.id] for job in jobs if job.id in results])


def _write(out: Path, lines: Sequence[Line], results: Sequence[SlideResult]) -> None:
    table = pa.Table.from_pylist([asdict(line) for line in lines], TABLE)
    write_table(out / f"{WORKLIST}.parquet", table, SCHEMA)
    write_csv(out / f"{WORKLIST}.csv", table.to_batches(), table.schema)
    with replacing(out / f"{WORKLIST}.html") as temporary:
        temporary.write_text(render_worklist(lines, results), encoding="utf-8")


def render_worklist(lines: Sequence[Line], results: Sequence[SlideResult]) -> str:
    """HTML with nothing to fetch. `results`: of the slides that are done, in the order of the run."""
    style = template_text("report.css").replace("RUO", RUO) + template_text("worklist.css")
    counts = {urgency: sum(line.urgency == urgency for line in lines) for urgency in ORDER}
    return (
        environment()
        .get_template("worklist.html")
        .render(
            lines=lines,
            counts=counts,
            failed=sum(line.status == "failed" for line in lines),
            reviewed=sum(line.review_state != "none" for line in lines),
            signed=sum(line.signed_by is not None for line in lines),
            plots=batch_plots(results),
            ruo=RUO,
            style=Markup(style),
            policy=content_policy(style, None),
        )
    )


def _place(line: Line) -> tuple[int, float, str]:
    """Of equals, those with the higher triage score first; those without one last; then by name."""
    return ORDER.index(line.urgency), -line.triage if line.triage is not None else 1.0, line.id


def _line(job: Job, result: SlideResult | None, failure: Failure | None) -> Line:
    call = result.call if result else None
    quality = result.quality if result else None
    return Line(
        id=job.id,
        path=printable(job.ref.path),
        case=job.case,
        workflow=job.workflow.name,
        status=result.status if result else "failed",
        summary=result.summary if result else failure.message if failure else "",
        tissue_mm2=quality.tissue_area_mm2 if quality else None,
        damaged_fraction=quality.damaged_fraction if quality else None,
        result=f"slides/{job.id}/result.json" if result else None,
        report=f"slides/{job.id}/report.html" if result else None,
        urgency=_urgency(result),
        call=call.category if call else None,
        confidence=call.confidence if call else None,
        triage=call.triage if call else None,
        code=call.code if call else None,
        evaluable_mm2=quality.evaluable_area_mm2 if quality else None,
        not_answered="; ".join(a.what for a in result.abstentions) or None if result else None,
        finished=result.times.finished if result else None,
        seconds=_seconds(result) if result else None,
    )


def _urgency(result: SlideResult | None) -> Urgency:
    """What failed or holds no tissue nobody could evaluate; what was not answered wants a look."""
    if result is None:
        return "unevaluable"
    if result.call is not None:
        return result.call.urgency
    if result.status != "done":
        return "unevaluable"
    return "attention" if result.abstentions else "routine"


def _seconds(result: SlideResult) -> float:
    started, finished = (datetime.fromisoformat(at) for at in (result.times.started, result.times.finished))
    return (finished - started).total_seconds()
