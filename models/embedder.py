"""Feature extraction: uint8 tiles in, an encoder's figures out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.models.device import Compute
from coverslip.models.encoders import Encoder
from coverslip.models.pooling import pool
from coverslip.models.runtime import Recipe
from coverslip.models.stream import RuntimeName, Stream
from coverslip.models.weights import Weights, load_encoder

if TYPE_CHECKING:
    import torch


class Embedder:
    """An encoder on a device, ready; shared, threaded and repeatable as `coverslip.models.engine.Engine`."""

    def __init__(
        self,
        encoder: Encoder,
        weights: Weights,
        size: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        runtime: RuntimeName = "auto",
    ):
        """`size`: side of the tiles in pixels, None for the encoder's. The rest is as in `Engine`.

        Raises ModelUnavailableError when the weights are no longer what they were.
        """
        self.encoder = encoder
        self._stream = Stream(
            _recipe(encoder, weights, size or encoder.size), device, threads, batch, runtime
        )
        self.compute: Compute = self._stream.compute

    def embed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (n, features) of RGB tiles uint8 (n, size, size, 3). Raises RequestError for others."""
        return next(self.run([tiles]))

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """`embed` for each batch, in order, as they come; an array may be filled anew as soon as the next one
        is asked for."""
        return (features for (features,) in self._stream.figures(batches))


def _recipe(encoder: Encoder, weights: Weights, size: int) -> Recipe:
    def look(network: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor]:
        return (pool(network, batch, encoder.pooling),)

    return Recipe(
        name=encoder.name,
        load=lambda: load_encoder(encoder, weights),
        look=look,
        widths=(encoder.features,),
        size=size,
        normalisation=encoder.normalisation,
    )
