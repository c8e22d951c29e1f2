"""What a process holds of memory it has freed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Sixteen threads at a time, each in its turn: 24 MB taken and freed, beside small things that stay. A thread
# that has ended leaves its pool to the next, so none ends before all have begun.
FREED = """
import sys, threading
import numpy as np
from coverslip.workflows.memory import share_pools

if sys.argv[1] == "shared":
    share_pools()
np.ones(31 << 20, np.uint8)
kept, turn, together = [], threading.Lock(), threading.Barrier(16)

def work():
    together.wait()
    with turn:
        buffer = np.ones(24 << 20, np.uint8)
        kept.append(bytearray(100))
        del buffer
        kept.append(bytearray(100))
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("RssAnon")))
"""

# The C library's settings of whoever began the tests would hold for both.
UNTUNED = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("MALLOC_") and name not in {"GLIBC_TUNABLES", "LD_PRELOAD"}
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps a pool for each thread")
@pytest.mark.skipif(
    (os.cpu_count() or 1) > 6, reason="sixteen threads are too few to differ on so many cores"
)
def test_freed_memory_is_not_kept_by_each_thread():
    shared, own = (
        int(
            subprocess.run(
                [sys.executable, "-c", FREED, pools], env=UNTUNED, capture_output=True, check=True
            ).stdout
        )
        for pools in ("shared", "own")
    )
    assert shared < 60 + 24 * max(2, os.cpu_count() or 2)
    if own < 60 + 24 * 4:
        pytest.skip(f"this C library gives freed memory back by itself: sixteen threads keep {own} MB")
    assert own > shared + 24 * 4
