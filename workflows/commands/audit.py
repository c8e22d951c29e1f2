"""`coverslip audit`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.cli import SOME_FAILED
from coverslip.workflows.commands.common import say_ruo

if TYPE_CHECKING:
    from coverslip.workflows.review.chain import Entry
    from coverslip.workflows.review.verification import Verified

path_argument = click.argument("path", type=click.Path(path_type=Path))


@click.group("audit", epilog=RUO)
def command() -> None:
    """Audit trails of reviews: who did what, when, what was before and after, and why."""


@command.command("verify", epilog=RUO)
@path_argument
@click.option(
    "--head",
    metavar="SHA256",
    help="Of an entry, as a signed report prints it: one of the trails must still hold it.",
)
def verify(path: Path, head: str | None) -> int:
    """Check the reviews of one result (OUT/slides/ID) or of a run (OUT).

    Names the first entry of each trail that was altered, deleted, moved, put in or cut off, and what was
    signed and is not as it was. The exit code is then 3; 0 when all holds.
    """
    from coverslip.workflows.review.verification import lost_reviews, reviewed_folders, verify_review

    found = [verify_review(home) for home in reviewed_folders(path)]
    lost = lost_reviews(path)
    bad = [one for one in found if one.problems]
    for one in found:
        _say(one)
    for name in lost:
        click.echo(f"{name}: altered: the worklist says that it was signed, and its review is gone")
    held = head is None or any(head.lower() in one.heads for one in found)
    if not held:
        click.echo(f"no trail here holds an entry with the sha256 {head}")
    if not found and not lost:
        click.echo(f"{path}: nobody has reviewed anything here")
    say_ruo()
    return SOME_FAILED if bad or lost or not held else 0


@command.command("show", epilog=RUO)
@path_argument
def show(path: Path) -> int:
    """The trail of one result (OUT/slides/ID): who, when, what, before, after, why. Oldest first."""
    from coverslip.errors import RequestError
    from coverslip.workflows.review.trail import examine_trail
    from coverslip.workflows.review.verification import reviewed_folders

    homes = reviewed_folders(path)
    if len(homes) != 1:
        names = ", ".join(home.name for home in homes) or "none"
        raise RequestError(str(path), f"holds {len(homes)} reviews ({names})", "name one OUT/slides/ID")
    found = examine_trail(homes[0])
    for entry in found.entries:
        _show(entry)
    if found.problem:
        click.echo(f"altered: {found.problem}; nothing after that is shown")
    say_ruo()
    return SOME_FAILED if found.problem else 0


def _say(one: Verified) -> None:
    if one.problems:
        for problem in one.problems:
            click.echo(f"{one.home.name}: altered: {problem}")
    else:
        click.echo(f"{one.home.name}: sound, {one.entries} entries, head {one.head}")
    for note in one.notes:
        click.echo(f"{one.home.name}: note: {note}")


def _show(entry: Entry) -> None:
    """A paragraph; texts of people are shown on one line, whatever they hold."""
    from coverslip.workflows.review.wording import told

    who = f"{entry.reviewer.name} ({entry.reviewer.role})" if entry.reviewer.role else entry.reviewer.name
    when = entry.at[:19].replace("T", " ")
    system = f"{entry.system.user} on {entry.system.host}"
    click.echo(f"{entry.number:4d}  {when} UTC  {_line(who)}  [{_line(system)}]")
    click.echo(f"      {_line(entry.what)}")
    if entry.event not in ("open", "close", "adopt"):
        click.echo(f"      before: {_line(told(entry.before))}; after: {_line(told(entry.after))}")
    if entry.why:
        click.echo(f"      why: {_line(entry.why)}")
    for note in entry.details.get("notes", ()):
        click.echo(f"      note: {_line(str(note))}")


def _line(text: str) -> str:
    """No letter of it steers a terminal.

    >>> _line("a\\x1b[2Jb\\n")
    'a\\\\x1b[2Jb\\\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
