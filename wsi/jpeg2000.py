"""JPEG 2000 tiles (ITU T.800), decoded by OpenJPEG through Pillow."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.wsi.geometry import Size

CODESTREAM = b"\xff\x4f\xff\x51"
# From the SIZ marker: the number of components, and for each 8 bits without sign and no subsampling.
THREE_BYTES = b"\0\3" + b"\7\1\1" * 3


def jpeg_2000_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) from the SIZ marker (T.800 A.5.1). Raises ValueError where there is none."""
    head = bytes(data[:4096])
    at = head.find(CODESTREAM)
    if at < 0 or at + 24 > len(head):
        raise ValueError("the JPEG 2000 stream has no size")
    xsiz, ysiz, xosiz, yosiz = (int.from_bytes(head[at + 8 + n : at + 12 + n]) for n in (0, 4, 8, 12))
    return xsiz - xosiz, ysiz - yosiz


def decode_jpeg_2000(data: bytes, tile: Size) -> NDArray[np.uint8]:
    """RGB uint8 (tile.height, tile.width, 3).

    Raises ValueError or OSError for what cannot be decoded, is no bare codestream, or is not of that size
    with three samples of 8 bits, each of every pixel.
    """
    if data[:4] != CODESTREAM or data[8:24] != struct.pack(">4I", tile.width, tile.height, 0, 0):
        raise ValueError(f"the tile does not say it is {tile.width}×{tile.height} pixels")
    if data[40:51] != THREE_BYTES:
        raise ValueError("it does not hold three samples of 8 bits")
    with Image.open(BytesIO(data), formats=["JPEG2000"]) as image:
        rgb = np.asarray(image)
    if rgb.shape != (tile.height, tile.width, 3):
        raise ValueError(f"it decodes to {rgb.shape}")
    return rgb
