"""A slide-level model ready to use: features of a slide's tiles in, the call and what spoke for it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, ModelUnavailableError
from coverslip.extras import require
from coverslip.models.aggregator import Aggregator, build_aggregator
from coverslip.models.familiarity import ruler
from coverslip.models.feature_scale import FeatureScale
from coverslip.models.package import read_document, read_weights
from coverslip.models.slide_document import SlideModelDocument

if TYPE_CHECKING:
    import torch

# Beside the network's own weights.
SCALE = ("features.mean", "features.std")


def scale_to_tensors(scale: FeatureScale) -> dict[str, torch.Tensor]:
    """As they are kept with the weights."""
    return dict(zip(SCALE, map(require("torch").from_numpy, (scale.mean, scale.std)), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class SlideCall:
    """`probabilities`: float32 (classes,), calibrated where the model is. `attention`: float32 (n,), how much
    each tile counted, together 1. It says where the model looked, not that what is there is the class.
    """

    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32]

    def top(self, count: int) -> NDArray[np.intp]:
        """The rows of the tiles that counted most, most first."""
        return np.argsort(-self.attention, kind="stable")[:count]


class SlideModel:
    """`document` says what it wants and how well it does. On the CPU: a slide takes milliseconds."""

    def __init__(self, document: SlideModelDocument, aggregator: Aggregator, scale: FeatureScale):
        self.document, self._aggregator, self._scale = document, aggregator, scale
        aggregator.layers.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path) -> SlideModel:
        """A verified package. Raises ModelUnavailableError."""
        document, _ = read_document(folder, SlideModelDocument)
        weights = require("safetensors.torch").load(read_weights(Path(folder), document))
        aggregator = build_aggregator(document.aggregator, document.features, len(document.classes))
        try:
            scale = FeatureScale(*(weights.pop(name).numpy() for name in SCALE))
            aggregator.layers.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise ModelUnavailableError(
                str(folder),
                f"holds weights that are not those of {document.aggregator} ({str(error).splitlines()[0]})",
                "get the package again from where it was made",
            ) from error
        return cls(document, aggregator, scale)

    def predict(self, features: NDArray[np.floating]) -> SlideCall:
        """`features`: (n, d) of a slide's tiles, by the encoder that the document names.

        Raises ModelMismatchError for features of another width, or none.
        """
        torch = require("torch")
        self._check(features)
        with torch.inference_mode():
            look = self._aggregator(torch.from_numpy(self._scale.apply(features)))
        calibration = self.document.calibration
        logits = look.logits / (calibration.temperature if calibration else 1.0)
        return SlideCall(logits.softmax(0).numpy(), look.attention.numpy())

    def distances(self, features: NDArray[np.floating]) -> NDArray[np.float32] | None:
        """How far each tile lies from those of training, (n,), in `document.out_of_distribution`'s measure;
        None where the document has none. Takes and raises what `predict` does."""
        known = self.document.out_of_distribution
        if known is None:
            return None
        self._check(features)
        return ruler(known)(self._scale.apply(features), np.zeros((len(features), 1)))

    def _check(self, features: NDArray[np.floating]) -> None:
        wanted = self.document.features
        if features.ndim != 2 or features.shape[1] != wanted or not len(features):
            raise ModelMismatchError(
                self.document.name,
                f"features of shape {features.shape} are given, and it takes (n, {wanted})",
                f"embed the slide with {self.document.encoder}",
            )
