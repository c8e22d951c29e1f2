"""`coverslip embed`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    from coverslip.workflows.embedding import Embedding


def _list(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Prints the table and ends, before it is missed that nothing else was given."""
    if wanted:
        _show_encoders()
        say_ruo()
        ctx.exit(0)


@click.command("embed", epilog=RUO)
@paths_argument
@output_option
@click.option("--encoder", required=True, help="An encoder of --list, or a network of timm by its name.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
              help="Show the encoders and end.")  # fmt: skip
@click.option(
    "--mpp",
    type=click.FloatRange(min=0, min_open=True),
    help="µm per pixel of the tiles; by default what the encoder was made for.",
)
@click.option(
    "--size", type=click.IntRange(min=1), help="Side of a tile, pixels; by default the encoder's input."
)
@click.option(
    "--overlap", type=click.IntRange(min=0), default=0, show_default=True, help="Pixels shared by neighbours."
)
@click.option("--batch", type=click.IntRange(min=1), help="Tiles computed at once.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Safetensors file; by default what is in the local Hugging Face cache.",
)
@click.option("--random-weights", is_flag=True, help="For trying out: figures that mean nothing.")
@click.option(
    "--commercial-only", is_flag=True, help="Refuse an encoder whose licence is not known to allow that."
)
@slides_option
@slide_mpp_option("--slide-mpp")
@max_damage_option
@exact_option
@workers_option
@scheduler_option
@overwrite_option
def command(
    paths: tuple[str, ...],
    output: Path,
    encoder: str,
    mpp: float | None,
    size: int | None,
    overlap: int,
    batch: int | None,
    weights: Path | None,
    random_weights: bool,
    commercial_only: bool,
    slides_csv: Path | None,
    slide_mpp: float | None,
    max_damage: float,
    exact: bool,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
) -> int:
    """Features of every tile on tissue, by an encoder: files, folders, globs, URLs.

    Each slide's folder gets features.zarr, and features.h5 in the layout of CLAM and TRIDENT. Weights are
    never fetched, and what is missing is told before any slide is opened. A run that was stopped continues
    when the same command is given again; bad slides are in OUTPUT/failures.json, and the exit code is then 3.
    """
    from coverslip.workflows.commands.run import say_ignored, summarise
    from coverslip.workflows.embedding import EmbedSettings, embedding
    from coverslip.workflows.job import RunSettings
    from coverslip.workflows.progress import watcher
    from coverslip.workflows.run import execute, plan_run

    choices = EmbedSettings(mpp=mpp, size=size, overlap=overlap, batch=batch, exact=exact)
    workflow = embedding(
        encoder, choices, weights=weights, random=random_weights, commercial_only=commercial_only
    )
    _say_encoder(workflow)
    out = console()
    plan = plan_run(
        paths, output, workflow, RunSettings(max_damage=max_damage, pyramid=None), slides_csv, slide_mpp
    )
    say_ignored(plan, out)
    report = execute(plan, workers, scheduler, overwrite, lambda slides: watcher(out, slides))
    summarise(plan, report, out)
    say_ruo()
    return report.exit_code


def _say_encoder(workflow: Embedding) -> None:
    from coverslip.models.encoders import find_encoder

    encoder, model, grid = find_encoder(workflow.encoder), workflow.model, workflow.grid
    click.echo(f"encoder: {model.name}, {model.version}; licence: {model.licence} ({encoder.page})")
    click.echo(f"tiles: {grid.size} px at {grid.mpp:g} µm/px, {workflow.vectors.width} figures each")
    if not encoder.fits(grid.mpp):
        click.echo(f"note: {encoder.name} was made for {encoder.mpp:g} µm/px")
    if encoder.unverified:
        click.echo(f"note: not from its makers: {encoder.unverified}")


def _show_encoders() -> None:
    from importlib.util import find_spec

    from rich.table import Table

    from coverslip.models.encoders import TABLE
    from coverslip.models.weights import cached_weights

    cache = find_spec("huggingface_hub") is not None
    table = Table(
        *("encoder", "figures", "µm/px", "tile px", "licence", "gated", "published as", "in the cache"),
        box=None,
        pad_edge=False,
    )
    for encoder in TABLE:
        table.add_row(
            *(encoder.name, str(encoder.features), f"{encoder.mpp:g}", str(encoder.size), encoder.licence),
            "yes" if encoder.gated else "no",
            encoder.published,
            "yes" if cache and cached_weights(encoder) else "no",
        )
    console().print(table)
    click.echo("Any network of timm can be named too, such as resnet50; say its µm/px with --mpp.")
