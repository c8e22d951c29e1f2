"""`coverslip export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo

if TYPE_CHECKING:
    from coverslip.workflows.exports.export import Format, What


@click.command("export", epilog=RUO)
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file."
)
@click.option(
    "--to",
    type=click.Choice(["geojson", "csv", "parquet", "h5"]),
    required=True,
    help="geojson for QuPath; csv for spreadsheets; parquet; h5 as CLAM and TRIDENT keep tiles and features.",
)
@click.option(
    "--what",
    type=click.Choice(["cells", "tiles", "regions"]),
    help="By default cells where the result has some and the format holds them, else tiles.",
)
@click.option(
    "--reviewer", metavar="NAME", help="After this person's corrections, and with their regions; geojson."
)
@click.option("--signed", is_flag=True, help="After the corrections that were signed last; geojson.")
def command(
    result: Path, output: Path, to: str, what: str | None, reviewer: str | None, signed: bool
) -> None:
    """Write one result (OUT/slides/ID) for another program. Positions are level-0 pixels.

    Without --reviewer and --signed all is as the machine said.
    """
    from coverslip.workflows.exports.export import export
    from coverslip.workflows.layers import result_folder

    home = result_folder(result) or result
    count = export(home, output, cast("Format", to), cast("What | None", what), reviewer, signed=signed)
    said = "objects" if reviewer or signed else "rows"
    click.echo(f"{output}: {count} {said}" if count is not None else f"{output}")
    say_ruo()
