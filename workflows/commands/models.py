"""`coverslip models`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.atomic import replacing
from coverslip.ruo import RUO
from coverslip.workflows.cli import WRONG_REQUEST
from coverslip.workflows.commands.common import console, say_ruo

if TYPE_CHECKING:
    from coverslip.models.kinds import AnyDocument
    from coverslip.models.library import Known

name_argument = click.argument("model")


@click.group("models", epilog=RUO)
def command() -> None:
    """Models by name: those installed, and those you add."""


@command.command("list", epilog=RUO)
@click.option("--commercial-only", is_flag=True, help="Only those whose licence is known to allow it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of a table.")
def list_models(commercial_only: bool, as_json: bool) -> int:
    """The models that can be named, with what they say, want, and may be used for."""
    from coverslip.errors import ModelUnavailableError
    from coverslip.models.kinds import read_any
    from coverslip.models.library import known_models
    from coverslip.models.licence import commercial_use

    found, bad = [], []
    for known in known_models().values():
        try:
            document = read_any(known.folder)
        except ModelUnavailableError as error:
            bad.append(error)
            continue
        if not commercial_only or commercial_use(document.licence):
            found.append((known, document))
    _say_list(found, as_json)
    for error in bad:
        click.echo(f"Error: {error}", err=True)
    say_ruo()
    return WRONG_REQUEST if bad else 0


@command.command("show", epilog=RUO)
@name_argument
def show(model: str) -> None:
    """All that is known of MODEL, as JSON: a name, a folder, or hf:OWNER/NAME@REVISION."""
    from coverslip.models.library import describe_model

    click.echo(describe_model(model).model_dump_json(indent=2))
    say_ruo()


@command.command("card", epilog=RUO)
@name_argument
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for confusion.svg, what each class was called, reliability.svg, how sure it is against how "
    "often it is right, and curve.svg, how training went.",
)
def card(model: str, plots: Path | None) -> None:
    """The same for a reader: what MODEL is for, learnt from, does well, and when it doubts. Markdown."""
    from rich.markdown import Markdown

    from coverslip.models.card import render_card
    from coverslip.models.library import describe_model

    document = describe_model(model)
    text, out = render_card(document), console()
    if plots:
        _write_plots(document, plots)
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        click.echo(text)


@command.command("add", epilog=RUO)
@click.argument("source")
@click.option("--name", help="What to call it; by default as it calls itself.")
@click.option("--licence", help="Of a model in WSInfer's format, where its README does not state it.")
def add(source: str, name: str | None, licence: str | None) -> None:
    """Verify SOURCE and keep a copy: a package's folder, WSInfer's, or hf:OWNER/NAME@REVISION of either."""
    from coverslip.models.kinds import read_any
    from coverslip.models.library import add_model

    known = add_model(source, name, licence)
    document = read_any(known.folder)
    click.echo(
        f"{known.name}: {document.name} {document.version}, licence {document.licence}, in {known.folder}"
    )
    click.echo(f"use it with: coverslip run … --workflow {_workflow(document)} --model {known.name}")
    say_ruo()


@command.command("remove", epilog=RUO)
@name_argument
def remove(model: str) -> None:
    """Delete a model that was added, by name."""
    from coverslip.models.library import remove_model

    remove_model(model)
    click.echo(f"{model} is removed")


@command.command("verify", epilog=RUO)
@click.argument("models", nargs=-1)
def verify(models: tuple[str, ...]) -> int:
    """Check documents and digests of MODELS, or of all that are known."""
    from coverslip.errors import ModelUnavailableError
    from coverslip.models.library import describe_model, known_models

    bad = 0
    for model in models or tuple(known_models()):
        try:
            document = describe_model(model)
        except ModelUnavailableError as error:
            bad += 1
            click.echo(f"Error: {error}", err=True)
        else:
            click.echo(f"{model}: sound, weights sha256 {document.weights_sha256}")
    say_ruo()
    return WRONG_REQUEST if bad else 0


def _write_plots(document: AnyDocument, folder: Path) -> None:
    """Raises RequestError where nothing was measured, or the folder cannot be written."""
    from coverslip.errors import RequestError
    from coverslip.models.confusion_plot import draw_confusion
    from coverslip.models.curve_plot import draw_curve
    from coverslip.models.diagram import draw_reliability
    from coverslip.models.document import ModelDocument
    from coverslip.models.star_document import FinderDocument

    plots = {}
    if document.metrics and not isinstance(document, FinderDocument):
        plots["confusion.svg"] = draw_confusion(document, document.metrics)
    if not isinstance(document, FinderDocument) and document.reliability:
        plots["reliability.svg"] = draw_reliability(document, document.reliability)
    if isinstance(document, ModelDocument) and document.training and document.training.curve:
        plots["curve.svg"] = draw_curve(document, document.training.curve)
    if not plots:
        raise RequestError(document.name, "was not measured: there is nothing to draw", "leave out --plots")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, plot in plots.items():
            with replacing(folder / name) as part:
                part.write_text(plot, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            str(folder), f"cannot be written ({error})", "name a folder you can write"
        ) from error


def _say_list(found: list[tuple[Known, AnyDocument]], as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps([_entry(known, document) for known, document in found], indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "version", "says", "takes", "licence", "from", box=None, pad_edge=False)
    for known, document in found:
        row = known.name, document.version, _short(document.classes), _takes(document), document.licence
        table.add_row(*map(escape, row), escape(known.origin))
    console().print(table)


def _short(classes: tuple[str, ...], most: int = 4) -> str:
    return ", ".join(classes[:most]) + (f" and {len(classes) - most} more" if len(classes) > most else "")


def _takes(document: AnyDocument) -> str:
    from coverslip.models.document import ModelDocument
    from coverslip.models.star_document import FinderDocument

    if isinstance(document, ModelDocument):
        taken = f"{document.tile.size} px at {document.tile.mpp:.3g} µm/px"
    elif isinstance(document, FinderDocument):
        taken = f"pictures at {document.mpp:.3g} µm/px"
    else:
        return f"{document.features} features by {document.encoder}"
    return f"{taken}, {document.stain}" if document.stain else taken


def _workflow(document: AnyDocument) -> str:
    """The one that runs such models."""
    from coverslip.models.package import TASKS

    return TASKS[document.task]


def _entry(known: Known, document: AnyDocument) -> dict[str, object]:
    return {
        "name": known.name,
        "origin": known.origin,
        "folder": str(known.folder),
        "version": document.version,
        "task": document.task,
        "classes": list(document.classes),
        "takes": _takes(document),
        "licence": document.licence,
        "sha256": document.weights_sha256,
    }
