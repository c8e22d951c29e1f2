"""Labelled tiles: a csv file that names images and their classes, checked as a whole, and their pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coverslip.models.labels_file import Row, check_row, check_rows, numbered, raise_problems, read_rows

# A tile is small; a larger file is a slide or an attack, and is not decoded.
MOST_PIXELS = 4096 * 4096
# Crops of one field may differ by a few pixels; more would lose content when cut to the smallest.
SIZE_SPREAD = 1.1
# Eight bits per channel; others would be cut off by the conversion to RGB.
MODES = ("RGB", "RGBA", "L", "P")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTiles:
    """Tiles whose class is known.

    `pixels`: uint8 (n, size, size, 3), may lie on disk; `labels`: class numbers (n,) into `classes`;
    `groups`: group numbers (n,); tiles of equal pixels share one. `scale`: image pixels per tile pixel.
    `sha256`: of the csv file.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.intp]
    groups: NDArray[np.intp]
    classes: tuple[str, ...]
    scale: float
    sha256: str

    @property
    def size(self) -> int:
        return self.pixels.shape[1]


def read_tiles(
    labels_csv: str | Path, size: int, scratch: Path, group_column: str = "group", middle: float = 1.0
) -> LabelledTiles:
    """Read and check all tiles named in a csv file with the columns file, label and, if known, group.

    Files are named relative to the csv's folder and lie in it. Every image is cut to the largest centred
    square that all of them hold, of which `middle` is the share of the side that is kept, about the middle,
    then reduced by area averaging to `size` px. `scratch`: an empty folder
    for the pixels, which are as large as `size`² × 3 bytes per tile.
    Raises RequestError that lists every problem with its line.
    """
    path = Path(labels_csv)
    rows, sha256 = read_rows(path, group_column, "tile")
    problems = check_rows(rows, path.parent, "tile")
    sides, unreadable = _measure(rows, path.parent)
    sides = [round(side * middle) for side in sides]
    problems += unreadable or _check_sizes(sides, size)
    raise_problems(path, problems)
    side = min(sides)
    pixels = np.lib.format.open_memmap(
        scratch / "pixels.npy", mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3)
    )
    digests, problems = _decode(rows, path.parent, side, pixels)
    problems += [] if problems else _check_twins(rows, digests)
    raise_problems(path, problems)
    classes = tuple(sorted({row.label for row in rows}))
    numbers = np.array([classes.index(row.label) for row in rows], np.intp)
    return LabelledTiles(pixels, numbers, _join_groups(rows, digests), classes, side / size, sha256)


def _measure(rows: list[Row], folder: Path) -> tuple[list[int], list[str]]:
    """The shorter side of every image, from its header; files that are not there are not named twice."""
    sides, problems = [], []
    for row in rows:
        if check_row(row, folder):
            continue
        try:
            with Image.open(folder / row.file) as image:
                (width, height), mode = image.size, image.mode
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            problems.append(f"line {row.number}: {row.file} is no image that can be read")
            continue
        if width * height > MOST_PIXELS:
            problems.append(f"line {row.number}: {row.file} has {width}×{height} px, too large for a tile")
        if mode not in MODES:
            problems.append(f"line {row.number}: {row.file} has pixels of type {mode}, not 8-bit RGB")
        sides.append(min(width, height))
    return sides, problems


def _check_sizes(sides: list[int], size: int) -> list[str]:
    if not sides:
        return []
    if max(sides) > SIZE_SPREAD * min(sides):
        return [f"the images are {min(sides)} to {max(sides)} px: cut them to one size, at one µm/px"]
    if min(sides) < size:
        return [f"the images are {min(sides)} px, and the tile size {size}: ask for {min(sides)} or less"]
    return []


def _decode(
    rows: list[Row], folder: Path, side: int, out: NDArray[np.uint8]
) -> tuple[list[bytes], list[str]]:
    """Fill `out`; returns a digest of each image's own pixels, and what could not be decoded."""
    digests, problems = [], []
    for row, tile in zip(rows, out, strict=True):
        try:
            with Image.open(folder / row.file) as image:
                rgb = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            problems.append(f"line {row.number}: {row.file} is damaged ({error})")
            continue
        digests.append(hashlib.sha256(repr(rgb.shape).encode() + rgb.tobytes()).digest())
        tile[:] = _shrink(rgb, side, out.shape[1])
    return digests, problems


def _shrink(rgb: NDArray[np.uint8], side: int, size: int) -> NDArray[np.uint8]:
    y, x = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    square = rgb[y : y + side, x : x + side]
    if side == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _check_twins(rows: list[Row], digests: list[bytes]) -> list[str]:
    alike: dict[bytes, list[Row]] = defaultdict(list)
    for row, digest in zip(rows, digests, strict=True):
        alike[digest].append(row)
    return [
        "the same image has different labels: "
        + ", ".join(f"{row.file} (line {row.number}) is {row.label}" for row in twins)
        for twins in alike.values()
        if len({row.label for row in twins}) > 1
    ]


def _join_groups(rows: list[Row], digests: list[bytes]) -> NDArray[np.intp]:
    """Groups (n,), joined wherever they hold an image of equal pixels, directly or through other groups."""
    named = numbered(row.group or f"\0{row.number}" for row in rows)
    twins = numbered(digests) + named.max() + 1
    links = coo_array((np.ones(len(rows)), (named, twins)), shape=(twins.max() + 1,) * 2)
    return connected_components(links, directed=False)[1][named].astype(np.intp)
