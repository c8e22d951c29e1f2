"""Which TIFF samples are a brightfield image, and how they become 8-bit RGB."""

from __future__ import annotations

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

from coverslip.errors import UnsupportedSlideError

RgbAlpha = tuple[NDArray[np.uint8], NDArray[np.uint8] | None]
ALPHAS = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
COLOURS = (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
GREYS = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
JPEGS = (COMPRESSION.JPEG, COMPRESSION.JPEG_LOSSY)
CONVERT = "convert it to RGB, for example with: vips icc_transform IN OUT.tif[tile,pyramid] srgb"


def check_colour(page: tifffile.TiffPage, subject: str) -> None:
    """Raise UnsupportedSlideError for colours that are not turned into RGB here."""
    photometric = page.photometric
    if photometric not in (*COLOURS, *GREYS, PHOTOMETRIC.PALETTE):
        name = getattr(photometric, "name", photometric)
        raise UnsupportedSlideError(subject, f"has {name} colours", CONVERT)
    if photometric == PHOTOMETRIC.YCBCR and page.compression not in JPEGS:
        raise UnsupportedSlideError(subject, "has YCbCr samples outside JPEG", CONVERT)


def is_brightfield(page: tifffile.TiffPage) -> bool:
    """8- or 16-bit red, green, blue with or without a declared alpha; 8-bit grey; a palette."""
    if page.dtype is None:
        return False
    if page.photometric in COLOURS:
        return page.dtype in (np.uint8, np.uint16) and (page.samplesperpixel == 3 or has_alpha(page))
    return page.dtype == np.uint8 and page.samplesperpixel == 1


def has_alpha(page: tifffile.TiffPage) -> bool:
    """Red, green, blue and one sample declared as opacity."""
    extra = tuple(page.extrasamples)
    return (
        page.photometric in COLOURS and page.samplesperpixel == 4 and len(extra) == 1 and extra[0] in ALPHAS
    )


def to_rgb(page: tifffile.TiffPage, samples: NDArray[np.generic]) -> RgbAlpha:
    """`samples`: (height, width, samples) as stored. The rules are those of libtiff's TIFFRGBAImage, which
    OpenSlide shows: 16-bit values are rounded, v·255/65535; colour-map entries lose their low byte."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        colours = (np.asarray(page.colormap) >> 8).astype(np.uint8)
        return colours[:, samples[..., 0].astype(np.intp)].transpose(1, 2, 0), None
    eight = _eight_bits(samples)
    if page.photometric in GREYS:
        grey = 255 - eight if page.photometric == PHOTOMETRIC.MINISWHITE else eight
        return np.repeat(grey[..., :1], 3, axis=2), None
    if eight.shape[2] == 3:
        return eight, None
    alpha = eight[..., 3]
    colour = eight[..., :3]
    if page.extrasamples[0] == EXTRASAMPLE.ASSOCALPHA:
        colour = _unpremultiply(colour, alpha)
    return colour, alpha


def _eight_bits(samples: NDArray[np.generic]) -> NDArray[np.uint8]:
    if samples.dtype == np.uint16:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return samples.astype(np.uint8, copy=False)


def _unpremultiply(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    over = np.maximum(alpha, 1)[..., None].astype(np.uint32)
    return np.minimum(255, (colour.astype(np.uint32) * 255 + over // 2) // over).astype(np.uint8)
