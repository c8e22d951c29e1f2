"""The class map as tiles are classed now: one pixel per tile, drawn at every level of its layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coverslip.workflows.desk.place import World
from coverslip.workflows.layers import LayerSpec

# Of the label image that the workflows with tiles write.
CLASSES = "classes"


@dataclass(frozen=True, eq=False)
class Enlarged:
    """`pixels`, (height, width), as an array of `shape`: each is repeated, or some are left out."""

    pixels: NDArray
    shape: tuple[int, int]
    # Pixels of the array per pixel of `pixels`; below 1 where it is coarser.
    times: float

    @property
    def dtype(self) -> np.dtype:
        return self.pixels.dtype

    @property
    def ndim(self) -> int:
        return 2

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __getitem__(self, index: slice | int | tuple[slice | int, ...]) -> NDArray:
        parts = index if isinstance(index, tuple) else (index,)
        parts = (*parts, *(slice(None),) * (2 - len(parts)))
        found = [self._under(part, axis) for axis, part in enumerate(parts)]
        picture = self.pixels[np.ix_(*(np.atleast_1d(one) for one in found))]
        return picture[tuple(0 if np.ndim(one) == 0 else slice(None) for one in found)]

    def _under(self, part: slice | int, axis: int) -> NDArray[np.int64]:
        wanted = np.arange(self.shape[axis])[part]
        return np.minimum((wanted / self.times).astype(np.int64), self.pixels.shape[axis] - 1)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> NDArray:
        return self[:, :].astype(dtype or self.dtype, copy=False)


class TileMap:
    """`layer` shows it in place of the layer `CLASSES` it was made from.

    `corners`: of the tiles, (n, 2) level-0 pixels x, y. Until `show` is called, it is the machine's.
    """

    def __init__(self, layer: LayerSpec, corners: NDArray[np.floating], world: World):
        finest, coarsest = layer.levels[0].shape, _stored(layer).shape
        times = finest[0] / coarsest[0]
        self._machine = np.asarray(_stored(layer))
        self._now = self._machine.copy()
        step = np.array(layer.scale) * times
        corner = np.array(layer.translate) - np.array(layer.scale) / 2
        points = np.array([world.point(x, y) for x, y in corners]).reshape(-1, 2)
        at = np.floor((points - corner) / step + 0.5).astype(np.int64)
        self._at = np.clip(at, 0, np.array(self._machine.shape) - 1)
        self._numbers = {name: value for value, name in layer.names.items()}
        levels = (
            Enlarged(self._now, (one.shape[0], one.shape[1]), one.shape[0] / coarsest[0])
            for one in layer.levels
        )
        self.layer = replace(layer, levels=tuple(levels))

    def show(self, labels: tuple[str, ...], machine: NDArray[np.integer], now: NDArray[np.integer]) -> bool:
        """Rows whose class is another than the machine's, (n,) of `labels`, have its value; those that have
        none any more are empty. Whether anything is shown otherwise than before."""
        before = self._now.copy()
        self._now[...] = self._machine
        rows = np.flatnonzero(machine != now)
        values = np.array([*(self._numbers.get(name, 0) for name in labels), 0], self._now.dtype)
        self._now[tuple(self._at[rows].T)] = values[now[rows]]
        return not np.array_equal(before, self._now)


def _stored(layer: LayerSpec):
    """The level with a pixel per tile: the first that is not made from another."""
    for level in layer.levels:
        mosaic = getattr(level, "mosaic", None)
        if mosaic is not None and mosaic.stored:
            return level
    return layer.levels[0]
