"""The files chunks go to: shards of Zarr v3, or a file for each chunk in Zarr v2. Whole or not at all.

zarr-python spends 0.6 ms on a chunk whatever it holds, more than many a chunk takes to be made. The bytes are
those of its own: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import google_crc32c
import numpy as np

from coverslip.atomic import discard, replacing
from coverslip.tiling.pyramid import PyramidPlan
from coverslip.wsi.geometry import Box

# In the index of a shard: a chunk that is not there.
ABSENT = np.iinfo(np.uint64).max
# Chunks are gathered to this and written at once; more would no longer lie in the processor's cache.
BUFFER = 1 << 17


class Chunks(Protocol):
    """Where the chunks of a region go, each at most once, in any order."""

    def put(self, row: int, column: int, *parts: bytes | memoryview) -> None:
        """`row`, `column`: of the chunk on the whole level's grid; `parts`: its bytes, one after another.

        A chunk that is not put is the fill value.
        """
        ...


@contextmanager
def open_chunks(store: str, plan: PyramidPlan, level: int, box: Box) -> Iterator[Chunks]:
    """For a region of that level: what was put is in the store once the block has ended well."""
    of = plan.levels[level]
    folder = Path(store, str(level))
    if plan.settings.ngff == "0.4":
        yield _Files(folder / "0")
        return
    path = folder / "c" / "0" / str(box.y // of.shard.height) / str(box.x // of.shard.width)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("wb", buffering=BUFFER) as file:
            shard = _Shard(file, of.per_shard, box.y // of.chunk.height, box.x // of.chunk.width)
            yield shard
            shard.finish()
        if shard.is_empty:
            path.unlink(missing_ok=True)
        else:
            os.replace(temporary, path)
    finally:
        discard(temporary)


class _Shard:
    """One file: its chunks, then the index with their offsets and lengths, then the index's checksum."""

    def __init__(self, file: BinaryIO, side: int, row: int, column: int):
        self._file, self._row, self._column = file, row, column
        self._index = np.full((side, side, 2), ABSENT, "<u8")
        self._end = 0

    @property
    def is_empty(self) -> bool:
        return not self._end

    def put(self, row: int, column: int, *parts: bytes | memoryview) -> None:
        count = sum(map(self._file.write, parts))
        self._index[row - self._row, column - self._column] = self._end, count
        self._end += count

    def finish(self) -> None:
        index = self._index.tobytes()
        self._file.write(index + google_crc32c.value(index).to_bytes(4, "little"))


class _Files:
    """A file for each chunk."""

    def __init__(self, folder: Path):
        self._folder = folder

    def put(self, row: int, column: int, *parts: bytes | memoryview) -> None:
        with replacing(self._folder / str(row) / str(column)) as temporary:
            temporary.write_bytes(b"".join(parts))
