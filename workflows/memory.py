"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Return what the C library keeps of freed memory; does nothing where it is not glibc.

    glibc keeps freed blocks in a pool per thread, and tasks of different kinds, each with buffers of tens of
    megabytes, would leave every worker thread with the largest of each kind
    (https://distributed.dask.org/en/stable/worker-memory.html, "Memory not released back to the OS").
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
