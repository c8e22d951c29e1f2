"""A folder at scale: tasks that do not grow with slides, workers that do not wait, memory that is bounded."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slides import tissue, write_svs, write_tiff

from coverslip.errors import StoreIncompleteError
from coverslip.tiling.plan import LARGEST_PLAN
from coverslip.workflows import layout, steps
from coverslip.workflows.batch import run_jobs
from coverslip.workflows.clock import now
from coverslip.workflows.cluster import connected
from coverslip.workflows.conclude import finish
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.job import Job, RunSettings, stored_bytes
from coverslip.workflows.memory import Kept
from coverslip.workflows.outputs import digests
from coverslip.workflows.progress import Silent
from coverslip.workflows.run import plan_run
from coverslip.workflows.steps import MOST_TASKS, Prepared, per_task


@given(tiles=st.integers(0, LARGEST_PLAN), shard=st.sampled_from([1, 8, 128, 4096]))
def test_tasks_of_a_slide_are_few_and_score_each_tile_once(tiles: int, shard: int) -> None:
    prepared = Prepared("request", now(), "sha256:0", tiles, per_task(tiles, shard))
    assert prepared.shares <= MOST_TASKS
    assert prepared.share % shard == 0
    ranges = [prepared.rows(number) for number in range(prepared.shares)]
    assert all(len(rows) > 0 for rows in ranges)
    assert [0, *(rows.stop for rows in ranges)] == [*(rows.start for rows in ranges), tiles]


def test_what_a_task_is_sent_does_not_grow_with_the_slide() -> None:
    small = Prepared("request", now(), "sha256:0", 10, per_task(10, 128), 1)
    large = Prepared("request", now(), "sha256:0", LARGEST_PLAN, per_task(LARGEST_PLAN, 128), MOST_TASKS)
    assert len(pickle.dumps(large)) <= len(pickle.dumps(small)) + 16


def jobs_of(folder: Path, out: Path) -> tuple[Job, ...]:
    return plan_run([str(folder)], out, Ihc(), RunSettings()).jobs


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_tiff(tmp_path / "in" / "a.tif", tissue(1536, 1100), 0.5, levels=2)
    return jobs_of(tmp_path / "in", tmp_path / "out")[0]


@pytest.fixture(autouse=True)
def folder_of_slides(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()


def test_a_layout_is_read_as_it_was_written(job: Job) -> None:
    with job.ref.open() as slide:
        found = layout.lay_out(job, slide)
        layout.write_layout(job.layout, found, "request")
        read = layout.read_layout(job.layout, "request", job.settings.tissue)
        with pytest.raises(StoreIncompleteError, match="missing or altered"):
            layout.read_layout(job.layout, "another request", job.settings.tissue)
    for one, other in ((found.tissue, read.tissue), (found.plan, read.plan)):
        for name in type(one).__slots__:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_another_worker_neither_finds_tissue_again_nor_reads_the_whole_file(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = steps.prepare(job, now())
    steps.let_go(job, prepared)  # as in a process that did not prepare it

    def again(*_: object) -> None:
        raise AssertionError("done again")

    for step in ("overview_of", "tissue_in", "judge_quality"):
        monkeypatch.setattr(layout, step, again)
    monkeypatch.setattr("coverslip.wsi.slide.file_sha256", again)
    assert steps.score(job, prepared, 0).tiles == len(prepared.rows(0))


def test_a_slide_begun_with_one_share_goes_on_with_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = steps.prepare(job, now())
    monkeypatch.setattr(steps, "shard_of", lambda job: 1)
    assert steps.prepare(job, now()).share == before.share


def test_what_a_killed_worker_left_half_written_is_not_in_the_result(job: Job) -> None:
    prepared = steps.prepare(job, now())
    for number in range(prepared.shares):
        steps.score(job, prepared, number)
    for number in range(prepared.copies):
        steps.copy(job, prepared, number)
    (job.store / "0" / ".0.17979.5266657f.tmp").write_bytes(b"half")
    (job.store / "labels" / ".0.1.tmp").mkdir()
    result = finish(job, prepared)
    assert not list(job.home.rglob(".*.tmp"))
    assert digests(job.home, list(result.outputs)) == result.outputs


class Weights:
    """Values that weigh what their key says, counted as they are made."""

    def __init__(self, limit: int):
        self.made: list[int] = []
        self.kept = Kept(limit, lambda value: value)

    def get(self, key: int) -> int:
        def make() -> int:
            self.made.append(key)
            return key

        return self.kept.get(key, make)


@given(st.integers(1, 30), st.lists(st.integers(1, 40)))
def test_what_is_kept_is_bounded_and_the_last_used(limit: int, keys: Sequence[int]) -> None:
    weights, model = Weights(limit), list[int]()
    for key in keys:
        made = len(weights.made)
        assert weights.get(key) == key
        assert (len(weights.made) == made) == (key in model)
        model = [*(other for other in model if other != key), key] if key <= limit else model
        while sum(model) > limit:
            model.pop(0)
        assert len(weights.kept) == len(model)


def test_many_threads_make_a_value_once() -> None:
    made, together = [], threading.Barrier(8)
    kept: Kept[int] = Kept(10, lambda value: 1)

    def ask(_: int) -> int:
        together.wait()
        return kept.get("key", lambda: made.append(1) or 7)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [7] * 8
    assert made == [1]


def test_a_value_that_cannot_be_made_is_asked_for_again() -> None:
    kept: Kept[int] = Kept(10, lambda value: 1)

    def fail() -> int:
        raise OSError("not now")

    with pytest.raises(OSError, match="not now"):
        kept.get("key", fail)
    assert kept.get("key", lambda: 3) == 3


def test_the_size_of_a_slide_counts_its_companion_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "a.mrxs").write_bytes(b"12345")
    (folder / "a").mkdir()
    (folder / "a" / "Data0000.dat").write_bytes(bytes(100))
    (folder / "b.svs").write_bytes(bytes(50))
    assert {job.id: stored_bytes(job) for job in jobs_of(folder, tmp_path / "out")} == {
        "a.mrxs": 105,
        "b.svs": 50,
    }


Task = tuple[str, float, float]


def watched(jobs: Sequence[Job], threads: int) -> dict[object, list[Task]]:
    """Run them; of each thread its tasks in order, as (step, start, end)."""
    from distributed import get_task_stream

    with connected(None, threads) as client, get_task_stream(client, plot=False) as stream:
        report = run_jobs(jobs, client, Silent(), jobs[0].home.parent.parent / "errors")
    assert not report.failures
    assert [result.slide.id for result in report.results] == [job.id for job in jobs]
    found: dict[object, list[Task]] = {}
    records: Any = stream.data
    for record in records:
        for part in record["startstops"]:
            if part["action"] == "compute":
                step = record["key"].partition("-")[0]
                found.setdefault(record["thread"], []).append((step, part["start"], part["stop"]))
    return {thread: sorted(tasks, key=lambda task: task[1]) for thread, tasks in found.items()}


@pytest.mark.slow
def test_no_thread_waits_while_another_slides_last_tasks_run(tmp_path: Path) -> None:
    """One large slide, two of several tasks, and small ones, in the order of their names the worst first."""
    folder = tmp_path / "in"
    for number in range(6):
        write_svs(folder / f"a{number}.svs", tissue(700, 640))
    for number in range(2):
        write_svs(folder / f"b{number}.svs", tissue(4096, 3072), levels=3)
    write_svs(folder / "c.svs", tissue(6144, 5120), levels=3)
    threads = watched(jobs_of(folder, tmp_path / "out"), 2)
    assert len(threads) == 2
    tasks = [task for row in threads.values() for task in row]
    first, last = min(task[1] for task in tasks), max(task[2] for task in tasks)
    busy = sum(end - start for _, start, end in tasks)
    assert busy >= 0.95 * 2 * (last - first)
    assert [step for step, _, _ in tasks].count("start") == 9
    # The large slides are over while there is still other work; what ends last is small.
    assert max(end for step, _, end in tasks if step == "finish") < last


def test_a_small_slide_is_one_task(tmp_path: Path) -> None:
    for number in range(3):
        write_svs(tmp_path / "in" / f"{number}.svs", tissue(600, 600))
    threads = watched(jobs_of(tmp_path / "in", tmp_path / "out"), 1)
    assert [step for row in threads.values() for step, _, _ in row] == ["start"] * 3
