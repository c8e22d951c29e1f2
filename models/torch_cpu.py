"""A network on the CPU through torch alone: norms folded, channels-last, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.extras import require
from coverslip.models.device import describe
from coverslip.models.document import Normalisation
from coverslip.models.folding import fold_norms
from coverslip.models.network import features_and_logits, normalise
from coverslip.models.runtime import Figures, Look

if TYPE_CHECKING:
    import torch

# Measured with resnet18: 4 tiles take a tenth longer each, 16 save nothing, 32 are slower and hold 4 times
# the memory (a float32 tile of 224 px is 0.6 MB, its features ten).
CHUNK = 8


class TorchCpu:
    """`network` is in evaluation mode and belongs to this object, which folds its norms.

    `threads`: of one operation; None leaves torch's figure alone.
    """

    ahead = 0

    def __init__(
        self,
        network: torch.nn.Module,
        size: int,
        normalisation: Normalisation,
        threads: int | None = None,
        chunk: int | None = None,
        look: Look = features_and_logits,
    ):
        torch = require("torch")
        self.chunk, self._look = chunk or CHUNK, look
        self._threads, self._normalisation = threads, normalisation
        fold_norms(network, size, normalisation, look)
        self._network = network.to(memory_format=torch.channels_last)
        device = torch.device("cpu")
        self.compute = describe(device, "float32", threads or torch.get_num_threads(), self.chunk)

    def begin(self, tiles: NDArray[np.uint8]) -> Callable[[], Figures]:
        torch = require("torch")
        # Torch keeps one figure per calling thread.
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        # Torch refuses read-only memory, which arrays from a store may be: a copy of one chunk.
        chunk = torch.from_numpy(np.require(tiles, requirements=["C", "W"]))
        with torch.inference_mode():
            found = self._look(self._network, normalise(chunk, self._normalisation))
        figures = tuple(part.numpy() for part in found)
        return lambda: figures
