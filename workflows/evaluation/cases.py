"""Slides with their truth and what was said of them: what all figures are computed of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.evaluation.answers import NO_ANSWER, Answer, Truth
from coverslip.workflows.evaluation.names import match_slides
from coverslip.workflows.evaluation.table import numbers

# More grades than this are a measurement, not a class.
MOST_GRADES = 100
# Probabilities of one row may miss 1 by so much, as written with few decimals.
SUM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user says of the classes.

    `order`: from the least to the most; `positive`: those that count as positive; `threshold`: least score
    that is called positive, where there are two classes and no prediction.
    """

    order: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cases:
    """n slides whose truth is known, k classes.

    `true`: class numbers (n,); `called`: class numbers, k where nothing was said; None where there are no
    predictions at all. `scores`: (n,), NaN where there is none, higher is more positive; `probabilities`:
    (n, k), a row of NaN where there is none; `confidence`: (n,), of the prediction. None where not given.
    `ordered`: whether the classes rise. `positive`: (k,) which classes are; None where nobody said.
    `triage`: whether the scores say how soon to look, and so are no probabilities. `unit`: what a group is.
    `why`: the reason of what is missing, if any. `without_truth`: slides of which something was said and
    whose truth is not known.
    """

    slides: tuple[str, ...]
    groups: tuple[str, ...]
    unit: str
    classes: tuple[str, ...]
    ordered: bool
    positive: NDArray[np.bool_] | None
    true: NDArray[np.intp]
    called: NDArray[np.intp] | None
    scores: NDArray[np.float64] | None
    probabilities: NDArray[np.float64] | None
    confidence: NDArray[np.float64] | None
    triage: bool
    why: tuple[str, ...]
    without_truth: tuple[str, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def unanswered(self) -> NDArray[np.bool_]:
        """(n,), of which anything that others have is missing."""
        missing = np.zeros(len(self), bool)
        if self.called is not None:
            missing |= self.called == len(self.classes)
        if self.scores is not None:
            missing |= np.isnan(self.scores)
        if self.probabilities is not None:
            missing |= np.isnan(self.probabilities).any(axis=1)
        return missing


def gather_cases(
    answers: Sequence[Answer], truths: Sequence[Truth], unit: str, choice: Choice, subject: str
) -> Cases:
    """Join what was said with what is known. `subject`: the file of the predictions, for errors.

    A slide of the truth that nothing was said of is kept, as not answered. Raises RequestError for classes
    or columns that do not fit, or where nothing can be evaluated.
    """
    known = [truth for truth in truths if truth.truth]
    if not known:
        raise RequestError(subject, "has no slide whose truth is known", "fill the column truth")
    by_slide = {answer.slide: answer for answer in answers}
    keys = match_slides(
        [truth.slide for truth in truths], {key: one.names for key, one in by_slide.items()}, subject
    )
    matched = [
        (truth, by_slide.get(key) if key is not None else None)
        for truth, key in zip(truths, keys, strict=True)
        if truth.truth
    ]
    if all(answer is None for _, answer in matched):
        raise RequestError(subject, "has none of the slides whose truth is given", "compare their names")
    rows = [answer or Answer(truth.slide, (), None, why="no prediction") for truth, answer in matched]
    used = {answer.slide for _, answer in matched if answer}
    without = tuple(sorted(slide for slide in by_slide if slide not in used))
    return _assemble(known, rows, unit, choice, subject, without)


def _assemble(
    known: Sequence[Truth],
    rows: Sequence[Answer],
    unit: str,
    choice: Choice,
    subject: str,
    without: tuple[str, ...],
) -> Cases:
    classes, ordered = _classes(known, rows, choice, subject)
    positive = _positive(classes, choice, subject)
    true = np.array([classes.index(truth.truth) for truth in known], np.intp)
    probabilities = _probabilities(rows, classes, subject)
    scores, notes = _scores(rows, probabilities, positive, subject)
    called = _called(rows, classes, probabilities, scores, positive, choice, subject)
    if called is None and scores is None and probabilities is None:
        raise RequestError(
            subject,
            "has neither predictions nor scores",
            "add the column prediction or score, or one of probabilities per class; of a folder of results, "
            "name one of a workflow that calls slides",
        )
    confidence = np.array([_or_nan(row.confidence) for row in rows])
    return Cases(
        slides=tuple(truth.slide for truth in known),
        groups=tuple(truth.group for truth in known),
        unit=unit,
        classes=classes,
        ordered=ordered,
        positive=positive,
        true=true,
        called=called,
        scores=scores,
        probabilities=probabilities,
        confidence=None if np.isnan(confidence).all() else confidence,
        triage=any(row.triage for row in rows),
        why=tuple(row.why or NO_ANSWER for row in rows),
        without_truth=without,
        notes=notes,
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _classes(
    known: Sequence[Truth], rows: Sequence[Answer], choice: Choice, subject: str
) -> tuple[tuple[str, ...], bool]:
    """All that occur, and whether they rise: those given in order, or whole numbers with all between them."""
    seen = {truth.truth for truth in known} | {row.prediction for row in rows if row.prediction}
    if choice.order:
        if strange := sorted(seen - set(choice.order)):
            raise RequestError(
                subject, f"has {', '.join(strange)}, which --order does not name", "name every class in order"
            )
        return choice.order, True
    if all(re.fullmatch(r"[+-]?\d+", name) for name in seen):
        low, high = min(map(int, seen)), max(map(int, seen))
        if high - low >= MOST_GRADES:
            raise RequestError(subject, f"has classes from {low} to {high}", "give grades, or --order")
        return tuple(map(str, range(low, max(high, low + 1) + 1))), True
    names = set(seen)
    if len(names) < 2:
        raise RequestError(
            subject, f"knows one class only, {names.pop()}", "name all of them with --order A,B"
        )
    return tuple(sorted(names)), False


def _positive(classes: tuple[str, ...], choice: Choice, subject: str) -> NDArray[np.bool_] | None:
    """As chosen; 1 of 0 and 1 by itself; else nobody said."""
    if choice.positive:
        if strange := sorted(set(choice.positive) - set(classes)):
            raise RequestError(
                subject,
                f"has no class {', '.join(strange)}",
                f"name positive ones of {', '.join(classes)}",
            )
        chosen = np.array([name in choice.positive for name in classes])
        if chosen.all():
            raise RequestError(subject, "has no negative class", "leave one out of --positive")
        return chosen
    return np.array([False, True]) if classes == ("0", "1") else None


def _probabilities(
    rows: Sequence[Answer], classes: tuple[str, ...], subject: str
) -> NDArray[np.float64] | None:
    """From a column per class, where there are such; a row without all of them is NaN."""
    there = {name for row in rows for name in row.by_class if name in classes}
    if not there:
        return None
    if missing := [name for name in classes if name not in there]:
        raise RequestError(
            subject,
            f"has a column for {', '.join(sorted(there))} and none for {', '.join(missing)}",
            "give one per class",
        )
    columns = [
        [_or_nan(value) for value in numbers(subject, name, [row.by_class.get(name, "") for row in rows])]
        for name in classes
    ]
    found = np.array(columns, np.float64).T
    found[np.isnan(found).any(axis=1)] = np.nan
    return found


def _scores(
    rows: Sequence[Answer],
    probabilities: NDArray[np.float64] | None,
    positive: NDArray[np.bool_] | None,
    subject: str,
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """As given, else the sum of the positive classes' columns; None where nobody said what is positive."""
    given = np.array([_or_nan(row.score) for row in rows])
    there = not np.isnan(given).all()
    if positive is None:
        if there and not any(row.triage for row in rows):
            raise RequestError(
                subject, "has scores, and nobody said of which class", "name it with --positive"
            )
        return None, ("the scores were not used: name the positive classes with --positive",) * there
    if there:
        return given, ()
    return (None if probabilities is None else probabilities @ positive), ()


def _called(
    rows: Sequence[Answer],
    classes: tuple[str, ...],
    probabilities: NDArray[np.float64] | None,
    scores: NDArray[np.float64] | None,
    positive: NDArray[np.bool_] | None,
    choice: Choice,
    subject: str,
) -> NDArray[np.intp] | None:
    """The column prediction; else the most probable class, of equal ones the first; else by the threshold."""
    nothing = len(classes)
    if any(row.prediction for row in rows):
        if choice.threshold is not None:
            raise RequestError("--threshold", "is not used: there are predictions", "leave it out")
        return np.array(
            [classes.index(row.prediction) if row.prediction else nothing for row in rows], np.intp
        )
    if choice.threshold is None:
        if probabilities is None:
            return None
        empty = np.asarray(np.isnan(probabilities).any(axis=1))
        return np.where(empty, nothing, np.where(empty[:, None], 0, probabilities).argmax(axis=1))
    if scores is None or positive is None or len(classes) != 2:
        raise RequestError("--threshold", "needs scores and two classes", "give predictions instead")
    above = np.where(scores >= choice.threshold, positive.argmax(), (~positive).argmax())
    return np.where(np.isnan(scores), nothing, above)
