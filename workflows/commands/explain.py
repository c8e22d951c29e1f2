"""`coverslip explain`"""

from __future__ import annotations

import re
from pathlib import Path

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo, slide_mpp_option


def _place(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no X,Y in whole level-0 pixels, such as 2048,1024")
    return int(found[1]), int(found[2])


@click.command("explain", epilog=RUO)
@click.argument("path", type=str)
@click.option("--model", required=True, help="A model of tiles: a package's folder, or a name.")
@click.option(
    "--at", callback=_place, help="X,Y of the tile's top-left corner, level-0 pixels; as in tiles.parquet."
)
@click.option("--class", "name", help="Explain this class; by default the most probable.")
@slide_mpp_option("--mpp", "--slide-mpp")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A PNG to write."
)
def command(
    path: str,
    model: str,
    at: tuple[int, int] | None,
    name: str | None,
    slide_mpp: float | None,
    output: Path,
) -> None:
    """Show which pixels of one tile speak for a class.

    PATH is a slide, or a picture no larger than a tile. The tile is read as `coverslip run --workflow tiles`
    reads it, and drawn beside a heat map: Grad-CAM of a convolutional network, or gradient × activation of
    the patch tokens of a vision transformer.
    """
    from coverslip.errors import RequestError
    from coverslip.tiling.overlay import write_png
    from coverslip.workflows.explanation import draw_explanation, explain_tile

    if output.suffix.lower() != ".png":
        raise RequestError(str(output), "is no PNG", "give the picture a name that ends in .png")
    if not output.absolute().parent.is_dir():
        raise RequestError(str(output), f"there is no folder {output.parent}", "make it first")
    found = explain_tile(path, model, at, name, slide_mpp)
    write_png(output, draw_explanation(found))
    click.echo(f"class: {found.name}, probability {found.probability:.3f}, by {found.model}")
    if not found.evidence.any():
        click.echo("note: nothing in this tile speaks for the class")
    if found.strange:
        click.echo("note: the tile is unlike those the model learnt from")
    if found.missing:
        click.echo(f"note: {found.missing:.1%} of the tile are missing or corrupt, shown as background")
    click.echo(f"picture: {output}")
    say_ruo()
