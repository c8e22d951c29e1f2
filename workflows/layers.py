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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.errors import (
    NotBrightfieldError,
    RequestError,
    SlideError,
    SlideInformationError,
    StoreIncompleteError,
)
from coverslip.workflows.attention import LAYER, MEANING
from coverslip.workflows.mosaic import Mosaic, TileCache, pyramid, refined
from coverslip.workflows.overlays import LabelImage, Pair, Rgba, find_labels
from coverslip.workflows.palette import OKABE_ITO, TISSUE
from coverslip.wsi import Box, Mpp, Size, Slide, open_slide
from coverslip.wsi.levels import build_levels
from coverslip.wsi.mpp import parse_mpp

Given = float | tuple[float, float] | None
Unit = Literal["µm", "pixel"]

# More are slow to draw as points; the labels of nuclei show them all.
MOST_CELLS = 500_000
# Rings this wide leave a nucleus of 5 to 10 µm to be seen inside.
RING_UM, RING_PX = 12.0, 24.0
NO_MPP = "no µm/px"


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
    }
)
OTHER = Style(4, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class LayerSpec:
    """One layer. Pairs are (y, x), `scale` and `translate` in the scene's unit.

    `levels`: dask arrays, finest first: (height, width, 3) uint8 for an image, (height, width) integers for
    labels; for points one array (n, 2) of (y, x) in level-0 pixels, the centre of the first at 0.
    `colours` and `names`: of label values, or of the classes of points counted from 1; `colour` is that of
    values without their own. `values`: the class of each point. `size`: diameter of a point, level-0 pixels.
    """

    kind: Literal["image", "labels", "points"]
    name: str
    levels: tuple[da.Array, ...] | tuple[NDArray, ...]
    scale: Pair
    translate: Pair = (0.0, 0.0)
    visible: bool = True
    opacity: float = 1.0
    outline: int = 0
    size: float = 1.0
    colour: Rgba | None = None
    colours: Mapping[int, Rgba] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    values: NDArray | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What to show, bottom layer first. `notes`: what the viewer should know, plain words.

    It holds the open slide its layers read from: close it when the viewer is closed.
    """

    title: str
    unit: Unit
    layers: tuple[LayerSpec, ...]
    notes: tuple[str, ...]
    slide: Slide
    cache: TileCache

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


def describe(path: str | Path, mpp: Given = None) -> Scene:
    """What to show of a slide, an OME-Zarr folder, a result folder, or a run's folder with one slide.

    `mpp`: µm per level-0 pixel where the slide does not say. Only indexes, metadata and the table of cells
    are read here; pixels when a viewer asks for them, level by level and tile by tile.

    Raises the errors of `open_slide`, RequestError for a folder that holds none or several results,
    StoreIncompleteError where a result is not whole, NotBrightfieldError.
    """
    folder = result_folder(Path(path))
    return _describe_slide(str(path), mpp) if folder is None else _describe_result(folder, mpp)


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
        return _scene(slide, frame, find_labels(Path(path)), None, notes)


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


def _describe_result(folder: Path, mpp: Given) -> Scene:
    size, stated, path = _identity(folder)
    pixel = parse_mpp(mpp, "given") if mpp else stated
    slide, notes = _original(path, size), ()
    if slide is None:
        slide, notes = _copy(folder, path), (f"{path} is not there: its copy is shown",)
    frame = Frame(size, (pixel.y, pixel.x), "µm")
    with _kept(slide):
        labels = find_labels(folder / "slide.ome.zarr", (stated.y, stated.x))
        notes += (f"{LAYER}: {MEANING}",) * any(label.name == LAYER for label in labels)
        return _scene(slide, frame, labels, folder / "cells.parquet", notes)


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
    slide: Slide, frame: Frame, labels: tuple[LabelImage, ...], cells: Path | None, notes: tuple[str, ...]
) -> Scene:
    if slide.facts.kind == "multichannel":
        channels = ", ".join(slide.facts.channels)
        raise NotBrightfieldError(
            slide.path, f"has the channels {channels}", "open it in napari with a reader for such images"
        )
    cache = TileCache()
    layers = [_image_layer(slide, frame, cache)]
    for label in sorted(labels, key=lambda label: STYLES.get(label.name, OTHER).order):
        layers.append(_label_layer(label, frame, cache, 100 * len(layers)))
    points, note = _cell_layer(cells, frame, layers)
    title = slide.name if frame.unit == "µm" else f"{slide.name} ({NO_MPP})"
    return Scene(title, frame.unit, (*layers, *points), (*notes, *note), slide, cache)


def _image_layer(slide: Slide, frame: Frame, cache: TileCache) -> LayerSpec:
    """A copy may be coarser than the slide the frame is of."""
    level = build_levels([frame.size, slide.size], [None, None])[1]
    scale = (level.downsample_y, level.downsample_x)
    return LayerSpec(
        "image",
        slide.name,
        pyramid([_level(slide, number) for number in range(len(slide.levels))], cache),
        frame.world(scale),
        frame.world(((scale[0] - 1) / 2, (scale[1] - 1) / 2)),
        metadata={
            "path": slide.path,
            "reader": f"{slide.reader} {slide.reader_version}",
            "mpp": f"{frame.pixel[1]:g} × {frame.pixel[0]:g} µm/px" if frame.unit == "µm" else NO_MPP,
        },
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


def _cell_layer(
    cells: Path | None, frame: Frame, below: list[LayerSpec]
) -> tuple[tuple[LayerSpec, ...], tuple[str, ...]]:
    """A ring around each nucleus in the colour of its class; and a note where there are too many."""
    if cells is None or not cells.is_file():
        return (), ()
    try:
        count = pq.read_metadata(cells).num_rows
        if count > MOST_CELLS:
            return (), (f"{count:,} cells are too many to draw each",)
        table = pq.read_table(cells).select(["x", "y", "class"])
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise StoreIncompleteError(
            str(cells), f"is no table of cells ({error})", "run the workflow again"
        ) from error
    nuclei = next((layer for layer in below if layer.name == "nuclei"), None)
    return (_points(table, frame, nuclei),) if count else (), ()


def _points(table: pa.Table, frame: Frame, nuclei: LayerSpec | None) -> LayerSpec:
    """In the colours the labels of nuclei give these classes; hidden where they do, since those show more."""
    classes, values = np.unique(
        np.asarray(table["class"].cast(pa.string()).fill_null("")), return_inverse=True
    )
    known = (
        {nuclei.names[n]: nuclei.colours[n] for n in nuclei.names if n in nuclei.colours} if nuclei else {}
    )
    # positions are corner-based, as boxes are: the centre of the first pixel is at 0.5
    at = np.stack([np.asarray(table[axis], np.float64) - 0.5 for axis in ("y", "x")], axis=1)
    return LayerSpec(
        "points",
        "cells",
        (at,),
        frame.pixel,
        visible=not known,
        opacity=0.9,
        size=RING_UM / frame.pixel[0] if frame.unit == "µm" else RING_PX,
        colours={n + 1: known.get(str(name), _nth(n)) for n, name in enumerate(classes)},
        names={n + 1: str(name) for n, name in enumerate(classes)},
        values=values + 1,
    )
