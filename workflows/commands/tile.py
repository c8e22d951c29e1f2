"""`coverslip tile`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import (
    each_slide,
    make_folder,
    output_option,
    paths_argument,
    slide_mpp_option,
    slides_option,
)

if TYPE_CHECKING:
    from coverslip.wsi import Slide


@click.command("tile", epilog=RUO)
@paths_argument
@output_option
@click.option(
    "--mpp", type=click.FloatRange(min=0, min_open=True), required=True, help="µm per pixel of the tiles."
)
@click.option("--size", type=click.IntRange(min=1), required=True, help="Side of a tile, pixels.")
@click.option(
    "--overlap", type=click.IntRange(min=0), default=0, show_default=True, help="Pixels shared by neighbours."
)
@click.option(
    "--min-tissue",
    type=click.FloatRange(0, 1),
    help="Least share of tissue in a tile; by default that of plan_tiles, 0.05.",
)
@click.option("--h5", is_flag=True, help="Also coords.h5 in the layout of CLAM and TRIDENT.")
@slides_option
@slide_mpp_option("--slide-mpp")
def command(
    paths: tuple[str, ...],
    output: Path,
    mpp: float,
    size: int,
    overlap: int,
    min_tissue: float | None,
    h5: bool,
    slides_csv: Path | None,
    slide_mpp: float | None,
) -> int:
    """Plan tiles on the tissue of each slide.

    Writes to OUTPUT/ID: tiles.parquet (top-left corners in level-0 pixels), tiles.png, and with --h5
    coords.h5.
    """
    from coverslip.tiling.plan import MIN_TISSUE, check_tiles
    from coverslip.workflows.steps import refuse_coarse
    from coverslip.workflows.tile_files import TileRequest, write_tile_files

    least = MIN_TISSUE if min_tissue is None else min_tissue
    check_tiles(mpp, size, overlap, least)
    request = TileRequest(mpp, size, overlap, least, h5)

    def one(slide: Slide, id: str) -> None:
        refuse_coarse(slide, mpp)
        plan = write_tile_files(slide, make_folder(output) / id, request)
        word = f"{len(plan)} tiles of {size} px at {mpp:g} µm/px"
        if not len(plan):
            word = "no tiles, since none holds enough tissue"
        click.echo(
            f"{slide.name}: {word}\n  {output / id}: tiles.parquet, tiles.png{', coords.h5' if h5 else ''}"
        )

    return each_slide(paths, slides_csv, slide_mpp, one)
