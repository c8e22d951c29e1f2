"""Where a slide's tissue is, how good it is and which tiles are looked at: found once, read by all after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from coverslip.errors import DamagedSlideError, StoreIncompleteError
from coverslip.tiling.geojson_reader import Regions
from coverslip.tiling.plan import TilePlan, plan_tiles
from coverslip.tiling.quality import QualityMap, judge_quality
from coverslip.tiling.stain_kind import StainEvidence
from coverslip.tiling.tissue import TissueMask, TissueSettings, overview_of, tissue_in
from coverslip.workflows.files import Part, read_part, write_part
from coverslip.workflows.job import Job
from coverslip.workflows.quality import refuse_other_stain
from coverslip.workflows.revision import together
from coverslip.wsi import Box, Mpp, Size, Slide

# The plan's columns, little-endian; and what of it JSON holds as it is.
COLUMNS = {"x": "<i8", "y": "<i8", "tissue": "<f4"}
PLAIN = ("slide", "digest", "mpp", "size", "overlap")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """`tissue`, the tiles on it and how good it is, of one slide for one request. `regions`: areas that are
    derived later, see `coverslip.workflows.workflow.Derived`."""

    tissue: TissueMask
    plan: TilePlan
    quality: QualityMap
    regions: Mapping[str, Regions] = field(default_factory=dict)

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


def write_layout(path: Path, layout: Layout, request: str) -> None:
    """As one row: masks as packed bits, the plan's columns as bytes, all else as JSON."""
    tissue, plan, quality = layout.tissue, layout.plan, layout.quality
    bounds, mpp = tissue.bounds, plan.slide_mpp
    said = {
        "scale": [tissue.scale_x, tissue.scale_y],
        "bounds": [bounds.x, bounds.y, bounds.width, bounds.height],
        "damaged": tissue.damaged_fraction,
        "pen_over_tissue": quality.pen_over_tissue,
        "focus": quality.focus,
        "fields": quality.fields,
        "stain": asdict(quality.stain),
        "size": [plan.slide_size.width, plan.slide_size.height],
        "mpp": [mpp.x, mpp.y, mpp.source],
        "plan": {name: getattr(plan, name) for name in PLAIN},
        "regions": {name: shapely.to_wkb(area.shape, hex=True) for name, area in layout.regions.items()},
    }
    columns = {
        "mask": np.packbits(tissue.mask),
        "pen": np.packbits(tissue.pen),
        "quality": quality.values,
        **{name: getattr(plan, name).astype(kind) for name, kind in COLUMNS.items()},
    }
    table = pa.table({name: [values.tobytes()] for name, values in columns.items()})
    table = table.append_column("said", pa.array([json.dumps(said, sort_keys=True)]))
    height, width = tissue.mask.shape
    write_part(path, Part(table, {"height": height, "width": width}), request)


def read_layout(path: Path, request: str, settings: TissueSettings) -> Layout:
    """What `write_layout` wrote, exactly, without the slide. `settings`: tissue was found with.

    Raises StoreIncompleteError when it is not there, or not of this request.
    """
    part = read_part(path, request)
    if part is None:
        raise StoreIncompleteError(str(path), "is missing or altered", "run again: it continues")
    row = part.table.to_pylist()[0]
    said, shape = json.loads(row["said"]), (part.numbers["height"], part.numbers["width"])
    (across, down), mpp = said["scale"], Mpp(*said["mpp"])
    tissue = TissueMask(
        mask=_unpacked(row["mask"], shape),
        pen=_unpacked(row["pen"], shape),
        scale_x=across,
        scale_y=down,
        mpp=Mpp(mpp.x * across, mpp.y * down, mpp.source),
        bounds=Box(*said["bounds"]),
        settings=settings,
        damaged_fraction=said["damaged"],
    )
    x, y, share = (np.frombuffer(row[name], kind) for name, kind in COLUMNS.items())
    size = Size(*said["size"])
    plan = TilePlan(slide_size=size, slide_mpp=mpp, x=x, y=y, tissue=share, **said["plan"])
    quality = QualityMap(
        values=np.frombuffer(row["quality"], np.uint8).reshape(shape),
        pen_over_tissue=said["pen_over_tissue"],
        focus=said["focus"],
        fields=said["fields"],
        stain=StainEvidence(**said["stain"]),
    )
    regions = {name: together([shapely.from_wkb(area)]) for name, area in said["regions"].items()}
    return Layout(tissue, plan, quality, regions)


def _unpacked(bits: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1])
    return flat.reshape(shape).astype(bool)
