"""How what is stained lies: in narrow parts or wide ones, apart or joined over the field.

A blood smear has cells of 6 to 15 µm apart on glass. Squamous cells of a cytology slide are 30 to 60 µm wide,
and glass lies between them and their groups. A section is one piece: its threads and membranes, too, hold on
to each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Wider than a white cell.
WIDE_UM = 16.0
# As far as a part must reach to count as joined: about the length of a field. Gaps that tear cells off each
# other in a section are narrower than this.
SPANNING_UM, GAP_UM = 200.0, 4.0


@dataclass(frozen=True, slots=True)
class StainedParts:
    """Pixels: `seen` in all, `stained` of those, and of these `solid` in parts wider than `WIDE_UM` and
    `spanning` in connected ones that reach further than `SPANNING_UM`."""

    seen: int
    stained: int
    solid: int
    spanning: int

    @property
    def cover(self) -> float:
        """Share of what is seen that is stained, 0 to 1."""
        return self.stained / max(1, self.seen)

    @property
    def solid_share(self) -> float:
        return self.solid / max(1, self.stained)

    @property
    def spanning_share(self) -> float:
        return self.spanning / max(1, self.stained)


def parts_of(stained: NDArray[np.bool_], valid: NDArray[np.bool_], mpp: float) -> StainedParts:
    """Of one field, both bool (h, w); what is not valid counts as not seen."""
    stained = stained & valid
    total = int(stained.sum())
    return StainedParts(
        seen=int(valid.sum()),
        stained=total,
        solid=round(solid_share(stained, mpp) * total),
        spanning=round(spanning_share(stained, mpp) * total),
    )


def all_parts(fields: Iterable[StainedParts]) -> StainedParts:
    """Of several fields together."""
    fields = list(fields)
    return StainedParts(
        seen=sum(one.seen for one in fields),
        stained=sum(one.stained for one in fields),
        solid=sum(one.solid for one in fields),
        spanning=sum(one.spanning for one in fields),
    )


def solid_share(stained: NDArray[np.bool_], mpp: float) -> float:
    """Share of the stained pixels, bool (h, w), that a disc of `WIDE_UM` across fits over; 0 without any."""
    side = 2 * round(WIDE_UM / 2 / mpp) + 1
    # What the border cuts goes on beyond it.
    padded = np.pad(stained.astype(np.uint8), side, mode="symmetric")
    inner = np.s_[side : side + stained.shape[0], side : side + stained.shape[1]]
    wide = np.asarray(cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(WIDE_UM, mpp)))[inner]
    return float(wide.sum() / max(1, stained.sum()))


def spanning_share(stained: NDArray[np.bool_], mpp: float) -> float:
    """Share of the stained pixels, bool (h, w), in connected parts that are longer than `SPANNING_UM` from
    left to right or from top to bottom, gaps of `GAP_UM` closed; 0 without any."""
    closed = cv2.morphologyEx(stained.astype(np.uint8), cv2.MORPH_CLOSE, _disc(GAP_UM, mpp))
    number, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    reach = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * mpp
    held = np.bincount(np.asarray(labels)[stained], minlength=number)
    return float(held[reach > SPANNING_UM].sum() / max(1, stained.sum()))


def _disc(um: float, mpp: float) -> NDArray[np.uint8]:
    side = 2 * round(um / 2 / mpp) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
