"""What computes a network: begins a chunk of tiles, and gives its figures when asked for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from coverslip.models.device import Compute
from coverslip.models.document import Normalisation

if TYPE_CHECKING:
    import torch

Begun = TypeVar("Begun")
Item = TypeVar("Item")
Done = TypeVar("Done")

# Of n tiles: features (n, features) first, and where a classifier follows its logits (n, classes); float32.
Figures: TypeAlias = tuple[NDArray[np.float32], ...]
# The same as tensors, from a network and a normalised batch (n, 3, h, w).
Look: TypeAlias = "Callable[[torch.nn.Module, torch.Tensor], tuple[torch.Tensor, ...]]"


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What is to be computed of tiles `size` px square.

    `load` gives the network on the CPU, in evaluation mode, anew at each call: a runtime may change it.
    `look`: which figures are wanted of it; `widths`: how many of each per tile.
    """

    name: str
    load: Callable[[], torch.nn.Module]
    look: Look
    widths: tuple[int, ...]
    size: int
    normalisation: Normalisation


class Runtime(Protocol):
    """A network on a device, ready. All threads of a process call it at once; a call changes nothing in it.

    `chunk`: most tiles that `begin` takes. `ahead`: chunks that one caller has begun beside the one it waits
    for; 0 where nothing is gained by it.
    """

    @property
    def compute(self) -> Compute: ...

    @property
    def chunk(self) -> int: ...

    @property
    def ahead(self) -> int: ...

    def begin(self, tiles: NDArray[np.uint8]) -> Callable[[], Figures]:
        """Start on tiles uint8 (n, h, w, 3); calling what it returns waits for the figures.

        The tiles are copied or done with when `begin` returns: the caller may fill their array anew.
        """
        ...


def overlapped(
    items: Iterable[Item], begin: Callable[[Item], Begun], finish: Callable[[Begun], Done], ahead: int
) -> Iterator[Done]:
    """Begin each item, finish each in order, with at most `ahead` begun beside the one being finished.

    >>> list(overlapped([1, 2, 3], lambda n: n * 10, lambda n: n + 1, 1))
    [11, 21, 31]
    """
    begun: deque[Begun] = deque()
    for item in items:
        begun.append(begin(item))
        if len(begun) > ahead:
            yield finish(begun.popleft())
    while begun:
        yield finish(begun.popleft())
