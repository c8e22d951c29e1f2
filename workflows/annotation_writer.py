"""Areas drawn in napari, as GeoJSON that QuPath opens: shapes as they are, labels by their outlines.

What the manifest names as the writer of annotations; layers come as npe2 gives them, (data, arguments, type).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.tiling.geojson import Feature, write_geojson
from coverslip.tiling.rings import Polygon, mask_polygons
from coverslip.workflows.palette import class_colours

LayerData = tuple[Any, Mapping[str, Any], str]
# Metadata of a layer over a slide: height and width of its level-0 pixel in the viewer's unit.
PIXEL = "pixel"
# Columns of a layer's features that name a class, the first that is there.
CLASS_COLUMNS = ("class", "classification", "label")
# What napari calls a layer that nobody named.
UNNAMED = ("Shapes", "Labels")
LARGEST_LABELS = 1 << 28
# More values are objects, not regions.
MOST_VALUES = 1000
ARC = 64


def write_annotations(path: str, layers: list[LayerData]) -> list[str]:
    """npe2's writer of several layers: shapes and labels to one file; the paths written.

    Places are level-0 pixels, (x, y), by each layer's scale, translation, rotation, shear and affine and the
    size of a slide's pixel: of its own metadata (`pixel`), else of the slide in the viewer; without either,
    one unit of the viewer is a pixel if that is its unit. The class is in the features or properties (class,
    classification or label), else the name that somebody gave the layer; the name in the column `name`.

    Raises RequestError where nothing is drawn, or the size of a pixel is not known. Lines enclose nothing:
    they are left out with a warning.
    """
    found = [one for layer in layers for one in _areas(layer)]
    if not found:
        raise RequestError("the layers", "hold no area", "draw a polygon, a rectangle or an ellipse")
    labels = sorted({one.label for one in found if one.label})
    colours = {name: rgba[:3] for name, rgba in class_colours(labels).values()}
    features = [
        Feature(one.polygons, one.label, colours[one.label], one.name)
        if one.label
        else Feature(one.polygons, name=one.name)
        for one in found
    ]
    write_geojson(Path(path), features)
    return [path]


@dataclass(frozen=True, slots=True, eq=False)
class _Area:
    polygons: tuple[Polygon, ...]
    label: str | None
    name: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _Placement:
    """From a layer's data, (row, column) with centres of pixels on whole numbers, to level-0 pixels."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    def place(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 2) as (x, y); the corner of the slide is at 0, the centre of its first pixel at 0.5."""
        world = np.asarray(points, np.float64) @ self.matrix.T + self.offset
        return world[:, ::-1] + 0.5


def _areas(layer: LayerData) -> Iterator[_Area]:
    data, arguments, kind = layer
    placement = _placement(arguments)
    if kind == "shapes":
        yield from _shapes(data, arguments, placement)
    elif kind == "labels":
        yield from _labels(data, arguments, placement)


def _shapes(data: Any, arguments: Mapping[str, Any], placement: _Placement) -> Iterator[_Area]:
    count = len(data)
    kinds = arguments.get("shape_type") or "polygon"
    kinds = [kinds] * count if isinstance(kinds, str) else list(kinds)
    labels, names = _column(arguments, CLASS_COLUMNS, count), _column(arguments, ("name",), count)
    lines = 0
    for points, kind, label, name in zip(data, kinds, labels, names, strict=True):
        if kind in ("line", "path"):
            lines += 1
            continue
        corners = np.asarray(points, np.float64)[:, -2:]
        polygons = _whole(placement.place(_ellipse(corners) if kind == "ellipse" else corners))
        if polygons:
            yield _Area(polygons, label or _own_name(arguments), name)
    if lines:
        warnings.warn(f"{lines} lines enclose nothing: they are left out", stacklevel=2)


def _ellipse(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """A polygon inscribed in the ellipse that the four corners of its rectangle enclose, turned or not."""
    centre = corners.mean(axis=0)
    across, along = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ARC, endpoint=False)[:, None]
    return centre + np.cos(angle) * across + np.sin(angle) * along


def _whole(ring: NDArray[np.float64]) -> tuple[Polygon, ...]:
    """A ring that crosses itself encloses what `shapely.make_valid` makes of it."""
    if len(ring) < 3:
        return ()
    shape = shapely.make_valid(shapely.Polygon(ring))
    parts = [part for part in shapely.get_parts(shape) if isinstance(part, shapely.Polygon) and part.area > 0]
    return tuple(
        tuple(np.asarray(one.coords)[:-1] for one in (part.exterior, *part.interiors)) for part in parts
    )


def _labels(data: Any, arguments: Mapping[str, Any], placement: _Placement) -> Iterator[_Area]:
    levels = list(data) if arguments.get("multiscale") or isinstance(data, list | tuple) else [data]
    level = next((one for one in levels if np.prod(one.shape) <= LARGEST_LABELS), None)
    if level is None or level.ndim != 2:
        raise RequestError(
            str(arguments.get("name", "the labels")), "is not flat, or too large to outline", "draw shapes"
        )
    steps = [whole / part for whole, part in zip(levels[0].shape, level.shape, strict=True)]
    image = np.asarray(level)
    values = [int(value) for value in np.unique(image) if value]
    if len(values) > MOST_VALUES:
        raise RequestError(
            str(arguments.get("name", "the labels")),
            f"has {len(values)} values: objects, not regions",
            "export cells with `coverslip export`",
        )
    named = _names_of_values(arguments)
    for value in values:
        polygons = tuple(
            tuple(placement.place(ring[:, ::-1] - 0.5) for ring in polygon)
            for polygon in mask_polygons(image == value, steps[1], steps[0])
        )
        label = named.get(value) or _own_name(arguments)
        yield _Area(polygons, label, None if value in named else f"{value}")


def _names_of_values(arguments: Mapping[str, Any]) -> dict[int, str]:
    """By the column `index`, else by the number of the row, as napari has it."""
    table = _table(arguments)
    column = next((table[name] for name in CLASS_COLUMNS if name in table), None)
    if column is None:
        return {}
    texts = [_text(value) for value in column]
    numbers = [int(value) for value in table["index"]] if "index" in table else range(len(texts))
    return {number: text for number, text in zip(numbers, texts, strict=True) if text}


def _column(arguments: Mapping[str, Any], names: Sequence[str], count: int) -> list[str | None]:
    table = _table(arguments)
    for name in names:
        if name in table and len(table[name]) == count:
            return [_text(value) for value in table[name]]
    return [None] * count


def _table(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The layer's features, a data frame or columns by name; else its properties."""
    features = arguments.get("features")
    if features is not None and len(features):
        return features
    return arguments.get("properties") or {}


def _text(value: Any) -> str | None:
    missing = value is None or value != value
    return None if missing or not str(value).strip() else str(value).strip()


def _own_name(arguments: Mapping[str, Any]) -> str | None:
    name = str(arguments.get("name") or "").strip()
    return None if not name or name.split(" [")[0] in UNNAMED else name


def _placement(arguments: Mapping[str, Any]) -> _Placement:
    """napari: affine · (rotation · shear · scale · data + translation); of more axes the last two."""
    scale = np.diag(np.asarray(arguments.get("scale", (1.0, 1.0)), float)[-2:])
    linear = _rotation(arguments.get("rotate")) @ _shear(arguments.get("shear")) @ scale
    translate = np.asarray(arguments.get("translate", (0.0, 0.0)), float)[-2:]
    affine = np.asarray(arguments.get("affine", np.eye(3)), float)
    outer, moved = affine[-3:-1, -3:-1], affine[-3:-1, -1]
    pixel = np.asarray(_pixel(arguments), float)
    return _Placement((outer @ linear) / pixel[:, None], (outer @ translate + moved) / pixel)


def _rotation(rotate: Any) -> NDArray[np.float64]:
    """A matrix as a layer tells it, or degrees."""
    if rotate is None:
        return np.eye(2)
    given = np.asarray(rotate, float)
    if given.ndim == 2:
        return given[-2:, -2:]
    angle = np.deg2rad(given.ravel()[-1])
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _shear(shear: Any) -> NDArray[np.float64]:
    """A matrix, or the figures above its diagonal."""
    if shear is None:
        return np.eye(2)
    given = np.asarray(shear, float)
    if given.ndim == 2:
        return given[-2:, -2:]
    return np.array([[1.0, given[-1] if len(given) else 0.0], [0.0, 1.0]])


def _pixel(arguments: Mapping[str, Any]) -> tuple[float, float]:
    """Height and width of the slide's level-0 pixel in the viewer's unit."""
    known = _said(arguments.get("metadata"))
    if known is not None:
        return known
    slides = {one for one in map(_said, _metadata_in_viewer()) if one is not None}
    if len(slides) == 1:
        return slides.pop()
    units = [str(unit) for unit in arguments.get("units") or ("pixel",)]
    if not slides and all(unit in ("pixel", "px", "1 pixel") for unit in units):
        return 1.0, 1.0
    problem = "is over several slides" if slides else "does not say how large a pixel of its slide is"
    raise RequestError(
        f"the layer {arguments.get('name', '')}",
        problem,
        "save it while its slide alone is open in the viewer",
    )


def _said(metadata: Any) -> tuple[float, float] | None:
    """From a text "height width" or a pair."""
    given = metadata.get(PIXEL) if isinstance(metadata, Mapping) else None
    if given is None:
        return None
    try:
        height, width = (float(part) for part in (given.split() if isinstance(given, str) else given))
    except (TypeError, ValueError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _metadata_in_viewer() -> Iterator[Any]:
    """Of the layers of the viewer that is open; none where napari does not run."""
    napari = sys.modules.get("napari")
    viewer = napari.current_viewer() if napari is not None else None
    for layer in viewer.layers if viewer is not None else ():
        yield layer.metadata
