"""`coverslip view`"""

from __future__ import annotations

from pathlib import Path

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo, slide_mpp_option


@click.command("view", epilog=RUO)
@click.argument("path", type=str)
@slide_mpp_option("--slide-mpp", "--mpp")
@click.option("--beside", metavar="OTHER", help="A second slide or result to its right, in step with it.")
@click.option(
    "--queue",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="What coverslip suggest wrote: the next and previous keys walk it.",
)
@click.option(
    "--reviewer", metavar="NAME", help="Who reviews; by default who did so here last, or your login."
)
@click.option("--role", metavar="ROLE", help="As what, such as pathologist.")
@click.option(
    "--screenshot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a PNG instead of opening a window; nothing is reviewed.",
)
def command(
    path: str,
    slide_mpp: float | None,
    beside: str | None,
    queue: Path | None,
    reviewer: str | None,
    role: str | None,
    screenshot: Path | None,
) -> None:
    """Look at a slide or an .ome.zarr in napari; review a result (OUT/slides/ID), or a run (OUT)."""
    from coverslip.workflows.desk.person import remember, reviewer_of
    from coverslip.workflows.view import show

    person = reviewer_of(reviewer, role)
    if reviewer:
        remember(person)
    show(path, screenshot, slide_mpp, beside, reviewer=person, queue=queue)
    if screenshot:
        click.echo(f"picture: {screenshot}")
    say_ruo()
