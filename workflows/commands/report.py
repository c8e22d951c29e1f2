"""`coverslip report`"""

from __future__ import annotations

from pathlib import Path

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo


@click.command("report", epilog=RUO)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--pdf",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report of one result as PDF to this file; needs pip install 'coverslip[pdf]'.",
)
def command(path: Path, pdf: Path | None) -> None:
    """Render reports again from results, without computing: one (OUT/slides/ID), or all of a run (OUT)."""
    from coverslip.workflows.layers import result_folder
    from coverslip.workflows.outputs import REPORT, read_result, result_folders
    from coverslip.workflows.pdf import write_pdf
    from coverslip.workflows.report import write_report_again

    if pdf is not None:
        folder = result_folder(path) or path
        if read_result(folder).review is None:  # what is signed stays as it is
            write_report_again(folder)
        write_pdf(folder / REPORT, pdf)
        click.echo(f"PDF: {pdf}")
    else:
        for folder in result_folders(path):
            write_report_again(folder)
            click.echo(f"report: {folder / REPORT}")
    say_ruo()
