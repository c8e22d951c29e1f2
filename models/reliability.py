"""Whether a probability means what it says: expected calibration error, Brier score, bins for a plot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.models.calibration import soften
from coverslip.models.doubt import Miscalibration, Reliability, ReliabilityBin
from coverslip.models.metrics import LEVEL, RESAMPLES, interval_of_mean, resampled

# As Guo 2017, ICML, "On calibration of modern neural networks".
BINS = 15


def measure_reliability(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer],
    temperature: float,
) -> Reliability:
    """Before and after division by the temperature, on rows kept out of every choice.

    `logits`: (n, classes); `labels`: class numbers (n,); `groups`: (n,), what is alike shares one.
    """
    before, after = (soften(logits, figure) for figure in (1.0, temperature))
    return Reliability(
        n=len(labels),
        groups=len(np.unique(groups)),
        level=LEVEL,
        resamples=RESAMPLES,
        by_chance=error_by_chance(after.max(axis=1)),
        before=miscalibration(before, labels, groups),
        after=miscalibration(after, labels, groups),
    )


def miscalibration(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], groups: NDArray[np.integer]
) -> Miscalibration:
    """All figures of one set of probabilities (n, classes)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    scores = brier_scores(probabilities, labels)
    return Miscalibration(
        ece=expected_error(confidence, right),
        ece_interval=error_interval(confidence, right, groups),
        brier=float(scores.mean()),
        brier_interval=interval_of_mean(scores, groups),
        bins=reliability_bins(confidence, right),
    )


def bin_numbers(confidence: NDArray[np.floating]) -> NDArray[np.intp]:
    """Which of the `BINS` bins of equal width, ((m − 1) / BINS, m / BINS] for m = 1 to BINS, from 0 (n,).

    >>> bin_numbers(np.array([0.0, 0.05, 0.2, 0.21, 1.0])).tolist()
    [0, 0, 2, 3, 14]
    """
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * BINS).astype(np.intp) - 1, 0, BINS - 1)


def expected_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |share right − mean confidence| per bin, weighted by the bin's rows.

    Naeini 2015, AAAI; bins as `bin_numbers`, confidence the largest probability (Guo 2017, equation 3).
    With few rows it is above 0 for a model that is perfectly calibrated, too: see `error_by_chance`.

    >>> expected_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, False])).__round__(3)
    0.25
    """
    gaps = np.bincount(bin_numbers(confidence), right - np.asarray(confidence, np.float64), BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def error_by_chance(confidence: NDArray[np.floating], seed: int = 0) -> float:
    """Mean error of a perfectly calibrated model with these confidences and as few rows.

    Each row is right with its own confidence, drawn 2,000 times: consistency resampling, Bröcker & Smith
    2007, Weather and Forecasting 22:651. Rows are drawn singly: groups alike inside would show more.
    """
    rng = np.random.default_rng(seed)
    draws = (rng.random(len(confidence)) < confidence for _ in range(RESAMPLES))
    return float(np.mean([expected_error(confidence, right) for right in draws]))


def error_interval(
    confidence: NDArray[np.floating],
    right: NDArray[np.bool_],
    groups: NDArray[np.integer],
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of the expected error, resampling whole groups: 2 × error − the quantiles.

    Noise never lowers an absolute value, so that the error lies too high where rows are few, and a resampled
    one once more so. Reflected (basic bootstrap, Davison & Hinkley 1997, section 5.2) the interval is moved
    back by as much, and may lie below the error itself. In simulations it holds the truth 83 to 92 times of
    100, the percentile interval 51 to 98 times, least where the error is small.
    """
    names, where = np.unique(groups, return_inverse=True)
    tables = np.zeros((2, len(names), BINS))
    place = where, bin_numbers(confidence)
    np.add.at(tables[0], place, 1)
    np.add.at(tables[1], place, right - np.asarray(confidence, np.float64))
    found = [
        np.abs(times @ tables[1]).sum() / (times @ tables[0]).sum() for times in resampled(len(names), seed)
    ]
    high, low = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.clip(2 * expected_error(confidence, right) - np.array([low, high]), 0, 1)
    return float(low), float(high)


def brier_scores(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Squared distance of each row's probabilities from the truth, 0 to 2, (n,) (Brier 1950).

    >>> brier_scores(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])).tolist()
    [2.0, 0.5]
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return ((np.asarray(probabilities, np.float64) - truth) ** 2).sum(axis=1)


def reliability_bins(
    confidence: NDArray[np.floating], right: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Per bin its rows, their mean confidence and the share that is right; None where a bin is empty."""
    number = bin_numbers(confidence)
    counts = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, weights, BINS) for weights in (confidence, right)]
    means = [np.clip(total / np.maximum(counts, 1), 0, 1) for total in sums]
    return tuple(
        ReliabilityBin(
            n=int(n),
            confidence=float(means[0][place]) if n else None,
            accuracy=float(means[1][place]) if n else None,
        )
        for place, n in enumerate(counts)
    )
