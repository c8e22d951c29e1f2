"""`coverslip tissue`"""

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


@click.command("tissue", epilog=RUO)
@paths_argument
@output_option
@slides_option
@slide_mpp_option("--slide-mpp", "--mpp")
def command(paths: tuple[str, ...], output: Path, slides_csv: Path | None, slide_mpp: float | None) -> int:
    """Find the tissue of each slide.

    Writes to OUTPUT/ID: tissue.ome.zarr (the slide made small, with the label tissue), tissue.geojson
    (outlines in level-0 pixels) and tissue.png.
    """
    from coverslip.workflows.tissue_files import write_tissue_files

    def one(slide: Slide, id: str) -> None:
        tissue = write_tissue_files(slide, make_folder(output) / id)
        if tissue.is_empty:
            click.echo(f"{slide.name}: no tissue")
        else:
            click.echo(
                f"{slide.name}: {tissue.area_mm2:.2f} mm² of tissue, {tissue.fraction:.1%} of the scan"
            )
        click.echo(f"  {output / id}: tissue.ome.zarr, tissue.geojson, tissue.png")

    return each_slide(paths, slides_csv, slide_mpp, one)
