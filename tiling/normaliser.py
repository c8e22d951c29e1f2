"""Bringing slides to one appearance: what a slide's stain looks like, from a few of its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.dyes import Dyes, DyeTransfer
from coverslip.tiling.macenko import fit_macenko
from coverslip.tiling.plan import TilePlan, check_tiles, plan_tiles
from coverslip.tiling.reinhard import LabStatistics, LabTransfer, fit_reinhard
from coverslip.tiling.stain import H_E, StainVectors, estimate_background
from coverslip.tiling.supply import SupplySettings, supply
from coverslip.tiling.tissue import TissueMask, overview_mpp
from coverslip.tiling.unfitted import Unfitted
from coverslip.tiling.vahadane import fit_vahadane
from coverslip.wsi import Slide
from coverslip.wsi.pixels import Rgb

MethodName = Literal["macenko", "vahadane", "reinhard"]
Appearance = Dyes | LabStatistics | Unfitted
Normaliser = DyeTransfer | LabTransfer | Unfitted


class Method(Protocol):
    """Learns what stained pixels look like; never fails for what a picture shows."""

    def __call__(
        self, rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, default: StainVectors = H_E
    ) -> Appearance: ...


METHODS: Mapping[str, Method] = MappingProxyType(
    {"macenko": fit_macenko, "vahadane": fit_vahadane, "reinhard": fit_reinhard}
)


@dataclass(frozen=True, slots=True)
class StainSample:
    """Which pixels of a slide a fit looks at.

    `mpp`: 1 µm/px still parts nuclei from what surrounds them, at a quarter of the pixels of 0.5. `size`,
    `tiles`: 24 tiles of 256 px are 1.6 mm² of glass from all over the tissue, and 1.6 million pixels.
    `min_tissue`: share of tissue a tile needs.
    """

    mpp: float = 1.0
    size: int = 256
    tiles: int = 24
    min_tissue: float = 0.5

    def __post_init__(self) -> None:
        check_tiles(self.mpp, self.size, 0, self.min_tissue)
        if self.tiles < 1:
            raise RequestError(f"{self.tiles} tiles", "are none to learn from", "give at least 1")


def fit_stain(
    slide: Slide,
    tissue: TissueMask,
    method: MethodName = "macenko",
    stains: StainVectors = H_E,
    sample: StainSample | None = None,
) -> Appearance:
    """What the slide's stain looks like; `.towards(target).transform(rgb)` then brings its tiles to another.

    From tiles spread evenly over the plan, and glass of the colour that the overview shows: the same slide
    gives the same figures. Unfitted, with the reason, where there is too little stained tissue. Raises
    RequestError for a method that is not known, SlideError where the slide cannot be read.
    """
    if method not in METHODS:
        raise RequestError(f"method {method}", "is not known", f"give {', '.join(METHODS)}")
    plan = _thinned(slide, tissue, sample or StainSample())
    if not len(plan):
        return Unfitted("no tile holds enough tissue")
    rgb, mask = _read(slide, plan)
    return METHODS[method](rgb, mask, stains.on(glass_colour(slide, tissue)))


def glass_colour(slide: Slide, tissue: TissueMask) -> Rgb:
    """Colour of the slide's empty glass; what the file declares where the overview shows none."""
    overview = slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings))
    empty = overview.pixels.valid & ~tissue.mask & ~tissue.pen
    return estimate_background(overview.pixels.rgb, empty) or slide.background


def _thinned(slide: Slide, tissue: TissueMask, sample: StainSample) -> TilePlan:
    """At most `sample.tiles` tiles, evenly taken from a plan in its order."""
    # a slide scanned coarser than asked is looked at as it is
    mpp = max(sample.mpp, slide.mpp.x, slide.mpp.y)
    plan = plan_tiles(slide, tissue, mpp=mpp, size=sample.size, min_tissue=sample.min_tissue)
    kept = np.unique(np.linspace(0, len(plan) - 1, min(sample.tiles, len(plan))).round().astype(np.intp))
    return replace(plan, x=plan.x[kept], y=plan.y[kept], tissue=plan.tissue[kept])


def _read(slide: Slide, plan: TilePlan) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pixels (n, size, size, 3) and which of them the file holds."""
    batches = list(supply(slide, plan, range(len(plan)), SupplySettings(batch=8)))
    return np.concatenate([b.pixels for b in batches]), np.concatenate([b.valid for b in batches])
