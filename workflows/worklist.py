"""The worklist of a run: its slides, those that want somebody first, for people (HTML) and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pyarrow as pa
from markupsafe import Markup

from coverslip.atomic import replacing
from coverslip.ruo import RUO
from coverslip.workflows.batch import BatchReport, Failure
from coverslip.workflows.batch_plots import batch_plots
from coverslip.workflows.csv_table import write_csv
from coverslip.workflows.files import write_table
from coverslip.workflows.inputs import printable
from coverslip.workflows.job import Job
from coverslip.workflows.report import content_policy, environment, template_text
from coverslip.workflows.result import SlideResult, Urgency

SCHEMA = "coverslip.worklist/2"
WORKLIST = "worklist"
ORDER: tuple[Urgency, ...] = get_args(Urgency)


@dataclass(frozen=True, slots=True)
class Line:
    """One slide. `urgency`: its place in the list, `triage` its place within; None is not known.

    `finished`: UTC, ISO 8601; `seconds`: since it was begun, its waiting for others with it. These two are
    all that differs when the run is repeated.
    """

    id: str
    path: str
    case: str | None
    workflow: str
    status: str
    summary: str
    tissue_mm2: float | None
    damaged_fraction: float | None
    result: str | None
    report: str | None
    urgency: Urgency
    call: str | None
    confidence: float | None
    triage: float | None
    code: str | None
    evaluable_mm2: float | None
    not_answered: str | None
    finished: str | None
    seconds: float | None

    @property
    def link(self) -> str | None:
        """The report's address: a name may hold whatever a file name may."""
        return quote(self.report) if self.report else None

    @property
    def quality(self) -> str:
        """In a few words, for the list."""
        if self.tissue_mm2 is None:
            return ""
        evaluable = "" if self.evaluable_mm2 is None else f", {self.evaluable_mm2:.3g} evaluable"
        damage = f", {self.damaged_fraction:.1%} damaged" if self.damaged_fraction else ""
        return f"{self.tissue_mm2:.3g} mm² tissue{evaluable}{damage}"


TYPES = {"tissue_mm2", "damaged_fraction", "confidence", "triage", "evaluable_mm2", "seconds"}
TABLE = pa.schema(
    [(field.name, pa.float64() if field.name in TYPES else pa.string()) for field in fields(Line)]
)


def write_worklist(out: Path, jobs: Sequence[Job], report: BatchReport) -> None:
    """`worklist.html`, `.csv` and `.parquet`: a line per slide of the run, failed ones too."""
    results = {result.slide.id: result for result in report.results}
    failures = {failure.path: failure for failure in report.failures}
    lines = sorted((_line(job, results.get(job.id), failures.get(job.ref.path)) for job in jobs), key=_place)
    table = pa.Table.from_pylist([asdict(line) for line in lines], TABLE)
    write_table(out / f"{WORKLIST}.parquet", table, SCHEMA)
    write_csv(out / f"{WORKLIST}.csv", table.to_batches(), table.schema)
    in_order = [results[job.id] for job in jobs if job.id in results]
    with replacing(out / f"{WORKLIST}.html") as temporary:
        temporary.write_text(render_worklist(lines, in_order), encoding="utf-8")


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
