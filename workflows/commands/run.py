"""`coverslip run`"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import (
    console,
    max_damage_option,
    output_option,
    overwrite_option,
    paths_argument,
    say_ruo,
    scheduler_option,
    slide_mpp_option,
    slides_option,
    workers_option,
)
from coverslip.workflows.commands.workflow_options import workflow_of, workflow_options

if TYPE_CHECKING:
    from rich.console import Console

    from coverslip.workflows.batch import BatchReport
    from coverslip.workflows.run import RunPlan


@click.command("run", epilog=RUO)
@paths_argument
@output_option
@workflow_options
@slides_option
@slide_mpp_option("--mpp", "--slide-mpp")
@max_damage_option
@click.option(
    "--min-evaluable",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Least share of the tissue without artefacts for a slide to count as evaluable.",
)
@click.option(
    "--accept-stain",
    is_flag=True,
    help="Go on with slides whose colours are not those of a stain the workflow is made for.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For whatever draws at random.")
@click.option(
    "--portable",
    is_flag=True,
    help="Write pyramids losslessly, for every program; otherwise with the slides' own JPEG tiles.",
)
@workers_option
@scheduler_option
@overwrite_option
@click.option("--dry-run", is_flag=True, help="Open the slides, find tissue, count tiles; write nothing.")
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[str, ...],
    output: Path,
    slides_csv: Path | None,
    slide_mpp: float | None,
    max_damage: float,
    min_evaluable: float,
    accept_stain: bool,
    seed: int,
    portable: bool,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    dry_run: bool,
) -> int:
    """Run a workflow over slides: files, folders, globs, URLs.

    A run that was stopped continues when the same command is given again. Bad slides are listed at the
    end and in OUTPUT/failures.json; the exit code is then 3.
    """
    from coverslip.tiling.pyramid import PyramidSettings
    from coverslip.workflows.job import RunSettings
    from coverslip.workflows.progress import watcher
    from coverslip.workflows.run import execute, plan_run

    out = console()
    settings = RunSettings(
        max_damage=max_damage,
        min_evaluable=min_evaluable,
        accept_stain=accept_stain,
        seed=seed,
        pyramid=PyramidSettings(portable=portable),
    )
    plan = plan_run(paths, output, workflow_of(context), settings, slides_csv, slide_mpp)
    say_ignored(plan, out)
    if dry_run:
        return _dry_run(plan, out)
    report = execute(plan, workers, scheduler, overwrite, lambda slides: watcher(out, slides))
    summarise(plan, report, out)
    say_ruo()
    return report.exit_code


def say_ignored(plan: RunPlan, out: Console) -> None:
    if plan.inputs.ignored:
        names = sorted(Path(path).name for path in plan.inputs.ignored)
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        out.print(f"{len(names)} files are no slides by their ending and are left out: {shown}", markup=False)


def _dry_run(plan: RunPlan, out: Console) -> int:
    from rich.table import Table

    from coverslip.errors import CoverslipError
    from coverslip.workflows.layout import lay_out
    from coverslip.workflows.steps import opened, per_task, refuse_unfit, shard_of

    table = Table("slide", "tissue mm²", "tiles", "tasks", box=None, pad_edge=False)
    failures = 0
    for job in plan.jobs:
        try:
            slide = opened(job.ref)
            refuse_unfit(job, slide)
            layout = lay_out(job, slide)
            tiles = len(layout.plan)
            tasks = ceil(tiles / per_task(tiles, shard_of(job)))
            table.add_row(job.id, f"{layout.tissue.area_mm2:.2f}", str(tiles), str(tasks))
        except CoverslipError as error:
            failures += 1
            click.echo(f"Error: {error}", err=True)
    out.print(table)
    out.print(f"nothing was written; results would go to {plan.out}", markup=False)
    say_ruo()
    return 3 if failures else 0


def summarise(plan: RunPlan, report: BatchReport, out: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("slide", "status", "summary", "tissue mm²", "damaged", box=None, pad_edge=False)
    for result in report.results:
        quality = result.quality
        damaged = f"{quality.damaged_fraction:.1%}" if quality.damaged_fraction else ""
        table.add_row(
            escape(result.slide.id),
            result.status,
            escape(result.summary),
            f"{quality.tissue_area_mm2:.2f}",
            damaged,
        )
    ids = {job.ref.path: job.id for job in plan.jobs}
    for failure in report.failures:
        table.add_row(
            escape(ids[failure.path]), "failed", escape(f"{failure.error}: {failure.message}"), "", ""
        )
    out.print(table)
    for failure in report.failures:
        _say(out, f"{failure.path}: {failure.message}; {failure.remedy}")
    for slide in (result.slide for result in report.results):
        if slide.mpp_declared:
            stated = f"the file states {slide.mpp_declared.x:.4g}"
            _say(out, f"{slide.id}: {slide.mpp.x:.4g} µm/px ({slide.mpp.source}) was used; {stated}")
    done = len(report.results)
    _say(out, f"{done} of {len(plan.jobs)} slides done; results in {plan.out}")
    if done:
        first = plan.out / "slides" / report.results[0].slide.id
        _say(out, f"report: {first / 'report.html'}")
        _say(out, f"view:   coverslip view '{first}'")


def _say(out: Console, text: str) -> None:
    """A line as it is, however long: paths are copied from it."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)
