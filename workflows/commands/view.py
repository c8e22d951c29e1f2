"""`coverslip view`"""

from __future__ import annotations

from pathlib import Path

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo, slide_mpp_option


@click.command("view", epilog=RUO)
@click.argument("path", type=str)
@slide_mpp_option("--slide-mpp", "--mpp")
@click.option(
    "--screenshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a PNG instead of opening a window.",
)
def command(path: str, slide_mpp: float | None, screenshot: Path | None) -> None:
    """Look at a result (OUT/slides/ID), a slide or an .ome.zarr in napari."""
    from coverslip.workflows.view import show

    show(path, screenshot, slide_mpp)
    if screenshot:
        click.echo(f"picture: {screenshot}")
    say_ruo()
