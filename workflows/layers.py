"""What there is to look at: a slide, an OME-Zarr or a result folder as layers, for any viewer.

Every layer is placed in one world: µm on the glass, (y, x), the centre of the slide's first level-0 pixel
at 0. That is napari's convention, and that of NGFF (https://ngff.openmicroscopy.org/0.5: a translation
places the centre of the first pixel). A label pixel of s µm whose corner lies on the slide's corner has its
centre at s/2, a slide's pixel of m µm at m/2: it is translated by (s - m)/2. Where nobody states the µm/px
the world is in level-0 pixels, and the title says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import (
    NotBrightfieldError,
    RequestError,
    SlideError,
    SlideInformationError,
    StoreIncompleteError,
)
from coverslip.workflows.cell_canvas import CellCanvas
from coverslip.workflows.cell_rows import read_cells
from coverslip.workflows.heat import LAYER, MEANING
from coverslip.workflows.mosaic import Mosaic, Shown, TileCache, pyramid, refined
from coverslip.workflows.overlays import LabelImage, Pair, Rgba, find_labels
from coverslip.workflows.painted_cells import PaintedCells
from coverslip.workflows.palette import OKABE_ITO, TISSUE
from coverslip.workflows.stain_channels import channel, channel_names, vectors_of
from coverslip.workflows.tile_maps import HeatMap, probability_maps
from coverslip.wsi import Box, Mpp, Size, Slide, open_slide
from coverslip.wsi.levels import build_levels
from coverslip.wsi.mpp import parse_mpp

Given = float | tuple[float, float] | None
Unit = Literal["µm", "pixel"]
# What a layer is, for keys and panels that act on all of a kind.
Role = Literal["slide", "stain", "heat", "mask", "classes", "painted", "cells"]

NO_MPP = "no µm/px"


# In the cache: beyond those of the layers, which count by hundreds.
CELLS_NUMBER, PAINTED_NUMBER = 100_000, 200_000


@dataclass(frozen=True, slots=True)
class Style:
    """How labels look at first. `outline`: width of their outlines in label pixels, 0 fills them."""

    order: int
    opacity: float
    outline: int = 0
    visible: bool = True
    colour: Rgba | None = None


# Outlines where the picture under them is what one looks at.
STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "tissue": Style(1, 0.9, outline=2, colour=TISSUE),
        "quality": Style(2, 0.4, visible=False),
        "classes": Style(3, 0.25),
        LAYER: Style(3, 0.5),
        "nuclei": Style(5, 0.9, outline=1, colour=OKABE_ITO[0]),
        "cells": Style(5, 0.9, outline=1, colour=OKABE_ITO[0]),
    }
)
OTHER = Style(4, 0.5)
CELLS = Style(6, 0.95, outline=1)
HEAT = Style(3, 0.5, visible=False)
ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "tissue": "mask",
        "quality": "mask",
        "classes": "classes",
        LAYER: "heat",
        "nuclei": "painted",
        "cells": "painted",
    }
)
# The layer of cells as they are classed now; what the finder painted goes by another name then.
CELL_LAYER, AS_FOUND = "cells", "as found"


@dataclass(frozen=True, slots=True, eq=False)
class LayerSpec:
    """One layer. Pairs are (y, x), `scale` and `translate` in the scene's unit.

    `levels`: arrays, read where they are looked at, finest first: (height, width, 3) uint8 for an image,
    (height, width) integers for labels. `colours` and `names`: of label values; `colour` is that of
    values without their own.
    """

    kind: Literal["image", "labels"]
    name: str
    role: Role
    levels: tuple[Shown, ...] | tuple[NDArray, ...]
    scale: Pair
    translate: Pair = (0.0, 0.0)
    visible: bool = True
    opacity: float = 1.0
    outline: int = 0
    colour: Rgba | None = None
    colours: Mapping[int, Rgba] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What to show, bottom layer first. `notes`: what the viewer should know, plain words.

    `cells`: the cells of a result, as drawn in the layer `CELL_LAYER`. `pixel`: size (y, x) of a level-0
    pixel in the unit. It holds the open slide its layers read from: close it when the viewer is closed.
    """

    title: str
    unit: Unit
    layers: tuple[LayerSpec, ...]
    notes: tuple[str, ...]
    slide: Slide
    cache: TileCache
    pixel: Pair = (1.0, 1.0)
    cells: CellCanvas | None = None

    def close(self) -> None:
        self.slide.close()


@dataclass(frozen=True, slots=True)
class Frame:
    """The slide's level 0: its size in pixels, and the size (y, x) of its pixel in the world's unit."""

    size: Size
    pixel: Pair
    unit: Unit

    def world(self, pixels: Pair) -> Pair:
        """A length along y and x, from level-0 pixels to the world's unit."""
        return pixels[0] * self.pixel[0], pixels[1] * self.pixel[1]


@dataclass(frozen=True, slots=True, eq=False)
class KnownCells:
    """What a reviewer's desk has of a result's cells. `classes`: those that they can be given, in this order,
    before others that the table has. `table`: its columns as they are on disk, None to read them."""

    classes: Sequence[str] = ()
    table: pa.Table | None = None


NOTHING_KNOWN = KnownCells()


def describe(path: str | Path, mpp: Given = None, known: KnownCells = NOTHING_KNOWN) -> Scene:
    """What to show of a slide, an OME-Zarr folder, a result folder, or a run's folder with one slide.

    `mpp`: µm per level-0 pixel where the slide does not say. Only indexes, metadata and the table of cells
    are read here; pixels when a viewer asks for them, level by level and tile by tile.

    Raises the errors of `open_slide`, RequestError for a folder that holds none or several results,
    StoreIncompleteError where a result is not whole, NotBrightfieldError.
    """
    folder = result_folder(Path(path))
    return _describe_slide(str(path), mpp) if folder is None else _describe_result(folder, mpp, known)


def result_folder(path: Path) -> Path | None:
    """The one result folder meant by a path; None where the path is not of a result.

    Raises RequestError for a run's folder with no or several results.
    """
    if (path / "result.json").is_file():
        return path
    if not (path / "slides").is_dir():
        return None
    found = sorted(file.parent for file in (path / "slides").glob("*/result.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise RequestError(str(path), "holds no result", "run a workflow into it first")
    names = ", ".join(str(folder) for folder in found[:20])
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    raise RequestError(str(path), f"holds {len(found)} results", f"name one: {names}{more}")


def _describe_slide(path: str, mpp: Given) -> Scene:
    with _kept(open_slide(path, mpp=mpp)) as slide:
        frame, notes = _frame(slide)
        return _scene(slide, frame, find_labels(Path(path)), notes)


@contextmanager
def _kept(slide: Slide) -> Iterator[Slide]:
    """Left open, unless the block fails."""
    with ExitStack() as stack:
        stack.callback(slide.close)
        yield slide
        stack.pop_all()


def _frame(slide: Slide) -> tuple[Frame, tuple[str, ...]]:
    """In µm; in pixels, with a note, where the µm/px is missing or implausible: one can look without."""
    try:
        mpp = slide.mpp
    except SlideInformationError as error:
        return Frame(slide.size, (1.0, 1.0), "pixel"), (f"{NO_MPP}: {error.problem}",)
    return Frame(slide.size, (mpp.y, mpp.x), "µm"), ()


def _describe_result(folder: Path, mpp: Given, known: KnownCells) -> Scene:
    size, stated, path = _identity(folder)
    pixel = parse_mpp(mpp, "given") if mpp else stated
    slide, notes = _original(path, size), ()
    if slide is None:
        slide, notes = _copy(folder, path), (f"{path} is not there: its copy is shown",)
    frame = Frame(size, (pixel.y, pixel.x), "µm")
    with _kept(slide):
        labels = find_labels(folder / "slide.ome.zarr", (stated.y, stated.x))
        notes += (f"{LAYER}: {MEANING}",) * any(label.name == LAYER for label in labels)
        return _scene(slide, frame, labels, notes, folder, known)


def _identity(folder: Path) -> tuple[Size, Mpp, Path]:
    """Size, µm/px and path of the slide a result is about."""
    file = folder / "result.json"
    try:
        slide = json.loads(file.read_text(encoding="utf-8"))["slide"]
        (width, height), mpp = slide["size"], slide["mpp"]
        return Size(int(width), int(height)), Mpp(mpp["x"], mpp["y"], "result"), Path(slide["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreIncompleteError(
            str(file), f"is not the result of a slide ({error!r})", "run the workflow again"
        ) from error


def _original(path: Path, size: Size) -> Slide | None:
    """The slide the result was made of, if it is where it was and of the same size."""
    if not path.exists():
        return None
    try:
        slide = open_slide(path)
    except SlideError:
        return None
    if slide.size == size:
        return slide
    slide.close()
    return None


def _copy(folder: Path, path: Path) -> Slide:
    """The copy the result holds, where one was asked for."""
    try:
        return open_slide(folder / "slide.ome.zarr")
    except SlideError as error:
        raise StoreIncompleteError(
            str(folder),
            f"the slide {path} is not there any more, and the result holds no copy of it ({error.problem})",
            "put the slide back, or open it where it is now",
        ) from error


def _scene(
    slide: Slide,
    frame: Frame,
    labels: tuple[LabelImage, ...],
    notes: tuple[str, ...],
    folder: Path | None = None,
    known: KnownCells = NOTHING_KNOWN,
) -> Scene:
    """`folder`: of the result, None where only a slide is shown."""
    if slide.facts.kind == "multichannel":
        channels = ", ".join(slide.facts.channels)
        raise NotBrightfieldError(
            slide.path, f"has the channels {channels}", "open it in napari with a reader for such images"
        )
    cache = TileCache()
    shown = pyramid([_level(slide, number) for number in range(len(slide.levels))], cache)
    layers = [_image_layer(slide, frame, shown)]
    canvas = None
    if folder is not None:
        layers += _stain_layers(folder, layers[0], shown, cache)
        layers += [_heat_layer(map_, frame) for map_ in probability_maps(folder)]
        canvas = _cells(folder / "cells.parquet", frame, labels, known, cache)
    for label in sorted(labels, key=lambda label: STYLES.get(label.name, OTHER).order):
        layers.append(_label_layer(label, frame, cache, 100 * len(layers)))
    if canvas is not None:
        layers = [_as_found(layer) for layer in layers] + [_cell_layer(canvas, frame)]
    title = slide.name if frame.unit == "µm" else f"{slide.name} ({NO_MPP})"
    return Scene(title, frame.unit, tuple(layers), notes, slide, cache, frame.pixel, canvas)


def _image_layer(slide: Slide, frame: Frame, shown: tuple[Shown, ...]) -> LayerSpec:
    """A copy may be coarser than the slide the frame is of."""
    level = build_levels([frame.size, slide.size], [None, None])[1]
    scale = (level.downsample_y, level.downsample_x)
    return LayerSpec(
        "image",
        slide.name,
        "slide",
        shown,
        frame.world(scale),
        frame.world(((scale[0] - 1) / 2, (scale[1] - 1) / 2)),
        metadata={
            "path": slide.path,
            "reader": f"{slide.reader} {slide.reader_version}",
            "mpp": f"{frame.pixel[1]:g} × {frame.pixel[0]:g} µm/px" if frame.unit == "µm" else NO_MPP,
            "pixel": f"{frame.pixel[0]!r} {frame.pixel[1]!r}",
        },
    )


def _stain_layers(
    folder: Path, image: LayerSpec, shown: tuple[Shown, ...], cache: TileCache
) -> list[LayerSpec]:
    """Off at first, and nothing is computed until they are looked at."""
    vectors = vectors_of(folder)
    if vectors is None:
        return []
    found = []
    for stain, name in enumerate(channel_names(vectors)):
        levels = tuple(
            Shown(channel(level.mosaic, level.pixels, vectors, stain), 100 * (stain + 1) + n, cache)
            for n, level in enumerate(shown)
        )
        said = {"stain vectors": vectors.source}
        found.append(replace(image, name=name, role="stain", levels=levels, visible=False, metadata=said))
    return found


def _heat_layer(map_: HeatMap, frame: Frame) -> LayerSpec:
    # centre of its first pixel, from the centre of the slide's first
    at = tuple(corner + (side - 1) / 2 for corner, side in zip(map_.corner, map_.scale, strict=True))
    return LayerSpec(
        "labels",
        map_.name,
        "heat",
        (map_.values,),
        frame.world(map_.scale),
        frame.world((at[0], at[1])),
        HEAT.visible,
        HEAT.opacity,
        colours=map_.colours,
        names=map_.names,
    )


def _as_found(layer: LayerSpec) -> LayerSpec:
    """What the finder painted stays to be compared with, under what is classed now."""
    if layer.role != "painted":
        return layer
    return replace(layer, name=f"{layer.name} {AS_FOUND}", visible=False)


def _cells(
    file: Path,
    frame: Frame,
    labels: tuple[LabelImage, ...],
    known: KnownCells,
    cache: TileCache,
) -> CellCanvas | None:
    """None without a table of cells, or for an empty one. Colours are those of what the finder painted."""
    cells = read_cells(file, known.table) if file.is_file() else ()
    if not cells:
        return None
    found = next((label for label in labels if ROLES.get(label.name) == "painted"), None)
    colours = {found.names[n]: found.colours[n] for n in found.names if n in found.colours} if found else {}
    return CellCanvas(
        cells,
        frame.size,
        math.sqrt(frame.pixel[0] * frame.pixel[1]) if frame.unit == "µm" else None,
        names=known.classes,
        colours=colours,
        painted=PaintedCells(found, cache, PAINTED_NUMBER) if found else None,
        cache=cache,
        number=CELLS_NUMBER,
    )


def _cell_layer(canvas: CellCanvas, frame: Frame) -> LayerSpec:
    return LayerSpec(
        "labels",
        CELL_LAYER,
        "cells",
        canvas.levels,
        frame.pixel,
        visible=True,
        opacity=CELLS.opacity,
        outline=CELLS.outline,
        colours=canvas.value_colours,
        names=canvas.value_names,
    )


def _level(slide: Slide, number: int) -> Mosaic:
    def read(box: Box) -> NDArray[np.uint8]:
        return slide.read(number, box).rgb

    level = slide.levels[number]
    return Mosaic((*level.size.shape, 3), np.dtype(np.uint8), read, level.downsample)


def _label_layer(label: LabelImage, frame: Frame, cache: TileCache, number: int) -> LayerSpec:
    style = STYLES.get(label.name, OTHER)
    if style.outline:
        label = _refine(label)
    colours = dict(label.colours) or {value: _nth(n) for n, value in enumerate(sorted(label.names)) if value}
    return LayerSpec(
        "labels",
        label.name,
        ROLES.get(label.name, "mask"),
        pyramid(label.levels, cache, number),
        frame.world(label.scale),
        frame.world(label.translate),
        style.visible,
        style.opacity,
        style.outline,
        colour=style.colour,
        colours=colours,
        names=label.names,
    )


def _refine(label: LabelImage) -> LabelImage:
    """Labels coarser than the slide, repeated to about its pixels: the corner stays where it is."""
    times = [2**n for n in range(int(math.log2(max(1.0, min(label.scale)))), 0, -1)]
    if not times:
        return label
    scale = (label.scale[0] / times[0], label.scale[1] / times[0])
    moved = tuple((fine - coarse) / 2 for fine, coarse in zip(scale, label.scale, strict=True))
    return replace(
        label,
        levels=(*(refined(label.levels[0], n) for n in times), *label.levels),
        scale=scale,
        translate=(label.translate[0] + moved[0], label.translate[1] + moved[1]),
    )


def _nth(number: int) -> Rgba:
    return OKABE_ITO[number % len(OKABE_ITO)]
