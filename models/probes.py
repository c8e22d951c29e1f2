"""Estimators on an encoder's features: a linear probe, and three that need few examples of a class.

Each is a frozen setting; `fit` leaves it as it is and returns the fitted one (`coverslip.models.head`) with
`predict`, `predict_proba` and `decision_function`. All take and give plain arrays: features float (n, d),
labels (n,) of numbers or text, of at least two classes. Names are those of scikit-learn where it has one.

>>> features = np.array([[0.0, 1.0], [0.1, 0.9], [5.0, 1.0], [5.1, 1.2]])
>>> fitted = SimpleShot().fit(features, ["benign", "benign", "tumour", "tumour"])
>>> fitted.predict(np.array([[0.3, 1.0], [4.0, 1.0]])).tolist()
['benign', 'tumour']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from coverslip.errors import RequestError
from coverslip.models.head import CentroidHead, LinearHead, NeighbourHead, check_features, directions

Labels: TypeAlias = "NDArray[Any] | Sequence[Any]"
# From so strong a penalty that only class means tell to nearly none.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
STEPS = 1000
# Those of DINO.
NEIGHBOURS, TEMPERATURE = 20, 0.07


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Multinomial logistic regression, each class counting the same.

    Least is C Σ wᵢ lossᵢ + ½ ‖W‖², as scikit-learn's `LogisticRegression(class_weight="balanced")`: W (k, d)
    without the bias, wᵢ = n ÷ (k × rows of the class); of features less their means, divided by the root of
    their mean variance. One divisor for all: of few rows each feature's own would be mostly noise. L-BFGS, in
    float64. A smaller `C` gives a stronger penalty; `choose_penalty` takes it from other rows.
    """

    C: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.C < np.inf:
            raise RequestError(f"C {self.C:g}", "is no penalty", "give a figure above 0")

    def fit(self, features: NDArray[np.floating], labels: Labels) -> LinearHead:
        """Raises RequestError for arrays that do not fit each other, or labels of one class."""
        features, classes, numbers = _check(features, labels)
        return _Descent(features, numbers, classes).head(self.C)


def choose_penalty(
    features: NDArray[np.floating],
    labels: Labels,
    validation: NDArray[np.floating],
    validation_labels: Labels,
) -> LinearProbe:
    """The probe whose `C`, of ten from 1e-5 to 1e4, gives the validation rows the least mean loss, each
    class counting the same; the smaller of equal ones. Raises RequestError, also for a class not learnt."""
    features, classes, numbers = _check(features, labels)
    validation = check_features(validation, features.shape[1])
    expected = np.asarray(validation_labels)
    if len(expected) != len(validation) or not len(expected) or not np.isin(expected, classes).all():
        raise RequestError(
            "the validation labels",
            "are not one for each row, of the classes learnt",
            f"give {len(validation)} of {', '.join(map(str, classes))}",
        )
    places, weights = np.searchsorted(classes, expected), _balance(expected)
    descent, start, losses = _Descent(features, numbers, classes), None, []
    for penalty in PENALTIES:
        start = descent.solve(penalty, start)
        logits = descent.as_head(start).decision_function(validation).astype(np.float64)
        losses.append(-(weights * log_softmax(logits, axis=1)[np.arange(len(places)), places]).mean())
    return LinearProbe(PENALTIES[int(np.argmin(losses))])


@dataclass(frozen=True, slots=True)
class SimpleShot:
    """The nearest class mean of directions from the mean of all rows (Wang 2019, arXiv:1911.04623, "CL2N").

    z = (x − m) ÷ ‖x − m‖ with m the mean of the rows learnt from; the class whose mean z is nearest to a
    row's z in Euclidean distance. Probabilities, which the paper has none of, are as for `Prototypes`.
    """

    def fit(self, features: NDArray[np.floating], labels: Labels) -> CentroidHead:
        """Raises RequestError for arrays that do not fit each other, or labels of one class."""
        features, classes, numbers = _check(features, labels)
        centre = features.mean(axis=0, dtype=np.float64)
        centroids, spread = _centroids(directions(features - centre), numbers)
        return CentroidHead(classes, centroids, spread, centre.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Prototypes:
    """The nearest class mean in Euclidean distance (Snell 2017, NeurIPS, "Prototypical networks").

    Probabilities are softmax(−‖x − mean‖² ÷ s), equation 2 there but for s: the mean squared distance of the
    rows learnt from to their own class's mean, or, with one row a class, that of the means to theirs.
    """

    def fit(self, features: NDArray[np.floating], labels: Labels) -> CentroidHead:
        """Raises RequestError for arrays that do not fit each other, or labels of one class."""
        features, classes, numbers = _check(features, labels)
        return CentroidHead(classes, *_centroids(features.astype(np.float64), numbers))


@dataclass(frozen=True, slots=True)
class NearestNeighbours:
    """The votes of the `n_neighbors` rows of largest cosine, each weighing exp(cosine ÷ `temperature`).

    Figures as for DINO (Caron 2021, ICCV, after Wu 2018, CVPR). Of fewer rows all vote. Every row is kept.
    """

    n_neighbors: int = NEIGHBOURS
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if self.n_neighbors < 1 or not 0 < self.temperature < np.inf:
            raise RequestError(
                "nearest neighbours",
                f"cannot be {self.n_neighbors} with temperature {self.temperature:g}",
                "give at least 1, and a temperature above 0",
            )

    def fit(self, features: NDArray[np.floating], labels: Labels) -> NeighbourHead:
        """Raises RequestError for arrays that do not fit each other, or labels of one class."""
        features, classes, numbers = _check(features, labels)
        bank = directions(features).astype(np.float32)
        return NeighbourHead(classes, bank, numbers.astype(np.int64), self.n_neighbors, self.temperature)


Estimator: TypeAlias = LinearProbe | SimpleShot | Prototypes | NearestNeighbours


def _check(
    features: NDArray[np.floating], labels: Labels
) -> tuple[NDArray[np.floating], NDArray[Any], NDArray[np.intp]]:
    """Features, the classes in ascending order, and the place of each row's class among them."""
    features, labels = check_features(features), np.asarray(labels)
    if labels.shape != features.shape[:1]:
        raise RequestError(
            f"labels {labels.shape}", f"are not those of features {features.shape}", "give one for each row"
        )
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise RequestError("the labels", "are of fewer than two classes", "give rows of each class")
    return features, classes, numbers


def _balance(labels: NDArray[Any]) -> NDArray[np.float64]:
    """A weight for each row (n,), 1 in the mean, by which the classes that occur count the same."""
    _, where, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[where])


def _centroids(
    rows: NDArray[np.floating], numbers: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Class means (k, d), and the squared length (1,) that distances are told in."""
    means = np.stack([rows[numbers == number].mean(axis=0) for number in range(numbers.max() + 1)])
    within = ((rows - means[numbers]) ** 2).sum(axis=1).mean()
    between = ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
    # Rows that are all alike have no length at all; nothing then tells the classes apart.
    spread = within if within > 1e-9 * between else between if between > 0 else 1.0
    return means.astype(np.float32), np.array([spread], np.float32)


class _Descent:
    """The loss of `LinearProbe` over rows brought to one scale once, and where it is least."""

    def __init__(self, features: NDArray[np.floating], numbers: NDArray[np.intp], classes: NDArray[Any]):
        self._classes, self._mean = classes, features.mean(axis=0, dtype=np.float64)
        centred = features - self._mean
        self._unit = np.sqrt(np.mean(centred**2)) or 1.0
        self._rows = centred / self._unit
        self._truth = np.eye(len(classes))[numbers]
        self._weights = _balance(numbers) / len(numbers)

    def head(self, penalty: float) -> LinearHead:
        return self.as_head(self.solve(penalty, None))

    def solve(self, penalty: float, start: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Weights and bias, flat, (k × (d + 1),), from `start` or 0."""
        shape = len(self._classes), self._rows.shape[1] + 1
        start = np.zeros(shape).ravel() if start is None else start
        strength = 1 / (penalty * len(self._rows))
        options = {"maxiter": STEPS, "gtol": 1e-7, "ftol": 1e-12}
        found = minimize(self._loss, start, (shape, strength), "L-BFGS-B", jac=True, options=options)
        return found.x

    def _loss(
        self, flat: NDArray[np.float64], shape: tuple[int, int], strength: float
    ) -> tuple[float, NDArray[np.float64]]:
        """The loss divided by C × n, and its gradient."""
        weight, bias = np.split(flat.reshape(shape), [shape[1] - 1], axis=1)
        logs = log_softmax(self._rows @ weight.T + bias.T, axis=1)
        error = self._weights[:, None] * (np.exp(logs) - self._truth)
        slope = np.hstack([error.T @ self._rows + strength * weight, error.sum(axis=0)[:, None]])
        loss = -(self._weights[:, None] * self._truth * logs).sum() + 0.5 * strength * (weight**2).sum()
        return float(loss), slope.ravel()

    def as_head(self, flat: NDArray[np.float64]) -> LinearHead:
        """The same for features as they come: the scale goes into weights and bias."""
        rows = flat.reshape(len(self._classes), -1)
        weight = rows[:, :-1] / self._unit
        bias = rows[:, -1] - weight @ self._mean
        return LinearHead(self._classes, weight.astype(np.float32), bias.astype(np.float32))
