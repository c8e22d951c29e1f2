"""Which kind of stain a picture of tissue shows, as far as its colours can tell, and which it cannot be.

Ratios of optical density do not change with the amount of a dye (Beer-Lambert), so every rule here is one on
ratios. Hues are those of the HSD model (van der Laak et al. 2000, Cytometry 39:275): hue and saturation of
densities instead of brightness. Haematoxylin lies at 66 degrees, DAB at 204, eosin at 122 to 156.

What two kinds share is no evidence. Nuclei in haematoxylin are in all sections, so a section with nothing
else (an IHC slide without any DAB) is of no kind that colours could tell, and excludes none that has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.glass import estimate_glass, optical_density

StainKind = Literal["H&E", "IHC", "Papanicolaou", "Romanowsky"]

# Mean density of the three channels: fainter pixels have no hue to speak of.
COLOURED = 0.07
# Fewer stained pixels say nothing: at 1 µm/px some fifty cells.
LEAST_PIXELS = 2_000
# Saturation (HSD) from which a hue counts; DAB over haematoxylin lies below.
LEAST_SATURATION = 0.2
# Red density as part of the green: eosin 0.1 to 0.3, haematoxylin 0.78 to 0.93, whatever the bluing.
EOSIN_RED = 0.55
# Blue density as part of the green: eosin 0.1 to 0.7, DAB and orange G above 1.
EOSIN_BLUE = (0.30, 0.97)
# Hues in degrees: light green and fast green below 0, well blued haematoxylin to 50, DAB about 204.
CYAN, BLUE, BROWN, ORANGE = (-60.0, 0.0), (-60.0, 50.0), (190.0, 260.0), (170.0, 260.0)
# Orange G is purer than DAB: saturation 1.1 against 0.55.
ORANGE_SATURATION = 0.75
# Haemosiderin and the rims of red cells are brown too, but paler than this.
DENSE_BROWN = 0.25
# Most eosin seen on 13 IHC pictures 6 %, on Pap and MGG fields 9 % (one photographed blood smear 39 %).
MUCH_EOSIN, MOSTLY_EOSIN, LITTLE_EOSIN = 0.35, 0.60, 0.10
# Least brown and dense brown seen on an IHC picture with any: 7 and 5 %.
MUCH_BROWN, MUCH_DENSE, NO_BROWN = 0.04, 0.03, 0.02
# Blue of well blued haematoxylin or Pap: 43 % and more; of H&E at most 4 %.
MUCH_BLUE, SOME_BLUE, NO_BLUE = 0.40, 0.10, 0.02
SOME_CYAN, NO_CYAN = 0.015, 0.005


@dataclass(frozen=True, slots=True)
class StainEvidence:
    """What the stained pixels of a slide look like: shares of them, 0 to 1, that overlap.

    `pixels`: how many there were. `density`: median of their mean density (log10). `eosin`: red passes almost
    unhindered and green least; `brown`, `dense_brown`: DAB's hue; `blue`, `cyan`, `orange`: see the hues.
    """

    pixels: int
    density: float
    eosin: float
    brown: float
    dense_brown: float
    blue: float
    cyan: float
    orange: float

    @property
    def kind(self) -> StainKind | None:
        """What it is where only one kind looks like this; None where colours cannot tell.

        Never "Romanowsky": its purple and pink are those of some H&E slides.
        """
        if self.pixels < LEAST_PIXELS:
            return None
        if self._shows_dab and self.orange < self.brown / 10:
            return "IHC"
        if self.cyan >= SOME_CYAN and self.blue >= SOME_BLUE and self.eosin < MUCH_EOSIN:
            return "Papanicolaou"
        return "H&E" if self.eosin >= MOSTLY_EOSIN and self.brown < NO_BROWN else None

    @property
    def excluded(self) -> Mapping[StainKind, str]:
        """Kinds it cannot be, each with the reason; empty where colours exclude none."""
        if self.pixels < LEAST_PIXELS:
            return {}
        eosin, brown = f"{self.eosin:.0%} of what is stained is pink as eosin", "none of it brown as DAB"
        found: dict[StainKind, str] = {}
        if self.eosin >= MUCH_EOSIN and self.brown < NO_BROWN:
            found["IHC"] = f"{eosin} and {brown}"
        if self.eosin >= MOSTLY_EOSIN and self.brown < NO_BROWN and self.blue < NO_BLUE:
            found["Papanicolaou"] = f"{eosin} and none of it blue, green or orange"
        if self._shows_dab:
            dab = f"{self.brown:.0%} of what is stained is brown or orange and {self.eosin:.0%} pink as eosin"
            found["H&E"] = dab
            if self.blue >= MUCH_BLUE:
                found["Romanowsky"] = dab
                if self.cyan < NO_CYAN and self.orange < self.brown / 20:
                    found["Papanicolaou"] = dab
        elif self.blue >= MUCH_BLUE and self.eosin < LITTLE_EOSIN:
            found["H&E"] = f"{self.blue:.0%} of what is stained is blue and {self.eosin:.0%} pink as eosin"
        return found

    @property
    def _shows_dab(self) -> bool:
        enough = self.brown >= MUCH_BROWN and self.dense_brown >= MUCH_DENSE
        return enough and self.eosin < LITTLE_EOSIN


def stain_evidence(density: NDArray[np.floating]) -> StainEvidence:
    """From densities above the glass (log10) of tissue at 0.25 to 2 µm/px: float (n, 3), red, green, blue.

    Coarser pixels mix the dyes: DAB over haematoxylin is grey at 8 µm/px.
    """
    density = np.maximum(density, 0)
    mean = density.mean(axis=1)
    stained = mean >= COLOURED
    (red, green, blue), mean = density[stained].T, mean[stained]
    if not len(mean):
        return StainEvidence(0, *([0.0] * 7))
    across, up = red / mean - 1, (green - blue) / (sqrt(3) * mean)
    hue, saturation = np.degrees(np.arctan2(up, across)), np.hypot(across, up)

    def share(hues: tuple[float, float], least: float = LEAST_SATURATION, dense: float = 0.0) -> float:
        inside = (hue - hues[0]) % 360 < hues[1] - hues[0]
        return float((inside & (saturation >= least) & (mean >= dense)).mean())

    low, high = EOSIN_BLUE
    eosin = (red <= EOSIN_RED * green) & (blue >= low * green) & (blue <= high * green)
    return StainEvidence(
        pixels=len(mean),
        density=float(np.median(mean)),
        eosin=float(eosin.mean()),
        brown=share(BROWN),
        dense_brown=share(BROWN, dense=DENSE_BROWN),
        blue=share(BLUE),
        cyan=share(CYAN),
        orange=share(ORANGE, ORANGE_SATURATION),
    )


def look_at_stain(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> StainEvidence:
    """Evidence of a picture, uint8 (h, w, 3), where `tissue`, bool (h, w), is True; glass is found in it."""
    glass = estimate_glass(rgb, np.ones(tissue.shape, bool))
    return stain_evidence(optical_density(rgb)[tissue] - glass.density)


def stain_kind(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> StainKind | None:
    """`StainEvidence.kind` of one picture; None where its colours cannot tell."""
    return look_at_stain(rgb, tissue).kind
