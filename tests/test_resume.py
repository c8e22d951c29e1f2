"""Killed at any moment and run again, a run ends with the bytes of one that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import coverslip, start
from slides import tissue, write_tiff
from trees import contents

SEED = int(os.environ.get("COVERSLIP_KILL_SEED", "20260101"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_tiff(folder / "a.tif", tissue(3072, 2560), 0.5, levels=3)
    write_tiff(folder / "b.tif", tissue(2048, 2048), 0.25, levels=2)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Where a run left alone has written, and how long it took here."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    before = time.monotonic()
    done = coverslip("run", slides, "-o", out, "--workflow", "ihc", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return out, time.monotonic() - before


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2))
def test_a_killed_run_continues_to_the_same_bytes(
    slides: Path, undisturbed, tmp_path: Path, attempt: int
) -> None:
    whole, seconds = undisturbed
    chance = random.Random(SEED + attempt)
    out = tmp_path / "out"
    for _ in range(3):
        process = start("run", slides, "-o", out, "--workflow", "ihc", "--workers", 2)
        time.sleep(chance.uniform(0.15, 0.95) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = coverslip("run", slides, "-o", out, "--workflow", "ihc", "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_file_cut_off_after_the_run_is_made_again(slides: Path, undisturbed, tmp_path: Path) -> None:
    whole, _ = undisturbed
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    cells = out / "slides" / "a.tif" / "cells.parquet"
    cells.write_bytes(cells.read_bytes()[:1000])
    (out / "slides" / "b.tif" / "result.json").write_text('{"half": ')
    assert coverslip("run", slides, "-o", out, "--workflow", "ihc", "--workers", 2).returncode == 0
    assert contents(out) == contents(whole)
