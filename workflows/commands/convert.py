"""`coverslip convert`"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import (
    console,
    each_slide,
    make_folder,
    output_option,
    overwrite_option,
    paths_argument,
    slide_mpp_option,
    slides_option,
)

if TYPE_CHECKING:
    from coverslip.tiling.pyramid import PyramidSettings
    from coverslip.wsi import Slide


@click.command("convert", epilog=RUO)
@paths_argument
@output_option
@slides_option
@slide_mpp_option("--slide-mpp", "--mpp")
@click.option(
    "--ngff",
    type=click.Choice(["0.5", "0.4"]),
    default="0.5",
    show_default=True,
    help="0.4 is what QuPath reads; it is always lossless.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Lossless zstd, which every program for OME-Zarr 0.5 opens, instead of the slide's own JPEG tiles.",
)
@click.option("--halvings", is_flag=True, help="Every factor of two, instead of the slide's stored levels.")
@click.option(
    "--chunk",
    type=click.Choice(["512", "1024"]),
    default="512",
    show_default=True,
    help="Side of a lossless chunk, about, in pixels: a whole number of stored tiles.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads; by default one per core.")
@overwrite_option
def command(
    paths: tuple[str, ...],
    output: Path,
    slides_csv: Path | None,
    slide_mpp: float | None,
    ngff: str,
    portable: bool,
    halvings: bool,
    chunk: str,
    workers: int | None,
    overwrite: bool,
) -> int:
    """Slides to OME-Zarr pyramids.

    Where a slide stores JPEG tiles they are copied as they are: in a second, without loss, no larger than the
    slide. napari and zarr-python read them where Coverslip is installed; --portable and --ngff 0.4 write what
    other programs read.

    OUTPUT ending in .zarr is the store itself, for one slide; else a folder that gets one store per slide.
    """
    settings = _settings(ngff, portable, halvings, int(chunk))

    def one(slide: Slide, id: str) -> None:
        if output.suffix != ".zarr":
            make_folder(output)
        _convert(slide, _target(output, id), settings, workers or os.cpu_count() or 1, overwrite)

    check = partial(_check_targets, output, overwrite)
    return each_slide(paths, slides_csv, slide_mpp, one, check)


def _target(output: Path, id: str) -> Path:
    return output if output.suffix == ".zarr" else output / f"{id}.ome.zarr"


def _check_targets(output: Path, overwrite: bool, ids: Sequence[str]) -> None:
    """Refuse before the first slide what would stop at a later one."""
    from coverslip.errors import RequestError

    if output.suffix == ".zarr" and len(ids) > 1:
        raise RequestError(
            str(output), f"is one store, and there are {len(ids)} slides", "name a folder for several slides"
        )
    there = [target.name for id in ids if os.path.lexists(target := _target(output, id))]
    if there and not overwrite:
        raise RequestError(
            str(output),
            f"{', '.join(there)}: is already there",
            "choose another name, or replace it with --overwrite",
        )


def _settings(ngff: str, portable: bool, halvings: bool, chunk: int) -> PyramidSettings:
    from coverslip.tiling.pyramid import PyramidSettings

    return PyramidSettings(
        chunk=chunk, ngff="0.4" if ngff == "0.4" else "0.5", halvings=halvings, portable=portable
    )


def _convert(slide: Slide, target: Path, settings: PyramidSettings, workers: int, overwrite: bool) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from coverslip.workflows.convert import convert

    out = console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(slide.name)
        done = convert(
            slide,
            target,
            settings,
            workers=workers,
            overwrite=overwrite,
            progress=lambda pixels, total: bar.update(task, completed=pixels, total=total),
        )
    levels = ", ".join(f"{level.size.width}×{level.size.height}" for level in done.plan.levels)
    click.echo(f"{done.path}: OME-Zarr {settings.ngff}, levels {levels}; {done.plan.text}")
    if done.damaged[0]:
        click.echo(
            f"{slide.name}: {done.damaged_fraction:.2%} of level 0 is missing or corrupt, shown as background"
        )
