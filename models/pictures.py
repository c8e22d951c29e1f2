"""Pictures whose objects are marked: a csv file that names pictures and the files of their marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from coverslip.errors import RequestError
from coverslip.models.labels_file import Row, check_row, numbered, raise_problems, read_rows

# A field of view; a larger file is a slide, of which fields are cut first.
MOST_PIXELS = 4096 * 4096
OBJECT = "object"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A field with all its objects marked, in one of two ways.

    `rgb`: uint8 (h, w, 3). `labels`: int32 (h, w), 0 outside, a number for each object; or None where objects
    are marked by `boxes`: float32 (n, 4) as x0, y0, x1, y1 in pixels. `kinds`: class number of each object
    (n,), of labels in the order of their numbers.
    """

    file: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32] | None
    boxes: NDArray[np.float32]
    kinds: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True, slots=True, eq=False)
class MarkedPictures:
    """`groups`: group number of each picture (n,); `sha256`: of the csv file."""

    pictures: tuple[Picture, ...]
    groups: NDArray[np.intp]
    classes: tuple[str, ...]
    sha256: str

    @property
    def are_boxes(self) -> bool:
        return self.pictures[0].labels is None


def read_pictures(
    labels_csv: str | Path, group_column: str = "group", scale: float = 1.0, called: str = OBJECT
) -> MarkedPictures:
    """Read and check all pictures named in a csv file with the columns file, label and, if known, group.

    `label` names, relative to the csv's folder as `file` does, what marks the picture's objects: a label
    image (PNG or TIFF, 8 or 16 bits, 0 outside and a number for each object, all of the class `called`) or
    boxes in Pascal VOC's XML, whose names are the classes. One kind for all. Pictures are made `scale` times
    as large. Raises RequestError that lists every problem with its line.
    """
    path = Path(labels_csv)
    rows, sha256 = read_rows(path, group_column, "picture")
    boxed = [row.label.lower().endswith(".xml") for row in rows]
    problems = ["some objects are marked by boxes and some by label images"] if len(set(boxed)) > 1 else []
    found: list[tuple[Row, NDArray[np.uint8], _Marks]] = []
    for row in rows:
        try:
            rgb = _read(row, path.parent)
            marks = _marks(path.parent / row.label, rgb.shape[:2], called)
            found.append((row, rgb, marks))
        except _Unfit as error:
            problems.append(f"line {row.number}: {error}")
    raise_problems(path, problems)
    classes = tuple(sorted({name for _, _, marks in found for name in marks.names})) or (called,)
    pictures = tuple(_scaled(_picture(row, rgb, marks, classes), scale) for row, rgb, marks in found)
    if not any(len(picture) for picture in pictures):
        raise RequestError(str(path), "marks no object at all", "mark some")
    groups = numbered(row.group or f"\0{row.number}" for row in rows)
    return MarkedPictures(pictures, groups, classes, sha256)


class _Unfit(Exception):
    """What is wrong with one line."""


@dataclass(frozen=True, slots=True, eq=False)
class _Marks:
    labels: NDArray[np.int32] | None
    boxes: NDArray[np.float32]
    names: tuple[str, ...]


def _read(row: Row, folder: Path) -> NDArray[np.uint8]:
    problem = check_row(row, folder)
    if problem is None and not (folder / row.label).is_file():
        problem = f"{row.label} is not there"
    if problem:
        raise _Unfit(problem)
    return np.asarray(_open(folder / row.file, lambda image: image.convert("RGB")), np.uint8)


def _open(path: Path, take: Callable[[Image.Image], Image.Image]) -> NDArray:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise _Unfit(f"{path.name} has {image.width}×{image.height} px: cut fields from it")
            return np.array(take(image))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _Unfit(f"{path.name} is no image that can be read ({error})") from error


def _marks(path: Path, shape: tuple[int, int], called: str) -> _Marks:
    return _voc(path, shape) if path.suffix.lower() == ".xml" else _label_image(path, shape, called)


def _label_image(path: Path, shape: tuple[int, int], called: str) -> _Marks:
    labels = _open(path, lambda image: image)
    if labels.shape != shape or labels.dtype.kind not in "iu":
        raise _Unfit(f"{path.name} is no label image of {shape[1]}×{shape[0]} px")
    names, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(shape) + (0 if names[0] == 0 else 1)
    numbers = numbers.astype(np.int32)
    count = int(numbers.max())
    return _Marks(numbers, _boxes_of(numbers, count), (called,) * count)


def _boxes_of(labels: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    row, column = np.nonzero(labels)
    owner = labels[row, column] - 1
    boxes = np.tile(np.array([np.inf, np.inf, -np.inf, -np.inf], np.float32), (count, 1))
    for axis, place in ((0, column), (1, row)):
        np.minimum.at(boxes[:, axis], owner, place)
        np.maximum.at(boxes[:, axis + 2], owner, place + 1)
    return boxes


def _voc(path: Path, shape: tuple[int, int]) -> _Marks:
    """Pascal VOC: pixels counted from 1, both ends within the box."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")  # noqa: S314  expat bounds entities
        names = tuple((entry.findtext("name") or "").strip() for entry in objects)
        corners = [
            [float(entry.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
            for entry in objects
        ]
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise _Unfit(f"{path.name} is no XML of Pascal VOC ({error})") from error
    boxes = np.array(corners, np.float32).reshape(-1, 4) - (1, 1, 0, 0)
    if not all(names) or not np.isfinite(boxes).all():
        raise _Unfit(f"{path.name} has an object without a name or without a side")
    boxes = np.clip(boxes, 0, (shape[1], shape[0]) * 2).astype(np.float32)
    whole = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))  # BCCD has boxes of no height
    return _Marks(None, boxes[whole], tuple(names[number] for number in whole.tolist()))


def _picture(row: Row, rgb: NDArray[np.uint8], marks: _Marks, classes: tuple[str, ...]) -> Picture:
    kinds = np.array([classes.index(name) for name in marks.names], np.intp)
    return Picture(row.file, rgb, marks.labels, marks.boxes, kinds)


def _scaled(picture: Picture, scale: float) -> Picture:
    if scale == 1:
        return picture
    height, width = (max(round(length * scale), 1) for length in picture.rgb.shape[:2])
    across, down = width / picture.rgb.shape[1], height / picture.rgb.shape[0]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    labels = picture.labels
    if labels is not None:
        # OpenCV resizes no int32; a float32 holds every whole number up to 2²⁴.
        small = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        labels = np.asarray(small).astype(np.int32)
    return Picture(
        picture.file,
        np.asarray(cv2.resize(picture.rgb, (width, height), interpolation=way), np.uint8),
        labels,
        picture.boxes * np.array([across, down, across, down], np.float32),
        picture.kinds,
    )
