"""Byte ranges of files and URLs: the bytes asked for, in few reads."""

from __future__ import annotations

import functools
import http.server
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import tissue, write_svs, write_tiff
from test_readers import RangeHandler
from vendors import write_ndpi

from coverslip.errors import UnsupportedSlideError
from coverslip.wsi import Box, open_slide
from coverslip.wsi.ranges import LARGEST_READ, REMOTE_GAP, LocalRanges, OpenFiles, coalesce, open_ranges

SPANS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 300)), max_size=30)


@given(spans=SPANS, gap=st.integers(0, 200), largest=st.integers(1, 1000))
@settings(max_examples=300, deadline=None)
def test_every_range_lies_in_one_run_and_runs_are_apart_or_full(spans, gap, largest):
    offsets, counts = [at for at, _ in spans], [count for _, count in spans]
    runs = coalesce(offsets, counts, gap, largest)
    assert sorted(n for run in runs for n in run.members) == list(range(len(spans)))
    for run in runs:
        assert all(run.start <= offsets[n] and offsets[n] + counts[n] <= run.stop for n in run.members)
        assert run.start == min(offsets[n] for n in run.members)
        assert run.stop == max(offsets[n] + counts[n] for n in run.members)
        assert run.stop - run.start <= largest or len(run.members) == 1 or _holds_one(run, offsets, counts)
    for one, two in itertools.pairwise(runs):
        assert one.start <= two.start
        longest = max(two.stop, one.stop) - one.start
        assert two.start - one.stop > gap or longest > largest


def _holds_one(run, offsets, counts) -> bool:
    """Whether one range alone is what makes the run too long."""
    return any(offsets[n] == run.start and offsets[n] + counts[n] == run.stop for n in run.members)


@given(spans=SPANS)
@settings(max_examples=100, deadline=None)
def test_the_bytes_are_those_of_the_file(tmp_path_factory, spans):
    path = tmp_path_factory.getbasetemp() / "bytes"
    whole = bytes(n * 7 % 251 for n in range(2400))
    path.write_bytes(whole)
    ranges = LocalRanges(str(path))
    found = ranges.read([at for at, _ in spans], [count for _, count in spans])
    ranges.close()
    assert found == [whole[at : at + count] for at, count in spans]


def test_what_reaches_past_the_end_is_an_error(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(bytes(100))
    ranges = LocalRanges(str(path))
    with pytest.raises(OSError, match="10 of 20 bytes at 90"):
        ranges.read([90], [20])
    with pytest.raises(OSError, match="Invalid argument"):
        ranges.read([-4], [2])
    ranges.close()


def test_threads_share_one_file(tmp_path):
    path = tmp_path / "bytes"
    whole = np.random.default_rng(0).bytes(1 << 20)
    path.write_bytes(whole)
    files = OpenFiles()
    starts = np.random.default_rng(1).integers(0, (1 << 20) - 999, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda at: files.of(str(path)).read([at], [999])[0], starts)
        assert all(data == whole[at : at + 999] for at, data in zip(starts, found, strict=True))
    files.close()


def test_a_store_that_needs_a_package_says_so():
    with pytest.raises(UnsupportedSlideError, match="pip install"):
        open_ranges("nosuchstore://bucket/a.svs")


# --- remote ------------------------------------------------------------------------------------------


class Counting(RangeHandler):
    """Notes the range of each request; answers 500 from `fail_from` on."""

    def do_GET(self) -> None:
        self.log.append(self.headers.get("Range", ""))
        if len(self.log) > self.fail_from[0]:
            self.send_error(500)
            return
        super().do_GET()

    def __init__(self, *args: object, log: list[str], fail_from: list[int], directory: str):
        self.log, self.fail_from = log, fail_from
        super().__init__(*args, directory=directory)  # pyright: ignore[reportArgumentType]


class Server:
    """`address` of the folder; `log` of requests since it was last cleared."""

    def __init__(self, folder: Path, httpd: http.server.ThreadingHTTPServer, log: list[str], fail: list[int]):
        self.folder, self.address = folder, f"http://127.0.0.1:{httpd.server_address[1]}"
        self.log, self._fail = log, fail

    def fail(self) -> None:
        self._fail[0] = 0


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    log: list[str] = []
    fail = [1 << 30]
    handler = functools.partial(Counting, log=log, fail_from=fail, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield Server(tmp_path, httpd, log, fail)
        httpd.shutdown()
        thread.join()


def test_64_neighbouring_tiles_take_few_requests(server):
    path = write_svs(server.folder / "a.svs", tissue(2304, 2304), tile=128)
    with open_slide(f"{server.address}/a.svs") as slide, open_slide(path) as local:
        stored = slide.stored(0)
        assert stored is not None
        server.log.clear()
        box = Box(256, 256, 1024, 1024)
        pixels = slide.read(0, box)
        assert (pixels.rgb == local.read(0, box).rgb).all()
        assert pixels.valid.all()
        rows, columns = stored.under(box)
        assert len(rows) * len(columns) == 64
        assert 1 <= len(server.log) <= 3
        asked = sum(last - first + 1 for first, last in map(parse, server.log))
        part = stored.counts[rows.start : rows.stop, columns.start : columns.stop]
        assert asked <= part.sum() + 64 * REMOTE_GAP
        assert all(last - first < LARGEST_READ for first, last in map(parse, server.log))


def parse(header: str) -> tuple[int, int]:
    first, last = header.removeprefix("bytes=").split("-")
    return int(first), int(last)


def test_distant_tiles_are_asked_for_side_by_side(server):
    """Noise compresses badly: rows of tiles lie further apart than a gap that is read over."""
    rgb = np.random.default_rng(0).integers(0, 256, (2048, 4096, 3), np.uint8)
    path = write_tiff(server.folder / "a.tiff", rgb, tile=256)
    with open_slide(f"{server.address}/a.tiff") as slide, open_slide(path) as local:
        server.log.clear()
        box = Box(0, 0, 256, 2048)
        assert (slide.read(0, box).rgb == local.read(0, box).rgb).all()
        stored = slide.stored(0)
        assert stored is not None
        assert len(server.log) == 8
        asked = sum(last - first + 1 for first, last in map(parse, server.log))
        assert asked == stored.counts[:, 0].sum()


def test_a_remote_ndpi_reads_as_the_local_one(server):
    path = write_ndpi(server.folder / "a.ndpi", tissue(1024, 768))
    with open_slide(f"{server.address}/a.ndpi") as slide, open_slide(path) as local:
        server.log.clear()
        box = Box(100, 100, 600, 500)
        assert (slide.read(0, box).rgb == local.read(0, box).rgb).all()
        assert len(server.log) == 1


def test_a_server_that_fails_gives_no_bytes(server):
    write_svs(server.folder / "a.svs", tissue(1024, 1024), tile=128)
    with open_slide(f"{server.address}/a.svs") as slide:
        server.fail()
        assert [len(data) for data in slide.fetch(0, [(0, 0), (7, 7)])] == [0, 0]


def test_what_is_gone_from_a_store_gives_no_bytes(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(512, 512))
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/ranges/a.tiff", path.read_bytes())
    with open_slide("memory://ranges/a.tiff") as slide:
        assert slide.fetch(0, [(0, 0)])[0]
        memory.rm("/ranges/a.tiff")
        assert not slide.fetch(0, [(0, 0)])[0]
