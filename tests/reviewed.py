"""Small real results to review: of drawn nuclei on drawn tissue, made as a run makes them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scenes import write_slide

from coverslip.workflows.batch import BatchReport, start
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.job import Job, RunSettings
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Correction, Exclude, Relabel
from coverslip.workflows.worklist import write_worklist
from coverslip.wsi import SlideRef

NAME = "a.tif"
SQUARE = {"type": "Polygon", "coordinates": [[[10, 10], [200, 10], [200, 200], [10, 200], [10, 10]]]}


def first_cells(count: int, label: str = "3+", start: int = 0) -> Relabel:
    return Relabel(of="cells", rows=tuple(range(start, start + count)), label=label, why="clearly so")


def excluded(name: str = "fold") -> Correction:
    return Exclude(id=name, geometry=SQUARE, why="folded")


def picture(side: int = 768, seed: int = 0, step: int = 36):
    """Pale tissue with blue nuclei, a third of them brown; glass around."""
    rng = np.random.default_rng(seed)
    rgb = np.full((side, side, 3), (243, 243, 244), np.float64)
    rgb[32:-32, 32:-32] = (226, 205, 220)
    for y in range(64, side - 64, step):
        for x in range(64, side - 64, step):
            colour = (105, 65, 40) if rng.random() < 1 / 3 else (95, 95, 160)
            cv2.circle(rgb, (x, y), int(rng.integers(7, 10)), colour, -1, cv2.LINE_AA)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def write_run(out: Path, seed: int = 0) -> Path:
    """A run of `ihc` over one slide into `out`, with its worklist; the result's folder."""
    slide = out.parent / f"slides-of-{out.name}" / NAME
    slide.parent.mkdir(parents=True, exist_ok=True)
    write_slide(slide, picture(seed=seed))
    job = Job(NAME, SlideRef(str(slide), None), str(out / "slides" / NAME), Ihc(), RunSettings(pyramid=None))
    result = start(job, "2030-01-01T00:00:00Z")
    assert isinstance(result, SlideResult)
    write_worklist(out, [job], BatchReport((result,), ()))
    return job.home
