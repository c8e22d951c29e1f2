"""What one call costs: its own CPU and wall seconds, without the interpreter's start and the imports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable


def report(call: Callable[[], float]) -> None:
    """Run `call`, which gives back how many units of work it did, and print the figures as one JSON line.

    CPU seconds are user + system of all threads of this process.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    units = call()
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "units": units}
    print(json.dumps(spent), flush=True)
