"""`coverslip evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coverslip.ruo import RUO
from coverslip.workflows.commands.common import console, make_folder, overwrite_option, say_ruo

if TYPE_CHECKING:
    from coverslip.workflows.evaluation.document import Evaluation


@click.command("evaluate", epilog=RUO)
@click.argument("predictions", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--truth",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="csv or Parquet with the columns slide,truth[,group]; by default they are in PREDICTIONS.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the report and the plots.")
@click.option("--positive", metavar="CLASS,…", help="Classes that count as positive.")
@click.option(
    "--order", metavar="CLASS,…", help="All classes from the least to the most, for weighted kappa."
)
@click.option(
    "--threshold", type=float, help="Least score that is called positive, where nothing was called."
)
@click.option(
    "--specificity",
    "specificities",
    type=click.FloatRange(0, 1),
    multiple=True,
    default=(0.95,),
    show_default=True,
    help="Sensitivity is given at this specificity; may be given several times.",
)
@click.option("--group", help="Column whose slides belong together; by default group, patient or case.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--lesions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For FROC: csv with the columns slide,lesions[,group]; lesions: GeoJSON or a mask, empty for none.",
)
@click.option(
    "--mpp", type=click.FloatRange(min=0, min_open=True), help="For FROC: µm per level-0 pixel of the slides."
)
@click.option(
    "--mask-downsample",
    type=click.FloatRange(min=1),
    help="For FROC: level-0 pixels per pixel of the mask; of a pyramid the level to use, by default 32.",
)
@click.option("--lesion-class", help="For FROC: class of the polygons that are lesions; by default all.")
@click.option("--finding", help="For FROC of a folder of results: the finding whose tiles are taken.")
@click.option(
    "--lowest-threshold",
    is_flag=True,
    help="For FROC: keep the lowest threshold, which the script drops.",
)
@overwrite_option
def command(
    predictions: Path,
    truth: Path | None,
    output: Path | None,
    positive: str | None,
    order: str | None,
    threshold: float | None,
    specificities: tuple[float, ...],
    group: str | None,
    seed: int,
    lesions: Path | None,
    mpp: float | None,
    mask_downsample: float | None,
    lesion_class: str | None,
    finding: str | None,
    lowest_threshold: bool,
    overwrite: bool,
) -> int:
    """Compare PREDICTIONS with the truth.

    PREDICTIONS is a csv or Parquet file with the columns slide and prediction, score, or one column per
    class; or a folder that coverslip run wrote. With --lesions it is a csv with the columns slide,x,y,score,
    a folder with a csv of score,x,y per slide (CAMELYON16), or a folder of results.
    """
    from coverslip.workflows.evaluation.calls import evaluate_calls
    from coverslip.workflows.evaluation.cases import Choice
    from coverslip.workflows.evaluation.detection import Marks, evaluate_detections
    from coverslip.workflows.evaluation.page import write_evaluation

    marks = {
        "--mpp": mpp,
        "--mask-downsample": mask_downsample,
        "--lesion-class": lesion_class,
        "--finding": finding,
        "--lowest-threshold": lowest_threshold or None,
    }
    calls = {"--truth": truth, "--positive": positive, "--order": order, "--threshold": threshold}
    if lesions is None:
        _refuse(marks, "needs --lesions")
        choice = Choice(_names(order), _names(positive), threshold)
        found = evaluate_calls(
            predictions, truth, choice=choice, specificities=specificities, group=group, seed=seed
        )
    else:
        _refuse(calls, "is not used with --lesions")
        if mpp is None:
            raise click.UsageError("--lesions needs --mpp, µm per level-0 pixel of the slides")
        how = Marks(mpp, mask_downsample, lesion_class, finding, lowest_threshold)
        found = evaluate_detections(predictions, lesions, how, group=group, seed=seed)
    written = () if output is None else write_evaluation(found, make_folder(output), overwrite)
    _show(found)
    if written:
        console().print(f"{output}: {', '.join(written)}", markup=False, highlight=False, soft_wrap=True)
    say_ruo()
    return 0


def _refuse(options: dict[str, object], why: str) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise click.UsageError(f"{given[0]} {why}")


def _names(given: str | None) -> tuple[str, ...]:
    from coverslip.workflows.evaluation.table import label

    return tuple(label(name.strip()) for name in given.split(",")) if given else ()


def _show(found: Evaluation) -> None:
    from rich.markup import escape
    from rich.table import Table

    from coverslip.workflows.evaluation.page import paired, shown

    out, complete = console(), not found.unanswered
    groups = f" of {found.groups} groups ({found.unit})" if found.unit != "slide" else ""
    _say(out, f"{found.slides} slides{groups}, {found.answered} answered; evaluator: {found.evaluator}")
    columns = (
        ("value (95 %)", "n")
        if complete
        else ("of those answered (95 %)", "n", "missing as wrong (95 %)", "n")
    )
    table = Table("figure", *columns, "note", box=None, pad_edge=False)
    for one, all_of in paired(found):
        cells = [shown(one), str(one.n)]
        if not complete:
            cells += [shown(all_of), str(all_of.n)]
        table.add_row(escape(one.name), *cells, escape(one.note or ""))
    out.print(table)
    for missing in found.unanswered:
        _say(out, f"not answered: {missing.slide} ({missing.truth}): {missing.why}")
    if found.without_truth:
        _say(out, f"left out, the truth is not known: {', '.join(found.without_truth)}")
    for note in found.notes:
        _say(out, f"note: {note}")


def _say(out, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
