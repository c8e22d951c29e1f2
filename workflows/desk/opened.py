"""One slide on the desk: what there is to see, and what is known of it. No window is needed for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import CoverslipError, ResultChangedError
from coverslip.workflows.cell_canvas import CellCanvas
from coverslip.workflows.desk.objects import corners_of
from coverslip.workflows.desk.place import World
from coverslip.workflows.desk.tile_map import CLASSES, TileMap
from coverslip.workflows.layers import Given, KnownCells, Scene, describe, result_folder
from coverslip.workflows.palette import Rgba, class_colours
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.case import Case, open_case
from coverslip.workflows.review.corrections import Objects
from coverslip.workflows.review.recompute import labels_of, standing_labels
from coverslip.workflows.review.reviewer import Reviewer


@dataclass(frozen=True, eq=False)
class Opened:
    """`base` None: a slide without a result, or one that cannot be reviewed. `case` None: looked at only.
    `problem`: why, in words; "" where nothing is wrong. `changed`: the result is another than the one this
    reviewer began on, and can be begun anew. `of`, `labels`: the table that is given classes, and these; of
    tiles where both are. `tiles`: the class map, where tiles are given classes. Close the scene when it is
    not shown any more."""

    scene: Scene
    world: World
    home: Path | None = None
    base: Base | None = None
    case: Case | None = None
    problem: str = ""
    changed: bool = False
    of: Objects = "cells"
    labels: tuple[str, ...] = ()
    tiles: TileMap | None = None

    @property
    def cells(self) -> CellCanvas | None:
        """The canvas the cells are drawn on; None without cells."""
        return self.scene.cells

    @cached_property
    def machine(self) -> NDArray[np.int32]:
        """What the machine called the rows of the table `of`, (n,) of `labels`."""
        assert self.base is not None
        return standing_labels(self.base, (), self.of)

    @property
    def colours(self) -> dict[str, Rgba]:
        """Of the classes, as the slide shows them."""
        return self.colours_of(self.of)

    def colours_of(self, of: Objects) -> dict[str, Rgba]:
        """Of what cells or tiles can be given."""
        shown = self.cells.colours if of == "cells" and self.cells is not None else {}
        for layer in () if shown else self.scene.layers:
            if layer.name == CLASSES:
                shown = {name: layer.colours[n] for n, name in layer.names.items() if n in layer.colours}
        labels = () if self.base is None else labels_of(self.base, of)
        defaults = dict(class_colours(labels).values())
        return {name: shown.get(name, defaults[name]) for name in labels}


def open_here(path: Path, reviewer: Reviewer | None, mpp: Given = None, *, anew: bool = False) -> Opened:
    """A slide, a store or a result; a result is opened for review by `reviewer`, with None it is looked at.

    `anew`: see `open_case`. What keeps a result from being reviewed is `problem`; it is shown all the same.
    Raises the errors of `describe`.
    """
    home = result_folder(path)
    if home is None:
        scene = describe(path, mpp)
        return Opened(scene, World(scene.pixel, scene.unit == "µm"))
    base, case, problem, changed = _reviewed(home, reviewer, anew)
    of: Objects = "cells"
    labels, of_cells = (), ()
    try:
        if base is not None:
            of = "tiles" if labels_of(base, "tiles") else "cells"
            labels, of_cells = labels_of(base, of), labels_of(base, "cells")
        scene = describe(path, mpp, KnownCells(of_cells, base.cells if base is not None else None))
    except CoverslipError:
        if case is not None:
            case.close()
        raise
    world = World(scene.pixel, scene.unit == "µm")
    scene, tiles = _mapped(scene, world, base) if of == "tiles" else (scene, None)
    return Opened(scene, world, home, base, case, problem, changed, of, labels, tiles)


def _mapped(scene: Scene, world: World, base: Base | None) -> tuple[Scene, TileMap | None]:
    """With a class map that follows corrections, where the result has one and its tiles' places."""
    found = next((layer for layer in scene.layers if layer.name == CLASSES), None)
    corners = corners_of(base.tiles) if base is not None else None
    if found is None or corners is None:
        return scene, None
    tiles = TileMap(found, corners, world)
    layers = tuple(tiles.layer if layer is found else layer for layer in scene.layers)
    return replace(scene, layers=layers), tiles


def _reviewed(
    home: Path, reviewer: Reviewer | None, anew: bool
) -> tuple[Base | None, Case | None, str, bool]:
    """With what can be read of the result where it cannot be reviewed, why, and whether it changed."""
    changed = False
    try:
        if reviewer is not None:
            case = open_case(home, reviewer, anew=anew)
            return case.base, case, "", False
        return read_base(home), None, "", False
    except CoverslipError as error:
        problem, changed = str(error), isinstance(error, ResultChangedError)
    except OSError as error:
        problem = f"nothing can be written beside the result ({error.strerror})"
    try:
        base = read_base(home)
    except CoverslipError:
        base = None
    return base, None, f"Not open for review: {problem}", changed
