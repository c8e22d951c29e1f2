"""Byte ranges of a file or URL, neighbours fetched together."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from coverslip.errors import UnsupportedSlideError

# What lies between two ranges is read too when it is no more than this: cheaper than another request.
LOCAL_GAP = 1 << 12
REMOTE_GAP = 1 << 18
# One read, and one answer of a server, are no larger than this unless a single range is.
LARGEST_READ = 1 << 23


class Ranges(Protocol):
    """Safe to use from several threads."""

    def read(self, offsets: Sequence[int], counts: Sequence[int]) -> list[memoryview]:
        """The bytes of each range, in the order given. Raises OSError when one reaches past the end."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Ranges that are read at once: `start` to `stop` in the file, and which of the ranges lie in it."""

    start: int
    stop: int
    members: tuple[int, ...]


def coalesce(
    offsets: Sequence[int], counts: Sequence[int], gap: int, largest: int = LARGEST_READ
) -> list[Run]:
    """Ranges in as few runs as the gaps allow, in file order.

    >>> coalesce([0, 100, 12], [10, 5, 8], gap=4)
    [Run(start=0, stop=20, members=(0, 2)), Run(start=100, stop=105, members=(1,))]
    """
    runs: list[Run] = []
    members: list[int] = []
    begin = end = 0
    for n in sorted(range(len(offsets)), key=offsets.__getitem__):
        start, stop = offsets[n], offsets[n] + counts[n]
        if members and (start - end > gap or max(stop, end) - begin > largest):
            runs.append(Run(begin, end, tuple(members)))
            members = []
        if not members:
            begin, end = start, stop
        members.append(n)
        end = max(end, stop)
    return [*runs, Run(begin, end, tuple(members))] if members else runs


def _cut(
    runs: Sequence[Run], data: Sequence[bytes], offsets: Sequence[int], counts: Sequence[int]
) -> list[memoryview]:
    found: list[memoryview] = [memoryview(b"")] * len(offsets)
    for run, block in zip(runs, data, strict=True):
        if len(block) != run.stop - run.start:
            raise OSError(f"{len(block)} of {run.stop - run.start} bytes at {run.start}")
        view = memoryview(block)
        for n in run.members:
            found[n] = view[offsets[n] - run.start : offsets[n] - run.start + counts[n]]
    return found


class LocalRanges:
    """Of a file on disk, kept open."""

    def __init__(self, path: str):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 — closed by `close`
        self._lock = threading.Lock()

    def read(self, offsets: Sequence[int], counts: Sequence[int]) -> list[memoryview]:
        runs = coalesce(offsets, counts, LOCAL_GAP)
        return _cut(runs, [self._read(run.start, run.stop - run.start) for run in runs], offsets, counts)

    def _read(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(count)

    def close(self) -> None:
        self._file.close()


class RemoteRanges:
    """Of a URL, through fsspec."""

    def __init__(self, url: str):
        import fsspec

        try:
            self._fs, self._path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UnsupportedSlideError(
                url, f"its store needs a package ({error})", "pip install 'coverslip[remote]' or download it"
            ) from error

    def read(self, offsets: Sequence[int], counts: Sequence[int]) -> list[memoryview]:
        runs = coalesce(offsets, counts, REMOTE_GAP)
        paths = [self._path] * len(runs)
        data = self._fs.cat_ranges(paths, [run.start for run in runs], [run.stop for run in runs])
        for error in data:
            if isinstance(error, Exception):  # so fsspec hands them on, each store its own
                raise OSError(str(error)) from error
        return _cut(runs, data, offsets, counts)

    def close(self) -> None:
        """The file system is fsspec's own, shared and kept."""


def open_ranges(path: str) -> Ranges:
    """Raises OSError, or UnsupportedSlideError for a URL whose protocol needs a package."""
    return RemoteRanges(path) if "://" in path else LocalRanges(path)


class OpenFiles:
    """The files and URLs of one slide that hold stored tiles, opened when first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranges: dict[str, Ranges] = {}

    def of(self, path: str) -> Ranges:
        """Raises OSError, or UnsupportedSlideError for a URL whose protocol needs a package."""
        with self._lock:
            if path not in self._ranges:
                self._ranges[path] = open_ranges(path)
            return self._ranges[path]

    def close(self) -> None:
        with self._lock:
            for ranges in self._ranges.values():
                ranges.close()
            self._ranges.clear()
