"""Whether the probabilities of the slides that were answered mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.models.doubt import Miscalibration
from coverslip.models.labels_file import numbered
from coverslip.models.metrics import LEVEL, interval_of_mean
from coverslip.models.reliability import (
    BINS,
    error_by_chance,
    error_interval,
    expected_error,
    miscalibration,
    reliability_bins,
)
from coverslip.workflows.evaluation.cases import SUM_TOLERANCE, Cases
from coverslip.workflows.result import Interval, Measurement

ECE, BRIER = "expected calibration error", "Brier score"
METHOD = f"Naeini 2015, {BINS} bins of equal width of the largest probability (Guo 2017)"


def measure_calibration(cases: Cases, seed: int) -> tuple[Miscalibration | None, tuple[Measurement, ...]]:
    """Bins for a plot and the figures; not evaluable, with the reason, where there are no probabilities."""
    confidence, right, found, why = _found(cases)
    if found is None or not len(confidence):
        return None, tuple(
            Measurement(name=name, value=None, unit="1", method=method, n=0, note=why)
            for name, method in ((ECE, METHOD), (BRIER, "Brier 1950"))
        )
    chance = error_by_chance(confidence, seed)
    return found, (
        _figure(ECE, found.ece, found.ece_interval, METHOD, len(right)).model_copy(
            update={"note": f"a perfectly calibrated model of as few slides shows {chance:.3f} on average"}
        ),
        _figure(BRIER, found.brier, found.brier_interval, "Brier 1950, 0 to 2", len(right)),
    )


def _figure(name: str, value: float, ends: tuple[float, float], method: str, n: int) -> Measurement:
    interval = Interval(low=ends[0], high=ends[1], level=LEVEL, method="bootstrap over groups")
    return Measurement(name=name, value=value, unit="1", method=method, n=n, interval=interval)


Found = tuple[NDArray[np.float64], NDArray[np.bool_], Miscalibration | None, str]
NOTHING = np.zeros(0), np.zeros(0, bool), None


def _found(cases: Cases) -> Found:
    """Confidences, whether each is right, the figures of them; or why there are none."""
    probabilities = _probabilities(cases)
    if probabilities is not None:
        kept = np.asarray(~np.isnan(probabilities).any(axis=1))
        values, true = probabilities[kept], cases.true[kept]
        if why := _no_probabilities(values):
            return (*NOTHING, why)
        right = values.argmax(axis=1) == true
        return values.max(axis=1), right, miscalibration(values, true, _groups(cases, kept)), ""
    if cases.confidence is None or cases.called is None:
        return (*NOTHING, "there are no probabilities: a triage score is none")
    kept = np.asarray(~np.isnan(cases.confidence) & (cases.called < len(cases.classes)))
    sure, right = cases.confidence[kept], cases.called[kept] == cases.true[kept]
    if why := _no_probabilities(sure[:, None], whole=False):
        return (*NOTHING, why)
    return sure, right, _of_confidence(sure, right, _groups(cases, kept)), ""


def _groups(cases: Cases, kept: NDArray[np.bool_]) -> NDArray[np.intp]:
    return numbered(group for group, keep in zip(cases.groups, kept, strict=True) if keep)


def _probabilities(cases: Cases) -> NDArray[np.float64] | None:
    """(n, k), NaN where there is none; of two classes from the score, unless that is a triage score."""
    if cases.probabilities is not None:
        return cases.probabilities
    if cases.scores is None or cases.positive is None or len(cases.classes) != 2 or cases.triage:
        return None
    return np.where(cases.positive, cases.scores[:, None], 1 - cases.scores[:, None])


def _no_probabilities(values: NDArray[np.float64], whole: bool = True) -> str:
    """Why these are none; "" where they are. `whole`: each row must sum to 1."""
    if not len(values):
        return "no slide was answered"
    if values.min() < 0 or values.max() > 1:
        return "the scores are no probabilities: they do not lie between 0 and 1"
    if whole and np.abs(values.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        return "the columns of classes are no probabilities: they do not sum to 1"
    return ""


def _of_confidence(
    sure: NDArray[np.float64], right: NDArray[np.bool_], groups: NDArray[np.intp]
) -> Miscalibration:
    """Where only the called class's probability is known; the Brier score is then that of being right."""
    scores = (sure - right) ** 2
    return Miscalibration(
        ece=expected_error(sure, right),
        ece_interval=error_interval(sure, right, groups),
        brier=float(scores.mean()),
        brier_interval=interval_of_mean(scores, groups),
        bins=reliability_bins(sure, right),
    )
