"""JPEG 2000 tiles (ITU T.800), decoded by OpenJPEG through Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.wsi.geometry import Size


def jpeg_2000_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) from the SIZ marker (T.800 A.5.1). Raises ValueError where there is none."""
    head = bytes(data[:4096])
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(head):
        raise ValueError("the JPEG 2000 stream has no size")
    xsiz, ysiz, xosiz, yosiz = (int.from_bytes(head[at + 8 + n : at + 12 + n]) for n in (0, 4, 8, 12))
    return xsiz - xosiz, ysiz - yosiz


def decode_jpeg_2000(data: bytes, tile: Size) -> NDArray[np.uint8]:
    """RGB uint8 (tile.height, tile.width, 3).

    Raises ValueError or OSError for what cannot be decoded or is of another size.
    """
    if jpeg_2000_size(data) != (tile.width, tile.height):
        raise ValueError(f"the tile does not say it is {tile.width}×{tile.height} pixels")
    with Image.open(BytesIO(data), formats=["JPEG2000"]) as image:
        if image.mode != "RGB":
            raise ValueError(f"it holds {image.mode}, not RGB")
        rgb = np.asarray(image)
    if rgb.shape != (tile.height, tile.width, 3):
        raise ValueError(f"it decodes to {rgb.shape[1]}×{rgb.shape[0]} pixels")
    return rgb
