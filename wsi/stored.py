"""The compressed tiles a level is made of: where their bytes lie, and what makes a stream of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box, Size

Codec = Literal["jpeg", "jpeg2000"]
Colour = Literal["rgb", "ycbcr", "marked"]
Prefix = Literal["", "item", "restart"]


@dataclass(frozen=True, slots=True, eq=False)
class StoredLevel:
    """The tiles of one level, on one plain grid that starts at the level's corner, or at `origin`.

    `path`: the file or URL that holds them. `size`: the level, from there on; `tile`: every tile, those at
    the right and lower edges too, which reach over it. `offsets`, `counts`: int64 (rows, columns), where each
    tile's bytes begin in the file and how many they are; a count of 0 where the file holds none. `colour`: of
    the compressed samples, always three of 8 bits; "marked" is YCbCr where a tile's stream bears a JFIF
    marker and RGB where it does not. `tables`: JPEG segments (DQT, DHT, …) all tiles share, as they stand in
    a file, without SOI and EOI; b"" where each tile has its own. `header`: for streams that are stored
    without one (a part of a larger JPEG between restart markers), everything from SOI to the scan header;
    b"" where tiles have theirs. `prefix`: what stands in the file before each tile's bytes, or the tile
    counts as absent: "item", a DICOM item header that states their number; "restart", a JPEG restart marker
    (before all but the first tile). `origin`: (x, y), the level's pixel at which the grid begins; outside of
    the grid the file holds no pixels then.
    """

    path: str
    size: Size
    tile: Size
    codec: Codec
    colour: Colour
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes = b""
    header: bytes = b""
    prefix: Prefix = ""
    origin: tuple[int, int] = (0, 0)

    @property
    def holds_all(self) -> bool:
        return bool(self.counts.all())

    def cut(self, size: Size) -> StoredLevel:
        """The part of it that a level of that size shows, from the same corner; `size` is no larger."""
        rows, columns = ceil(size.height / self.tile.height), ceil(size.width / self.tile.width)
        part = np.s_[:rows, :columns]
        return replace(self, size=size, offsets=self.offsets[part], counts=self.counts[part])

    def under(self, box: Box) -> tuple[range, range]:
        """Rows and columns of the tiles that a box touches, which lies inside `size`."""
        wide, high = self.tile.width, self.tile.height
        return (
            range(box.y // high, (box.bottom - 1) // high + 1),
            range(box.x // wide, (box.right - 1) // wide + 1),
        )


@runtime_checkable
class StoresTiles(Protocol):
    """A reader that can say where a level's compressed tiles lie."""

    def stored(self, level: int) -> StoredLevel | None:
        """None where the level is no plain grid of JPEG or JPEG 2000 tiles with three samples of 8 bits, or
        where what a decoder makes of a tile is not what `read` shows."""
        ...
