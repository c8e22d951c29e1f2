"""`coverslip run`"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import (
    console,
    exact_option,
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

if TYPE_CHECKING:
    from rich.console import Console

    from coverslip.workflows.batch import BatchReport
    from coverslip.workflows.run import RunPlan
    from coverslip.workflows.workflow import Workflow


@click.command("run", epilog=RUO)
@paths_argument
@output_option
@click.option(
    "--workflow",
    type=click.Choice(["ihc", "tiles", "cells", "slide"]),
    required=True,
    help="What to do with each slide.",
)
@click.option(
    "--model",
    help="For tiles, cells and slide: a package's folder, a name, or hf:OWNER/NAME@REVISION; for cells also "
    "classical, the default, which needs none, or instanseg:, stardist: or cellpose: and a model of theirs.",
)
@click.option(
    "--commercial-only", is_flag=True, help="Refuse a model whose licence is not known to allow that."
)
@click.option(
    "--site",
    type=click.Choice(["nucleus", "cytoplasm"]),
    default="nucleus",
    show_default=True,
    help="Where the marker stains, for --workflow ihc.",
)
@click.option("--encoder", help="For --workflow slide: by default the one that the package names.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Of the encoder, a safetensors file; by default what is in the local Hugging Face cache.",
)
@click.option("--random-weights", is_flag=True, help="Of the encoder, for trying out: they mean nothing.")
@click.option(
    "--tile-mpp",
    type=click.FloatRange(min=0, min_open=True),
    help="µm per pixel of the tiles, where a slide-level package does not say.",
)
@click.option(
    "--tile-size",
    type=click.IntRange(min=1),
    help="Their side in pixels, where it does not say; by default the encoder's.",
)
@slides_option
@slide_mpp_option("--mpp", "--slide-mpp")
@max_damage_option
@click.option("--seed", type=int, default=0, show_default=True, help="For whatever draws at random.")
@click.option(
    "--portable",
    is_flag=True,
    help="Write pyramids losslessly, for every program; otherwise with the slides' own JPEG tiles.",
)
@exact_option
@workers_option
@scheduler_option
@overwrite_option
@click.option("--dry-run", is_flag=True, help="Open the slides, find tissue, count tiles; write nothing.")
def command(
    paths: tuple[str, ...],
    output: Path,
    workflow: str,
    model: str | None,
    commercial_only: bool,
    site: str,
    encoder: str | None,
    weights: Path | None,
    random_weights: bool,
    tile_mpp: float | None,
    tile_size: int | None,
    slides_csv: Path | None,
    slide_mpp: float | None,
    max_damage: float,
    seed: int,
    portable: bool,
    exact: bool,
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
    pyramid = PyramidSettings(portable=portable)
    settings = RunSettings(max_damage=max_damage, seed=seed, pyramid=pyramid)
    if workflow == "slide":
        tiles = {"mpp": tile_mpp, "size": tile_size, "exact": exact}
        chosen = _slide_workflow(model, tiles, encoder, weights, random_weights, commercial_only)
    else:
        _refuse_encoder(workflow, encoder, weights, random_weights, tile_mpp, tile_size)
        chosen = _workflow(workflow, model, site, exact=exact, commercial_only=commercial_only)
    plan = plan_run(paths, output, chosen, settings, slides_csv, slide_mpp)
    say_ignored(plan, out)
    if dry_run:
        return _dry_run(plan, out)
    report = execute(plan, workers, scheduler, overwrite, lambda slides: watcher(out, slides))
    summarise(plan, report, out)
    say_ruo()
    return report.exit_code


def _workflow(name: str, model: str | None, site: str, *, exact: bool, commercial_only: bool) -> Workflow:
    from coverslip.errors import RequestError

    if name == "ihc":
        from coverslip.workflows.ihc import Ihc, IhcSettings

        if model is not None:
            raise RequestError(
                "--model", "is not used by the workflow ihc", "leave it out, or use --workflow tiles"
            )
        return Ihc(IhcSettings(site="cytoplasm" if site == "cytoplasm" else "nucleus", exact=exact))
    if name == "cells":
        from coverslip.workflows.cells import CellSettings, cell_finding
        from coverslip.workflows.finders import CLASSICAL

        return cell_finding(model or CLASSICAL, CellSettings(exact=exact), commercial_only=commercial_only)
    from coverslip.workflows.tile_classes import TileClassSettings, tile_classes

    if model is None:
        raise RequestError(
            "--workflow tiles",
            "needs a model",
            "name one with --model: see coverslip models list, or make one with coverslip train tiles",
        )
    return tile_classes(model, TileClassSettings(exact=exact), commercial_only=commercial_only)


def _slide_workflow(
    model: str | None,
    tiles: Mapping[str, Any],
    encoder: str | None,
    weights: Path | None,
    random: bool,
    commercial_only: bool,
) -> Workflow:
    from coverslip.errors import RequestError
    from coverslip.workflows.slide_calls import SlideCallSettings, slide_calls

    if model is None:
        raise RequestError(
            "--workflow slide", "needs a model", "name one with --model: coverslip train mil makes one"
        )
    return slide_calls(
        model,
        SlideCallSettings(**tiles),
        encoder=encoder,
        weights=weights,
        random=random,
        commercial_only=commercial_only,
    )


def _refuse_encoder(workflow: str, *given: object) -> None:
    """What only slide-level models need."""
    from coverslip.errors import RequestError

    names = ("--encoder", "--weights", "--random-weights", "--tile-mpp", "--tile-size")
    for name, value in zip(names, given, strict=True):
        if value:
            raise RequestError(
                name, f"is not used by the workflow {workflow}", "leave it out, or use --workflow slide"
            )


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
