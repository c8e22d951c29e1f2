"""Inference: uint8 tiles in, class probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.calibration import feature_distance
from coverslip.models.cuda import Cuda
from coverslip.models.device import Compute, choose_device
from coverslip.models.document import Normalisation
from coverslip.models.network import features_and_logits, load_network, normalise
from coverslip.models.openvino import OpenVino, TranslationError
from coverslip.models.package import WEIGHTS, ModelPackage
from coverslip.models.runtime import Figures, Runtime, overlapped
from coverslip.models.torch_cpu import TorchCpu

if TYPE_CHECKING:
    import torch

RuntimeName: TypeAlias = Literal["auto", "torch", "openvino"]


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

    Share one engine between all threads of a process: a call only reads the weights, so concurrent calls
    give what calls in turn give, and the weights are in memory once. On a CPU pass `threads=1` when several
    worker threads call it. It is not sent between processes: build one in each.

    The same batch gives the same bytes on the same machine with the same settings; how tiles are grouped
    into batches may change the last bits.
    """

    def __init__(
        self,
        package: ModelPackage,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        runtime: RuntimeName = "auto",
    ):
        """`threads`: cores that one call uses on a CPU, None leaves torch's figure; torch keeps one figure
        per calling thread, which a call sets. `batch`: tiles that are float at one time. `runtime`: what
        computes; "auto" is OpenVINO on a CPU when its extra is installed and can do this network, else torch.

        Raises ModelUnavailableError when the weights do not fit the architecture or changed on disk, or the
        network cannot be had in the runtime asked for, MissingExtraError when that is not installed,
        RequestError for a device that is not here.
        """
        if min(threads or 1, batch or 1) < 1:
            raise RequestError("threads and batch", "are below 1", "give at least 1, or None")
        self.package = package
        self._runtime = choose_runtime(package, choose_device(device), threads, batch, runtime)
        self.compute: Compute = self._runtime.compute

    def predict(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, classes), rows sum to 1, of RGB tiles uint8 (n, size, size, 3).

        Raises RequestError for another shape or type.
        """
        return self.examine(tiles).probabilities

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """`predict` for each batch, in order, as they come."""
        return (outputs.probabilities for outputs in self.examine_each(batches))

    def examine(self, tiles: NDArray[np.uint8]) -> Outputs:
        """As `predict`, with each tile's distance from the training tiles."""
        return next(self.examine_each([tiles]))

    def examine_each(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """`examine` for each batch, in order, as they come.

        On a CUDA device, and with several threads in OpenVINO, the next batch is drawn and begun before this
        one has ended, so that nothing waits for it, and no more ahead than is computed at once. An array may
        be filled anew as soon as the next one is asked for.
        """
        parts: list[Figures] = []
        chunks = overlapped(self._chunks(batches), self._begin, self._finish, self._runtime.ahead)
        for figures, last in chunks:
            parts.append(figures)
            if last:
                features, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
                parts.clear()
                yield self._outputs(features, logits)

    def _chunks(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.uint8], bool]]:
        """Pieces of what the runtime takes at once, and whether each is the last of its batch."""
        step = self._runtime.chunk
        for tiles in batches:
            self._check(tiles)
            for start in range(0, max(len(tiles), 1), step):
                yield tiles[start : start + step], start + step >= len(tiles)

    def _begin(self, chunk: tuple[NDArray[np.uint8], bool]) -> tuple[Callable[[], Figures], bool]:
        tiles, last = chunk
        return (self._runtime.begin(tiles) if len(tiles) else self._nothing), last

    @staticmethod
    def _finish(begun: tuple[Callable[[], Figures], bool]) -> tuple[Figures, bool]:
        return begun[0](), begun[1]

    def _nothing(self) -> Figures:
        document = self.package.document
        width = len(document.out_of_distribution.mean) if document.out_of_distribution else 0
        return np.zeros((0, width), np.float32), np.zeros((0, len(document.classes)), np.float32)

    def _outputs(self, features: NDArray[np.float32], logits: NDArray[np.float32]) -> Outputs:
        known = self.package.document.out_of_distribution
        calibration = self.package.document.calibration
        temperature = calibration.temperature if calibration else 1.0
        scaled = logits / np.float32(temperature)
        scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
        odds = np.exp(scaled)
        distance = None
        if known:
            distance = feature_distance(features, np.asarray(known.mean), np.asarray(known.std))
        return Outputs(odds / odds.sum(axis=1, keepdims=True), distance)

    def _check(self, tiles: NDArray[np.uint8]) -> None:
        size = self.package.document.tile.size
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[1:] != (size, size, 3):
            raise RequestError(
                f"tiles {tiles.dtype} {tiles.shape}",
                f"do not fit the model {self.package.document.name}",
                f"give uint8 (n, {size}, {size}, 3)",
            )


def choose_runtime(
    package: ModelPackage, device: torch.device, threads: int | None, batch: int | None, wanted: RuntimeName
) -> Runtime:
    """The package's network in the runtime that the device and the request ask for; see `Engine`."""
    if wanted not in ("auto", "torch", "openvino"):
        raise RequestError(f"runtime {wanted}", "is not known", "say auto, torch or openvino")
    size, normalisation = package.document.tile.size, package.document.normalisation
    if device.type == "cuda":
        if wanted == "openvino":
            raise RequestError("runtime openvino", f"does not run on {device}", "say device cpu")
        return Cuda(_load(package), size, normalisation, device, batch)
    if wanted == "openvino" or (wanted == "auto" and find_spec("openvino") is not None):
        try:
            return OpenVino(_load(package), size, normalisation, threads, batch)
        except TranslationError:
            if wanted == "openvino":
                raise
    return TorchCpu(_load(package), size, normalisation, threads, batch)


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
    document = package.document
    try:
        weights = from_bytes(package.read_weights())
        return load_network(document.architecture, len(document.classes), weights)
    except (RuntimeError, problem) as error:
        raise ModelUnavailableError(
            str(package.folder / WEIGHTS),
            f"does not fit {document.architecture.name} ({error})",
            "make the package again with the same timm version",
        ) from error
