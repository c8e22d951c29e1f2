"""`coverslip train`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, say_ruo

if TYPE_CHECKING:
    from coverslip.models.training import TrainingReport


@click.group("train", epilog=RUO)
def command() -> None:
    """Train a model from your own labels."""


@command.command("tiles", epilog=RUO)
@click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the model package."
)
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
@click.option("--name", help="Name of the model; by default that of the output folder.")
@click.option("--stain", help="Stain of the tiles, such as H&E.")
@click.option("--licence", default="not stated", show_default=True, help="Licence of the model.")
@click.option(
    "--group-column",
    default="group",
    show_default=True,
    help="Column whose tiles stay in one part: patient, slide.",
)
@click.option("--architecture", default="resnet10t", show_default=True, help="Network, by timm's name.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
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
        seed=seed,
    )

    def say(epoch: Epoch) -> None:
        click.echo(
            f"epoch {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.3f}, balanced accuracy on validation "
            f"{epoch.validation_balanced_accuracy:.3f}, {epoch.seconds:.0f} s"
        )

    _say(train_tiles(labels, output, settings, say))
    say_ruo()


def _say(report: TrainingReport) -> None:
    from rich.table import Table

    metrics = report.metrics
    table = Table("class", "tiles", "called right", box=None, pad_edge=False)
    for row in metrics.classes:
        table.add_row(
            row.name, str(row.n), "none to test on" if row.accuracy is None else f"{row.accuracy:.1%}"
        )
    out = console()
    out.print(table)
    low, high = metrics.interval
    click.echo(
        f"balanced accuracy {metrics.balanced_accuracy:.3f} "
        f"({low:.3f} to {high:.3f}, {metrics.level:.0%} bootstrap) on "
        f"{metrics.n} tiles of {metrics.groups} groups kept out"
    )
    click.echo(f"weights started {report.initialisation}")
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(f"model: {report.package.folder}")
