"""The options that say what of reviews a model learns from; `labels_to_learn` makes a labels file of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coverslip.errors import RequestError

if TYPE_CHECKING:
    from coverslip.models.document import Corrections

Function = TypeVar("Function", bound=Callable[..., Any])
# Where click keeps for the command what these options were given, by name.
ASKED = f"{__name__}.asked"


def _asked(option: str, **attributes: Any) -> Callable[[Function], Function]:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        context.meta.setdefault(ASKED, {})[parameter.name] = value

    return click.option(option, expose_value=False, callback=keep, **attributes)


OPTIONS = (
    _asked(
        "--corrections",
        metavar="OUT",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        multiple=True,
        help="Results whose signed reviews are learnt from, too; may be given several times.",
    ),
    _asked("--unsigned", is_flag=True, help="With --corrections: take reviews that nobody signed, too."),
    _asked("--of", type=click.Choice(["tiles", "cells"]), help="Which corrections, where there are both."),
    _asked(
        "--rename",
        metavar="CLASS=CLASS",
        multiple=True,
        help="What a class of the corrections is called in LABELS; may be given several times.",
    ),
    _asked("--name-reviewers", is_flag=True, help="Name reviewers in the model's card, not only how many."),
)
optional_labels_argument = click.argument(
    "labels", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


def correction_options(command: Function) -> Function:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Learnt:
    """A labels file and the column of its groups; `corrections`: what of it came from reviews."""

    labels: Path
    group_column: str
    corrections: Corrections | None


@contextmanager
def labels_to_learn(labels: Path | None, mpp: float, size: int, group_column: str) -> Iterator[Learnt]:
    """LABELS as it is, or joined with the corrections asked for, in a folder that is gone afterwards."""
    asked = click.get_current_context().meta[ASKED]
    if not asked["corrections"]:
        if given := [name for name in ("unsigned", "of", "rename", "name_reviewers") if asked[name]]:
            raise click.UsageError(f"--{given[0].replace('_', '-')} needs --corrections")
        if labels is None:
            raise click.UsageError("name a file LABELS, or results with --corrections")
        yield Learnt(labels, group_column, None)
        return
    from coverslip.workflows.review.labels import read_labels
    from coverslip.workflows.review.training_set import make_training_set

    found = read_labels(asked["corrections"], asked["of"], unsigned=asked["unsigned"])
    with tempfile.TemporaryDirectory(prefix="coverslip-", ignore_cleanup_errors=True) as folder:
        made = make_training_set(
            labels,
            found.renamed(_renames(asked["rename"])),
            Path(folder),
            mpp=mpp,
            size=size,
            group_column=group_column,
            signed=not asked["unsigned"],
            name_reviewers=asked["name_reviewers"],
        )
        _say(made.corrections, found.unsigned)
        try:
            yield Learnt(made.labels_csv, "group", made.corrections)
        except RequestError as error:
            if error.subject != str(made.labels_csv):
                raise
            given = f"{labels} with the corrections" if labels else "the tiles of the corrections"
            raise RequestError(given, error.problem, error.remedy) from error


def _renames(given: tuple[str, ...]) -> Mapping[str, str]:
    if wrong := [one for one in given if not all(one.partition("="))]:
        raise click.UsageError(f"--rename {wrong[0]} is not of the form CLASS=CLASS")
    return {old: new for old, _, new in (one.partition("=") for one in given)}


def _say(corrections: Corrections, unsigned: int) -> None:
    people = f"{corrections.reviewers} reviewer{'s' * (corrections.reviewers > 1)}"
    click.echo(
        f"{corrections.labels} labels from corrections by {people}: {corrections.changed} change what the "
        f"machine said, {corrections.labels - corrections.changed} confirm it"
    )
    left_out = {
        "on which reviewers disagree": corrections.disagreed,
        "in excluded areas": corrections.excluded,
    }
    if said := [f"{count} {why}" for why, count in left_out.items() if count]:
        click.echo(f"left out: {', '.join(said)}")
    if unsigned:
        click.echo(
            f"left out: {unsigned} review{'s' * (unsigned > 1)} that nobody signed; --unsigned takes them"
        )
