"""Pixels as they come from a file, and as Coverslip hands them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coverslip.wsi.geometry import Box

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a reader returns for a box that lies inside a level.

    `rgb`: uint8 (height, width, 3), not premultiplied. `alpha`: uint8 (height, width), 0 where the file
    holds no pixel; None when it holds all. `corrupt`: bool (height, width), True where the file holds
    bytes that could not be decoded (alpha is 0 there); None when there are none.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    corrupt: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """What `Slide.read` returns.

    `rgb`: uint8 (height, width, 3), the background colour wherever there is no pixel.
    `valid`: bool (height, width), False there: outside the slide, not stored, or not decodable.
    `damaged`: bool (height, width), True where a pixel should be and is not; never outside the slide,
    and not where the format leaves unscanned glass out by design.
    """

    rgb: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    damaged: NDArray[np.bool_]


def blank(box: Box, background: Rgb) -> Pixels:
    """All background, nothing valid."""
    rgb = np.empty((*box.size.shape, 3), np.uint8)
    rgb[:] = background
    return Pixels(rgb, np.zeros(box.size.shape, bool), np.zeros(box.size.shape, bool))


def composite(raw: Raw, background: Rgb, *, sparse_by_design: bool) -> Pixels:
    """Lay what the file holds over the background colour.

    Partly transparent pixels are blended with Pillow's rounding (that of `Image.paste` with a mask, which
    OpenSlide's documentation recommends); they count as valid from alpha 128 on.
    """
    shape = raw.rgb.shape[:2]
    if raw.alpha is None:
        return Pixels(raw.rgb, np.ones(shape, bool), np.zeros(shape, bool))
    valid = raw.alpha >= 128
    if valid.all() and raw.alpha.min() == 255:
        return Pixels(raw.rgb, valid, np.zeros(shape, bool))
    corrupt = np.zeros(shape, bool) if raw.corrupt is None else raw.corrupt
    damaged = corrupt if sparse_by_design else ~valid
    if not valid.any() and raw.alpha.max() == 0:
        return Pixels(np.full((*shape, 3), background, np.uint8), valid, damaged)
    return Pixels(_blend(raw.rgb, raw.alpha, background), valid, damaged)


def _blend(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Rgb) -> NDArray[np.uint8]:
    a = alpha[..., None].astype(np.uint32)
    mixed = rgb * a + np.asarray(background, np.uint32) * (255 - a) + 128
    return (((mixed >> 8) + mixed) >> 8).astype(np.uint8)


def place(pixels: Pixels, at: Box, box: Box, background: Rgb) -> Pixels:
    """Put pixels that cover `at` into a blank field that covers `box`."""
    if at == box:
        return pixels
    whole = blank(box, background)
    where = at.within(box)
    whole.rgb[where], whole.valid[where], whole.damaged[where] = pixels.rgb, pixels.valid, pixels.damaged
    return whole
