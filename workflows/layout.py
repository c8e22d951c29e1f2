"""Where a slide's tissue is, how good it is and which tiles are looked at: found once, read by all after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import DamagedSlideError, StoreIncompleteError
from coverslip.tiling.plan import TilePlan, plan_tiles
from coverslip.tiling.quality import QualityMap, judge_quality
from coverslip.tiling.stain_kind import StainEvidence
from coverslip.tiling.tissue import TissueMask, overview_of, tissue_in
from coverslip.workflows.files import Part, read_part, write_part
from coverslip.workflows.job import Job
from coverslip.workflows.quality import refuse_other_stain
from coverslip.wsi import Mpp, Slide


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """`tissue`, the tiles on it and how good it is, of one slide for one request."""

    tissue: TissueMask
    plan: TilePlan
    quality: QualityMap

    @property
    def nbytes(self) -> int:
        arrays = (
            self.tissue.mask,
            self.tissue.pen,
            self.quality.values,
            self.plan.x,
            self.plan.y,
            self.plan.tissue,
        )
        return sum(array.nbytes for array in arrays)


def lay_out(job: Job, slide: Slide) -> Layout:
    """Find tissue, judge it and plan tiles.

    Raises NotBrightfieldError, DamagedSlideError when too much of the overview is not there, or
    StainMismatchError.
    """
    overview = overview_of(slide, job.settings.tissue)
    tissue = tissue_in(slide, overview, job.settings.tissue)
    if tissue.damaged_fraction > job.settings.max_damage:
        raise too_damaged(
            slide, tissue.damaged_fraction, "of it is missing or corrupt", job.settings.max_damage
        )
    quality = judge_quality(slide, overview, tissue, job.settings.quality)
    if not job.settings.accept_stain:
        refuse_other_stain(slide, quality.stain, job.workflow)
    grid = job.workflow.grid
    plan = plan_tiles(
        slide, tissue, mpp=grid.mpp, size=grid.size, overlap=grid.overlap, min_tissue=grid.min_tissue
    )
    return Layout(tissue, plan, quality)


def too_damaged(slide: Slide, fraction: float, what: str, most: float) -> DamagedSlideError:
    accept = min(1.0, fraction + 0.005)
    return DamagedSlideError(
        slide.path,
        f"{fraction:.1%} {what}, more than the {most:.1%} allowed",
        f"scan or copy it again, or accept the loss with --max-damage {accept:.2f}",
        fraction,
    )


def write_layout(job: Job, layout: Layout, request: str) -> None:
    """As two parts beside those of the shards: masks as packed bits, the plan as its columns."""
    tissue, plan, quality = layout.tissue, layout.plan, layout.quality
    height, width = tissue.mask.shape
    masks = pa.table(
        {
            "mask": [np.packbits(tissue.mask).tobytes()],
            "pen": [np.packbits(tissue.pen).tobytes()],
            "scale_x": [tissue.scale_x],
            "scale_y": [tissue.scale_y],
            "damaged": [tissue.damaged_fraction],
            "quality": [quality.values.tobytes()],
            "pen_over_tissue": [quality.pen_over_tissue],
            "focus": [quality.focus],
            "fields": [quality.fields],
            "stain": [asdict(quality.stain)],
        }
    )
    write_part(_tissue_path(job), Part(masks, {"height": height, "width": width}), request)
    tiles = pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue})
    write_part(_plan_path(job), Part(tiles), request)


def read_layout(job: Job, slide: Slide, request: str, digest: str) -> Layout:
    """What `write_layout` wrote, exactly. `digest`: the slide's, which takes a pass over its whole file.

    Raises StoreIncompleteError when it is not there, or not of this request.
    """
    masks, tiles = (_whole(path, request) for path in (_tissue_path(job), _plan_path(job)))
    row = masks.table.to_pylist()[0]
    shape = masks.numbers["height"], masks.numbers["width"]
    x, y = row["scale_x"], row["scale_y"]
    tissue = TissueMask(
        mask=_unpacked(row["mask"], shape),
        pen=_unpacked(row["pen"], shape),
        scale_x=x,
        scale_y=y,
        mpp=Mpp(slide.mpp.x * x, slide.mpp.y * y, slide.mpp.source),
        bounds=slide.bounds,
        settings=job.settings.tissue,
        damaged_fraction=row["damaged"],
    )
    grid = job.workflow.grid
    columns = (tiles.table[name].to_numpy() for name in ("x", "y", "tissue"))
    plan = TilePlan(slide.name, digest, slide.size, slide.mpp, grid.mpp, grid.size, grid.overlap, *columns)
    quality = QualityMap(
        values=np.frombuffer(row["quality"], np.uint8).reshape(shape),
        pen_over_tissue=row["pen_over_tissue"],
        focus=row["focus"],
        fields=row["fields"],
        stain=StainEvidence(**row["stain"]),
    )
    return Layout(tissue, plan, quality)


def _tissue_path(job: Job) -> Path:
    return job.parts / "tissue.parquet"


def _plan_path(job: Job) -> Path:
    return job.parts / "plan.parquet"


def _whole(path: Path, request: str) -> Part:
    part = read_part(path, request)
    if part is None:
        raise StoreIncompleteError(str(path), "is missing or altered", "run again: it continues")
    return part


def _unpacked(bits: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1])
    return flat.reshape(shape).astype(bool)
