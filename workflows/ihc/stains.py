"""The stain vectors and the colour of glass that a slide's amounts are measured with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.stain import (
    H_AEC,
    H_DAB,
    StainVectors,
    estimate_background,
    estimate_vectors,
    residual_share,
    separate,
    stain_vectors,
)
from coverslip.tiling.tissue import TissueMask, overview_mpp
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.memory import Kept
from coverslip.wsi import Field, Size, Slide
from coverslip.wsi.facts import WHITE
from coverslip.wsi.pixels import Pixels, Rgb

# Stains are estimated from so many fields, half of them where there is most of the antibody's dye, half where
# there is most haematoxylin: of a slide with 1 % of its nuclei stained a plain sample would hold none.
FIELDS = 16
FIELD_PX = 500
# As fine as nuclei are looked at: pixels that mix nucleus and stroma tilt the vectors.
FIELD_MPP = 0.5
# Of the overview, to choose them by.
MOST_PIXELS = 1_000_000
SLIDES_KEPT = 64
# Of 13 images looked at, those with DAB lay at 0.06 and above, those with eosin at -0.03 and below.
PINKEST = -0.02


@dataclass(frozen=True, slots=True)
class SlideStains:
    """`reason`: why the vectors are the defaults although they should have been estimated; None otherwise."""

    vectors: StainVectors
    reason: str | None = None

    def derived(self) -> dict[str, Any]:
        """For provenance."""
        said: dict[str, Any] = {"stain_vectors": asdict(self.vectors)}
        return said if self.reason is None else {**said, "stain_vectors_not_estimated": self.reason}


_STAINS: Kept[SlideStains] = Kept(SLIDES_KEPT, lambda stains: 1)


def chosen_vectors(choices: IhcSettings) -> StainVectors:
    """What the settings name, on white glass unless they name another; estimates start from it."""
    background = choices.background if isinstance(choices.background, tuple) else WHITE
    if isinstance(choices.stains, tuple):
        return stain_vectors(("haematoxylin", "DAB"), *choices.stains, background=background)
    return (H_AEC if choices.stains == "aec" else H_DAB).on(background)


def stains_of(slide: Slide, tissue: TissueMask, digest: str, choices: IhcSettings) -> SlideStains:
    """The vectors for one slide, the same in every shard and process.

    What is estimated is made once per process and slide, from its overview and from fields chosen by it.
    `digest`: the slide's.
    """
    if choices.stains != "estimate" and choices.background != "estimate":
        return SlideStains(chosen_vectors(choices))
    key = (digest, choices.stains, choices.background, tissue.settings)
    return _STAINS.get(key, lambda: _estimated(slide, tissue, choices))


def _estimated(slide: Slide, tissue: TissueMask, choices: IhcSettings) -> SlideStains:
    start, overview = chosen_vectors(choices), overview_of(slide, tissue)
    if choices.background == "estimate":
        start = start.on(glass_of(slide, overview))
    if choices.stains != "estimate":
        return SlideStains(start)
    found = estimate_vectors(*_mosaic(slide, tissue, overview, start), start)
    return SlideStains(found.vectors, found.reason)


def overview_of(slide: Slide, tissue: TissueMask) -> Pixels:
    """The picture that tissue was found in."""
    return slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings)).pixels


def glass_of(slide: Slide, overview: Pixels) -> Rgb:
    """Commonest colour of bright pixels; where there is too little glass, what the file declares."""
    return estimate_background(overview.rgb, overview.valid) or slide.background


def _mosaic(
    slide: Slide, tissue: TissueMask, overview: Pixels, start: StainVectors
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(colours, which of them the file holds) of the chosen fields, beside each other in a square."""
    mpp = max(FIELD_MPP, slide.mpp.x, slide.mpp.y)
    squares = _Squares(tissue, FIELD_PX * mpp / slide.mpp.x, FIELD_PX * mpp / slide.mpp.y)
    across = math.isqrt(FIELDS)
    rgb = np.zeros((across, across, FIELD_PX, FIELD_PX, 3), np.uint8)
    valid = np.zeros(rgb.shape[:-1], bool)
    for number, (x, y) in enumerate(squares.richest(overview, start)):
        pixels = slide.read_field(Field(x, y, Size(FIELD_PX, FIELD_PX), mpp))
        place = divmod(number, across)
        rgb[place], valid[place] = pixels.rgb, pixels.valid
    side = across * FIELD_PX
    return (
        rgb.transpose(0, 2, 1, 3, 4).reshape(side, side, 3),
        valid.transpose(0, 2, 1, 3).reshape(side, side),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Squares:
    """Squares of a slide from the corner of its scan. `width`, `height`: level-0 pixels."""

    tissue: TissueMask
    width: float
    height: float

    def richest(self, overview: Pixels, vectors: StainVectors) -> list[tuple[int, int]]:
        """Corners (level-0 pixels) of those with most of the second stain, and of those with most of the
        first; of equal ones the uppermost, then leftmost. No square twice, none without tissue."""
        mask, scanned = self.tissue.mask, self.tissue.bounds
        thin = max(1, math.ceil(math.sqrt(mask.sum() / MOST_PIXELS)))
        y, x = (place * thin for place in np.nonzero(mask[::thin, ::thin]))
        if not len(x):
            return []
        row = np.maximum(0, ((y + 0.5) * self.tissue.scale_y - scanned.y) // self.height).astype(np.int64)
        column = np.maximum(0, ((x + 0.5) * self.tissue.scale_x - scanned.x) // self.width).astype(np.int64)
        columns = int(column.max()) + 1
        amounts = np.maximum(separate(overview.rgb[y, x][None], vectors)[0], 0)
        square = row * columns + column
        chosen: list[int] = []
        for stain in (1, 0):
            total = np.bincount(square, amounts[:, stain])
            order = [int(n) for n in np.argsort(-total, kind="stable") if total[n] > 0 and n not in chosen]
            chosen += order[: FIELDS // 2]
        corners = (divmod(n, columns) for n in chosen)
        return [(scanned.x + round(c * self.width), scanned.y + round(r * self.height)) for r, c in corners]


def off_plane(slide: Slide, tissue: TissueMask) -> tuple[Rgb, float | None]:
    """The glass's colour, and `residual_share` of the tissue on it by the default vectors."""
    overview = overview_of(slide, tissue)
    glass = glass_of(slide, overview)
    return glass, residual_share(overview.rgb, tissue.mask, H_DAB.on(glass))
