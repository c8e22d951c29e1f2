"""The slide of a report as one looks into it: the whole, layers over it, outlines, and places seen larger.

All lengths are pixels of the whole slide's picture (at most `LONGEST` a side), so that lines of a page that
is printed are as wide as on the screen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from coverslip.workflows.attention import CAPTION, LAYER
from coverslip.workflows.overlays import LabelImage, find_labels
from coverslip.workflows.pictures import (
    LONGEST,
    crop_box,
    crop_pictures,
    data_uri,
    label_png,
    whole_picture,
)
from coverslip.workflows.result import MppValue, SlideResult, TileReference
from coverslip.workflows.workflow import ClassMap
from coverslip.wsi import Box, Slide

Rgba = tuple[int, int, int, int]
Pair = tuple[float, float]
Frame = tuple[float, float, float, float]
# Name, #rrggbb and polygons (rings (n, 2), the outline first), level-0 pixels.
Named = tuple[str, str, list[list[NDArray[np.float64]]]]

# A legend longer than this is a scale, which the layer's caption explains.
LONGEST_LEGEND = 12
# Objects drawn as outlines where their pixels are finer than this (µm), else filled: rings of a few pixels
# would be dots.
FINE_UM = 1.0
# Of the label of quality all but what is good is shown: that would tint the whole slide.
QUALITY, GOOD = "quality", "good"
# Outlines together, and those of a reviewer, in points: half a megabyte as text.
MOST_POINTS = 40_000
TOLERANCES = (0.6, 1.2, 2.5, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Layer:
    """A picture over the slide, x, y, width, height in `frame`. `legend`: name and #rrggbb of its values.
    `fine`: outlines of objects; otherwise colours over areas. `shown`: how many values there are to see."""

    name: str
    caption: str
    address: str
    frame: Frame
    fine: bool
    shown: int
    legend: tuple[tuple[str, str], ...]

    @property
    def opacity(self) -> float:
        return 0.9 if self.fine else 0.45


@dataclass(frozen=True, slots=True)
class Outline:
    """All parts of one name, as an SVG path. `colour`: #rrggbb. `drawn`: for a reviewer, and filled."""

    name: str
    colour: str
    path: str
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A tile that shows a finding. `number` counts from 1 over all findings, which count from 0.

    `frame`: the tile; `crop`: the glass that the picture shows, square in µm. `address`: of the picture;
    None where the report has no room for it.
    """

    number: int
    finding: int
    tile: TileReference
    frame: Frame
    crop: Frame
    address: str | None


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """`um`: µm per pixel, (x, y)."""

    width: int
    height: int
    um: Pair
    address: str
    layers: tuple[Layer, ...]
    outlines: tuple[Outline, ...]
    places: tuple[Place, ...]

    def places_of(self, finding: int) -> tuple[Place, ...]:
        return tuple(place for place in self.places if place.finding == finding)

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs, as JSON values."""
        places = {
            place.number: {"finding": place.finding, "frame": place.frame, "crop": place.crop}
            for place in self.places
        }
        return {"width": self.width, "height": self.height, "um": self.um, "places": places}

    @property
    def scale_bar(self) -> tuple[float, str]:
        """Length, and what it stands for: about a sixth of the width."""
        um = round_length(self.width * self.um[0] / 6)
        return um / self.um[0], f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def round_length(most: float) -> float:
    """The longest of 1, 2, 5, 10, … that is no longer.

    >>> round_length(730.0), round_length(0.3)
    (500.0, 0.2)
    """
    decade = 10 ** np.floor(np.log10(most))
    return next(float(n * decade) for n in (5, 2, 1) if n * decade <= most * (1 + 1e-9))


def deep_zoom(
    result: SlideResult,
    slide: Slide,
    store: Path,
    annotations: Path,
    class_map: ClassMap | None = None,
    corner: Pair = (0.0, 0.0),
    drawn: Sequence[Named] = (),
) -> DeepZoom:
    """From the slide or its copy, the labels in `store` where there is one, and the outlines.

    `class_map`: for a result without a store, with the `corner` of its first pixel, level-0 pixels, (x, y).
    `drawn`: outlines of a reviewer beside those in `annotations`.
    """
    rgb, picture = whole_picture(slide)
    height, width = rgb.shape[:2]
    scale = result.slide.size[0] / width, result.slide.size[1] / height
    mpp = result.slide.mpp
    layers = [
        _layer(label, mpp, scale) for label in find_labels(store, (mpp.y, mpp.x)) if label.name != "tissue"
    ]
    if class_map is not None and not store.is_dir():
        layers.append(_class_map_layer(class_map, corner, slide, scale))
    return DeepZoom(
        width=width,
        height=height,
        um=(mpp.x * scale[0], mpp.y * scale[1]),
        address=data_uri(picture),
        layers=tuple(layer for layer in layers if layer.shown),
        outlines=(
            *_outlines(read_annotations(annotations), scale),
            *(replace(one, drawn=True) for one in _outlines(drawn, scale)),
        ),
        places=_places(result, slide, scale),
    )


def _places(result: SlideResult, slide: Slide, scale: Pair) -> tuple[Place, ...]:
    tiles = [(number, tile) for number, finding in enumerate(result.findings) for tile in finding.tiles]
    boxes = [crop_box(result, tile) for _, tile in tiles]
    pictures = crop_pictures(slide, boxes)
    addresses = [data_uri(picture) for picture in pictures] + [None] * (len(tiles) - len(pictures))
    return tuple(
        Place(
            number=number,
            finding=finding,
            tile=tile,
            frame=_scaled((tile.x, tile.y, tile.width, tile.height), scale),
            crop=_scaled(box, scale),
            address=address,
        )
        for number, ((finding, tile), box, address) in enumerate(zip(tiles, boxes, addresses, strict=True), 1)
    )


def _scaled(frame: Frame, scale: Pair) -> Frame:
    x, y, width, height = frame
    across, down = scale
    return round(x / across, 2), round(y / down, 2), round(width / across, 2), round(height / down, 2)


def _layer(label: LabelImage, mpp: MppValue, scale: Pair) -> Layer:
    """From the finest stored level that is no larger than the picture, or every nth pixel of the coarsest."""
    level = next((one for one in label.levels if one.longest <= LONGEST), label.levels[-1])
    values = level.read(Box(0, 0, level.shape[1], level.shape[0]))
    skip = -(-level.longest // LONGEST)
    values = np.ascontiguousarray(values[::skip, ::skip], np.uint8)
    down, across = (side * level.downsample for side in label.scale)
    # Of the first label pixel the corner, from its centre.
    y, x = (at + (1 - side) / 2 for at, side in zip(label.translate, label.scale, strict=True))
    frame = (x, y, level.shape[1] * across, level.shape[0] * down)
    return layer_of(
        label.name, values, label.colours, label.names, _scaled(frame, scale), mpp.x * across * skip
    )


def layer_of(
    name: str,
    values: NDArray[np.uint8],
    colours: Mapping[int, Rgba],
    names: Mapping[int, str],
    frame: Frame,
    um: float,
) -> Layer:
    """Labels (h, w) as a layer, with the values that occur. `um`: of one of their pixels."""
    fine = um <= FINE_UM and name != QUALITY
    shown = _rims(values) if fine else values
    there = set(np.flatnonzero(np.bincount(values.reshape(-1), minlength=256)).tolist())
    seen = {
        value: rgba
        for value, rgba in sorted(colours.items())
        if value in there and (name, names.get(value)) != (QUALITY, GOOD)
    }
    legend = [(names.get(value, str(value)), _hex(rgba)) for value, rgba in seen.items()]
    return Layer(
        name=name.replace("_", " "),
        caption=CAPTION if name == LAYER else "",
        address=data_uri(label_png(shown, seen)),
        frame=frame,
        fine=fine,
        shown=len(seen),
        legend=tuple(legend) if len(legend) <= LONGEST_LEGEND else (),
    )


def _class_map_layer(classes: ClassMap, corner: tuple[float, float], slide: Slide, scale: Pair) -> Layer:
    """Of a class map that is in no store."""
    height, width = classes.values.shape
    across, down = classes.scale_um / slide.mpp.x, classes.scale_um / slide.mpp.y
    frame = _scaled((*corner, width * across, height * down), scale)
    colours = {value: rgba for value, (_, rgba) in classes.colours.items()}
    names = {value: name for value, (name, _) in classes.colours.items()}
    return layer_of(classes.name, classes.values, colours, names, frame, classes.scale_um)


def _rims(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of each object the pixels beside another value."""
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(values, kernel) == cv2.dilate(values, kernel)
    return np.where(inner, 0, values).astype(np.uint8)


def _hex(colour: Sequence[int]) -> str:
    red, green, blue = colour[:3]
    return f"#{red:02x}{green:02x}{blue:02x}"


def _outlines(found: Iterable[Named], scale: Pair) -> Iterable[Outline]:
    """By name; rougher where there would be too many points."""
    named: dict[tuple[str, str], list[list[NDArray[np.float64]]]] = {}
    for name, colour, polygons in found:
        named.setdefault((name, colour), []).extend(
            [ring / scale for ring in polygon] for polygon in polygons
        )
    paths: list[str] = []
    for tolerance in TOLERANCES:
        drawn = [[*_simplified(polygons, tolerance)] for polygons in named.values()]
        paths = [svg_path(rings) for rings in drawn]
        if sum(len(ring) for rings in drawn for ring in rings) <= MOST_POINTS:
            break
    return [Outline(name, colour, path) for (name, colour), path in zip(named, paths, strict=True) if path]


def read_annotations(file: Path) -> list[Named]:
    """Name, #rrggbb and polygons (rings (n, 2), the outline first) of each feature, level-0 pixels.

    Features without a class go by their name. Points and lines are left out; so is a file that is not there.
    """
    if not file.is_file():
        return []
    found = []
    for feature in json.loads(file.read_text(encoding="utf-8"))["features"]:
        geometry, properties = feature["geometry"], feature["properties"]
        if geometry["type"] not in {"Polygon", "MultiPolygon"}:
            continue
        parts = geometry["coordinates"]
        polygons = [parts] if geometry["type"] == "Polygon" else parts
        said = properties.get("classification") or {}
        name = said.get("name") or properties.get("name") or "outline"
        rings = [[np.asarray(ring, np.float64) for ring in polygon] for polygon in polygons]
        found.append((str(name), _hex(said.get("color", (0, 0, 0))), rings))
    return found


def _simplified(
    polygons: Sequence[Sequence[NDArray[np.float64]]], tolerance: float
) -> Iterable[NDArray[np.int64]]:
    for polygon in polygons:
        for ring in polygon:
            line = shapely.simplify(shapely.LinearRing(ring), tolerance)
            points = np.rint(shapely.get_coordinates(line)).astype(np.int64)
            x, y = points.T
            if abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) >= 2 * tolerance**2:
                yield points[:-1]


def svg_path(rings: Iterable[NDArray[np.int64]]) -> str:
    """Closed rings of whole numbers, each point from the one before.

    >>> svg_path([np.array([[1, 2], [5, 2], [5, 9]])])
    'M1 2l4 0 0 7z'
    """
    parts = []
    for ring in rings:
        steps = np.diff(ring, axis=0).reshape(-1).tolist()
        parts.append(f"M{ring[0][0]} {ring[0][1]}l{' '.join(map(str, steps))}z")
    return "".join(parts)
