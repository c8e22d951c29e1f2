"""`coverslip train`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, say_ruo

if TYPE_CHECKING:
    from coverslip.models.aggregator import Kind
    from coverslip.models.document import Metrics
    from coverslip.models.training import TrainingReport


labels_argument = click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path))
package_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the model package."
)
name_option = click.option("--name", help="Name of the model; by default that of the output folder.")
licence_option = click.option(
    "--licence", default="not stated", show_default=True, help="Licence of the model."
)
seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


@click.group("train", epilog=RUO)
def command() -> None:
    """Train a model from your own labels."""


@command.command("tiles", epilog=RUO)
@labels_argument
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
@click.option(
    "--group-column",
    default="group",
    show_default=True,
    help="Column whose tiles stay in one part: patient, slide.",
)
@click.option("--architecture", default="resnet10t", show_default=True, help="Network, by timm's name.")
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
def tiles(
    labels: Path,
    output: Path,
    mpp: float,
    size: int,
    name: str | None,
    stain: str | None,
    licence: str,
    group_column: str,
    architecture: str,
    epochs: int,
    coverage: float,
    sets_by_class: bool,
    seed: int,
) -> None:
    """Fine-tune a small network on the tiles named in LABELS: a CSV with file,label[,group].

    Prints the accuracy per class on a part that was kept out of every choice, and writes a model package.
    """
    from coverslip.models.training import Epoch, TrainingSettings, train_tiles

    settings = TrainingSettings(
        mpp=mpp,
        name=name or output.name,
        size=size,
        stain=stain,
        licence=licence,
        group_column=group_column,
        architecture=architecture,
        epochs=epochs,
        coverage=coverage,
        sets_by_class=sets_by_class,
        seed=seed,
    )

    def say(epoch: Epoch) -> None:
        click.echo(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, balanced accuracy on validation "
            f"{epoch.validation_balanced_accuracy:.3f}, {epoch.seconds:.0f} s"
        )

    _say(train_tiles(labels, output, settings, say))
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
@click.option("--encoder", default="not stated", show_default=True, help="What made the features.")
@name_option
@licence_option
@click.option(
    "--group-column",
    default="group",
    show_default=True,
    help="Column whose slides stay in one part: the patient.",
)
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
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(f"model: {report.package.folder}")
