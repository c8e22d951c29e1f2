"""Where the tissue is: a mask from a small picture of the slide, and find_tissue for a slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, floor

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.errors import NotBrightfieldError, RequestError
from coverslip.tiling.brightfield import is_brightfield
from coverslip.tiling.glass import Density, Glass, bands, estimate_glass
from coverslip.tiling.pen import PenSettings, find_pen
from coverslip.tiling.regions import Mask, close, drop_small, fill_small
from coverslip.wsi.geometry import Box, Mpp, Size
from coverslip.wsi.overview import Overview
from coverslip.wsi.slide import Slide

NOT_BRIGHTFIELD = (
    "give it to a program for such images; Coverslip's workflows need stained tissue in transmitted light"
)


@dataclass(frozen=True, slots=True)
class TissueSettings:
    """How tissue is told from glass. Lengths are µm, so that a setting holds at every resolution."""

    # Fine enough to see a strip of biopsy 50 µm wide, coarse enough that a slide is 4 to 10 megapixels.
    mpp: float = 8.0
    # A larger slide is looked at more coarsely, so that memory is bounded: some 20 bytes a pixel. At 8 µm/px
    # that is 768 mm² of glass, 22 × 35 mm.
    most_px: int = 12_000_000
    # A small slide is looked at more closely: its longer side has at least this many pixels, if it can.
    longest_px: int = 1024
    # Palest tissue kept: 6 % darker than glass. Mucin and pale IHC stroma darken by 8 to 12 %.
    floor_density: float = 0.03
    # … and this many times the noise of the glass (after the blur), so that noise alone gives nothing.
    noise_factor: float = 2.0
    # Where two peaks are apart, the cut goes to the valley between them, at most here: haze under a smear
    # stays out, pale cytoplasm in. Also the most that noise may ask for: grain of a photograph.
    ceiling_density: float = 0.05
    # Removes JPEG block noise and scanner grain; a tenth of a nucleus.
    blur_um: float = 1.0
    # Joins fragments of one cell and fibres; red cells in a smear stay apart, the glass between them out.
    close_um: float = 2.0
    # Holes up to 20 × 20 µm are vacuoles, pallor of red cells, capillaries: part of the tissue.
    hole_um2: float = 400.0
    # A third of a red cell or small lymphocyte (7 µm, 38 µm²); smaller things are grains and platelets.
    smallest_um2: float = 12.0
    # A slide whose mask is less than this share of the picture and holds no part as large as `speck_um2`
    # is empty glass with dust.
    dust_share: float = 0.005
    # One squamous cell or a small group of others: 30 × 30 µm. Dust on cover glasses is smaller.
    speck_um2: float = 900.0
    # Leave marker out; its figures are in PenSettings. None keeps everything.
    pen: PenSettings | None = field(default_factory=PenSettings)

    def __post_init__(self) -> None:
        numbers = (
            self.mpp,
            self.longest_px,
            self.most_px,
            self.floor_density,
            self.noise_factor,
            self.blur_um,
        )
        if min(numbers) <= 0 or min(self.close_um, self.hole_um2, self.smallest_um2, self.dust_share) < 0:
            raise RequestError("tissue settings", "hold a negative value", "give positive values")
        if self.ceiling_density < self.floor_density:
            raise RequestError(
                "tissue settings", "ceiling is below floor", "give ceiling_density ≥ floor_density"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """`mask`, `pen`: bool (h, w), never both True. `glass`: what was taken for glass. `cut`: the density
    above glass from which a pixel counted as tissue."""

    mask: Mask
    pen: Mask
    glass: Glass
    cut: float


def detect_tissue(
    rgb: NDArray[np.uint8], valid: NDArray[np.bool_], mpp: float, settings: TissueSettings
) -> Detection:
    """Tissue and marker in an RGB picture of a slide or a part of it.

    `rgb`: uint8 (h, w, 3); `valid`: bool (h, w), False where there is no pixel, never tissue. `mpp`: µm per
    pixel, the mean of x and y. A picture all of tissue gives a mask all True, one of blank glass all False.
    """
    none = np.zeros(valid.shape, bool)
    blurred = _blur(rgb, settings.blur_um / mpp)
    glass = estimate_glass(blurred, valid)
    density = Density(blurred, glass)
    darkest = density.darkest()
    cut = _cut(_histogram(darkest, valid), glass.noise, settings)
    mask = (darkest > cut) & valid
    del darkest
    pen = find_pen(density, settings.pen, mpp) & valid if settings.pen else none
    mask &= ~pen
    mask = fill_small(close(mask, settings.close_um / mpp), settings.hole_um2 / mpp**2) & valid & ~pen
    mask = drop_small(mask, max(settings.smallest_um2 / mpp**2, 1))
    if _is_dust(mask, valid, mpp, settings):
        mask = none
    return Detection(mask, pen, glass, cut)


def _blur(rgb: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    # Below 0.7 px a Gaussian does nothing to noise of neighbouring pixels; above 6 px there is none left.
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), min(max(sigma, 0.7), 6.0)), np.uint8)


def _histogram(darkest: NDArray[np.float32], valid: Mask) -> NDArray[np.float64]:
    """How many valid pixels have each density from 0 to 0.3, in 256 bins; what is denser is in the last."""
    counts = np.zeros(256)
    for start, stop in bands(valid.shape):
        bins = np.clip(darkest[start:stop][valid[start:stop]] / 0.3 * 256, 0, 255).astype(np.uint8)
        counts += np.bincount(bins, minlength=256)
    return counts


def _cut(counts: NDArray[np.float64], noise: float, settings: TissueSettings) -> float:
    """Density above glass that separates: the floor, raised into the valley where there is one.

    Otsu's threshold (1979, IEEE Trans SMC 9:62) always exists, also in the noise of blank glass; it is
    used only to find the valley, and only where it explains three quarters of the variance.
    """
    ceiling = settings.ceiling_density
    floor = min(max(settings.floor_density, settings.noise_factor * noise), ceiling)
    otsu, explained = _otsu(counts)
    if explained < 0.75:
        return floor
    smooth = cv2.GaussianBlur(counts[None], (0, 0), 2.0)[0]
    first, last = round(floor / 0.3 * 256), min(round(ceiling / 0.3 * 256), otsu)
    if last <= first:
        return floor
    return float(max(floor, (first + int(np.argmin(smooth[first : last + 1]))) / 256 * 0.3))


def _otsu(counts: NDArray[np.float64]) -> tuple[int, float]:
    """Otsu's bin and the share of variance between the two classes, 0 to 1."""
    share = counts / max(counts.sum(), 1)
    level = np.arange(len(counts))
    below, moment = np.cumsum(share), np.cumsum(share * level)
    total = moment[-1]
    variance = float((share * (level - total) ** 2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((total * below - moment) ** 2 / (below * (1 - below)), posinf=0, neginf=0)
    best = int(np.argmax(between))
    return best, float(between[best]) / variance if variance > 0 else 0.0


def _is_dust(mask: Mask, valid: Mask, mpp: float, settings: TissueSettings) -> bool:
    if mask.sum() >= settings.dust_share * valid.sum():
        return False
    return not drop_small(mask, settings.speck_um2 / mpp**2).any()


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Tissue of one slide in the frame of its whole level 0, made small.

    `mask`, `pen`: bool (h, w); pixel (row i, column j) covers level-0 x in [j, j + 1) × `scale_x` and y in
    [i, i + 1) × `scale_y`. `mpp`: size of a mask pixel in µm. `bounds`: the scanned part, level-0 pixels.
    `damaged_fraction`: share of the scanned part, 0 to 1, that the file should hold and does not.
    """

    mask: Mask
    pen: Mask
    scale_x: float
    scale_y: float
    mpp: Mpp
    bounds: Box
    settings: TissueSettings
    damaged_fraction: float

    @property
    def is_empty(self) -> bool:
        return not self.mask.any()

    @property
    def area_mm2(self) -> float:
        """Area of tissue on the glass."""
        return float(self.mask.sum()) * self.mpp.x * self.mpp.y / 1e6

    @property
    def fraction(self) -> float:
        """Tissue as share of the scanned part, 0 to 1."""
        return min(1.0, float(self.mask.sum()) * self.scale_x * self.scale_y / self.bounds.size.area)

    @property
    def pen_fraction(self) -> float:
        """Pen marking as share of the scanned part, 0 to 1."""
        return min(1.0, float(self.pen.sum()) * self.scale_x * self.scale_y / self.bounds.size.area)

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Mask:
        """Whether each place (level-0 pixels) lies on tissue: bool (n,); outside the slide never."""
        columns, rows = (np.floor(at).astype(np.int64) for at in (x / self.scale_x, y / self.scale_y))
        height, width = self.mask.shape
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        found = np.zeros(len(x), bool)
        found[inside] = self.mask[rows[inside], columns[inside]]
        return found

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Bounding box of each connected part (corners connect), level-0 pixels, top to bottom."""
        stats = cv2.connectedComponentsWithStats(self.mask.astype(np.uint8), connectivity=8)[2][1:]
        found = [self._box(*(int(v) for v in row[:4])) for row in stats]
        return tuple(sorted(found, key=lambda box: (box.y, box.x, box.width, box.height)))

    def _box(self, left: int, top: int, width: int, height: int) -> Box:
        x, y = floor(left * self.scale_x), floor(top * self.scale_y)
        right, bottom = ceil((left + width) * self.scale_x), ceil((top + height) * self.scale_y)
        return Box(x, y, right - x, bottom - y)


def find_tissue(slide: Slide, settings: TissueSettings | None = None) -> TissueMask:
    """Tissue mask of a slide.

    Raises NotBrightfieldError for fluorescence or several channels, SlideInformationError when the slide's
    µm/px is not known. Blank glass is no error: the mask is empty.
    """
    settings = settings or TissueSettings()
    return tissue_in(slide, overview_of(slide, settings), settings)


def overview_of(slide: Slide, settings: TissueSettings) -> Overview:
    """The picture of a slide that tissue is found in. Raises as `find_tissue` does."""
    require_brightfield(slide)
    return slide.overview(overview_mpp(slide.size, slide.mpp, settings))


def tissue_in(slide: Slide, overview: Overview, settings: TissueSettings) -> TissueMask:
    """Tissue mask of a slide from the picture that `overview_of` gave. Raises NotBrightfieldError."""
    pixels, x, y = overview.pixels, overview.scale_x, overview.scale_y
    valid = pixels.valid & covers(slide.bounds, pixels.valid.shape, x, y)
    if not is_brightfield(pixels.rgb, valid):
        raise NotBrightfieldError(slide.path, "is bright on a dark ground: fluorescence", NOT_BRIGHTFIELD)
    mpp = Mpp(slide.mpp.x * x, slide.mpp.y * y, slide.mpp.source)
    found = detect_tissue(pixels.rgb, valid, mpp.mean, settings)
    damaged = float(pixels.damaged.sum()) * x * y / slide.bounds.size.area
    return TissueMask(found.mask, found.pen, x, y, mpp, slide.bounds, settings, min(1.0, damaged))


def require_brightfield(slide: Slide) -> None:
    """Raises NotBrightfieldError where the file itself says fluorescence or several channels."""
    if slide.facts.kind != "brightfield":
        channels = f" with the channels {', '.join(slide.facts.channels)}" if slide.facts.channels else ""
        raise NotBrightfieldError(slide.path, f"is a {slide.facts.kind} image{channels}", NOT_BRIGHTFIELD)


def overview_mpp(size: Size, mpp: Mpp, settings: TissueSettings) -> float:
    """µm/px to look at: that of the settings, finer where the slide would be too small and coarser where it
    would be too large, never finer than level 0.

    >>> overview_mpp(Size(80_000, 60_000), Mpp(0.25, 0.25, "given"), TissueSettings())
    8.0
    >>> overview_mpp(Size(4096, 2048), Mpp(0.25, 0.25, "given"), TissueSettings())
    1.0
    >>> overview_mpp(Size(300_000, 250_000), Mpp(0.25, 0.25, "given"), TissueSettings())
    19.764235376052373
    """
    longest_um = max(size.width * mpp.x, size.height * mpp.y)
    bounded = (size.area * mpp.x * mpp.y / settings.most_px) ** 0.5
    return max(min(settings.mpp, longest_um / settings.longest_px), bounded, mpp.x, mpp.y)


def covers(box: Box, shape: tuple[int, int], scale_x: float, scale_y: float) -> Mask:
    """Which pixels of a small picture have their centre in a level-0 box: bool of that shape."""
    x = (np.arange(shape[1]) + 0.5) * scale_x
    y = (np.arange(shape[0]) + 0.5) * scale_y
    across, down = (x >= box.x) & (x < box.right), (y >= box.y) & (y < box.bottom)
    return down[:, None] & across[None, :]
