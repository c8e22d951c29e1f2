"""The figures of predictions and scores: of the slides that were answered, and with the others as wrong.

As wrong means the worst answer: another class than the true one, for quadratic kappa the farthest; for scores
a positive below all negatives, and a negative above all positives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coverslip.models.metrics import balanced_accuracy, confusion_matrix
from coverslip.workflows.evaluation import roc
from coverslip.workflows.evaluation.agreement import cohen_kappa, quadratic_kappa
from coverslip.workflows.evaluation.cases import Cases
from coverslip.workflows.evaluation.figure import Figures, Named, Share, shares
from coverslip.workflows.evaluation.resampling import OfWeights

NOBODY = "no slide was answered"
ONE_CLASS = "all slides are of one class and called so: nothing is expected to disagree"
NO_POSITIVE, NO_NEGATIVE = "there is no positive slide", "there is no negative slide"
NO_PAIRS = "there are no positive or no negative slides"


def figures_of(cases: Cases, specificities: Sequence[float], as_wrong: bool) -> tuple[Figures, ...]:
    """All that the columns allow, in one order whatever `as_wrong`, which takes slides without an answer as
    wrong; else they are left out."""
    found: list[Figures] = []
    if cases.called is not None:
        found += _of_calls(cases, cases.called, as_wrong)
    if cases.scores is not None and cases.positive is not None:
        found += _of_scores(cases, cases.scores, specificities, as_wrong)
    if cases.probabilities is not None and len(cases.classes) > 2:
        found += _of_probabilities(cases, cases.probabilities, as_wrong)
    return tuple(found)


def confusion_of(cases: Cases) -> NDArray[np.int64] | None:
    """Counts (k, k + 1): rows the truth, columns the call, the last for no answer."""
    if cases.called is None:
        return None
    k = len(cases.classes)
    return confusion_matrix(cases.true, cases.called, k + 1)[:k] if len(cases) else None


def _of_calls(cases: Cases, called: NDArray[np.intp], as_wrong: bool) -> Iterator[Figures]:
    k = len(cases.classes)
    kept = np.ones(len(cases), bool) if as_wrong else called < k
    true, said = cases.true[kept], called[kept]
    groups = _kept(cases.groups, kept)
    named = [
        Named("balanced accuracy", "mean of the classes that occur of the share called right", NOBODY),
        Named("Cohen's kappa", "Cohen 1960", ONE_CLASS),
    ]
    if cases.ordered:
        how = f"Cohen 1968, {k} classes in order: {', '.join(cases.classes)}"
        named.append(Named("quadratic weighted kappa", how, ONE_CLASS))
    yield Figures(tuple(named), _agreement(true, said, k, cases.ordered), groups)
    yield shares(list(_shares(cases, true, said)), groups)


def _shares(cases: Cases, true: NDArray[np.intp], said: NDArray[np.intp]) -> Iterator[Share]:
    """Right of all, of each class, of the positive and the negative ones, and from each grade on."""
    k, right = len(cases.classes), true == said
    yield Share("accuracy", "share called right", right, np.ones(len(true), bool), NOBODY)
    for number, name in enumerate(cases.classes):
        called_so = f"share of {name} called so"
        yield Share(f"sensitivity for {name}", called_so, right, true == number, "there is no such slide")
    if cases.positive is not None:
        yield from _of_cut(true, said, cases.positive, "positive", _listed(cases))
    if cases.ordered and k > 2:
        for cut in range(1, k):
            name = f"{cases.classes[cut]} or above"
            yield from _of_cut(true, said, np.arange(k) >= cut, name, name)


def _listed(cases: Cases) -> str:
    assert cases.positive is not None
    return ", ".join(name for name, one in zip(cases.classes, cases.positive, strict=True) if one)


def _of_cut(
    true: NDArray[np.intp], said: NDArray[np.intp], positive: NDArray[np.bool_], name: str, listed: str
) -> Iterator[Share]:
    """Sensitivity and specificity of the call; no answer is wrong in both."""
    there = positive[true]
    # The number after the last class is no answer.
    called, not_called = np.append(positive, False)[said], np.append(~positive, False)[said]
    found = f"share of {listed} that was called any of them"
    passed = f"share of all but {listed} that was called none of them"
    yield Share(f"sensitivity, {name}", found, called, there, NO_POSITIVE)
    yield Share(f"specificity, {name}", passed, not_called, ~there, NO_NEGATIVE)


def _agreement(true: NDArray[np.intp], said: NDArray[np.intp], k: int, ordered: bool) -> OfWeights:
    """Of the counts of true and called classes, k for no answer, which is a class of its own; for quadratic
    kappa that which is farthest from the true one."""
    place = true * (k + 1) + said
    # 2 · true < k − 1: the last class is the farther one
    graded = true * k + np.where(said < k, said, np.where(2 * true < k - 1, k - 1, 0))

    def of(weights: NDArray[np.intp]) -> list[float]:
        counts = np.bincount(place, weights, (k + 1) ** 2).reshape(k + 1, k + 1)
        found = [balanced_accuracy(counts), cohen_kappa(counts)]
        if ordered:
            found.append(quadratic_kappa(np.bincount(graded, weights, k * k).reshape(k, k)))
        return found

    return of


def _of_scores(
    cases: Cases, scores: NDArray[np.float64], specificities: Sequence[float], as_wrong: bool
) -> Iterator[Figures]:
    assert cases.positive is not None
    ranking, groups = ranking_of(scores, cases.positive[cases.true], cases.groups, as_wrong)
    auc = Named("AUC", f"Mann-Whitney, ties count half; positive: {_listed(cases)}", NO_PAIRS)
    named = [auc, *(_at_specificity(ranking, specificity) for specificity in specificities)]

    def of(weights: NDArray[np.intp]) -> list[float]:
        points = (roc.sensitivity_at(ranking, weights, specificity) for specificity in specificities)
        return [roc.area(ranking, weights), *points]

    yield Figures(tuple(named), of, groups)


def _at_specificity(ranking: roc.Ranking, specificity: float) -> Named:
    point = roc.operating_point(ranking, ranking.ones(), specificity)
    note = f"at scores above {point.threshold:.6g}, specificity {point.specificity:.4g}" if point else ""
    method = "threshold from the negatives, ties with it called negative; chosen anew in each draw"
    return Named(f"sensitivity at specificity {specificity:g}", method, NO_PAIRS, note)


def ranking_of(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], groups: Sequence[str], as_wrong: bool
) -> tuple[roc.Ranking, tuple[str, ...]]:
    """Without the rows that have no score, or with them at the wrong end."""
    missing = np.isnan(scores)
    if as_wrong:
        filled = np.where(missing, np.where(positive, -np.inf, np.inf), scores)
        return roc.Ranking.of(filled, positive), tuple(groups)
    return roc.Ranking.of(scores[~missing], positive[~missing]), _kept(groups, ~missing)


def _of_probabilities(cases: Cases, probabilities: NDArray[np.float64], as_wrong: bool) -> Iterator[Figures]:
    """One class against all others, and the mean of the classes that occur."""
    rankings = [
        ranking_of(probabilities[:, number], cases.true == number, cases.groups, as_wrong)
        for number in range(len(cases.classes))
    ]
    groups = rankings[0][1]

    def of(weights: NDArray[np.intp]) -> list[float]:
        areas = [roc.area(ranking, weights) for ranking, _ in rankings]
        known = [one for one in areas if not np.isnan(one)]
        return [float(np.mean(known)) if known else float("nan"), *areas]

    mean = Named("AUC, mean of classes", "each class against all others, those that occur", NO_PAIRS)
    each = (
        Named(f"AUC, {name}", "Mann-Whitney, against all other classes", NO_PAIRS) for name in cases.classes
    )
    yield Figures((mean, *each), of, groups)


def _kept(groups: Sequence[str], kept: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(group for group, keep in zip(groups, kept, strict=True) if keep)
