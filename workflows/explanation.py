"""Why a model calls one tile so: the tile as a run reads it, and beside it what spoke for the class."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.engine import Engine, network_of
from coverslip.models.evidence import attribute_tile
from coverslip.models.library import find_model
from coverslip.models.package import ModelPackage
from coverslip.ruo import RUO
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.supply import SupplySettings, TileBatch, supply
from coverslip.workflows.heat import heat
from coverslip.workflows.steps import refuse_coarse
from coverslip.wsi import Field, Size, Slide, open_slide
from coverslip.wsi.mpp import parse_mpp

# Pixels of the picture: smaller tiles are enlarged by a whole factor, so that each pixel stays one square.
LEAST_SIDE, MARGIN, LINE, TEXT = 320, 12, 20, 14
# About what a letter takes of a line.
LETTER = 7.5
MEANING = "blue: nothing, yellow: most of what spoke for the class in this tile; not that the class is there"


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One tile and one class of a model.

    `tile`: RGB uint8 (size, size, 3) at the model's µm/px; `evidence`: float32 (size, size), 0 to 1, see
    `attribute_tile`. `name`, `probability`: of the class, calibrated where the model is. `x`, `y`: the tile's
    top-left corner, level-0 pixels. `missing`: share of the tile that the file does not hold. `strange`: the
    tile lies further from those of training than the model's limit; None where it has none.
    """

    model: str
    tile: NDArray[np.uint8]
    evidence: NDArray[np.float32]
    name: str
    probability: float
    x: int
    y: int
    missing: float
    strange: bool | None


def explain_tile(
    path: str | Path,
    model: str | Path,
    at: tuple[int, int] | None = None,
    name: str | None = None,
    mpp: float | None = None,
) -> Explanation:
    """Look at one tile of a slide or picture with a model of tiles, by folder or name as for `find_model`.

    `at`: x, y of the tile's top-left corner in level-0 pixels, as `tiles.parquet` has them; None where the
    picture is no larger than a tile. `name`: of the class, None for the most probable. `mpp`: µm per level-0
    pixel where the file does not say. The tile is cut, scaled and normalised as `coverslip run` does.

    Raises the errors of `open_slide` and `find_model`; SlideInformationError without a µm/px, or one too
    coarse for the model; ModelMismatchError for a model that cannot be explained so; RequestError.
    """
    package = find_model(model)
    document = package.document
    if document.probe is not None:
        raise ModelMismatchError(
            document.name, "is a probe, which has no gradient", "explain a model made with train tiles"
        )
    number = None if name is None else _number(package, name)
    with open_slide(path, mpp=parse_mpp(mpp, "given") if mpp else None) as slide:
        batch = _read(slide, package, at)
    tile = batch.pixels[0]
    outputs = Engine(package, device="cpu").examine(batch.pixels)
    probabilities = outputs.probabilities[0]
    number = int(probabilities.argmax()) if number is None else number
    known = document.out_of_distribution
    strange = bool(outputs.distance[0] > known.limit) if known and outputs.distance is not None else None
    return Explanation(
        model=f"{document.name} {document.version}",
        tile=tile,
        evidence=attribute_tile(network_of(package), tile, number, document.normalisation),
        name=document.classes[number],
        probability=float(probabilities[number]),
        x=int(batch.x[0]),
        y=int(batch.y[0]),
        missing=float(batch.damaged.mean()),
        strange=strange,
    )


def _number(package: ModelPackage, name: str) -> int:
    classes = package.document.classes
    if name not in classes:
        raise RequestError(
            f"class {name}", f"is none of {package.document.name}", f"name one of {', '.join(classes)}"
        )
    return classes.index(name)


def _read(slide: Slide, package: ModelPackage, at: tuple[int, int] | None) -> TileBatch:
    """The tile as the supply of a run gives it."""
    fit = package.document.tile
    refuse_coarse(slide, fit.mpp)
    extent = Field(0, 0, Size(fit.size, fit.size), fit.mpp).extent(slide.mpp)
    x, y = _corner(slide, extent) if at is None else at
    if not (0 <= x < slide.size.width and 0 <= y < slide.size.height):
        raise RequestError(
            f"a tile at {x}, {y}",
            f"begins outside {slide.name}, {slide.size.width} × {slide.size.height} level-0 pixels",
            "name its top-left corner, such as x and y of a row of tiles.parquet",
        )
    corner, share = (np.array([x], np.int64), np.array([y], np.int64)), np.ones(1, np.float32)
    plan = TilePlan(slide.name, "", slide.size, slide.mpp, fit.mpp, fit.size, 0, *corner, share)
    return next(supply(slide, plan, range(1), SupplySettings(batch=1)))


def _corner(slide: Slide, extent: tuple[float, float]) -> tuple[int, int]:
    """Of a picture that is one tile, up to a pixel."""
    if slide.size.width > extent[0] + 1 or slide.size.height > extent[1] + 1:
        raise RequestError(
            slide.name,
            f"has {slide.size.width} × {slide.size.height} pixels, and a tile {extent[0]:.0f} × "
            f"{extent[1]:.0f}",
            "name a tile's top-left corner with --at X,Y, such as x and y of a row of tiles.parquet",
        )
    return 0, 0


def draw_explanation(found: Explanation) -> NDArray[np.uint8]:
    """RGB (height, width, 3): the tile, beside it its evidence over the grey tile, and what both are."""
    factor = -(-LEAST_SIDE // max(found.tile.shape[:2]))
    grey = cv2.cvtColor(cv2.cvtColor(found.tile, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    over = np.asarray(cv2.addWeighted(grey, 0.4, heat(found.evidence), 0.6, 0), np.uint8)
    large = [part.repeat(factor, axis=0).repeat(factor, axis=1) for part in (found.tile, over)]
    height, width = large[0].shape[:2]
    lines = _lines(found, 2 * width + MARGIN)
    rgb = np.full((height + 3 * MARGIN + LINE * len(lines), 2 * width + 3 * MARGIN, 3), 255, np.uint8)
    for part, left in zip(large, (MARGIN, width + 2 * MARGIN), strict=True):
        rgb[MARGIN : MARGIN + height, left : left + width] = part
    picture = Image.fromarray(rgb)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    for row, line in enumerate(lines):
        pen.text((MARGIN, height + 2 * MARGIN + row * LINE), line, fill=(29, 35, 41), font=font)
    return np.asarray(picture)


def _lines(found: Explanation, width: int) -> list[str]:
    said = (
        f"{found.name}, probability {found.probability:.2f}, by {found.model}; tile at {found.x}, {found.y}",
        MEANING if found.evidence.any() else "nothing in this tile speaks for the class",
        RUO,
    )
    return [line for text in said for line in textwrap.wrap(text, max(20, int(width / LETTER)))]
