"""Lesions as CAMELYON16's evaluation takes them: annotations grown, joined, numbered, small ones set apart.

Behaviour of the official Python script (Ehteshami Bejnordi, 20 January 2016), whose figures are for 0.243
µm/px and the mask at level 5, 32 times smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import draw, measure

from coverslip.errors import RequestError
from coverslip.tiling.geojson_reader import read_regions_file
from coverslip.unheard import unheard

# Five tumour cells; half of it on each side.
GROWN_UM = 75.0
# Of the grown lesion: isolated tumour cells, up to 200 µm, and 75 µm.
ITC_BELOW_UM = 275.0
DOWNSAMPLE = 32.0
# A mask of a whole slide at level 5 has some 20 million.
MOST_PIXELS = 400_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """Lesions of one slide.

    `labels`: int32 (h, w), 0 outside, 1 to n; its first pixel is pixel `left`, `top` of the whole mask, of
    which one pixel is `downsample` level-0 pixels wide. `small`: labels of isolated tumour cells. `size`:
    width and height of the whole mask; None where it is not known.
    """

    labels: NDArray[np.int32]
    left: int
    top: int
    downsample: float
    small: frozenset[int]
    size: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Labels, isolated tumour cells among them."""
        return int(self.labels.max(initial=0))

    def at(self, x: float, y: float) -> int:
        """The label at a level-0 position; 0 outside all of them."""
        column, row = int(x / self.downsample) - self.left, int(y / self.downsample) - self.top
        height, width = self.labels.shape
        return int(self.labels[row, column]) if 0 <= row < height and 0 <= column < width else 0

    def holds(self, x: float, y: float) -> bool:
        """Whether a position lies on the slide, give or take a mask pixel; True where that is not known."""
        if x < 0 or y < 0:
            return False
        if self.size is None:
            return True
        return x <= (self.size[0] + 1) * self.downsample and y <= (self.size[1] + 1) * self.downsample


def find_lesions(
    mask: NDArray[np.bool_], mpp: float, downsample: float = DOWNSAMPLE, whole: bool = True
) -> Lesions:
    """Lesions of a mask bool (h, w), True inside; `mpp`: µm per level-0 pixel.

    Grown by what is nearer than 75 µm / 2 (Euclidean, between centres of pixels), holes filled, numbered by
    parts that touch by sides or corners. A part is of isolated tumour cells when the major axis of the
    ellipse with its second moments is below 275 µm. `whole`: whether the mask is that of the whole slide.
    """
    height, width = mask.shape
    size = (width, height) if whole else None
    if not mask.any():
        return Lesions(np.zeros((0, 0), np.int32), 0, 0, downsample, frozenset(), size)
    reach = GROWN_UM / (mpp * downsample * 2)
    rows, columns = (_around(np.asarray(mask.any(axis=axis)), reach) for axis in (1, 0))
    # Not `tiling.regions.dilate`: the script's bound is exclusive.
    grown = np.asarray(ndimage.distance_transform_edt(~mask[rows, columns])) < reach
    labels = np.asarray(measure.label(ndimage.binary_fill_holes(grown), connectivity=2), np.int32)
    below = ITC_BELOW_UM / (mpp * downsample)
    small = frozenset(part.label for part in measure.regionprops(labels) if part.axis_major_length < below)
    return Lesions(labels, columns.start, rows.start, downsample, small, size)


def _around(line: NDArray[np.bool_], reach: float) -> slice:
    """From the first to the last True, with room to grow and a pixel of background, which holes have not."""
    where, pad = np.flatnonzero(line), ceil(reach) + 1
    return slice(max(0, int(where[0]) - pad), min(len(line), int(where[-1]) + pad + 1))


def read_lesions(path: Path, mpp: float, downsample: float | None, kind: str | None) -> Lesions:
    """Of a file: GeoJSON polygons in level-0 pixels, or a label image, 0 outside.

    `downsample`: level-0 pixels per pixel of the evaluation's mask. Of a pyramid the level with it is taken,
    by default the one 32 times smaller, level 5; of a plain image it must be given; polygons are drawn at it,
    by default 32. `kind`: the class of the polygons that are lesions; by default all are.
    """
    if path.suffix.lower() in (".geojson", ".json"):
        return _of_regions(path, mpp, downsample or DOWNSAMPLE, kind)
    image, found = _read_image(path, downsample)
    return find_lesions(image != 0, mpp, found)


def _of_regions(path: Path, mpp: float, downsample: float, kind: str | None) -> Lesions:
    """Drawn where a pixel's centre lies inside; a part that holds no centre is drawn as the pixel it lies in.

    Holes are filled afterwards in any case.
    """
    regions = read_regions_file(path, kind)
    left, top, right, bottom = shapely.bounds(regions.shape)
    pad = ceil(GROWN_UM / (mpp * downsample * 2)) + 2
    shape = ceil(bottom / downsample) + pad, ceil(right / downsample) + pad
    if min(left, top) < 0 or shape[0] * shape[1] > MOST_PIXELS:
        raise RequestError(
            str(path), f"reaches from {left:g}, {top:g} to {right:g}, {bottom:g}", "give level-0 pixels"
        )
    mask = np.zeros(shape, bool)
    for outline, *_ in regions.polygons:
        points = outline / downsample - 0.5
        rows, columns = draw.polygon(points[:, 1], points[:, 0], shape)
        if not len(rows):
            inside = shapely.Polygon(outline).representative_point()
            rows, columns = [int(inside.y / downsample)], [int(inside.x / downsample)]
        mask[rows, columns] = True
    return find_lesions(mask, mpp, downsample, whole=False)


def _read_image(path: Path, downsample: float | None) -> tuple[NDArray[np.integer], float]:
    """First channel (h, w) and its downsample."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _read_tiff(path, downsample)
        with Image.open(path) as image:
            _refuse_large(path, image.height, image.width)
            pixels = np.asarray(image)
    except (OSError, ValueError, tifffile.TiffFileError, Image.DecompressionBombError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            str(path), f"cannot be read ({error})", "give a label image as TIFF or PNG, or GeoJSON"
        ) from error
    return _first_channel(pixels), _given(path, downsample)


def _given(path: Path, downsample: float | None) -> float:
    if downsample is None:
        raise RequestError(
            str(path),
            "is no pyramid, so that its scale is not known",
            "say with --mask-downsample how many level-0 pixels one of its pixels is wide",
        )
    return downsample


def _read_tiff(path: Path, downsample: float | None) -> tuple[NDArray[np.integer], float]:
    with unheard("tifffile"), tifffile.TiffFile(path) as file:
        pages: list[Any] = [level for page in file.pages for level in (page, *(page.pages or ()))]
        if len(pages) == 1:
            scale, page = _given(path, downsample), pages[0]
        else:
            scale = downsample or DOWNSAMPLE
            page = next((one for one in pages if _is_level(pages[0], one, scale)), None)
            if page is None:
                listed = ", ".join(f"{pages[0].imagewidth / one.imagewidth:g}" for one in pages)
                raise RequestError(
                    str(path),
                    f"has no level {scale:g} times smaller than the first, but {listed}",
                    "name one of these with --mask-downsample",
                )
        _refuse_large(path, page.imagelength, page.imagewidth)
        pixels = page.asarray()
        return _first_channel(
            pixels if page.axes[-1] != "X" else pixels.reshape(-1, *pixels.shape[-2:])[0]
        ), scale


def _is_level(first: Any, page: Any, scale: float) -> bool:
    """Levels are rounded to whole pixels, which is at most one either way."""
    sides = ((first.imagewidth, page.imagewidth), (first.imagelength, page.imagelength))
    return all(abs(whole / scale - part) <= 1 for whole, part in sides)


def _refuse_large(path: Path, height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise RequestError(str(path), f"has {width} × {height} pixels", "give a mask some 32 times smaller")


def _first_channel(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels if pixels.ndim == 2 else pixels[..., 0]
