"""JPEG tiles as chunks of a Zarr v3 array: the codec `imagecodecs_jpeg`, known once Coverslip is installed.

Name and configuration are those of numcodecs' registry, where imagecodecs has them from and tifffile writes
them (`numcodecs.get_codec({"id": "imagecodecs_jpeg", **configuration})` decodes a chunk to the same pixels);
neither brings a codec for Zarr v3. A chunk's bytes are those a slide stores: what its tiles share stands
once, in the configuration.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import get_codec_class, register_codec

from coverslip.wsi.geometry import Size
from coverslip.wsi.jpeg import EOI, SOI, decode_jpeg, make_whole, shared_tables

NAME = "imagecodecs_jpeg"
# imagecodecs numbers colour spaces as libjpeg does (jpeglib.h, J_COLOR_SPACE).
SPACES = {"rgb": "rgb", "ycbcr": "ycbcr", 2: "rgb", 3: "ycbcr"}
# libjpeg takes any number up to 100; imagecodecs' own is 95.
QUALITY = 95
SUBSAMPLINGS = ("444", "422", "420")


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """RGB uint8 (height, width, 3) as one JPEG stream.

    `colour`: of the streams' samples, "rgb" or "ycbcr"; None where each stream says it itself. `tables`: a
    stream of tables only, from SOI to EOI. `header`: what stands before each chunk's bytes to make them, with
    EOI after them, a stream. `level` and `subsampling`: how chunks are encoded, where any are.
    """

    colour: str | None = None
    tables: bytes = b""
    header: bytes = b""
    level: int | None = None
    subsampling: str | None = None

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Raises ValueError for a configuration that is not one of RGB streams."""
        given = data.get("configuration") or {}
        if not isinstance(given, dict):
            raise ValueError(f"the configuration of {NAME} is no object")
        if SPACES.get(given.get("colorspace_data") or "rgb") != "rgb":
            raise ValueError(f"{NAME} is read into RGB only")
        return cls(
            _space(given.get("colorspace_jpeg")),
            _bytes(given.get("tables")),
            _bytes(given.get("header")),
            _quality(given.get("level")),
            _subsampling(given.get("subsampling")),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "configuration": self.configuration}

    @property
    def configuration(self) -> dict[str, Any]:
        stated = {
            "colorspace_data": "rgb",
            "colorspace_jpeg": self.colour,
            "tables": base64.b64encode(self.tables).decode() or None,
            "header": base64.b64encode(self.header).decode() or None,
            "level": self.level,
            "subsampling": self.subsampling,
        }
        return {key: value for key, value in stated.items() if value is not None}

    def validate(self, *, shape: Any, dtype: Any, chunk_grid: Any) -> None:
        if len(shape) != 3 or shape[-1] != 3 or dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"{NAME} holds (height, width, 3) uint8, not {shape} {dtype}")

    def decode_chunk(self, data: bytes | memoryview, chunk: Size) -> NDArray[np.uint8]:
        """RGB uint8 (chunk.height, chunk.width, 3). Raises ValueError for what is no such JPEG."""
        view = memoryview(data)
        if self.header:
            return decode_jpeg(b"".join((self.header, view, EOI)), chunk)
        if self.colour == "rgb" or self.colour == "ycbcr":
            return decode_jpeg(make_whole(view, shared_tables(self.tables), self.colour), chunk)
        tables = shared_tables(self.tables)
        if EOI not in bytes(view[-64:]):
            raise ValueError("the JPEG stream has no end: it was cut off")
        return decode_jpeg(SOI + tables + bytes(view[2:]) if tables else bytes(view), chunk)

    def encode_chunk(self, rgb: NDArray[np.uint8]) -> bytes:
        """A stream with tables of its own. Raises ValueError where streams are stored without headers."""
        if self.header:
            raise ValueError("chunks of this array share a header, and none can be encoded for it")
        return encode_jpeg(rgb, self.level or QUALITY, self.subsampling or "444", self.colour or "ycbcr")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        height, width = chunk_spec.shape[:2]
        data = memoryview(chunk_data.as_numpy_array())  # type: ignore[arg-type]
        rgb = await asyncio.to_thread(self.decode_chunk, data, Size(width, height))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(rgb)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        rgb = np.ascontiguousarray(chunk_data.as_numpy_array(), np.uint8)
        data = await asyncio.to_thread(self.encode_chunk, rgb)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before; zarr asks only codecs of fixed size."""
        raise ValueError(f"{NAME} gives streams of any size")


def make_known() -> None:
    """Register the codec where zarr does not see its entry point, as in a checkout that is not installed."""
    try:
        get_codec_class(NAME)
    except KeyError:
        register_codec(NAME, JpegCodec)


def encode_jpeg(rgb: NDArray[np.uint8], quality: int, subsampling: str, colour: str = "ycbcr") -> bytes:
    """By libjpeg-turbo with its accurate DCT. `rgb`: uint8 (height, width, 3); `colour`: of the samples."""
    rgb = np.ascontiguousarray(rgb)
    if colour == "rgb":
        return bytes(imagecodecs.jpeg8_encode(rgb, level=quality, colorspace="rgb", outcolorspace="rgb"))
    return simplejpeg.encode_jpeg(rgb, quality, "RGB", subsampling, fastdct=False)


def _space(value: Any) -> str | None:
    if value is None:
        return None
    known = SPACES.get(value.lower() if isinstance(value, str) else value)
    if known is None:
        raise ValueError(f"colour space {value!r} of {NAME} is not read")
    return known


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"tables or header of {NAME} are not base64") from error


def _quality(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 < value <= 100):
        raise ValueError(f"level {value!r} of {NAME} is not 1 to 100")
    return value


def _subsampling(value: Any) -> str | None:
    if value is not None and value not in SUBSAMPLINGS:
        raise ValueError(f"subsampling {value!r} of {NAME} is none of {', '.join(SUBSAMPLINGS)}")
    return value
