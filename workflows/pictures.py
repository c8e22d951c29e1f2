"""The pictures of a report: the whole slide made small, and what shows a finding, larger; as JPEG and PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coverslip.workflows.result import SlideResult, TileReference
from coverslip.wsi import Field, Size, Slide

# Pixels of the whole slide's longer side; on a full-screen page one pixel of it is one of the screen.
LONGEST = 2000
CROP_PX = 256
# What is smaller, such as a cell, is shown with this much around it.
LEAST_UM = 64.0
# What a report holds of pictures, so that it can be sent by mail: bytes before they are written as base64.
WHOLE_BYTES, CROPS_BYTES = 1_300_000, 1_900_000
MOST_CROPS = 240
# The first that fits is taken. Of stained tissue the first nearly always does.
WHOLE_QUALITIES = (85, 70, 50, 30)
CROP_QUALITIES = (88, 75, 60, 40)

Box = tuple[float, float, float, float]


def whole_picture(slide: Slide) -> tuple[NDArray[np.uint8], bytes]:
    """The whole slide, at most `LONGEST` pixels a side: uint8 (h, w, 3), and as JPEG."""
    rgb = slide.thumbnail(LONGEST)
    return rgb, _first_that_fits(lambda quality: [jpeg(rgb, quality)], WHOLE_QUALITIES, WHOLE_BYTES)[0]


def crop_box(result: SlideResult, tile: TileReference) -> Box:
    """x, y, width, height (level-0 pixels) of the square of glass around a tile that shows it."""
    mpp = result.slide.mpp
    side = max(tile.width * mpp.x, tile.height * mpp.y, LEAST_UM)
    middle = tile.x + tile.width / 2, tile.y + tile.height / 2
    width, height = side / mpp.x, side / mpp.y
    return middle[0] - width / 2, middle[1] - height / 2, width, height


def crop_pictures(slide: Slide, boxes: Sequence[Box]) -> list[bytes]:
    """A JPEG for each box (level-0 pixels, square in µm), `CROP_PX` a side at most, not finer than level 0.

    Of more than `MOST_CROPS`, or what does not fit into `CROPS_BYTES`, the last are left out.
    """
    pixels = [_read(slide, box) for box in boxes[:MOST_CROPS]]
    return _first_that_fits(
        lambda quality: [jpeg(rgb, quality) for rgb in pixels], CROP_QUALITIES, CROPS_BYTES
    )


def _read(slide: Slide, box: Box) -> NDArray[np.uint8]:
    x, y, width, _ = box
    side = max(1, min(CROP_PX, round(width)))
    mpp = width * slide.mpp.x / side
    return slide.read_field(Field(x, y, Size(side, side), mpp)).rgb


def _first_that_fits(make: Callable[[int], list[bytes]], qualities: Sequence[int], most: int) -> list[bytes]:
    made: list[bytes] = []
    for quality in qualities:
        made = make(quality)
        if sum(map(len, made)) <= most:
            return made
    return list(_up_to(made, most)) or made[:1]


def _up_to(made: Sequence[bytes], most: int) -> Iterator[bytes]:
    total = 0
    for one in made:
        total += len(one)
        if total > most:
            return
        yield one


def jpeg(rgb: NDArray[np.uint8], quality: int) -> bytes:
    """uint8 (h, w, 3) as JPEG, colours at half resolution."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def label_png(values: NDArray[np.uint8], colours: dict[int, tuple[int, int, int, int]]) -> bytes:
    """Label values (h, w) as PNG with a palette; values without a colour are transparent."""
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    palette, alpha = np.zeros((256, 3), np.uint8), bytearray(256)
    for value, rgba in colours.items():
        palette[value], alpha[value] = rgba[:3], 255
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(alpha), optimize=False, compress_level=6)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """JPEG or PNG as an address that holds the picture itself."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def format_score(score: float) -> str:
    """To two digits; what is not zero is never shown as zero.

    >>> format_score(0.931), format_score(0.00312)
    ('0.93', '0.0031')
    """
    return f"{score:.2f}" if score >= 0.1 else f"{score:.2g}"
