"""Which kind of stain a picture of tissue shows, as far as its colours can tell, and which it cannot be.

Ratios of optical density do not change with the amount of a dye (Beer-Lambert), so every rule here is one on
ratios. Hues are those of the HSD model (van der Laak et al. 2000, Cytometry 39:275): hue and saturation of
densities instead of brightness. Haematoxylin lies at 66 degrees, DAB at 204, eosin at 122 to 156.

What two kinds share is no evidence. Nuclei in haematoxylin are in all sections, so a section with nothing
else (an IHC slide without any DAB) is of no kind that colours could tell, and excludes none that has them.

Cameras and laboratories shift all hues of a slide together: what one scanner shows as haematoxylin another
shows as violet as some eosin. So the faint and the dense tissue of a slide are compared with each other too.
One dye has the same ratios in both; eosin makes the faint tissue pinker than its nuclei; haemoglobin, which
absorbs blue and violet most, makes the red cells of a smear yellower than the nuclei beside them.

Papanicolaou's cytoplasm has every colour that sections have. What tells these slides from sections is how
what is stained lies (`coverslip.tiling.stained_parts`): in pieces as wide as squamous cells, apart on glass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.glass import estimate_glass, optical_density
from coverslip.tiling.stained_parts import WIDE_UM, StainedParts

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
# Faint tissue is the palest third, dense that above this percentile; where a channel is nearly black its
# ratios are those of stray light.
FAINT, DENSE, BLACK = 33, 85, 1.0
# Red to green of the faint tissue, and that as part of the dense tissue's: H&E with little eosin at most 0.72
# and 0.87. Haematoxylin alone, of six real pictures and of five made hues through 27 cameras, is 0.88 or more
# of the dense tissue's wherever it is below 0.82. Least share of pixels as pink as eosin in these H&E: 5 %.
FAINT_RED, PINKER, SOME_PINK = 0.75, 0.87, 0.03
# Blue to green of the faint less that of the dense: smears 0.26 to 0.47, sections and Pap at most 0.10.
YELLOWER, NOT_YELLOWER = 0.20, 0.15
# Share of what is stained in parts wider than 16 µm: smears to 0.08, solid H&E 0.27 to 1, Pap 0.3 to 0.9.
NARROW, SOLID = 0.05, 0.25
# Stained share of a field, and share of that in parts that span the field. CRIC's and Mendeley's Pap cover at
# most 0.65 (but one, 0.75). Of sections that cover so little, alveolar walls (LC25000) span to 0.75 and more;
# of Pap as pink as they, most to 0: the limit is half way.
APART, SPANNING = 0.65, 0.37
# Cytoplasm in two dyes: at least these shares pink as eosin and blue. H&E is at most 0.02 blue.
BOTH_PINK, BOTH_BLUE = 0.03, 0.04


@dataclass(frozen=True, slots=True)
class StainEvidence:
    """What the stained pixels of a slide look like: shares of them, 0 to 1, that overlap.

    `pixels`: how many there were. `density`: median of their mean density (log10). `eosin`: red passes almost
    unhindered and green least; `brown`, `dense_brown`: DAB's hue; `blue`, `cyan`, `orange`: see the hues;
    `pink`: as eosin, however little blue it absorbs.

    `faint_red`, `faint_blue`, `dense_red`, `dense_blue`: red and blue density as parts of the green, of the
    faint and of the dense tissue that is not brown; 0 where there is too little. `solid`: share of what is
    stained in parts wider than `WIDE_UM`; `spanning`: in parts that reach over a field; `cover`: stained
    share of the fields. None where the resolution does not show it.
    """

    pixels: int
    density: float
    eosin: float
    brown: float
    dense_brown: float
    blue: float
    cyan: float
    orange: float
    pink: float = 0.0
    faint_red: float = 0.0
    faint_blue: float = 0.0
    dense_red: float = 0.0
    dense_blue: float = 0.0
    solid: float | None = None
    spanning: float | None = None
    cover: float | None = None

    @property
    def kind(self) -> StainKind | None:
        """What it is where only one kind looks like this; None where colours cannot tell.

        "Romanowsky" takes nuclei and red cells, nothing wide, and a resolution that shows both: its purple
        and pink alone are those of some H&E slides.
        """
        if self.pixels < LEAST_PIXELS:
            return None
        if self._is_smear:
            return "Romanowsky"
        if self._shows_dab and self.orange < self.brown / 10:
            return "IHC"
        if self._has_two_cytoplasms:
            return "Papanicolaou"
        pink = self.eosin >= MOSTLY_EOSIN and self.brown < NO_BROWN
        return "H&E" if pink and not self._lies_as_squames else None

    def shows(self, kind: StainKind) -> bool:
        """Whether it looks as slides of this kind do; sections that lie in pieces may look like
        Papanicolaou's, too, so that this is weaker than being of that `kind`."""
        if kind == "Papanicolaou" and self.kind is None and self.pixels >= LEAST_PIXELS:
            return self._lies_as_squames
        return kind == self.kind

    @property
    def unlike(self) -> Mapping[StainKind, str]:
        """Kinds that nearly no slide of looks like this, each with the reason: how what is stained lies.

        Weaker than `excluded`. Sections in pieces and slides of thick layers may lie in any way.
        """
        if self.pixels < LEAST_PIXELS or self.solid is None or self._is_smear:
            return {}
        found: dict[StainKind, str] = {}
        if not self.shows("Papanicolaou"):
            found["Papanicolaou"] = (
                f"{self._in_wide_parts}, {self.spanning or 0:.0%} in parts that reach over a field, and "
                f"{self.cover or 0:.0%} of the fields is stained; squamous cells are wide and lie apart"
            )
        if self.solid >= SOLID:
            found["Romanowsky"] = f"{self._in_wide_parts}, and blood cells are narrower"
        return found

    @property
    def excluded(self) -> Mapping[StainKind, str]:
        """Kinds it cannot be, each with the reason; empty where colours exclude none."""
        if self.pixels < LEAST_PIXELS:
            return {}
        if self._is_smear:
            smear = "its nuclei and its yellower red cells lie apart on clear glass"
            return {"H&E": smear, "IHC": smear, "Papanicolaou": smear}
        eosin, brown = f"{self.eosin:.0%} of what is stained is pink as eosin", "none of it brown as DAB"
        found: dict[StainKind, str] = {}
        if self.eosin >= MUCH_EOSIN and self.brown < NO_BROWN:
            found["IHC"] = f"{eosin} and {brown}"
        elif self._faint_is_pinker:
            found["IHC"] = f"{self._pinker} and {brown}"
        mostly = self.eosin >= MOSTLY_EOSIN and self.brown < NO_BROWN and self.blue < NO_BLUE
        if mostly and not self._is_wide_and_apart:
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
        if (why := self._no_smear) is not None:
            found.setdefault("Romanowsky", why)
        return found

    @property
    def _pinker(self) -> str:
        red, nuclei = f"{self.faint_red:.2f}", f"{self.dense_red:.2f}"
        return f"the faint tissue is pinker than the dense (red to green {red} against {nuclei})"

    @property
    def _faint_is_pinker(self) -> bool:
        """A second dye, in the faint tissue, that takes less red away; DAB would take more blue instead."""
        less_red, more_blue = self.dense_red - self.faint_red, self.faint_blue - self.dense_blue
        pinker = 0 < self.faint_red <= min(FAINT_RED, PINKER * self.dense_red) and more_blue <= less_red
        return pinker and self.pink >= SOME_PINK and self.brown < NO_BROWN

    @property
    def _is_smear(self) -> bool:
        narrow = self.solid is not None and self.solid <= NARROW
        return narrow and self.faint_blue - self.dense_blue >= YELLOWER

    @property
    def _has_two_cytoplasms(self) -> bool:
        """Green or blue beside pink, which no section has, in parts that are no nuclei."""
        if self.solid is not None and self.solid < SOLID:
            return False
        if self.cyan >= SOME_CYAN and self.blue >= SOME_BLUE and self.eosin < MUCH_EOSIN:
            return True
        both = self.pink >= BOTH_PINK and self.blue >= BOTH_BLUE
        return both and self.solid is not None and self.brown < NO_BROWN

    @property
    def _is_wide_and_apart(self) -> bool:
        if self.solid is None or self.cover is None:
            return False
        return self.solid >= SOLID and self.cover <= APART

    @property
    def _lies_as_squames(self) -> bool:
        """In pieces wider than white cells, apart on glass; those as pink as H&E must not hold together."""
        if not self._is_wide_and_apart or self.spanning is None:
            return False
        return self.spanning <= SPANNING or not (self._faint_is_pinker or self.pink >= MOSTLY_EOSIN)

    @property
    def _in_wide_parts(self) -> str:
        return f"{self.solid or 0:.0%} of what is stained lies in parts wider than {WIDE_UM:g} µm"

    @property
    def _no_smear(self) -> str | None:
        """Why it is no blood smear, where both its colours and its wide parts say so."""
        if self.solid is None or self.solid < SOLID:
            return None
        solid = self._in_wide_parts
        if self.blue >= MUCH_BLUE:
            return f"{solid} and {self.blue:.0%} is blue"
        if self._faint_is_pinker and self.faint_blue - self.dense_blue < NOT_YELLOWER:
            return f"{solid} and {self._pinker}"
        return None

    @property
    def _shows_dab(self) -> bool:
        enough = self.brown >= MUCH_BROWN and self.dense_brown >= MUCH_DENSE
        return enough and self.eosin < LITTLE_EOSIN


def stain_evidence(density: NDArray[np.floating], parts: StainedParts | None = None) -> StainEvidence:
    """From densities above the glass (log10) of tissue at 0.25 to 2 µm/px: float (n, 3), red, green, blue.

    Coarser pixels mix the dyes: DAB over haematoxylin is grey at 8 µm/px. `parts`: how what is stained lies.
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
    pink = (red <= EOSIN_RED * green) & (blue <= high * green)
    eosin = pink & (blue >= low * green)
    faint, dense = _faint_and_dense(density[stained], mean)
    return StainEvidence(
        pixels=len(mean),
        density=float(np.median(mean)),
        eosin=float(eosin.mean()),
        brown=share(BROWN),
        dense_brown=share(BROWN, dense=DENSE_BROWN),
        blue=share(BLUE),
        cyan=share(CYAN),
        orange=share(ORANGE, ORANGE_SATURATION),
        pink=float(pink.mean()),
        faint_red=faint[0],
        faint_blue=faint[1],
        dense_red=dense[0],
        dense_blue=dense[1],
        solid=parts and parts.solid_share,
        spanning=parts and parts.spanning_share,
        cover=parts and parts.cover,
    )


def _faint_and_dense(
    density: NDArray[np.floating], mean: NDArray[np.floating]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(red to green, blue to green) of the faint tissue and of the dense, without what is brown."""
    chosen = (density[:, 2] <= EOSIN_BLUE[1] * density[:, 1]) & (density.max(axis=1) < BLACK)
    density, mean = density[chosen], mean[chosen]
    if len(mean) < LEAST_PIXELS / 2:
        return (0.0, 0.0), (0.0, 0.0)
    faint, dense = np.percentile(mean, (FAINT, DENSE))
    return _ratios(density[mean <= faint]), _ratios(density[mean >= dense])


def _ratios(density: NDArray[np.floating]) -> tuple[float, float]:
    red, green, blue = density.sum(axis=0, dtype=np.float64).tolist()
    return red / max(green, 1e-9), blue / max(green, 1e-9)


def look_at_stain(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> StainEvidence:
    """Evidence of a picture, uint8 (h, w, 3), where `tissue`, bool (h, w), is True; glass is found in it."""
    glass = estimate_glass(rgb, np.ones(tissue.shape, bool))
    return stain_evidence(optical_density(rgb)[tissue] - glass.density)


def stain_kind(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> StainKind | None:
    """`StainEvidence.kind` of one picture; None where its colours cannot tell."""
    return look_at_stain(rgb, tissue).kind
