"""`coverslip suggest`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, say_ruo

if TYPE_CHECKING:
    from coverslip.workflows.review.queue import Queue

SHOWN = 20


@click.command("suggest", epilog=RUO)
@click.argument("results", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-n", "--count", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Queue to write, for coverslip view OUT --queue; by default they are only listed.",
)
def command(results: Path, count: int, output: Path | None) -> None:
    """List the tiles and cells of the results in OUT whose review would teach most.

    Those the machine doubts, and not fifty alike; what was reviewed or excluded already is left out.
    """
    from coverslip.workflows.review.queue import write_queue
    from coverslip.workflows.review.suggest import suggest

    queue = suggest(results, count)
    _show(queue, SHOWN if output else count)
    reviewed = f", {queue.reviewed} reviewed already" if queue.reviewed else ""
    click.echo(f"{len(queue.suggestions)} suggested of {queue.candidates} judged{reviewed}")
    if output is not None:
        write_queue(queue, output)
        click.echo(f"queue: {output}")
    say_ruo()


def _show(queue: Queue, most: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("slide", "what", "row", "x", "y", "called", "doubt", "why", box=None, pad_edge=False)
    for one in queue.suggestions[:most]:
        table.add_row(
            escape(one.slide),
            one.of.removesuffix("s"),
            str(one.row),
            f"{one.x:.0f}",
            f"{one.y:.0f}",
            escape(one.label or ""),
            f"{one.score:.2f}",
            escape(one.why),
        )
    console().print(table)
    if len(queue.suggestions) > most:
        click.echo(f"… and {len(queue.suggestions) - most} more")
