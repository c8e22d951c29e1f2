"""The steps of one slide, each a task that opens the slide itself and returns a few numbers.

prepare ─► score (each shard of the plan), copy (each group of pyramid regions) ─► finish

Every step looks first whether its part is already there, whole, and answers the same request; so a batch
that was killed continues, and gives the bytes an undisturbed one gives.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from coverslip.atomic import clear_temporaries, discard
from coverslip.errors import DamagedSlideError, SlideInformationError, UnreadableSlideError
from coverslip.tiling.ome_zarr import create_store, write_region
from coverslip.tiling.plan import FINEST, TilePlan, plan_tiles
from coverslip.tiling.pyramid import PyramidPlan, plan_pyramid
from coverslip.tiling.tissue import TissueMask, find_tissue, require_brightfield
from coverslip.workflows.canvas import Painter
from coverslip.workflows.files import Part, read_part, write_part
from coverslip.workflows.inputs import printable
from coverslip.workflows.job import Job
from coverslip.workflows.memory import give_back
from coverslip.workflows.outputs import RESULT, STORE, is_done
from coverslip.wsi import Box, Slide, SlideRef

# Pyramid regions copied by one task: a few seconds of work, a few hundred tasks for the largest slide.
REGIONS_PER_TASK = 16
# Open slides, tissue masks and plans a worker process keeps: no batch has more slides under way at once, so
# that none is opened or searched for tissue again for every shard.
CACHED_SLIDES = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` found. `started`: UTC, ISO 8601. `done`: the result already stands."""

    request: str
    started: str
    tiles: int = 0
    shards: tuple[tuple[int, int], ...] = ()
    copies: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Worked:
    """What one task did, for the progress bar."""

    tiles: int


def prepare(job: Job, started: str) -> Prepared:
    """Open, judge, find tissue, plan. Raises the error that ends this slide."""
    slide = opened(job.ref)
    refuse_unfit(job, slide)
    request = job.request(slide)
    if is_done(job.home, request):
        return Prepared(request, started, done=True)
    plan = plan_of(job, slide)
    start_parts(job, slide, request)
    shards = tuple(plan.shards(job.workflow.grid.shard))
    return Prepared(request, started, len(plan), shards, len(copies_of(job, slide)))


def refuse_unfit(job: Job, slide: Slide) -> None:
    """Whatever can be told before any pixel is read: kind of image, µm/px, the model's fit, absent tiles."""
    refuse_name(slide.path)
    require_brightfield(slide)
    refuse_coarse(slide, job.workflow.grid.mpp)
    job.workflow.check(slide)
    refuse_missing(slide, job.settings.max_damage)


def refuse_name(path: str) -> None:
    """A name that is no text cannot stand in a result that others must be able to read."""
    if printable(path) != path:
        raise UnreadableSlideError(printable(path), "has a name that is not UTF-8", "rename it")


def refuse_coarse(slide: Slide, wanted: float) -> None:
    """Tiles finer than level 0 would be made up. `wanted`: µm per tile pixel."""
    finest = max(slide.mpp.x, slide.mpp.y)
    if wanted * FINEST < finest:
        raise SlideInformationError(
            slide.path,
            f"was scanned at {finest:g} µm/px, too coarse for tiles of {wanted:g} µm/px",
            f"scan it at {wanted:g} µm/px or finer, or give its µm/px if this is wrong",
        )


def refuse_missing(slide: Slide, most: float) -> None:
    """Fail before reading anything when the file's own index says that too much of it is absent."""
    missing = slide.facts.missing_fraction or 0.0
    if missing > most and not slide.facts.sparse_by_design:
        raise too_damaged(slide, missing, "of its stored tiles are absent from the file", most)


def too_damaged(slide: Slide, fraction: float, what: str, most: float) -> DamagedSlideError:
    accept = min(1.0, fraction + 0.005)
    return DamagedSlideError(
        slide.path,
        f"{fraction:.1%} {what}, more than the {most:.1%} allowed",
        f"scan or copy it again, or accept the loss with --max-damage {accept:.2f}",
        fraction,
    )


def opened(ref: SlideRef) -> Slide:
    """This worker's open slide; opened once, and again when the file has changed."""
    stamp = (0, 0)
    if os.path.exists(ref.path):
        status = os.stat(ref.path)
        stamp = (status.st_mtime_ns, status.st_size)
    return _opened(ref, stamp)


@lru_cache(maxsize=CACHED_SLIDES)
def _opened(ref: SlideRef, stamp: tuple[int, int]) -> Slide:
    return ref.open()


@lru_cache(maxsize=CACHED_SLIDES)
def tissue_of(job: Job, slide: Slide) -> TissueMask:
    """Raises NotBrightfieldError, or DamagedSlideError when too much of the overview is not there."""
    tissue = find_tissue(slide, job.settings.tissue)
    if tissue.damaged_fraction > job.settings.max_damage:
        raise too_damaged(
            slide, tissue.damaged_fraction, "of it is missing or corrupt", job.settings.max_damage
        )
    return tissue


@lru_cache(maxsize=CACHED_SLIDES)
def plan_of(job: Job, slide: Slide) -> TilePlan:
    grid = job.workflow.grid
    return plan_tiles(
        slide,
        tissue_of(job, slide),
        mpp=grid.mpp,
        size=grid.size,
        overlap=grid.overlap,
        min_tissue=grid.min_tissue,
    )


def pyramid_of(job: Job, slide: Slide) -> PyramidPlan:
    return plan_pyramid(slide, job.settings.pyramid)


def copies_of(job: Job, slide: Slide) -> list[list[tuple[int, Box]]]:
    """The pyramid's regions that come from the slide's stored levels, in groups of one task each."""
    plan = pyramid_of(job, slide)
    regions = [
        (number, box)
        for number, level in enumerate(plan.levels)
        if level.stored is not None
        for box in plan.regions(number)
    ]
    return [regions[n : n + REGIONS_PER_TASK] for n in range(0, len(regions), REGIONS_PER_TASK)]


def start_parts(job: Job, slide: Slide, request: str) -> None:
    """Lay out the pyramid and its labels once; what another request left is removed first."""
    marker = job.parts / "started.parquet"
    if read_part(marker, request) is not None:
        clear_temporaries(job.home)
        return
    for left in (job.parts, job.home / RESULT, job.home / STORE):
        discard(left)
    create_store(job.store, pyramid_of(job, slide), slide)
    painter = Painter.of(job.workflow.canvas, job.store, plan_of(job, slide))
    if painter is not None:
        painter.create()
    write_part(marker, Part(pa.table({})), request)


def score(job: Job, prepared: Prepared, number: int) -> Worked:
    """One shard of the plan: its rows, its damage, its blocks of the canvas."""
    start, stop = prepared.shards[number]
    path = job.shard_path(number)
    if read_part(path, prepared.request) is None:
        slide = opened(job.ref)
        plan = plan_of(job, slide)
        scored = job.workflow.score(slide, plan, tissue_of(job, slide), range(start, stop))
        painter = Painter.of(job.workflow.canvas, job.store, plan)
        if painter is not None:
            painter.paint(scored.blocks)
        write_part(path, Part(scored.table, {"damaged": scored.damaged_pixels}), prepared.request)
        give_back()
    return Worked(stop - start)


def copy(job: Job, prepared: Prepared, number: int) -> Worked:
    """One group of the pyramid's regions, and how many pixels of each level are damaged in them.

    A region is written whole or not at all, the same bytes each time.
    """
    path = job.copy_path(number)
    if read_part(path, prepared.request) is None:
        slide = opened(job.ref)
        plan = pyramid_of(job, slide)
        damaged: Counter[str] = Counter()
        for level, box in copies_of(job, slide)[number]:
            damaged[str(level)] += write_region(slide, plan, job.store, level, box)
        write_part(path, Part(pa.table({}), damaged), prepared.request)
        give_back()
    return Worked(0)
