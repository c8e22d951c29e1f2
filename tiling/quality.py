"""What of a slide's tissue can be evaluated: a map of artefacts, and what its colours say of the stain.

The kinds are those of HistoQC (Janowczyk et al. 2019, JCO Clin Cancer Inform 3:1) and GrandQC (Weng et al.
2024, Nat Commun 15:10685): out of focus, pen, fold, air bubble, and dark matter; here told by rules on
densities and detail, not by a trained network, each in a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, sqrt
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.bubbles import BubbleSettings, DarkSettings, find_bubbles, find_dark, grey_density
from coverslip.tiling.focus import FocusSettings, is_sharp
from coverslip.tiling.folds import FoldSettings, find_folds
from coverslip.tiling.glass import Density, Glass, estimate_glass, of_channels, optical_density
from coverslip.tiling.lattice import Lattice, lay_lattice
from coverslip.tiling.regions import Mask
from coverslip.tiling.stain_kind import COLOURED, StainEvidence, stain_evidence
from coverslip.tiling.stained_parts import all_parts, parts_of
from coverslip.tiling.tissue import TissueMask
from coverslip.wsi.geometry import Field, Size
from coverslip.wsi.overview import Overview
from coverslip.wsi.slide import Slide

# Values of the map; 0 is not tissue.
GOOD, BLURRED, PEN, FOLD, BUBBLE, WEAK, DARK = range(1, 8)
ARTEFACTS: Mapping[int, str] = MappingProxyType(
    {
        BLURRED: "out of focus",
        PEN: "pen",
        FOLD: "fold",
        BUBBLE: "bubble",
        WEAK: "weak stain",
        DARK: "dark",
    }
)
# Enough pixels to know colours; of more than that every n-th along both axes is taken.
STAIN_SAMPLE = 120_000
# Coarsest resolution (µm/px) that shows how wide cells and parts of tissue are.
COARSEST = 2.0


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """How artefacts are told. Lengths are µm."""

    # Resolution that folds, bubbles and dark matter are looked for; the tissue mask's where that is coarser.
    mpp: float = 8.0
    # Side of a field that is looked at closely for focus and stain, and how many of them a slide gets: with
    # 256 a slide of 17 mm² is seen whole, one of 300 mm² every 1.1 mm.
    field_um: float = 256.0
    most_fields: int = 256
    # A square of the lattice with less tissue than this share of a field gets none.
    least_tissue: float = 0.05
    # Density (log10) of the most absorbed channel that the darkest twentieth of a field's tissue must reach:
    # nuclei of H&E, IHC and Pap reach 0.3, red cells of pale smears (BCCD) 0.1.
    weakest: float = 0.08
    focus: FocusSettings = field(default_factory=FocusSettings)
    folds: FoldSettings = field(default_factory=FoldSettings)
    bubbles: BubbleSettings = field(default_factory=BubbleSettings)
    dark: DarkSettings = field(default_factory=DarkSettings)

    def __post_init__(self) -> None:
        if min(self.mpp, self.field_um, self.weakest) <= 0 or self.most_fields < 1:
            raise RequestError("quality settings", "hold a value that is not above 0", "give positive values")


@dataclass(frozen=True, slots=True, eq=False)
class QualityMap:
    """Quality of a slide's tissue on the grid of its `TissueMask`.

    `values`: uint8 (h, w), 0 where there is no tissue, else `GOOD` or one of `ARTEFACTS`. Pen is shown
    wherever it is. `pen_over_tissue`: pixels of it that probably hide tissue: most of what is around is
    tissue. `focus`: whether focus could be judged; a slide coarser than 1.1 µm/px does not show it. `fields`:
    how many were looked at. `stain`: what its colours are.
    """

    values: NDArray[np.uint8]
    pen_over_tissue: int
    focus: bool
    fields: int
    stain: StainEvidence

    @property
    def good(self) -> Mask:
        """Tissue without any artefact: bool (h, w)."""
        return self.values == GOOD

    @property
    def artefacts(self) -> dict[str, float]:
        """Share of the tissue, 0 to 1, of each kind; tissue under pen counts as tissue. Kinds that are not
        there are 0; "out of focus" is missing where it could not be judged."""
        counts = np.bincount(self.values.ravel(), minlength=DARK + 1)
        counts[PEN] = self.pen_over_tissue
        total = int(counts[GOOD:].sum())
        return {
            name: float(counts[value] / total) if total else 0.0
            for value, name in ARTEFACTS.items()
            if self.focus or value != BLURRED
        }

    @property
    def evaluable(self) -> float:
        """Share of the tissue, 0 to 1, that is good; 0 where there is no tissue."""
        good, hidden = int(self.good.sum()), self.pen_over_tissue
        total = int(((self.values > 0) & (self.values != PEN)).sum()) + hidden
        return good / total if total else 0.0


def judge_quality(
    slide: Slide, overview: Overview, tissue: TissueMask, settings: QualitySettings | None = None
) -> QualityMap:
    """The quality map of a slide.

    `overview`: the picture its tissue was found in. Reads at most `settings.most_fields` fields of the slide
    at 1 µm/px. Equal slides give equal maps. Raises the errors of `Slide.read_field`.
    """
    settings = settings or QualitySettings()
    values = tissue.mask.astype(np.uint8)
    rgb, valid = overview.pixels.rgb, overview.pixels.valid
    if tissue.is_empty:
        values[tissue.pen] = PEN
        return QualityMap(values, 0, False, 0, stain_evidence(np.zeros((0, 3), np.float32)))
    thin = max(1, ceil(sqrt(valid.size / STAIN_SAMPLE)))
    glass = estimate_glass(rgb[::thin, ::thin], valid[::thin, ::thin])
    looks = _look(slide, tissue, glass, settings)
    values[tissue.mask & looks.weak] = WEAK
    values[tissue.mask & looks.blurred] = BLURRED
    for value, found in _seen_small(rgb, glass, tissue, settings):
        values[tissue.mask & found] = value
    values[tissue.pen] = PEN
    hidden = int(hidden_by_pen(tissue, settings).sum())
    return QualityMap(values, hidden, looks.focus, looks.fields, looks.stain)


@dataclass(frozen=True, slots=True, eq=False)
class _Looks:
    """What the fields say: `blurred` and `weak` for every pixel of the mask, bool (h, w)."""

    blurred: Mask
    weak: Mask
    focus: bool
    fields: int
    stain: StainEvidence


def _look(slide: Slide, tissue: TissueMask, glass: Glass, settings: QualitySettings) -> _Looks:
    lattice = lay_lattice(tissue, settings.field_um, settings.most_fields, settings.least_tissue)
    finest = max(slide.mpp.x, slide.mpp.y)
    mpp = max(settings.focus.mpp, finest)
    side = max(1, round(settings.field_um / mpp))
    judged = mpp <= 1.1 * settings.focus.mpp
    stride = max(1, floor(sqrt(len(lattice) * side**2 / STAIN_SAMPLE)))
    thin = np.s_[::stride, ::stride]
    sharp, weak, colours, parts = [], [], [], []
    for x, y in zip(lattice.x.tolist(), lattice.y.tolist(), strict=True):
        at = Field(x, y, Size(side, side), mpp)
        pixels = slide.read_field(at)
        sharp.append(is_sharp(pixels.rgb, settings.focus) if judged else None)
        if mpp <= COARSEST:
            stained = of_channels(np.maximum, optical_density(pixels.rgb) - glass.density) >= COLOURED
            parts.append(parts_of(stained, pixels.valid, mpp))
        density = (optical_density(pixels.rgb[thin]) - glass.density)[_on_tissue(at, tissue, stride)]
        strongest = of_channels(np.maximum, density)
        colours.append(density)
        weak.append(bool(len(density)) and float(np.percentile(strongest, 95)) < settings.weakest)
    none = np.zeros(tissue.mask.shape, bool)
    blurred = none if all(one is None for one in sharp) else _blurred(lattice, sharp)
    return _Looks(
        blurred=blurred,
        weak=lattice.spread(np.array(weak)) if any(weak) else none,
        focus=judged and any(one is not None for one in sharp),
        fields=len(lattice),
        stain=stain_evidence(np.concatenate(colours), all_parts(parts) if parts else None),
    )


def _on_tissue(at: Field, tissue: TissueMask, stride: int) -> Mask:
    """Which of every `stride`-th pixels of a field lie on the tissue mask: bool (h, w)."""
    rows, columns = (
        np.clip(((np.arange(0, n, stride) + 0.5) * at.mpp / um + start / scale).astype(np.int64), 0, most - 1)
        for n, um, start, scale, most in (
            (at.size.height, tissue.mpp.y, at.y, tissue.scale_y, tissue.mask.shape[0]),
            (at.size.width, tissue.mpp.x, at.x, tissue.scale_x, tissue.mask.shape[1]),
        )
    )
    return tissue.mask[np.ix_(rows, columns)]


def _blurred(lattice: Lattice, sharp: list[bool | None]) -> Mask:
    """Fields with nothing to judge by, and squares without a field, go by the nearest that has."""
    known = np.array([one is not None for one in sharp])
    judged = lattice.of(known)
    return judged.spread(np.array([one is False for one in sharp])[known])


def _seen_small(
    rgb: NDArray[np.uint8], glass: Glass, tissue: TissueMask, settings: QualitySettings
) -> list[tuple[int, Mask]]:
    """What shows in a small picture, by value; where several lie, the last counts."""
    height, width = tissue.mask.shape
    factor = max(1, int(settings.mpp / tissue.mpp.mean))
    size, mpp = (max(1, width // factor), max(1, height // factor)), tissue.mpp.mean * factor
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    mask = (
        np.asarray(cv2.resize(tissue.mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)) >= 128
    )
    density = Density(small, glass)
    grey = grey_density(density)
    found = [
        (FOLD, find_folds(density, mask, mpp, settings.folds)),
        (DARK, find_dark(grey, mpp, settings.dark)),
        (BUBBLE, find_bubbles(grey, mpp, settings.bubbles)),
    ]
    return [
        (
            value,
            np.asarray(cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST))
            > 0,
        )
        for value, part in found
    ]


def hidden_by_pen(tissue: TissueMask, settings: QualitySettings) -> Mask:
    """Pen that probably hides tissue, bool (h, w): most of what is around is tissue."""
    return tissue.pen & (_around(tissue, settings) >= 0.5) if tissue.pen.any() else tissue.pen


def _around(tissue: TissueMask, settings: QualitySettings) -> NDArray[np.float32]:
    """How much of what is not pen within about 500 µm is tissue: float32 (h, w), 0 to 1."""
    height, width = tissue.mask.shape
    factor = max(1, int(settings.mpp * 8 / tissue.mpp.mean))
    size = max(1, width // factor), max(1, height // factor)
    sigma = max(500.0 / (tissue.mpp.mean * factor), 0.5)
    of_tissue, of_all = (
        cv2.GaussianBlur(
            cv2.resize(part.astype(np.float32), size, interpolation=cv2.INTER_AREA), (0, 0), sigma
        )
        for part in (tissue.mask, ~tissue.pen)
    )
    share = np.asarray(of_tissue, np.float32) / np.maximum(np.asarray(of_all, np.float32), 1e-6)
    return np.asarray(cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
