"""What a worker keeps from task to task, and freed memory, given back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache, lru_cache
from typing import Generic, TypeVar

# It goes through all memory of the process, some 10 ms, with all threads waiting that want memory meanwhile.
SECONDS_BETWEEN_TRIMS = 1.0
# Of malloc.h.
M_ARENA_MAX = -8

V = TypeVar("V")


class Kept(Generic[V]):
    """Values by key, made when first asked for: once, however many threads ask at the same time.

    Together they weigh at most `limit`, in the unit of `weigh`: the least recently used go first, and a value
    heavier than the limit is not kept at all. Whoever holds a value that went may go on using it.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int]):
        self._limit, self._weigh = limit, weigh
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of that key, or what `make` gives; what it raises is raised, and nothing kept."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.making:
            if not entry.values:
                entry.values.append(self._made(key, entry, make))
            return entry.values[0]

    def forget(self, key: Hashable) -> None:
        """Let go of a value; does nothing where there is none."""
        with self._lock:
            self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)

    def _made(self, key: Hashable, entry: _Entry[V], make: Callable[[], V]) -> V:
        try:
            value = make()
            entry.weight = self._weigh(value)
        except BaseException:
            self.forget(key)
            raise
        with self._lock:
            self._trim()
        return value

    def _trim(self) -> None:
        heavy = [key for key, entry in self._entries.items() if entry.weight > self._limit]
        for key in heavy:
            del self._entries[key]
        while sum(entry.weight for entry in self._entries.values()) > self._limit:
            self._entries.popitem(last=False)


class _Entry(Generic[V]):
    """A value, or the one being made: `values` holds one or none."""

    def __init__(self) -> None:
        self.making = threading.Lock()
        self.values: list[V] = []
        self.weight = 0


def give_back() -> None:
    """Return what the C library keeps of freed memory; does nothing where it is not glibc, or was just done.

    glibc keeps freed blocks in a pool per thread, and tasks of different kinds, each with buffers of tens of
    megabytes, would leave every worker thread with the largest of each kind
    (https://distributed.dask.org/en/stable/worker-memory.html, "Memory not released back to the OS").
    """
    _give_back(int(time.monotonic() / SECONDS_BETWEEN_TRIMS))


@lru_cache(maxsize=1)
def _give_back(interval: int) -> None:
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def share_pools() -> None:
    """Have the C library keep no more pools of memory than there are cores; nothing where it is not glibc.

    By itself it begins one for each new thread, up to eight per core, and each keeps the end of what its
    largest buffers took: of a process with twenty threads hundreds of megabytes, more by the minute. Pools
    that are there stay, so this is for the beginning (mallopt(3), M_ARENA_MAX).
    """
    set_option = _of_the_c_library("mallopt")
    if set_option is not None:
        set_option(M_ARENA_MAX, max(2, os.cpu_count() or 2))


@cache
def _of_the_c_library(name: str) -> ctypes._NamedFuncPointer | None:
    """A function that only glibc has."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
