"""Predictions and scores of slides against their truth: from files to the document."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from coverslip.errors import RequestError
from coverslip.workflows.evaluation import answers, roc
from coverslip.workflows.evaluation.calibration import measure_calibration
from coverslip.workflows.evaluation.cases import Cases, Choice, gather_cases
from coverslip.workflows.evaluation.classification import confusion_of, figures_of, ranking_of
from coverslip.workflows.evaluation.document import NOT_ANSWERED, Confusion, Curve, Evaluation, Unanswered
from coverslip.workflows.evaluation.figure import measure_all
from coverslip.workflows.evaluation.resampling import Resampling
from coverslip.workflows.evaluation.sources import input_files
from coverslip.workflows.evaluation.table import Table, read_table
from coverslip.workflows.result import Measurement


def evaluate_calls(
    predictions: str | Path,
    truth: str | Path | None = None,
    *,
    choice: Choice | None = None,
    specificities: Sequence[float] = (0.95,),
    group: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Predictions and scores of slides against their truth.

    `predictions`: a csv or Parquet file with the columns slide, and prediction, score, or one per class; or a
    folder of results. `truth`: a file with the columns slide, truth and, best, group; by default they are in
    `predictions`. `group`: the column whose slides belong together. Raises RequestError.
    """
    path, choice = Path(predictions), choice or Choice()
    if not all(0 <= one <= 1 for one in specificities):
        raise RequestError("--specificity", "is not between 0 and 1", "give a share such as 0.95")
    said, table = _said(path)
    if truth is None and table is None:
        raise RequestError(str(path), "holds results and no truth", "name a file with --truth")
    known = read_table(Path(truth)) if truth else table
    assert known is not None
    truths, unit = answers.truths_of_table(known, group)
    cases = gather_cases(said, truths, unit, choice, str(path))
    how = Resampling(unit, seed)
    calibration, calibrated = measure_calibration(cases, seed)
    figures = (*measure_all(figures_of(cases, specificities, False), how), *calibrated)
    counting = figures
    if cases.unanswered.any():
        counting = (
            *measure_all(figures_of(cases, specificities, True), how),
            *(_of_answered_only(one) for one in calibrated),
        )
    settings = {
        "order": list(choice.order),
        "positive": list(choice.positive),
        "threshold": choice.threshold,
        "specificity": list(specificities),
        **how.settings(),
    }
    return Evaluation(
        coverslip=version("coverslip"),
        task="classification",
        evaluator="coverslip",
        inputs=input_files({"predictions": path, "truth": Path(truth) if truth else None}),
        settings=settings,
        unit=unit,
        groups=len(set(cases.groups)),
        slides=len(cases),
        answered=int((~cases.unanswered).sum()),
        unanswered=_unanswered(cases),
        without_truth=cases.without_truth,
        notes=cases.notes,
        figures=figures,
        counting_unanswered=counting,
        confusion=_confusion(cases),
        curves=_curves(cases),
        calibration=calibration,
    )


def _said(path: Path) -> tuple[list[answers.Answer], Table | None]:
    if path.is_dir():
        if not answers.is_results(path):
            raise RequestError(
                str(path), f"has no {answers.WORKLIST}", "name a folder that coverslip run wrote, or a table"
            )
        return answers.answers_of_folder(path), None
    table = read_table(path)
    return answers.answers_of_table(table), table


def _of_answered_only(figure: Measurement) -> Measurement:
    note = "a slide without an answer has no probability: see the answered ones"
    return figure.model_copy(update={"value": None, "interval": None, "note": note})


def _unanswered(cases: Cases) -> tuple[Unanswered, ...]:
    return tuple(
        Unanswered(
            slide=cases.slides[row],
            group=cases.groups[row],
            truth=cases.classes[cases.true[row]],
            why=cases.why[row],
        )
        for row in np.flatnonzero(cases.unanswered)
    )


def _confusion(cases: Cases) -> Confusion | None:
    counts = confusion_of(cases)
    if counts is None:
        return None
    return Confusion(
        classes=cases.classes,
        called=(*cases.classes, NOT_ANSWERED),
        counts=tuple(map(tuple, counts.tolist())),
    )


def _curves(cases: Cases) -> tuple[Curve, ...]:
    """ROC of the answered: of the positive classes, else of each class."""
    if cases.scores is not None and cases.positive is not None:
        wanted = [("positive", cases.scores, cases.positive[cases.true])]
    elif cases.probabilities is not None:
        wanted = [
            (name, cases.probabilities[:, number], cases.true == number)
            for number, name in enumerate(cases.classes)
        ]
    else:
        return ()
    found = []
    for name, scores, positive in wanted:
        ranking, _ = ranking_of(scores, positive, cases.groups, as_wrong=False)
        if ranking.positive.any() and not ranking.positive.all():
            points = zip(*(rates.tolist() for rates in roc.curve(ranking)), strict=True)
            found.append(Curve(name=name, points=tuple(points)))
    return tuple(found)
