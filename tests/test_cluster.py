"""A real Dask cluster: a scheduler and two worker processes, spawned, one of them killed on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ENVIRONMENT, coverslip, start
from slides import tissue, write_tiff
from trees import contents


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """(address, worker processes)."""
    dask = [sys.executable, "-m", "dask"]
    log = tmp_path / "scheduler.log"
    with log.open("wb") as handle:
        scheduler = subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
            stderr=handle,
            stdout=handle,
            env=ENVIRONMENT,
            cwd=tmp_path,
        )
    address = _address(log, scheduler)
    workers = [
        subprocess.Popen(
            [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", f"w{n}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=tmp_path,
        )
        for n in range(2)
    ]
    try:
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def _address(log: Path, scheduler: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        found = re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found.group()
        assert scheduler.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_worker_processes_give_what_this_process_gives(cluster, tmp_path: Path) -> None:
    address, _ = cluster
    slide = write_tiff(tmp_path / "a.tif", tissue(2048, 1536), 0.5, levels=2)
    here = coverslip("run", slide, "-o", tmp_path / "here", "--workflow", "ihc", "--workers", 1)
    there = coverslip("run", slide, "-o", tmp_path / "there", "--workflow", "ihc", "--scheduler", address)
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    assert contents(tmp_path / "here" / "slides") == contents(tmp_path / "there" / "slides")


@pytest.mark.slow
def test_a_worker_killed_on_the_way_costs_only_its_shard(cluster, tmp_path: Path) -> None:
    address, workers = cluster
    slide = write_tiff(tmp_path / "a.tif", tissue(5120, 4096), 0.5, levels=3)
    out = tmp_path / "out"
    process = start("run", slide, "-o", out, "--workflow", "ihc", "--scheduler", address)
    parts = out / "slides" / "a.tif" / ".parts"
    for _ in range(1200):
        if list(parts.glob("shard-*.parquet")) or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, "the run ended before a worker could be killed"
    os.kill(workers[0].pid, signal.SIGKILL)
    assert process.wait(timeout=600) == 0
    alone = coverslip("run", slide, "-o", tmp_path / "alone", "--workflow", "ihc", "--workers", 1)
    assert alone.returncode == 0
    assert contents(out / "slides") == contents(tmp_path / "alone" / "slides")
