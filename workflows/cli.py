"""The command line: `coverslip COMMAND …`. Each command lives in its own module, imported when it is used.

Exit codes: 0 all done; 2 the request made no sense or something it needs is not there; 3 some slides
failed, the others are done; 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

import click

from coverslip.errors import CoverslipError, SlideError
from coverslip.ruo import RUO

WRONG_REQUEST, SOME_FAILED, INTERRUPTED = 2, 3, 130

# Name → one line for the list of commands, so that --help imports none of them.
COMMANDS = {
    "info": "What a slide is: format, size, µm/px and where it is from.",
    "convert": "Slide to OME-Zarr pyramid.",
    "tissue": "Find tissue: mask, outlines, picture.",
    "tile": "Plan tiles on tissue.",
    "train": "Train a model on labelled tiles.",
    "models": "Models by name: list, add, verify, read about.",
    "run": "Run a workflow over slides.",
    "report": "Reports again from results, as HTML or PDF.",
    "export": "A result for QuPath, spreadsheets, CLAM and TRIDENT.",
    "review": "Reviews of results: from QuPath, and who said what.",
    "audit": "Audit trails of reviews: show, verify.",
    "evaluate": "Compare predictions with the truth: AUC, kappa, FROC.",
    "workflows": "Workflows by name and their settings.",
    "embed": "Features of every tile, by an encoder.",
    "explain": "Which pixels of one tile speak for a class.",
    "suggest": "Tiles and cells whose review would teach most.",
    "view": "Look at a slide or a result in napari.",
    "doctor": "Check the installation.",
}


class Commands(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"coverslip.workflows.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog=RUO, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coverslip")
def coverslip() -> None:
    """Whole-slide analysis for digital pathology."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `coverslip`: runs it and exits with its code."""
    for stream in (sys.stdout, sys.stderr):
        # File names need not be UTF-8, and terminals need not know µ: both are shown as escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """As `main`, but returns the exit code. An error of ours is one line, never a traceback."""
    try:
        code = coverslip.main(arguments, prog_name="coverslip", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; what is done is kept, the same command continues", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return WRONG_REQUEST
    except CoverslipError as error:
        click.echo(f"Error: {error}", err=True)
        return SOME_FAILED if isinstance(error, SlideError) else WRONG_REQUEST
    except OSError as error:
        what = error.strerror or str(error)
        where = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"Error: {where}{what}; see that it can be read or written, and has space", err=True)
        return WRONG_REQUEST
    return code if isinstance(code, int) else 0
