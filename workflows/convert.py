"""Turn a slide into an OME-Zarr pyramid: what `coverslip convert` does."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from coverslip.errors import CoverslipError, RequestError, StoreIncompleteError
from coverslip.tiling.cascade import write_region
from coverslip.tiling.ome_zarr import create_store, finish_store, image_name
from coverslip.tiling.pyramid import PyramidPlan, PyramidSettings, plan_pyramid
from coverslip.wsi.geometry import Box
from coverslip.wsi.slide import Slide, SlideRef

WriteBox = Callable[[Box], int]
Run = Callable[[WriteBox, Sequence[Box]], Iterable[int]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written. `damaged`: pixels of each level that the slide should hold and does not.

    A level made by halving counts none: its damage is that of the level above it.
    """

    path: str
    plan: PyramidPlan
    damaged: tuple[int, ...]

    @property
    def damaged_fraction(self) -> float:
        """Damaged share of level 0, 0 to 1."""
        return self.damaged[0] / self.plan.levels[0].size.area


def convert(
    slide: Slide,
    out: str | os.PathLike[str],
    settings: PyramidSettings | None = None,
    *,
    workers: int = 2,
    overwrite: bool = False,
    run: Run | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a slide as OME-Zarr to `out`, a folder that is there whole or not at all.

    Each level is written region by region by `workers` threads (one, where tiles are only copied), each
    holding one region, so memory does not grow with the slide. `run(write, boxes)` does it elsewhere, for
    example with Dask: it calls `write(box)` for every box, in any order, and gives back the results; `write`
    can be pickled and opens the slide again, and all workers must see the folder of `out`. `progress` is
    told, in this thread, regions done and regions in all.

    It is written beside `out` under a temporary name and renamed. Whatever ends it early, even a killed
    process, leaves no `out`, and the next conversion to it on this machine removes what was left. Same
    slide and settings, same bytes.

    Raises RequestError when `out` does not end in `.zarr`, is the slide itself, or exists and `overwrite` is
    not set or it is no Zarr store; SlideInformationError without a µm/px; StoreIncompleteError when it
    cannot be written.
    """
    target = Path(out)
    _check_target(slide, target, overwrite)
    plan = plan_pyramid(slide, settings)
    try:
        with _building(target) as store:
            create_store(store, plan, slide, image_name(target))
            write = partial(write_region, slide) if run is None else partial(_write_elsewhere, slide.ref)
            runs = [
                run or partial(_in_threads, _threads(slide, plan, n, workers))
                for n in range(len(plan.levels))
            ]
            damaged = _write_levels(partial(write, plan, str(store)), plan, runs, progress)
            finish_store(store, damaged)
    except CoverslipError:
        raise
    except OSError as error:
        raise StoreIncompleteError(
            str(target), f"cannot be written ({error})", "make room, or choose another place"
        ) from error
    return Conversion(str(target), plan, damaged)


def _write_levels(
    write: Callable[[int, Box], int], plan: PyramidPlan, runs: Sequence[Run], progress: Progress | None
) -> tuple[int, ...]:
    """One level after the other, since a halving reads the level above; damaged pixels of each."""
    boxes = [plan.regions(level) for level in range(len(plan.levels))]
    total, done, damaged = sum(map(len, boxes)), 0, [0] * len(boxes)
    for level, of_level in enumerate(boxes):
        for count in runs[level](partial(write, level), of_level):
            damaged[level] += count
            done += 1
            if progress is not None:
                progress(done, total)
    return tuple(damaged)


def _write_elsewhere(ref: SlideRef, plan: PyramidPlan, store: str, level: int, box: Box) -> int:
    with ref.open() as slide:
        return write_region(slide, plan, store, level, box)


def _threads(slide: Slide, plan: PyramidPlan, level: int, workers: int) -> int:
    """One where files are only copied: two would wait for each other at every tile, and take longer."""
    return 1 if plan.is_copied(level) and "://" not in slide.path else workers


def _in_threads(workers: int, write: WriteBox, boxes: Sequence[Box]) -> Iterator[int]:
    """Results in order; at most one region waits per worker, so that a failure stops the rest soon."""
    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for box in boxes:
                waiting.append(pool.submit(write, box))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check_target(slide: Slide, target: Path, overwrite: bool) -> None:
    if target.suffix != ".zarr":
        raise RequestError(
            str(target), "does not end in .zarr, by which viewers know it", "name it like slide.ome.zarr"
        )
    if "://" not in slide.path:
        here, source = target.resolve(), Path(slide.path).resolve()
        if here == source or source in here.parents or here in source.parents:
            raise RequestError(str(target), "is, holds or lies in the slide itself", "choose another place")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise RequestError(str(target), "is already there", "choose another name, or ask to overwrite it")
    if target.is_symlink() or not any((target / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise RequestError(
            str(target), "is not a Zarr store, and is not overwritten", "choose another name, or remove it"
        )


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A temporary name beside `target`, which takes its place when the block ends well, else is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target)
    name = f".{target.name}.{socket.gethostname()}.{os.getpid()}"
    building, old = target.with_name(f"{name}.tmp"), target.with_name(f"{name}.old.tmp")
    try:
        yield building
        if target.exists():
            os.replace(target, old)
        os.replace(building, target)
    finally:
        for left in (building, old):
            if left.exists():
                shutil.rmtree(left)


def _clear(target: Path) -> None:
    """Remove what processes of this machine left that no longer run."""
    host = re.escape(socket.gethostname())
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{host}\.(\d+)(\.old)?\.tmp")
    for path in target.parent.iterdir():
        found = pattern.fullmatch(path.name)
        if found and (int(found[1]) == os.getpid() or not psutil.pid_exists(int(found[1]))):
            shutil.rmtree(path)
