"""How long a result takes to be said again after a correction: CPU seconds for up to a million cells.

Usage: python benchmarks/recompute.py RESULT [CELLS]

RESULT: the folder of an `ihc`, `cells`, `cytology` or `blood` result. Its cells are repeated side by side
until there are CELLS, a million by default, as on a slide so much larger.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil, isqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from coverslip.tiling.geojson_reader import Regions
from coverslip.workflows.layout import Layout
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.corrections import Correction, DrawRegion, Exclude, Relabel
from coverslip.workflows.review.recompute import labels_of, recompute, standing_labels
from coverslip.workflows.revision import with_column
from coverslip.wsi import Box, Mpp, Size

REPEATS = 5


def repeated(base: Base, cells: int) -> Base:
    """The base on a slide so many times as wide and as high that it holds this many cells, without tiles."""
    assert base.cells is not None
    assert base.layout is not None
    side = ceil((cells / len(base.cells)) ** 0.5)
    width, height = base.result.slide.size
    columns, rows = (each.ravel() for each in np.mgrid[:side, :side])
    table = pa.concat_tables([base.cells] * side**2).combine_chunks()
    for name, shift in (("x", columns * width), ("y", rows * height)):
        place = np.tile(base.cells[name].to_numpy(), side**2) + np.repeat(shift, len(base.cells))
        table = with_column(table, name, place)
    size = base.result.slide.model_copy(update={"size": (width * side, height * side)})
    result = base.result.model_copy(update={"slide": size})
    kept = table.slice(0, cells)
    return replace(base, result=result, cells=kept, layout=_repeated(base.layout, side, width, height))


def _repeated(layout: Layout, side: int, width: int, height: int) -> Layout:
    """With masks as large as those of the largest slides, no larger."""
    tissue, quality, plan = layout.tissue, layout.quality, layout.plan
    bounds = Box(0, 0, width * side, height * side)
    times = max(1, min(side, isqrt(tissue.settings.most_px // tissue.mask.size)))
    coarser = side / times
    wider = replace(
        tissue,
        mask=np.tile(tissue.mask, (times, times)),
        pen=np.tile(tissue.pen, (times, times)),
        scale_x=tissue.scale_x * coarser,
        scale_y=tissue.scale_y * coarser,
        mpp=Mpp(tissue.mpp.x * coarser, tissue.mpp.y * coarser, tissue.mpp.source),
        bounds=bounds,
    )
    return replace(
        layout,
        tissue=wider,
        quality=replace(quality, values=np.tile(quality.values, (times, times))),
        plan=replace(plan, slide_size=Size(bounds.width, bounds.height)),
        regions=dict[str, Regions](),
    )


def measure(base: Base) -> dict[str, float]:
    """CPU seconds, the median of `REPEATS`, for each kind of correction after which all is said again."""
    label = labels_of(base, "cells")[-1]
    width, height = base.result.slide.size
    area = shapely.geometry.mapping(shapely.Point(width / 2, height / 2).buffer(min(width, height) / 4))
    many = tuple(range(0, len(base.cells or ()), 10))
    kinds: dict[str, tuple[Correction, ...]] = {
        "no correction": (),
        "one cell relabelled": (Relabel(of="cells", rows=(7,), label=label),),
        "a tenth relabelled": (Relabel(of="cells", rows=many, label=label),),
        "a disc excluded": (Exclude(id="e", geometry=area, why="fold"),),
        "a disc drawn as tumour": (DrawRegion(id="t", label="Tumour", geometry=area),),
    }
    found = {name: _cpu(lambda some=some: recompute(base, some)) for name, some in kinds.items()}
    found["classes of all cells"] = _cpu(lambda: standing_labels(base, kinds["one cell relabelled"], "cells"))
    return found


def _cpu(work: Callable[[], Any]) -> float:
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return median(spent)


def main() -> None:
    home, cells = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    began = time.process_time()
    base = read_base(home)
    print(
        f"{base.result.workflow}, {len(base.cells or ())} cells, read in {time.process_time() - began:.2f} s"
    )
    large = repeated(base, cells)
    print(
        f"{len(large.cells or ())} cells on {large.result.slide.size} px; CPU seconds, median of {REPEATS}:"
    )
    for name, seconds in measure(large).items():
        print(f"{name:<24}{seconds:8.3f}")


if __name__ == "__main__":
    main()
