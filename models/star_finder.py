"""Objects in a picture by a star network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.detection import Thresholds, objects_in
from coverslip.models.device import Compute, choose_device, describe
from coverslip.models.document import Normalisation
from coverslip.models.network import with_weights
from coverslip.models.objects import Objects, centroids
from coverslip.models.package import WEIGHTS, read_document, read_weights
from coverslip.models.star_document import FinderDocument
from coverslip.models.star_network import REACH, STEP, UNIT, StarArchitecture, build_star, prepare

if TYPE_CHECKING:
    import torch


def look(network: torch.nn.Module, pictures: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(objectness (n, classes, h / 2, w / 2) from 0 to 1, distances (n, rays, h / 2, w / 2) in pixels)."""
    found = network(pictures).float()
    return found[:, :classes].sigmoid(), found[:, classes:].clamp(min=0) * UNIT


def look_at(
    network: torch.nn.Module,
    rgb: NDArray[np.uint8],
    architecture: StarArchitecture,
    normalisation: Normalisation,
    classes: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `look`, of one picture uint8 (h, w, 3) of any size, mirrored at its far sides to whole steps."""
    torch = require("torch")
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % STEP), (0, -width % STEP), (0, 0)), mode="symmetric")
    device = next(network.parameters()).device
    with torch.inference_mode():
        batch = prepare(torch.from_numpy(padded[None]).to(device), architecture, normalisation)
        objectness, distances = look(network, batch, classes)
    rows, columns = -(-height // 2), -(-width // 2)
    return tuple(part[0, :, :rows, :columns].cpu().numpy() for part in (objectness, distances))  # type: ignore[return-value]


class StarFinder:
    """A package's network, ready: a `coverslip.models.objects.Finder`."""

    def __init__(self, folder: str | Path, device: str = "auto", threads: int | None = None):
        """`threads`: cores one call uses on a CPU, None leaves torch's figure.

        Raises ModelUnavailableError for a package that is not whole or of another kind.
        """
        self.folder = Path(folder)
        self.document, self.document_sha256 = read_document(folder, FinderDocument)
        self._device, self._threads = choose_device(device), threads
        self._network = _load(self.folder, self.document).to(self._device)
        self._thresholds = Thresholds(self.document.thresholds, self.document.overlap)
        self.compute: Compute = describe(
            self._device, "float32", threads or require("torch").get_num_threads(), 1
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.document.classes

    @property
    def mpp(self) -> float:
        return self.document.mpp

    @property
    def margin(self) -> int:
        return REACH

    @property
    def step(self) -> int:
        return STEP

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise RequestError(f"a picture {rgb.dtype} {rgb.shape}", "is not RGB", "give uint8 (h, w, 3)")
        stars, labels = objects_in(*self.look_at(rgb), rgb.shape[:2], self._thresholds)
        # The network counts from the centre of the first pixel, objects from its corner.
        outlines = [np.asarray(points + 0.5, np.float32) for points in stars.outlines]
        x, y = centroids(outlines)
        return Objects(x, y, outlines, stars.kind, stars.score, labels)

    def look_at(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the network says of each second pixel: objectness (classes, h / 2, w / 2) from 0 to 1, and the
        distances (rays, h / 2, w / 2) to the border in pixels."""
        torch = require("torch")
        # Torch keeps one figure per calling thread.
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        document = self.document
        return look_at(
            self._network, rgb, document.architecture, document.normalisation, len(document.classes)
        )


def _load(folder: Path, document: FinderDocument) -> torch.nn.Module:
    stored = require("safetensors.torch").load(read_weights(folder, document))
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()
    }
    try:
        return with_weights(lambda: build_star(document.architecture, len(document.classes)), weights)
    except RuntimeError as error:
        raise ModelUnavailableError(
            str(folder / WEIGHTS),
            f"does not fit {document.architecture.name} ({error})",
            "make the package again with this version of timm",
        ) from error
