"""What a reader knows of a file once it is open, and the narrow seam every reader implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box, Level, Mpp
from coverslip.wsi.pixels import Raw, Rgb

Kind = Literal["brightfield", "fluorescence", "multichannel"]
WHITE: Rgb = (255, 255, 255)
# A label or macro image is read whole: 2**26 pixels are 200 MB; real ones have some 2**21.
LARGEST_ASSOCIATED = 1 << 26


@dataclass(frozen=True, slots=True)
class Facts:
    """What the file says, unjudged.

    `levels`: largest first, at least one. `mpp`: as stated in the file, plausible or not; None if not
    stated. `bounds`: the part that was scanned, level-0 pixels. `background`: colour of empty glass.
    `sparse_by_design`: the format leaves unscanned glass out, so a missing pixel is no damage.
    `kind`: "brightfield" for RGB; "fluorescence" where the file says so; "multichannel" for other
    than RGB channels. `missing_fraction`: share of level-0 pixels whose bytes are known from the file's
    index to be absent (never written or cut off), without decoding; None if the index does not tell.
    `z_spacing_um`: from one focal plane to the next; None with one plane, or where the file does not say.
    """

    format: str
    levels: tuple[Level, ...]
    mpp: Mpp | None = None
    objective: float | None = None
    bounds: Box | None = None
    background: Rgb = WHITE
    icc: bytes | None = None
    z_planes: int = 1
    z_plane: int = 0
    z_spacing_um: float | None = None
    channels: tuple[str, ...] = ("R", "G", "B")
    kind: Kind = "brightfield"
    associated: tuple[str, ...] = ()
    sparse_by_design: bool = False
    missing_fraction: float | None = None
    files: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Reader(Protocol):
    """One open file. An instance is used by one thread at a time unless `thread_safe` is True.

    A reader only gives "the pixels of level n in box b": clipping, padding, compositing, resolution and
    the judgement of damage are made once, in `Slide`. It must not keep the arrays it returns.
    """

    facts: Facts
    name: str
    version: str
    thread_safe: bool

    def read(self, level: int, box: Box) -> Raw:
        """Pixels of one stored level. `box` lies inside the level.

        A stored tile that cannot be decoded is reported in `Raw.corrupt`, never raised.
        """
        ...

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """An associated image named in `facts.associated`: uint8 (height, width, 3)."""
        ...

    def close(self) -> None: ...
