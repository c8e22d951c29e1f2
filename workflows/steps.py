"""The steps of one slide, each a task that opens the slide itself and returns a few numbers.

prepare ─► score (each share of the plan), copy (each group of pyramid regions) ─► finish

Every step looks first whether its part is already there, whole, and answers the same request; so a batch
that was killed continues, and gives the bytes an undisturbed one gives.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from math import ceil

import pyarrow as pa

from coverslip.atomic import clear_temporaries, discard
from coverslip.errors import SlideInformationError, UnreadableSlideError
from coverslip.tiling.cascade import write_region
from coverslip.tiling.ome_zarr import create_store
from coverslip.tiling.plan import FINEST, TilePlan
from coverslip.tiling.pyramid import PyramidPlan, PyramidSettings, plan_pyramid
from coverslip.tiling.tissue import require_brightfield
from coverslip.workflows.canvas import Painter
from coverslip.workflows.files import Part, read_part, write_part
from coverslip.workflows.inputs import printable
from coverslip.workflows.job import Job
from coverslip.workflows.layout import Layout, lay_out, read_layout, too_damaged, write_layout
from coverslip.workflows.memory import Kept, give_back, share_pools
from coverslip.workflows.outputs import FEATURES, RESULT, REVIEW, STORE, is_done
from coverslip.workflows.vectors import VectorStore
from coverslip.wsi import Box, Slide, SlideRef

# Pyramid regions copied by one task: a few seconds of work. Of a slide so large that this would give more
# than `MOST_TASKS`, a task takes more of them; and so with the plan's shards.
REGIONS_PER_TASK = 16
MOST_TASKS = 128
# A GPU looks at a shard made for a core in a few hundredths of a second, as long as a task takes to hand out.
SHARDS_FOR_CUDA = 32
# Kept by a worker process for its next tasks. A slide is opened again in milliseconds, with 32 MB for
# OpenSlide's own cache; a layout (10 to 20 MB of a large slide) is read again as fast.
SLIDES_KEPT = 8
LAYOUT_BYTES_KEPT = 64 << 20
MARKER = "started.parquet"

_SLIDES: Kept[Slide] = Kept(SLIDES_KEPT, lambda slide: 1)
_LAYOUTS: Kept[Layout] = Kept(LAYOUT_BYTES_KEPT, lambda layout: layout.nbytes)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` found, and all that other workers need of it.

    `started`: UTC, ISO 8601. `digest`: the slide's. `tiles`: of the plan; `share`: how many of them one task
    scores, the last fewer; `copies`: tasks that copy the pyramid. `done`: the result already stands.
    """

    request: str
    started: str
    digest: str
    tiles: int = 0
    share: int = 1
    copies: int = 0
    done: bool = False

    @property
    def shares(self) -> int:
        """Tasks that score the tiles between them."""
        return ceil(self.tiles / self.share)

    def rows(self, number: int) -> range:
        """Rows of the plan that one of these tasks scores."""
        return range(number * self.share, min((number + 1) * self.share, self.tiles))


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
        return Prepared(request, started, slide.digest, done=True)
    begun = begun_with(job, request)
    share = begin(job, slide, request) if begun is None else begun
    prepared = Prepared(request, started, slide.digest, share=share)
    tiles = len(layout_of(job, prepared).plan)
    return replace(prepared, tiles=tiles, copies=len(copies_of(job, slide)))


def per_task(pieces: int, least: int) -> int:
    """How many pieces of a slide's work one task takes: a multiple of `least`, so that there are never more
    than `MOST_TASKS` tasks.

    >>> per_task(2_000, 16), per_task(50_000_000, 128)
    (16, 390656)
    """
    return least * max(1, ceil(pieces / (least * MOST_TASKS)))


def shard_of(job: Job) -> int:
    """Tiles this worker scores at a time: what it holds of them does not grow with a task's share."""
    on_cuda = job.workflow.device()["device"].startswith("cuda")
    return job.workflow.grid.shard * (SHARDS_FOR_CUDA if on_cuda else 1)


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


def opened(ref: SlideRef) -> Slide:
    """This worker's open slide; opened once, and again when the file has changed."""
    share_pools()  # of a worker process that somebody else began
    return _SLIDES.get((ref, stamp_of(ref)), ref.open)


def stamp_of(ref: SlideRef) -> tuple[int, int]:
    """What changes with a local file: when it was written (ns), and its bytes."""
    if not os.path.exists(ref.path):
        return 0, 0
    status = os.stat(ref.path)
    return status.st_mtime_ns, status.st_size


def layout_of(job: Job, prepared: Prepared) -> Layout:
    """This worker's layout of a slide that is prepared."""
    return _LAYOUTS.get(
        (job.folder, prepared.request),
        lambda: read_layout(job.layout, prepared.request, job.settings.tissue),
    )


def let_go(job: Job, prepared: Prepared) -> None:
    """Forget what this worker keeps of a slide that is done."""
    _LAYOUTS.forget((job.folder, prepared.request))
    _SLIDES.forget((job.ref, stamp_of(job.ref)))


def pyramid_of(job: Job, slide: Slide) -> PyramidPlan:
    return plan_pyramid(slide, job.settings.pyramid or PyramidSettings())


def painter_of(job: Job, plan: TilePlan) -> Painter | None:
    """Label images are part of the pyramid: without one there is nothing to paint on."""
    return Painter.of(job.workflow.canvas if job.settings.pyramid else None, job.store, plan)


def vectors_of(job: Job, plan: TilePlan) -> VectorStore | None:
    return VectorStore.of(job.workflow.vectors, job.vectors, plan, job.workflow.grid.shard)


def copies_of(job: Job, slide: Slide) -> list[list[tuple[int, Box]]]:
    """The pyramid's regions that come from the slide's stored levels, in groups of one task each."""
    if job.settings.pyramid is None:
        return []
    plan = pyramid_of(job, slide)
    regions = [
        (number, box)
        for number, level in enumerate(plan.levels)
        if level.stored is not None
        for box in plan.regions(number)
    ]
    step = per_task(len(regions), REGIONS_PER_TASK)
    return [regions[n : n + step] for n in range(0, len(regions), step)]


def begun_with(job: Job, request: str) -> int | None:
    """The share that parts of this very request were begun with; None where there are none.

    What a killed task left half-written among them is cleared.
    """
    marker = read_part(job.parts / MARKER, request)
    if marker is None:
        return None
    clear_temporaries(job.home, keep=REVIEW)
    return marker.numbers["share"]


def begin(job: Job, slide: Slide, request: str) -> int:
    """Find tissue and plan, and make the empty stores and labels; what another request left goes.

    Returns the share: it is kept with the parts, since another worker might choose another.
    """
    layout = _LAYOUTS.get((job.folder, request), lambda: lay_out(job, slide))
    for left in (job.parts, job.home / RESULT, job.home / STORE, job.home / FEATURES):
        discard(left)
    write_layout(job.layout, layout, request)
    if job.settings.pyramid is not None:
        create_store(job.store, pyramid_of(job, slide), slide)
    for store in (painter_of(job, layout.plan), vectors_of(job, layout.plan)):
        if store is not None:
            store.create()
    share = per_task(len(layout.plan), shard_of(job))
    write_part(job.parts / MARKER, Part(pa.table({}), {"share": share}), request)
    return share


def score(job: Job, prepared: Prepared, number: int) -> Worked:
    """One share of the plan: its rows, its damage, its blocks of the canvas, its vectors."""
    rows = prepared.rows(number)
    path = job.shard_path(number)
    if read_part(path, prepared.request) is None:
        slide = opened(job.ref)
        layout = layout_of(job, prepared)
        write_part(path, _scored(job, slide, layout, rows), prepared.request)
        give_back()
    return Worked(len(rows))


def _scored(job: Job, slide: Slide, layout: Layout, rows: range) -> Part:
    """Shard by shard."""
    tables, damaged, shard = [], 0, shard_of(job)
    painter, store = painter_of(job, layout.plan), vectors_of(job, layout.plan)
    for start in range(rows.start, rows.stop, shard):
        part = range(start, min(start + shard, rows.stop))
        scored = job.workflow.score(slide, layout.plan, layout.tissue, part)
        if painter is not None:
            painter.paint(scored.blocks)
        if store is not None and scored.vectors is not None:
            store.put(part, scored.vectors)
        tables.append(scored.table)
        damaged += scored.damaged_pixels
    return Part(pa.concat_tables(tables), {"damaged": damaged})


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
