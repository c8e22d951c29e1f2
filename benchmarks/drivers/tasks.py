"""The tasks of one slide, one after the other in one thread, and what each costs in CPU seconds.

SLIDE MODEL FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from coverslip import RunSettings, SupplySettings, open_slide, supply, tile_classes
from coverslip.atomic import discard
from coverslip.workflows import steps
from coverslip.workflows.clock import now
from coverslip.workflows.conclude import finish
from coverslip.workflows.run import plan_run


def spent(task: Callable[[], object]) -> float:
    began = time.process_time()
    task()
    return time.process_time() - began


def main() -> None:
    path, model, folder = sys.argv[1:4]
    workflow = tile_classes(model)
    job = plan_run([path], Path(folder), workflow, RunSettings(), None, None).jobs[0]
    prepared = steps.prepare(job, now())
    slide = open_slide(path)
    layout = steps.layout_of(job, prepared)
    # The network is loaded with the first tiles; that is the worker's start, not the task.
    workflow.score(slide, layout.plan, layout.tissue, range(1))
    start_s = time.process_time()
    discard(job.parts)
    steps.let_go(job, prepared)
    found = {
        "start_s": start_s,
        "prepare_s": spent(lambda: steps.prepare(job, now())),
        "score_s": [spent(lambda n=n: steps.score(job, prepared, n)) for n in range(prepared.shares)],
        "copy_s": [spent(lambda n=n: steps.copy(job, prepared, n)) for n in range(prepared.copies)],
        "finish_s": spent(lambda: finish(job, prepared)),
        "decode_s": spent(lambda: sum(map(len, supply(slide, layout.plan, rows(layout.plan), SETTINGS)))),
        "tiles": prepared.tiles,
    }
    print(json.dumps(found))


def rows(plan) -> range:
    return range(len(plan))


SETTINGS = SupplySettings(batch=32)

if __name__ == "__main__":
    main()
