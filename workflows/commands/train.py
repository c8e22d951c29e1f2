"""`coverslip train`"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, say_ruo
from coverslip.workflows.commands.correction_options import (
    correction_options,
    labels_to_learn,
    optional_labels_argument,
)

if TYPE_CHECKING:
    from coverslip.models.aggregator import Kind
    from coverslip.models.document import Metrics, ProbeMethod
    from coverslip.models.probe_training import ProbeReport
    from coverslip.models.training import TrainingReport, TrainingSettings


labels_argument = click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path))
package_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the model package."
)
name_option = click.option("--name", help="Name of the model; by default that of the output folder.")
licence_option = click.option(
    "--licence", default="not stated", show_default=True, help="Licence of the model."
)
group_option = click.option(
    "--group-column",
    default="group",
    show_default=True,
    help="Column of what stays in one part whole: the patient, or the slide.",
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


@click.group("train", epilog=RUO)
def command() -> None:
    """Train a model from your own labels."""


@command.command("tiles", epilog=RUO)
@optional_labels_argument
@package_option
@click.option(
    "--mpp",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="µm per pixel of the image files.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=224,
    show_default=True,
    help="Side of the network's input, pixels.",
)
@name_option
@click.option("--stain", help="Stain of the tiles, such as H&E.")
@licence_option
@group_option
@click.option("--architecture", show_default="resnet10t", help="Network, by timm's name.")
@click.option("--start", help="Model to begin with: its network, all but what tells its classes apart.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Share of tiles whose prediction set holds the true class.",
)
@click.option("--sets-by-class", is_flag=True, help="Let that hold for each class, not only over all.")
@seed_option
@correction_options
def tiles(
    labels: Path | None,
    output: Path,
    mpp: float,
    size: int,
    name: str | None,
    stain: str | None,
    licence: str,
    group_column: str,
    architecture: str | None,
    start: str | None,
    epochs: int,
    coverage: float,
    sets_by_class: bool,
    seed: int,
) -> None:
    """Fine-tune a small network on the tiles named in LABELS: a CSV with file,label[,group].

    With --corrections also on what reviewers corrected; those are learnt from, and not measured on. Prints
    the accuracy per class on a part that was kept out of every choice, and writes a model package.
    """
    from coverslip.models.training import Epoch, TrainingSettings, train_tiles

    settings = TrainingSettings(
        mpp=mpp,
        name=name or output.name,
        size=size,
        stain=stain,
        licence=licence,
        group_column=group_column,
        epochs=epochs,
        coverage=coverage,
        sets_by_class=sets_by_class,
        seed=seed,
    )
    settings = _begun(settings, architecture, start)

    def say(epoch: Epoch) -> None:
        click.echo(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, balanced accuracy on validation "
            f"{epoch.validation_balanced_accuracy:.3f}, {epoch.seconds:.0f} s"
        )

    with labels_to_learn(labels, mpp, size, group_column) as learnt:
        settings = replace(settings, group_column=learnt.group_column)
        _say(train_tiles(learnt.labels, output, settings, say, learnt.corrections))
    say_ruo()


def _begun(settings: TrainingSettings, architecture: str | None, start: str | None) -> TrainingSettings:
    """With the network asked for, or that of the model to begin with."""
    if start is None:
        return replace(settings, architecture=architecture) if architecture else settings
    from coverslip.models.library import find_model

    known = find_model(start).document.architecture
    if architecture and architecture != known.name:
        raise RequestError(
            f"--architecture {architecture}",
            f"is not that of {start}, {known.name}",
            "leave one of the two out",
        )
    return replace(settings, start=start, architecture=known.name, arguments=known.arguments)


@command.command("probe", epilog=RUO)
@optional_labels_argument
@package_option
@click.option("--encoder", required=True, help="An encoder of coverslip embed --list, or a network of timm.")
@click.option(
    "--mpp",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="µm per pixel of the image files.",
)
@click.option(
    "--method",
    type=click.Choice(["linear", "simpleshot", "prototypes", "knn"]),
    default="linear",
    show_default=True,
    help="What tells the classes apart.",
)
@click.option("--shots", type=click.IntRange(min=1), help="Tiles of each class to learn from; default all.")
@click.option(
    "--size", type=click.IntRange(min=16), help="Side of a tile, pixels; by default the encoder's input."
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Safetensors file of the encoder; by default what is in the local Hugging Face cache.",
)
@click.option("--random-weights", is_flag=True, help="For trying out: a model that means nothing.")
@name_option
@click.option("--stain", help="Stain of the tiles, such as H&E.")
@click.option("--licence", help="Licence of the model; by default the encoder's, whose weights it holds.")
@group_option
@seed_option
@correction_options
def probe(
    labels: Path | None,
    output: Path,
    encoder: str,
    mpp: float,
    method: ProbeMethod,
    shots: int | None,
    size: int | None,
    weights: Path | None,
    random_weights: bool,
    name: str | None,
    stain: str | None,
    licence: str | None,
    group_column: str,
    seed: int,
) -> None:
    """Put a small estimator on an encoder's features of the tiles in LABELS: a CSV with file,label[,group].

    The encoder is left as it is, and its weights are never fetched. With --corrections it also learns from
    what reviewers corrected, which is not measured on. Prints the accuracy per class on a part
    that was kept out of every choice, and writes a model package.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from coverslip.models.encoders import find_encoder
    from coverslip.models.probe_training import ProbeSettings, train_probe

    settings = ProbeSettings(
        mpp=mpp,
        encoder=encoder,
        method=method,
        shots=shots,
        weights=weights,
        random=random_weights,
        name=name or output.name,
        size=size,
        stain=stain,
        licence=licence,
        group_column=group_column,
        seed=seed,
    )
    columns = TextColumn("tiles embedded"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task("", total=None, visible=False)

        def say(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        with labels_to_learn(labels, mpp, size or find_encoder(encoder).size, group_column) as learnt:
            settings = replace(settings, group_column=learnt.group_column)
            report = train_probe(learnt.labels, output, settings, say, learnt.corrections)
    _say_metrics(report.metrics, "tiles")
    _say_notes(report)
    say_ruo()


@command.command("cells", epilog=RUO)
@labels_argument
@package_option
@click.option(
    "--mpp",
    type=click.FloatRange(min=0, min_open=True),
    required=True,
    help="µm per pixel at which the model looks.",
)
@click.option(
    "--picture-mpp",
    type=click.FloatRange(min=0, min_open=True),
    help="µm per pixel of the pictures; by default the same.",
)
@name_option
@click.option("--stain", help="Stain of the pictures, such as H&E.")
@licence_option
@group_option
@click.option("--called", default="object", show_default=True, help="What label images mark: nucleus.")
@click.option("--steps", type=click.IntRange(min=10), default=3000, show_default=True)
@click.option("--side", type=click.IntRange(min=64), default=192, show_default=True, help="Of views, px.")
@seed_option
def cells(
    labels: Path,
    output: Path,
    mpp: float,
    picture_mpp: float | None,
    name: str | None,
    stain: str | None,
    licence: str,
    group_column: str,
    called: str,
    steps: int,
    side: int,
    seed: int,
) -> None:
    """Train a network that finds nuclei or cells in pictures named in LABELS: a CSV with file,label[,group].

    Each label is a file that marks every object of its picture: a label image (0 outside, a number for each)
    or boxes in Pascal VOC's XML. Prints how objects are found in pictures that were kept out of every choice,
    and writes a model package.
    """
    from coverslip.models.finding_card import of_finding
    from coverslip.models.star_training import FinderSettings, Step, train_finder

    settings = FinderSettings(
        mpp=mpp,
        picture_mpp=picture_mpp,
        name=name or output.name,
        stain=stain,
        licence=licence,
        group_column=group_column,
        called=called,
        steps=steps,
        side=side,
        seed=seed,
    )

    def say(step: Step) -> None:
        click.echo(f"step {step.step}/{step.steps}: loss {step.loss:.3f}, {step.seconds:.0f} s")

    report = train_finder(labels, output, settings, say)
    click.echo("\n".join(of_finding(report.document)))
    click.echo(f"model: {report.folder}")
    say_ruo()


@command.command("mil", epilog=RUO)
@labels_argument
@package_option
@click.option(
    "--aggregator",
    type=click.Choice(["abmil", "clam-sb", "dsmil", "transmil"]),
    default="abmil",
    show_default=True,
    help="How tiles become one call.",
)
@click.option(
    "--encoder", default="not stated", help="What made the features; by default what their files say."
)
@name_option
@licence_option
@group_option
@click.option(
    "--folds",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Cross-validate with so many; 0 keeps one test part out instead.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=50, show_default=True)
@seed_option
def mil(
    labels: Path,
    output: Path,
    aggregator: Kind,
    encoder: str,
    name: str | None,
    licence: str,
    group_column: str,
    folds: int,
    epochs: int,
    seed: int,
) -> None:
    """Train a slide-level model on the slides named in LABELS: a CSV with file,label[,group].

    Each file holds the features of a slide's tiles, as coverslip embed writes them; nobody needs to say
    which tiles make the class. Prints what it finds on slides the measured model never saw.
    """
    from coverslip.models.slide_training import SlideEpoch, SlideTrainingSettings, train_slides

    settings = SlideTrainingSettings(
        name=name or output.name,
        aggregator=aggregator,
        encoder=encoder,
        licence=licence,
        group_column=group_column,
        folds=folds,
        epochs=epochs,
        seed=seed,
    )

    def say(epoch: SlideEpoch) -> None:
        which = f"fold {epoch.fold}, " if epoch.fold else ""
        click.echo(
            f"{which}epoch {epoch.epoch}: loss {epoch.loss:.3f}, on validation {epoch.validation_loss:.3f}"
        )

    report = train_slides(labels, output, settings, say)
    _say_metrics(report.metrics, "slides")
    click.echo(f"measured by {report.metrics.data}")
    click.echo(f"model: {report.folder}")
    say_ruo()


def _say_metrics(metrics: Metrics, noun: str) -> None:
    from rich.table import Table

    table = Table("class", noun, "called right", box=None, pad_edge=False)
    for row in metrics.classes:
        table.add_row(
            row.name, str(row.n), "none to test on" if row.accuracy is None else f"{row.accuracy:.1%}"
        )
    console().print(table)
    low, high = metrics.interval
    click.echo(
        f"balanced accuracy {metrics.balanced_accuracy:.3f} "
        f"({low:.3f} to {high:.3f}, {metrics.level:.0%} bootstrap) on "
        f"{metrics.n} {noun} of {metrics.groups} groups kept out"
    )


def _say(report: TrainingReport) -> None:
    _say_metrics(report.metrics, "tiles")
    click.echo(f"weights started {report.initialisation}")
    _say_notes(report)


def _say_notes(report: TrainingReport | ProbeReport) -> None:
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(f"model: {report.package.folder}")
