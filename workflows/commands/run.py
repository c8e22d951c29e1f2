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
    from coverslip.workflows.registry import WorkflowKind
    from coverslip.workflows.run import RunPlan


@click.command("run", epilog=RUO)
@paths_argument
@output_option
@click.option(
    "--workflow",
    required=True,
    help="What to do with each slide: a name of coverslip workflows list, or a file that coverslip workflows "
    "show wrote.",
)
@click.option(
    "--model",
    help="For workflows that need one: a package's folder, a name, or hf:OWNER/NAME@REVISION; for cells also "
    "classical, the default, which needs none, or instanseg:, stardist: or cellpose: and a model of theirs.",
)
@click.option(
    "--commercial-only", is_flag=True, help="Refuse a model whose licence is not known to allow that."
)
@click.option(
    "--set",
    "settings_given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the workflow, such as score.enough_nuclei=200; may be given several times.",
)
@click.option("--marker", help="For --workflow ihc: what was stained, such as ki67, er, pr, her2 or pdl1.")
@click.option("--tumour", help="For --workflow ihc: GeoJSON of the tumour, or a tile model that finds it.")
@click.option("--preparation", help="For --workflow cytology: liquid-based or conventional.")
@click.option("--guideline", help="The rule's id, or a YAML file of your own, for workflows that follow one.")
@click.option(
    "--site",
    type=click.Choice(["nucleus", "cytoplasm"]),
    help="Where the marker stains, for --workflow ihc; by default in the nucleus.",
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
    settings_given: tuple[str, ...],
    marker: str | None,
    tumour: str | None,
    preparation: str | None,
    guideline: str | None,
    site: str | None,
    encoder: str | None,
    weights: Path | None,
    random_weights: bool,
    tile_mpp: float | None,
    tile_size: int | None,
    slides_csv: Path | None,
    slide_mpp: float | None,
    max_damage: float,
    min_evaluable: float,
    accept_stain: bool,
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
    from coverslip.workflows.registry import Asked
    from coverslip.workflows.run import execute, plan_run
    from coverslip.workflows.workflow_file import read_workflow
    from coverslip.workflows.workflow_file import workflow as named_workflow

    out = console()
    pyramid = PyramidSettings(portable=portable)
    settings = RunSettings(
        max_damage=max_damage,
        min_evaluable=min_evaluable,
        accept_stain=accept_stain,
        seed=seed,
        pyramid=pyramid,
    )
    short = {
        "--marker": marker,
        "--tumour": tumour,
        "--preparation": preparation,
        "--guideline": guideline,
        "--site": site,
        "--tile-mpp": tile_mpp,
        "--tile-size": tile_size,
        "--exact": exact or None,
    }
    asked = Asked(model, encoder, weights, random_weights, commercial_only)
    given = _named({**short, **_parsed(settings_given)}, read_workflow(workflow).kind)
    chosen = named_workflow(workflow, given, asked)
    plan = plan_run(paths, output, chosen, settings, slides_csv, slide_mpp)
    say_ignored(plan, out)
    if dry_run:
        return _dry_run(plan, out)
    report = execute(plan, workers, scheduler, overwrite, lambda slides: watcher(out, slides))
    summarise(plan, report, out)
    say_ruo()
    return report.exit_code


# Options that stand for a setting: option → the setting's name.
SHORT = {
    "--marker": "marker",
    "--tumour": "tumour",
    "--preparation": "preparation",
    "--guideline": "guideline",
    "--site": "site",
    "--tile-mpp": "mpp",
    "--tile-size": "size",
    "--exact": "exact",
}


def _parsed(given: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE by name, values read as YAML: numbers, lists in brackets, true and false."""
    import yaml

    from coverslip.errors import RequestError

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {text}", "has no value", "write NAME=VALUE")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {text}", "has no readable value", "quote it") from error
    return found


def _named(given: Mapping[str, Any], kind: WorkflowKind) -> dict[str, Any]:
    """Settings by name; `given`: by that, or by the option that stands for one, None for one not given."""
    from coverslip.errors import RequestError

    defaults, found = kind.settings(), {}
    for key, value in given.items():
        if value is None:
            continue
        if key in SHORT and not hasattr(defaults, SHORT[key]):
            raise RequestError(key, f"is not used by the workflow {kind.name}", "leave it out")
        found[SHORT.get(key, key)] = value
    return found


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
