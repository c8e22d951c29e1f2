"""A network on a CUDA device: the next chunk is uploaded while this one is computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.extras import require
from coverslip.models.device import choose_precision, describe
from coverslip.models.document import Normalisation
from coverslip.models.network import features_and_logits, normalise
from coverslip.models.runtime import Figures, Look

if TYPE_CHECKING:
    import torch

# Enough to fill the device; more only costs its memory.
CHUNK = 256


class Cuda:
    """`network` is in evaluation mode. One stream carries tiles up, one computes and carries figures down.

    Tiles go through page-locked memory, without which a copy would hold up the caller until it is done;
    torch keeps such memory and gives it out again once the copy that used it has ended.
    """

    ahead = 1

    def __init__(
        self,
        network: torch.nn.Module,
        size: int,
        normalisation: Normalisation,
        device: torch.device,
        chunk: int | None = None,
        look: Look = features_and_logits,
    ):
        torch = require("torch")
        precision = choose_precision(device)
        self.chunk = chunk or CHUNK
        self.compute = describe(device, precision, torch.get_num_threads(), self.chunk)
        self._autocast_to = None if precision == "float32" else getattr(torch, precision)
        self._device, self._normalisation, self._look = device, normalisation, look
        self._network = network.to(memory_format=torch.channels_last).to(device)
        self._upload, self._work = torch.cuda.Stream(device), torch.cuda.Stream(device)
        # The weights came by the default stream.
        torch.cuda.synchronize(device)
        # The first pass chooses kernels and takes memory; what it costs should not fall on the first slide.
        self.begin(np.zeros((self.chunk, size, size, 3), np.uint8))()

    def begin(self, tiles: NDArray[np.uint8]) -> Callable[[], Figures]:
        torch = require("torch")
        locked = torch.empty(tiles.shape, dtype=torch.uint8, pin_memory=True)
        locked.numpy()[...] = tiles
        with torch.cuda.stream(self._upload):
            uploaded = locked.to(self._device, non_blocking=True)
        self._work.wait_stream(self._upload)
        with torch.cuda.stream(self._work), torch.inference_mode(), self._autocast():
            uploaded.record_stream(self._work)
            found = self._look(self._network, normalise(uploaded, self._normalisation))
            down = [_lower(part.float()) for part in found]
            done = self._work.record_event()

        def finish() -> Figures:
            done.synchronize()
            return tuple(part.numpy().copy() for part in down)

        return finish

    def _autocast(self) -> AbstractContextManager:
        if self._autocast_to is None:
            return nullcontext()
        return require("torch").autocast(self._device.type, dtype=self._autocast_to)


def _lower(part: torch.Tensor) -> torch.Tensor:
    """A copy in page-locked memory, whole only when the stream has come to it."""
    host = require("torch").empty(part.shape, dtype=part.dtype, pin_memory=True)
    return host.copy_(part, non_blocking=True)
