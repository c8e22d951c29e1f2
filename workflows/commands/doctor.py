"""`coverslip doctor`"""

from __future__ import annotations

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import say_ruo


@click.command("doctor", epilog=RUO)
def command() -> int:
    """Check the installation and say how to mend each fault."""
    from coverslip.workflows.doctor import diagnose, render

    checks = diagnose()
    click.echo(render(checks))
    say_ruo()
    return 0 if all(check.ok for check in checks) else 2
