"""`coverslip workflows`"""

from __future__ import annotations

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console


@click.group("workflows", epilog=RUO)
def command() -> None:
    """Workflows by name, ours and those of other packages."""


@command.command("list", epilog=RUO)
def list_workflows() -> int:
    """Each workflow, what it is for, and the package that brings it."""
    from rich.table import Table

    from coverslip.workflows.registry import find_workflow, known_workflows

    table = Table("workflow", "what it is for", "from", box=None, pad_edge=False)
    for name, entry in known_workflows().items():
        table.add_row(name, find_workflow(name).purpose, entry.dist.name if entry.dist else "")
    console().print(table)
    return 0


@command.command("show", epilog=RUO)
@click.argument("name")
def show(name: str) -> int:
    """Print a workflow and its settings as a file: edit it, and run it with --workflow FILE.yaml."""
    from coverslip.workflows.registry import find_workflow
    from coverslip.workflows.workflow_file import show_workflow

    click.echo(show_workflow(find_workflow(name)), nl=False)
    return 0
