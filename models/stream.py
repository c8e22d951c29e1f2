"""Batches of tiles through a network in the runtime that fits the machine, the next begun before one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.cuda import Cuda
from coverslip.models.device import Compute, choose_device
from coverslip.models.openvino import OpenVino, TranslationError
from coverslip.models.runtime import Figures, Recipe, Runtime, overlapped
from coverslip.models.torch_cpu import TorchCpu

if TYPE_CHECKING:
    import torch

RuntimeName: TypeAlias = Literal["auto", "torch", "openvino"]


class Stream:
    """A recipe's network on a device, ready; nothing in it changes after construction.

    Share one between all threads of a process: a call only reads the weights, so concurrent calls give what
    calls in turn give, and the weights are in memory once. The arguments are those of `Engine`.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        runtime: RuntimeName = "auto",
    ):
        if min(threads or 1, batch or 1) < 1:
            raise RequestError("threads and batch", "are below 1", "give at least 1, or None")
        self.recipe = recipe
        self.runtime = choose_runtime(recipe, choose_device(device), threads, batch, runtime)
        self.compute: Compute = self.runtime.compute

    def figures(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Figures]:
        """The figures of each batch, RGB tiles uint8 (n, size, size, 3), in order, as they come.

        On a CUDA device, and with several threads in OpenVINO, the next batch is drawn and begun before this
        one has ended, so that nothing waits for it, and no more ahead than is computed at once. An array may
        be filled anew as soon as the next one is asked for. Raises RequestError for another shape or type.
        """
        parts: list[Figures] = []
        chunks = overlapped(self._chunks(batches), self._begin, self._finish, self.runtime.ahead)
        for figures, last in chunks:
            parts.append(figures)
            if last:
                whole = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
                parts.clear()
                yield whole

    def _chunks(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.uint8], bool]]:
        """Pieces of what the runtime takes at once, and whether each is the last of its batch."""
        step = self.runtime.chunk
        for tiles in batches:
            self._check(tiles)
            for start in range(0, max(len(tiles), 1), step):
                yield tiles[start : start + step], start + step >= len(tiles)

    def _begin(self, chunk: tuple[NDArray[np.uint8], bool]) -> tuple[Callable[[], Figures], bool]:
        tiles, last = chunk
        return (self.runtime.begin(tiles) if len(tiles) else self._nothing), last

    @staticmethod
    def _finish(begun: tuple[Callable[[], Figures], bool]) -> tuple[Figures, bool]:
        return begun[0](), begun[1]

    def _nothing(self) -> Figures:
        return tuple(np.zeros((0, width), np.float32) for width in self.recipe.widths)

    def _check(self, tiles: NDArray[np.uint8]) -> None:
        size = self.recipe.size
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[1:] != (size, size, 3):
            raise RequestError(
                f"tiles {tiles.dtype} {tiles.shape}",
                f"do not fit the model {self.recipe.name}",
                f"give uint8 (n, {size}, {size}, 3)",
            )


def choose_runtime(
    recipe: Recipe, device: torch.device, threads: int | None, batch: int | None, wanted: RuntimeName
) -> Runtime:
    """The recipe's network in the runtime that the device and the request ask for; see `Engine`."""
    if wanted not in ("auto", "torch", "openvino"):
        raise RequestError(f"runtime {wanted}", "is not known", "say auto, torch or openvino")
    size, normalisation, look = recipe.size, recipe.normalisation, recipe.look
    if device.type == "cuda":
        if wanted == "openvino":
            raise RequestError("runtime openvino", f"does not run on {device}", "say device cpu")
        return Cuda(recipe.load(), size, normalisation, device, batch, look)
    if wanted == "openvino" or (wanted == "auto" and find_spec("openvino") is not None):
        try:
            return OpenVino(recipe.load(), size, normalisation, threads, batch, look)
        except TranslationError:
            if wanted == "openvino":
                raise
    return TorchCpu(recipe.load(), size, normalisation, threads, batch, look)
