"""`coverslip review`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, say_ruo

if TYPE_CHECKING:
    from coverslip.workflows.review.annotations import Brought
    from coverslip.workflows.review.summary import Summary

result_argument = click.argument("result", type=click.Path(path_type=Path))


@click.group("review", epilog=RUO)
def command() -> None:
    """Reviews of results: bring one back from QuPath, see who reviewed what."""


@command.command("import", epilog=RUO)
@result_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--reviewer", required=True, metavar="NAME", help="Whose corrections these are.")
@click.option("--role", default="", help="Their role, for the audit trail.")
@click.option("--deleted", is_flag=True, help="Exclude the cells and tiles that the file does not have.")
@click.option("--dry-run", is_flag=True, help="Say what would be corrected, and change nothing.")
def bring(result: Path, file: Path, reviewer: str, role: str, deleted: bool, dry_run: bool) -> None:
    """Correct a result (OUT/slides/ID) by a GeoJSON file that was edited in QuPath.

    Classes of cells and tiles that were changed become relabels, annotations regions, those of class Ignore*
    exclusions. Each is an entry of the audit trail, as if it was made here, and can be undone.
    """
    from coverslip.workflows.layers import result_folder
    from coverslip.workflows.review.annotations import read_annotations
    from coverslip.workflows.review.base import read_base
    from coverslip.workflows.review.case import open_case
    from coverslip.workflows.review.reviewer import Reviewer
    from coverslip.workflows.review.standing import standing_if_any

    home = result_folder(result) or result
    who = Reviewer(reviewer, role)
    if dry_run:
        base, standing = read_base(home), standing_if_any(home, who)
        _tell(read_annotations(base, standing, file, deleted=deleted), "would be made")
    else:
        with open_case(home, who) as case:
            for other in case.others:
                click.echo(f"also open for {other}", err=True)
            brought = read_annotations(case.base, case.corrections, file, deleted=deleted)
            for correction in brought.corrections:
                case.correct(correction)
        _tell(brought, f"made by {who}")
    say_ruo()


def _tell(brought: Brought, done: str) -> None:
    from coverslip.workflows.review.sentence import sentence

    for correction in brought.corrections:
        click.echo(sentence(correction))
    for note in brought.notes:
        click.echo(f"note: {note}", err=True)
    count = len(brought.corrections)
    click.echo(
        f"{count} {'correction' if count == 1 else 'corrections'} {done}" if count else "no correction"
    )


@command.command("show", epilog=RUO)
@result_argument
def show(result: Path) -> None:
    """Who reviewed a result (OUT/slides/ID), what they corrected, and what that makes of its figures."""
    from coverslip.workflows.layers import result_folder
    from coverslip.workflows.review.summary import summaries

    home = result_folder(result) or result
    found = summaries(home)
    if not found:
        click.echo("nobody has reviewed this result")
    for summary in found:
        _show(summary)
    say_ruo()


def _show(summary: Summary) -> None:
    from rich.table import Table

    click.echo(f"{summary.who}: {summary.state}")
    for line in summary.corrections:
        click.echo(f"  {line}")
    if summary.figures:
        table = Table("  figure", "machine", "after review", box=None, pad_edge=False)
        for name, before, after in summary.figures:
            table.add_row(f"  {name}", before, after)
        console().print(table)
