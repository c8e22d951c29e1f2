"""A network on the CPU through OpenVINO, where it is installed: the same figures for less work."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import ModelUnavailableError
from coverslip.extras import require
from coverslip.models.device import describe
from coverslip.models.document import Normalisation
from coverslip.models.network import features_and_logits, normalise
from coverslip.models.runtime import Figures, Look

if TYPE_CHECKING:
    import torch

# Largest difference from torch, of a probability and of a feature against the largest feature. What comes of
# float32 in another order is a hundred times smaller; a wrongly translated operation is far larger.
AGREEMENT = 1e-4


class TranslationError(ModelUnavailableError):
    """OpenVINO cannot do this network, or does something else; torch can."""


class OpenVino:
    """A network translated once; `network` is in evaluation mode and no longer needed afterwards.

    Each tile is computed by itself on one core: that takes the least time per tile and the least memory, and
    makes a tile's figures independent of what it is batched with. `threads`: tiles that one caller has under
    way at once, None for one per core; as many callers as there are cores find a core each.

    Raises MissingExtraError without the extra, TranslationError when the network cannot be translated or the
    translation gives other figures than torch.
    """

    chunk = 1

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
        side_by_side: int = threads or torch.get_num_threads()
        self.ahead = min(side_by_side, chunk or side_by_side) - 1
        cores = max(side_by_side, os.cpu_count() or 1)
        tile = _example(size, normalisation)

        def figures(tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return look(network, normalise(tiles, normalisation))

        self._compiled = _compile(figures, tile, cores)
        with torch.inference_mode():
            expected = figures(torch.from_numpy(tile))
        _compare(self.begin(tile)(), tuple(part.numpy() for part in expected))
        gc.collect()  # the recorded graph refers to itself, and holds all the weights
        self.compute = replace(
            describe(torch.device("cpu"), "float32", side_by_side, self.ahead + 1),
            runtime=f"openvino {version('openvino')}",
        )

    def begin(self, tiles: NDArray[np.uint8]) -> Callable[[], Figures]:
        # Nothing is shared between calls but the weights: a request costs 0.02 ms.
        request = self._compiled.create_infer_request()
        request.start_async([tiles])

        def finish() -> Figures:
            request.wait()
            return tuple(tensor.data.copy() for tensor in request.output_tensors)

        return finish


def _example(size: int, normalisation: Normalisation) -> NDArray[np.uint8]:
    """A tile (1, size, size, 3) of patches in the colours that the network was made for.

    Not noise: in a network that has seen none, rounding alone can grow to a twentieth of the figures.
    """
    mean, std = np.array(normalisation.mean), np.array(normalisation.std)
    patches = np.random.default_rng(0).normal(mean, std, (1, size // 16 + 1, size // 16 + 1, 3))
    tile = patches.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]
    return np.clip(255 * tile, 0, 255).astype(np.uint8)


def import_openvino() -> ModuleType:
    """OpenVINO without its telemetry, which would report over the network and keep files in the user's home.

    It does without when that package cannot be imported. Raises MissingExtraError.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino")


def _compile(figures: Callable[[torch.Tensor], Any], tile: NDArray[np.uint8], cores: int) -> Any:
    """The function as a model of OpenVINO, ready to run."""
    openvino = import_openvino()
    frontend = require("openvino.frontend")
    failures = (
        RuntimeError,
        frontend.GeneralFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )
    try:
        model = _translate(figures, tile)
        return openvino.Core().compile_model(model, "CPU", _settings(cores))
    except failures as error:
        raise _unfit(f"cannot be translated ({str(error).strip().splitlines()[-1]})") from error


def _translate(figures: Callable[[torch.Tensor], Any], tile: NDArray[np.uint8]) -> Any:
    """The operations that one tile goes through, recorded without those that write in place."""
    torch = require("torch")
    record = require("torch.fx.experimental.proxy_tensor").make_fx
    decoder = require("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
    front = require("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad():
        pure = require("torch.func").functionalize(figures, remove="mutations")
        graph = record(pure)(torch.from_numpy(tile))
    shape = require("openvino").PartialShape(list(tile.shape))
    # Held by its name until the end: the conversion reads from it.
    decoded = decoder(graph, input_shapes=[shape], input_types=[torch.uint8])
    return front.convert(front.load(decoded))


def _settings(cores: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # by default bfloat16 or float16 where the hardware has it
        "INFERENCE_NUM_THREADS": cores,
        "NUM_STREAMS": cores,
        "ENABLE_CPU_PINNING": False,  # other processes pinned to the same cores would wait for each other
    }


def _compare(found: Figures, expected: Figures) -> None:
    largest = max(float(np.abs(expected[0]).max()), 1e-12)
    apart = [float(np.abs(found[0] - expected[0]).max()) / largest]
    for logits, logits_of_torch in zip(found[1:], expected[1:], strict=True):
        apart.append(float(np.abs(_softmax(logits) - _softmax(logits_of_torch)).max()))
    if not all(distance <= AGREEMENT for distance in apart):
        raise _unfit(f"differs from torch by {max(apart):.2g}")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _unfit(problem: str) -> TranslationError:
    return TranslationError("the network in OpenVINO", problem, "say runtime torch")
