"""Small slides made on the spot, whole and broken ones, so that tests run where no real slide is.

The pixels are real tissue: the DAB-stained colon that scikit-image carries (512 × 512, CC0).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

APERIO = "Aperio Image Library v11.2.1"
UM_PER_CM = 10_000
JPEG_QUALITY = 90


def tissue(width: int = 1024, height: int = 1024) -> NDArray[np.uint8]:
    """Stained tissue, uint8 (height, width, 3), surrounded by a white margin of an eighth of each side."""
    from skimage.data import immunohistochemistry

    rgb = np.full((height, width, 3), 255, np.uint8)
    top, left = height // 8, width // 8
    inner = rgb[top : height - top, left : width - left]
    sample = immunohistochemistry()
    # Mirrored at its edges, so that no seam looks like an artefact.
    tile = np.block([[[sample], [sample[:, ::-1]]], [[sample[::-1]], [sample[::-1, ::-1]]]])
    times = -(-inner.shape[0] // tile.shape[0]), -(-inner.shape[1] // tile.shape[1]), 1
    inner[:] = np.tile(tile, times)[: inner.shape[0], : inner.shape[1]]
    return rgb


def halve(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of 2 × 2 pixels, rounded to the nearest; an odd last row or column is left out."""
    height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    blocks = rgb[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def write_tiff(
    path: Path,
    rgb: NDArray[np.uint8],
    mpp: float | tuple[float, float] | None = 0.5,
    *,
    tile: int = 256,
    levels: int = 1,
    compression: str | None = "jpeg",
    description: str | None = None,
) -> Path:
    """Write a tiled pyramidal TIFF, each level half the size of the one before.

    `rgb`: uint8 (height, width, 3). `mpp`: µm/px, one number or (x, y), stated in the resolution tags;
    None states nothing. `compression`: "jpeg", "deflate", "lzw", "zstd", "jpeg2000" or None, as tifffile
    names them. Returns `path`.
    """
    x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    resolution = None if x is None or y is None else (UM_PER_CM / x, UM_PER_CM / y)
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(
                rgb,
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                compressionargs={"level": JPEG_QUALITY} if compression == "jpeg" else None,
                subfiletype=1 if level else 0,
                resolution=None
                if resolution is None
                else (resolution[0] / 2**level, resolution[1] / 2**level),
                resolutionunit=None if resolution is None else "CENTIMETER",
                description=description if level == 0 else None,
                metadata=None,
            )
            rgb = halve(rgb)
    return path


def write_svs(
    path: Path,
    rgb: NDArray[np.uint8],
    mpp: float = 0.5,
    app_mag: int = 20,
    *,
    tile: int = 256,
    levels: int = 2,
    label: bool = True,
) -> Path:
    """Write an Aperio-like SVS: levels a factor 4 apart, thumbnail, and label and macro image when asked.

    The description states `MPP`, `AppMag` and an identifying key (`Filename`), as a scanner does.
    """
    height, width = rgb.shape[:2]
    head = f"{APERIO}\r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) JPEG/RGB Q={JPEG_QUALITY}"
    facts = f"|AppMag = {app_mag}|MPP = {mpp:.4f}|Filename = P-1234 Doe|Date = 01/02/03"
    small = np.ascontiguousarray(rgb[:: max(1, height // 256), :: max(1, height // 256)])
    with tifffile.TiffWriter(path) as tiff:

        def write(pixels: NDArray[np.uint8], text: str, tiled: bool, kind: int = 0) -> None:
            tiff.write(
                pixels,
                tile=(tile, tile) if tiled else None,
                rowsperstrip=None if tiled else 16,
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                subfiletype=kind,
                description=text,
                metadata=None,
            )

        write(rgb, head + facts, tiled=True)
        write(
            small, f"{APERIO}\r\n{width}x{height} -> {small.shape[1]}x{small.shape[0]} - {facts}", tiled=False
        )
        for _ in range(1, levels):
            rgb = halve(halve(rgb))
            write(rgb, f"{head} -> {rgb.shape[1]}x{rgb.shape[0]} JPEG/RGB{facts}", tiled=True)
        if label:
            write(np.full((64, 48, 3), 200, np.uint8), f"{APERIO}\r\nlabel 48x64", tiled=False, kind=1)
            write(np.full((48, 128, 3), 220, np.uint8), f"{APERIO}\r\nmacro 128x48", tiled=False, kind=9)
    return path


def zero_tiles(path: Path, indexes: Iterable[int], page: int = 0) -> None:
    """Make the stored tiles sparse: offset and byte count 0. `indexes` count row by row in that page."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages[page].tags
        for name in ("TileOffsets", "TileByteCounts"):
            values = list(tags[name].value)
            for index in indexes:
                values[index] = 0
            tags[name].overwrite(values if len(values) > 1 else values[0])


def corrupt_tiles(path: Path, indexes: Iterable[int], page: int = 0) -> None:
    """Overwrite the compressed bytes of the stored tiles with bytes that no codec takes.

    Raises ValueError for an uncompressed page, where any bytes are pixels.
    """
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        if found.compression == 1:
            raise ValueError(f"{path} is not compressed: no bytes are corrupt there")
        spans = [(found.dataoffsets[index], found.databytecounts[index]) for index in indexes]
    with open(path, "r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            file.write(b"\xa5" * count)


def truncate(path: Path, share: float) -> None:
    """Keep the first `share` of the bytes (0 to 1), as an interrupted copy does."""
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))
