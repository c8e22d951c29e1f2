"""Inference: uint8 tiles in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.calibration import feature_distance
from coverslip.models.device import Compute, choose_device, choose_precision, describe
from coverslip.models.document import Normalisation
from coverslip.models.network import build_network, features_and_logits, normalise
from coverslip.models.package import WEIGHTS, ModelPackage

if TYPE_CHECKING:
    import torch

# Enough to fill the device; more only costs memory (a float32 tile of 224 px is 0.6 MB, its features ten).
CPU_BATCH = 8
CUDA_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """Per tile: `probabilities` float32 (n, classes), and `distance` float32 (n,) from the training tiles.

    A distance above the package's `out_of_distribution.limit` marks a tile unlike those of training.
    It is None where the package has no such statistics.
    """

    probabilities: NDArray[np.float32]
    distance: NDArray[np.float32] | None


class Engine:
    """A package's network on a device, ready; nothing in it changes after construction.

    Share one engine between all threads of a process: evaluation only reads the weights, so concurrent
    calls give what calls in turn give, and the weights are in memory once. On a CPU pass `threads=1` when
    several worker threads call it. It is not sent between processes: build one in each.

    The same batch gives the same bytes on the same machine with the same settings; how tiles are grouped
    into batches may change the last bits.
    """

    def __init__(
        self,
        package: ModelPackage,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
    ):
        """`threads`: of one operation on a CPU, None leaves torch's figure alone; torch keeps one figure per
        calling thread, which a call sets. `batch`: tiles that are float at one time.

        Raises ModelUnavailableError when the weights do not fit the architecture or changed on disk,
        RequestError for a device that is not here.
        """
        torch = require("torch")
        if min(threads or 1, batch or 1) < 1:
            raise RequestError("threads and batch", "are below 1", "give at least 1, or None")
        self.package = package
        self._device = choose_device(device)
        self._threads = threads
        self._batch = batch or (CUDA_BATCH if self._device.type == "cuda" else CPU_BATCH)
        precision = choose_precision(self._device)
        self._autocast_to = None if precision == "float32" else getattr(torch, precision)
        self._network = _load(package).to(self._device)
        self.compute: Compute = describe(
            self._device, precision, threads or torch.get_num_threads(), self._batch
        )

    def predict(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, classes), rows sum to 1, of RGB tiles uint8 (n, size, size, 3).

        Raises RequestError for another shape or type.
        """
        return self.examine(tiles).probabilities

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """`predict` for each batch, in order, as they come; one batch is held at a time."""
        return map(self.predict, batches)

    def examine(self, tiles: NDArray[np.uint8]) -> Outputs:
        """As `predict`, with each tile's distance from the training tiles."""
        self._check(tiles)
        self._set_threads()
        known = self.package.document.out_of_distribution
        calibration = self.package.document.calibration
        temperature = calibration.temperature if calibration else 1.0
        features, logits = self._evaluate(tiles)
        scaled = logits / np.float32(temperature)
        scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
        odds = np.exp(scaled)
        distance = None
        if known:
            distance = feature_distance(features, np.asarray(known.mean), np.asarray(known.std))
        return Outputs(odds / odds.sum(axis=1, keepdims=True), distance)

    def _evaluate(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._autocast():
            return evaluate(self._network, tiles, self.package.document.normalisation, self._batch)

    def _autocast(self) -> AbstractContextManager:
        if self._autocast_to is None:
            return nullcontext()
        return require("torch").autocast(self._device.type, dtype=self._autocast_to)

    def _check(self, tiles: NDArray[np.uint8]) -> None:
        size = self.package.document.tile.size
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[1:] != (size, size, 3):
            raise RequestError(
                f"tiles {tiles.dtype} {tiles.shape}",
                f"do not fit the model {self.package.document.name}",
                f"give uint8 (n, {size}, {size}, 3)",
            )

    def _set_threads(self) -> None:
        torch = require("torch")
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)


def evaluate(
    network: torch.nn.Module, tiles: NDArray[np.uint8], normalisation: Normalisation, batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (n, features) and logits (n, classes), float32, of tiles uint8 (n, h, w, 3).

    `network` is in evaluation mode; at most `batch` tiles are on its device, and float, at one time.
    """
    torch = require("torch")
    device = next(network.parameters()).device
    parts = []
    with torch.inference_mode():
        for start in range(0, max(len(tiles), 1), batch):
            # Torch refuses read-only memory, which arrays from a store may be: a copy of one batch.
            chunk = np.require(tiles[start : start + batch], requirements=["C", "W"])
            found = features_and_logits(network, normalise(torch.from_numpy(chunk).to(device), normalisation))
            parts.append([part.float().cpu().numpy() for part in found])
    features, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features, logits


def _load(package: ModelPackage) -> torch.nn.Module:
    """The network with the package's weights, every name and shape of which must match."""
    from_bytes, problem = require("safetensors.torch").load, require("safetensors").SafetensorError
    network = build_network(package.document.architecture, len(package.document.classes))
    try:
        network.load_state_dict(from_bytes(package.read_weights()), strict=True)
    except (RuntimeError, problem) as error:
        raise ModelUnavailableError(
            str(package.folder / WEIGHTS),
            f"does not fit {package.document.architecture.name} ({error})",
            "make the package again with the same timm version",
        ) from error
    return network.eval().requires_grad_(False)
