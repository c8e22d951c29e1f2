"""PNG, JPEG and BMP: one level, as stored. Their 72 or 96 dpi is no µm/px, so the user must give it.

An EXIF orientation is not applied: the frame is that of the stored rows and columns.
"""

from __future__ import annotations

import warnings
from types import MappingProxyType

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from coverslip.errors import RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.facts import Facts
from coverslip.wsi.geometry import Box, Size
from coverslip.wsi.levels import build_levels
from coverslip.wsi.pixels import Raw
from coverslip.wsi.source import Source

MAGIC = MappingProxyType({b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"})
# An image is decoded whole, so it may have as many pixels as Pillow takes without a warning (9,459 a side).
LARGEST_IMAGE = 89_478_485
TILE_IT = "convert it to a tiled pyramid first, for example with: vips tiffsave IN OUT.tif --tile --pyramid"
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError)
TOO_LARGE = (Image.DecompressionBombWarning, Image.DecompressionBombError)


def claims(source: Source) -> bool:
    return not source.is_url and _format(source) is not None


def _format(source: Source) -> str | None:
    return next((name for magic, name in MAGIC.items() if source.head.startswith(magic)), None)


def open_reader(source: Source, z: int | None) -> ImageReader:
    """Raises UnreadableSlideError when it cannot be decoded, UnsupportedSlideError when it is too large."""
    if z not in (None, 0):
        raise RequestError(f"z {z}", f"{source.path} has one focal plane", "leave z out")
    name = _format(source)
    assert name is not None
    try:
        with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="error"):
            image = Image.open(source.path, formats=[name])
        with image:
            _check_size(image.width * image.height, source)
            return ImageReader(source, name, *_pixels(image, source), image.info.get("icc_profile"))
    except UnsupportedSlideError:
        raise
    except TOO_LARGE as error:
        raise _too_large(source) from error
    except DECODE_ERRORS as error:
        raise UnreadableSlideError(
            source.path, f"cannot be decoded as {name} ({error})", "copy it again"
        ) from error


def _check_size(pixels: int, source: Source) -> None:
    if pixels > LARGEST_IMAGE:
        raise _too_large(source)


def _too_large(source: Source) -> UnsupportedSlideError:
    return UnsupportedSlideError(source.path, f"is more than {LARGEST_IMAGE:,} pixels in one piece", TILE_IT)


def _pixels(image: Image.Image, source: Source) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """RGB, and alpha where it is declared. 16-bit values are rounded, v·255/65535."""
    if image.mode == "CMYK":
        raise UnsupportedSlideError(source.path, "has CMYK colours", "convert it to RGB")
    if image.mode.startswith("I"):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), None
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return np.asarray(image.convert("RGB")), None


class ImageReader:
    """The decoded image; transparency is laid over white."""

    name = "image"
    version = f"Pillow {PIL.__version__}"
    thread_safe = True

    def __init__(
        self,
        source: Source,
        kind: str,
        rgb: NDArray[np.uint8],
        alpha: NDArray[np.uint8] | None,
        icc: bytes | None,
    ):
        self._rgb, self._alpha = rgb, alpha
        self.facts = Facts(
            format=kind.lower(),
            levels=build_levels([Size(rgb.shape[1], rgb.shape[0])], [None]),
            icc=icc,
            sparse_by_design=alpha is not None,  # declared transparent is no damage
            files=(source.path,),
        )

    def read(self, level: int, box: Box) -> Raw:
        at = box.within(self.facts.levels[level].size.box)
        alpha = None if self._alpha is None else self._alpha[at].copy()
        return Raw(self._rgb[at].copy(), alpha)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        raise KeyError(name)

    def close(self) -> None:
        """Nothing is held open."""
