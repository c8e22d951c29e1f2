"""Temperature scaling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fminbound
from scipy.special import log_softmax, softmax

from coverslip.models.document import Calibration

# From very sure to nearly uniform; a fit that ends at a bound says that the logits carry no information.
TEMPERATURES = (0.05, 20.0)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    """The temperature of least negative log-likelihood (Guo 2017, ICML, "On calibration").

    `logits`: (n, classes) of the validation part; `labels`: (n,) class numbers.
    """
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t), axis=1)[rows, labels].mean())

    log_t = fminbound(loss, *np.log(TEMPERATURES))
    return Calibration(temperature=float(np.exp(log_t)), n=len(labels))


def soften(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """softmax(logits / temperature), (n, classes), in float32 as the engine computes it."""
    return softmax(np.asarray(logits, np.float32) / np.float32(temperature), axis=1)
