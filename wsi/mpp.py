"""Which µm/px holds for a slide: what the user gave, else what the file says, if that can be true."""

from __future__ import annotations

from coverslip.errors import SlideInformationError
from coverslip.wsi.geometry import Mpp

# Objectives in use on slide scanners run from 1.25× (8 µm/px) to 100× with fine cameras (0.05 µm/px);
# 16.8 (a wrong unit) and 352.8 (72 dpi written by image programs) lie outside.
PLAUSIBLE_UM = (0.05, 10.0)

GIVE_MPP = (
    "give the right one: --slide-mpp X on the command line, a column mpp in the file named by --slides, "
    "or open_slide(path, mpp=X) in Python"
)


def parse_mpp(value: float | tuple[float, float], source: str) -> Mpp:
    """One number for square pixels, or (x, y); µm per level-0 pixel."""
    x, y = value if isinstance(value, tuple) else (value, value)
    return Mpp(float(x), float(y), source)


def resolve_mpp(subject: str, declared: Mpp | None, given: Mpp | None) -> Mpp:
    """The µm/px to use. What is given wins over what the file declares; nothing is ever guessed.

    Raises SlideInformationError when there is none, or when it is outside `PLAUSIBLE_UM`.
    """
    mpp = given or declared
    if mpp is None:
        raise SlideInformationError(subject, "the file does not state its µm/px", GIVE_MPP)
    low, high = PLAUSIBLE_UM
    if not (low <= mpp.x <= high and low <= mpp.y <= high):
        raise SlideInformationError(
            subject,
            f"{mpp.x:g} × {mpp.y:g} µm/px (from {mpp.source}) is implausible: "
            f"cells are looked at between {low:g} and {high:g}",
            GIVE_MPP,
        )
    return mpp
