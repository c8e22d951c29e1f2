"""Pictures for people: where tissue was found, which tiles will be read."""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.geojson import PEN_COLOUR, TISSUE_COLOUR
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.regions import Mask
from coverslip.wsi.pixels import Rgb

TILE_COLOUR: Rgb = (20, 60, 200)
NARROWEST = 320


def draw_tissue(rgb: NDArray[np.uint8], mask: Mask, pen: Mask) -> NDArray[np.uint8]:
    """The picture with tissue tinted and outlined green, marker tinted yellow, and the notice below.

    `rgb`: uint8 (h, w, 3); `mask`, `pen`: bool (h, w). Returns uint8 (h + strip, w', 3), w' ≥ w.
    """
    if mask.shape != rgb.shape[:2] or pen.shape != rgb.shape[:2]:
        raise RequestError(
            f"masks of {mask.shape}", f"the picture is {rgb.shape[:2]}", "give both at one size"
        )
    drawn = rgb.copy()
    _tint(drawn, mask, TISSUE_COLOUR, 0.2)
    _tint(drawn, pen, PEN_COLOUR, 0.6)
    outlines = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(drawn, outlines, -1, TISSUE_COLOUR, max(1, max(rgb.shape) // 800))
    return with_notice(drawn)


def draw_plan(rgb: NDArray[np.uint8], plan: TilePlan, scale: tuple[float, float]) -> NDArray[np.uint8]:
    """The picture with an outline for each tile, and the notice below.

    `scale`: level-0 pixels per pixel of the picture, (x, y), as in `Overview`.
    """
    drawn = rgb.copy()
    width, height = plan.extent
    for x, y in zip(plan.x.tolist(), plan.y.tolist(), strict=True):
        corner = (round(x / scale[0]), round(y / scale[1]))
        opposite = (round((x + width) / scale[0]) - 1, round((y + height) / scale[1]) - 1)
        cv2.rectangle(drawn, corner, opposite, TILE_COLOUR, 1)
    # Pillow's own font has no µ.
    return with_notice(drawn, f"{len(plan)} tiles of {plan.size} px, {plan.mpp:g} microns per pixel")


def with_notice(rgb: NDArray[np.uint8], text: str = "") -> NDArray[np.uint8]:
    """The picture on a white strip with the research-use sentence, and a line of text above it."""
    lines = [line for line in (text, RUO) if line]
    font = ImageFont.load_default(12)
    high = 4 + 17 * len(lines)
    wide = max(rgb.shape[1], NARROWEST, *(int(font.getlength(line)) + 9 for line in lines))
    sheet = Image.new("RGB", (wide, rgb.shape[0] + high), "white")
    sheet.paste(Image.fromarray(rgb))
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((4, rgb.shape[0] + 3 + 17 * row), line, fill="black", font=font)
    return np.asarray(sheet)


def write_png(path: str | os.PathLike[str], rgb: NDArray[np.uint8]) -> None:
    """uint8 (h, w, 3) as PNG; the file appears whole or not at all."""
    with replacing(path) as part:
        Image.fromarray(rgb).save(part, format="PNG")


def _tint(rgb: NDArray[np.uint8], where: Mask, colour: Rgb, strength: float) -> None:
    levels = np.arange(256)[:, None] * (1 - strength) + np.asarray(colour) * strength
    tinted = np.asarray(cv2.LUT(rgb, np.round(levels).astype(np.uint8)[None]))
    cv2.copyTo(tinted, where.astype(np.uint8), rgb)
