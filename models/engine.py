"""Inference: uint8 tiles in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.calibration import soften
from coverslip.models.device import Compute
from coverslip.models.document import Normalisation
from coverslip.models.familiarity import feature_width, ruler
from coverslip.models.network import features_and_logits, load_network, normalise
from coverslip.models.package import WEIGHTS, ModelPackage
from coverslip.models.probe_package import probe_recipe, read_head
from coverslip.models.runtime import Figures, Recipe
from coverslip.models.stream import RuntimeName, Stream

if TYPE_CHECKING:
    import torch


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
        self.package = package
        known = package.document.out_of_distribution
        self._ruler = ruler(known) if known else None
        self._head = read_head(package) if package.document.probe else None
        self._stream = Stream(_recipe(package), device, threads, batch, runtime)
        self._runtime = self._stream.runtime
        self.compute: Compute = self._stream.compute

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
        return (self._outputs(figures) for figures in self._stream.figures(batches))

    def _outputs(self, figures: Figures) -> Outputs:
        features = figures[0]
        logits = self._head.decision_function(features) if self._head else figures[1]
        calibration = self.package.document.calibration
        probabilities = soften(logits, calibration.temperature if calibration else 1.0)
        distance = self._ruler(features, logits) if self._ruler else None
        return Outputs(probabilities, distance)


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


def _recipe(package: ModelPackage) -> Recipe:
    document = package.document
    if document.probe:
        return probe_recipe(package)
    known = document.out_of_distribution
    return Recipe(
        name=document.name,
        load=lambda: network_of(package),
        look=features_and_logits,
        widths=(feature_width(known) if known else 0, len(document.classes)),
        size=document.tile.size,
        normalisation=document.normalisation,
    )


def network_of(package: ModelPackage) -> torch.nn.Module:
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
