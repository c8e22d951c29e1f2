"""From the pixels of one level to pixels of the resolution asked for."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.wsi.geometry import Size
from coverslip.wsi.pixels import Pixels

Window = tuple[float, float, float, float]


def resample(pixels: Pixels, window: Window, size: Size) -> Pixels:
    """The part of `pixels` under `window`, at `size`.

    `window`: left, top, right, bottom in pixels of the array, fractional, corners (0 is the outer edge of
    the first pixel). The colours are `resample_rgb`'s. A pixel is valid, or damaged, when most of what it is
    made of is.
    """
    if is_whole(window):
        left, top, right, bottom = (round(v) for v in window)
        part = (slice(top, bottom), slice(left, right))
        if (bottom - top, right - left) == size.shape:
            return Pixels(pixels.rgb[part], pixels.valid[part], pixels.damaged[part])
        if (bottom - top) % size.height == 0 and (right - left) % size.width == 0:
            return reduce(Pixels(pixels.rgb[part], pixels.valid[part], pixels.damaged[part]), size)
    return Pixels(
        resample_rgb(pixels.rgb, window, size),
        _most(pixels.valid, window, size),
        _most(pixels.damaged, window, size),
    )


def resample_rgb(rgb: NDArray[np.uint8], window: Window, size: Size) -> NDArray[np.uint8]:
    """The part of an image under `window`, at `size`: uint8 (size.height, size.width, 3).

    Equal size and whole offsets copy; whole factors give the exact area mean (OpenCV's INTER_AREA); anything
    else Pillow's Hamming filter over the fractional window, which is as sharp as the area mean without its
    dislocations.
    """
    if is_whole(window):
        left, top, right, bottom = (round(v) for v in window)
        part = rgb[top:bottom, left:right]
        if part.shape[:2] == size.shape:
            return part
        if part.shape[0] % size.height == 0 and part.shape[1] % size.width == 0:
            return _area_mean(part, size)
    return np.asarray(
        Image.fromarray(rgb).resize((size.width, size.height), Image.Resampling.HAMMING, window)
    )


def _area_mean(rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    small = cv2.resize(np.ascontiguousarray(rgb), (size.width, size.height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def reduce(pixels: Pixels, size: Size) -> Pixels:
    """Area mean of the whole array at `size`; exact when both factors are whole."""
    shape = (size.width, size.height)
    if not pixels.valid.any():  # one colour: nothing to average, and most of a cut-off slide is so
        rgb = np.full((*size.shape, 3), pixels.rgb[0, 0], np.uint8)
        return Pixels(rgb, np.zeros(size.shape, bool), _reduce_mask(pixels.damaged, shape))
    return Pixels(
        _area_mean(pixels.rgb, size), _reduce_mask(pixels.valid, shape), _reduce_mask(pixels.damaged, shape)
    )


def _reduce_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    if mask.all() or not mask.any():
        return np.full((shape[1], shape[0]), mask.flat[0])
    small = cv2.resize(mask.astype(np.uint8) * 255, shape, interpolation=cv2.INTER_AREA)
    return np.asarray(small) >= 128


def _most(mask: NDArray[np.bool_], window: Window, size: Size) -> NDArray[np.bool_]:
    if mask.all() or not mask.any():
        return np.full(size.shape, mask.flat[0])
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((size.width, size.height), Image.Resampling.BILINEAR, window)) >= 128


def is_whole(window: Window) -> bool:
    """Whether a window's edges lie between pixels; 1e-6 px forgives floating point."""
    return all(abs(v - round(v)) < 1e-6 for v in window)
