"""The pictures of a report: the whole slide with what was found on it, and the tiles that show a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.overlay import draw_tissue
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask, overview_mpp
from coverslip.workflows.report import Picture
from coverslip.workflows.result import TileReference
from coverslip.workflows.workflow import ClassMap, Conclusion
from coverslip.wsi import Field, Size, Slide

LONGEST = 1000
GALLERY_PX = 128


def overviews(slide: Slide, tissue: TissueMask, plan: TilePlan, conclusion: Conclusion) -> list[Picture]:
    """The slide, its tissue, and its class map where there is one."""
    whole = slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings)).pixels.rgb
    rgb = _at_most(whole)
    mask, pen = (_at_most(part.astype(np.uint8) * 255) >= 128 for part in (tissue.mask, tissue.pen))
    pictures = [Picture(draw_tissue(rgb, mask, pen), "tissue outlined, pen marking tinted")]
    if conclusion.class_map is not None:
        classes = conclusion.class_map
        names = ", ".join(name for name, _ in classes.colours.values()) if not classes.caption else ""
        shown = class_picture(rgb, classes, plan, slide)
        pictures.append(Picture(shown, classes.caption or f"classes: {names}"))
    return pictures


def _at_most(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No side longer than `LONGEST`."""
    scale = min(1.0, LONGEST / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def class_picture(
    rgb: NDArray[np.uint8], classes: ClassMap, plan: TilePlan, slide: Slide
) -> NDArray[np.uint8]:
    """The class map over the slide: uint8 like `rgb`, which covers all of level 0."""
    height, width = rgb.shape[:2]
    per_px = slide.size.width / width, slide.size.height / height
    left, top = plan.x.min() / per_px[0], plan.y.min() / per_px[1]
    step_x, step_y = plan.step[0] / per_px[0], plan.step[1] / per_px[1]
    columns = np.floor((np.arange(width) + 0.5 - left) / step_x).astype(int)
    rows = np.floor((np.arange(height) + 0.5 - top) / step_y).astype(int)
    inside_x = (columns >= 0) & (columns < classes.values.shape[1])
    inside_y = (rows >= 0) & (rows < classes.values.shape[0])
    values = np.zeros((height, width), np.uint8)
    values[np.ix_(inside_y, inside_x)] = classes.values[np.ix_(rows[inside_y], columns[inside_x])]
    colours = np.zeros((256, 3), np.uint8)
    for value, (_, rgba) in classes.colours.items():
        colours[value] = rgba[:3]
    tinted = cv2.addWeighted(rgb, 0.5, np.asarray(cv2.LUT(cv2.merge([values] * 3), colours[None])), 0.5, 0)
    cv2.copyTo(rgb, (values == 0).astype(np.uint8), tinted)
    return np.asarray(tinted, np.uint8)


def galleries(slide: Slide, conclusion: Conclusion) -> Mapping[str, Sequence[Picture]]:
    """For each finding that names tiles, those tiles."""
    return {
        finding.name: [
            Picture(_tile(slide, tile), f"{format_score(tile.score)} at {tile.x}, {tile.y}")
            for tile in finding.tiles
        ]
        for finding in conclusion.findings
        if finding.tiles
    }


def format_score(score: float) -> str:
    """To two digits; what is not zero is never shown as zero.

    >>> format_score(0.931), format_score(0.00312)
    ('0.93', '0.0031')
    """
    return f"{score:.2f}" if score >= 0.1 else f"{score:.2g}"


def _tile(slide: Slide, tile: TileReference) -> NDArray[np.uint8]:
    mpp = tile.width * slide.mpp.x / GALLERY_PX
    return slide.read_field(Field(tile.x, tile.y, Size(GALLERY_PX, GALLERY_PX), mpp)).rgb
