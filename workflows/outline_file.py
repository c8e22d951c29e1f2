"""Outlines of a table of cells, read a few thousand at a time: a million of them are 128 MB."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.errors import StoreIncompleteError

COLUMN = "outline"
# Rows read together: what a screen shows at 1:1, about 0.5 MB; neighbours in the table lie near each other.
GROUP_ROWS = 8192
# Of a table with larger groups the outlines are copied, unpacked, to a temporary file.
LARGEST_GROUP = 4 * GROUP_ROWS
CACHE_BYTES = 64 << 20

# First number of each outline in the group, and one more; the numbers.
Group = tuple[NDArray[np.int64], NDArray[np.int16]]


class OutlineFile:
    """The column `outline` of a `cells.parquet`; see `coverslip.workflows.cell_table`. Safe for threads.

    Nothing but the file's footer is read until outlines are asked for; not more than `CACHE_BYTES` are kept.
    """

    def __init__(self, file: Path):
        self._file, self._lock = file, threading.RLock()
        self._parquet: pq.ParquetFile | None = None
        self._first = np.zeros(1, np.int64)
        self._groups: OrderedDict[int, Group] = OrderedDict()
        self._bytes = 0

    def of(self, rows: NDArray[np.integer]) -> list[NDArray[np.int16]]:
        """Of each row points (k, 2), x, y, in eighths of a level-0 pixel from the cell's centre.

        Raises StoreIncompleteError where the file is no table of outlines any more.
        """
        with self._lock:
            try:
                first = self._open()
                groups = np.searchsorted(first, rows, side="right") - 1
                return [
                    self._one(int(group), int(row - first[group]))
                    for group, row in zip(groups, rows, strict=True)
                ]
            except (pa.ArrowInvalid, OSError, KeyError) as error:
                raise StoreIncompleteError(
                    str(self._file), f"its outlines cannot be read ({error})", "run the workflow again"
                ) from error

    @property
    def bytes(self) -> int:
        """What is kept in memory."""
        return self._bytes

    def _one(self, group: int, row: int) -> NDArray[np.int16]:
        starts, numbers = self._group(group)
        return numbers[starts[row] : starts[row + 1]].reshape(-1, 2)

    def _open(self) -> NDArray[np.int64]:
        """The first row of each group, and the number of rows."""
        if self._parquet is None:
            parquet = pq.ParquetFile(self._file)
            counts = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
            if max(counts, default=0) > LARGEST_GROUP:
                self._groups[0], counts = self._spilled(parquet), [sum(counts)]
            self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            self._parquet = parquet
        return self._first

    def _spilled(self, parquet: pq.ParquetFile) -> Group:
        """All outlines as one group, its numbers in a temporary file: memory holds what was looked at."""
        folder = tempfile.mkdtemp(prefix="coverslip-outlines-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        copy, lengths = Path(folder) / "outlines", []
        with copy.open("wb") as file:
            for batch in parquet.iter_batches(LARGEST_GROUP, columns=[COLUMN], use_threads=False):
                starts, numbers = _numbers(batch.column(0))
                lengths.append(np.diff(starts))
                numbers.tofile(file)
        starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        empty = np.empty(0, np.int16)
        return starts, np.memmap(copy, np.int16, "r") if starts[-1] else empty

    def _group(self, number: int) -> Group:
        if number in self._groups:
            self._groups.move_to_end(number)
            return self._groups[number]
        assert self._parquet is not None
        column = self._parquet.read_row_group(number, columns=[COLUMN])[COLUMN].combine_chunks()
        starts, flat = _numbers(column)
        self._groups[number] = starts, flat
        self._bytes += starts.nbytes + flat.nbytes
        while self._bytes > CACHE_BYTES and len(self._groups) > 1:
            self._bytes -= sum(part.nbytes for part in self._groups.popitem(last=False)[1])
        return self._groups[number]


def _numbers(column: pa.ListArray) -> Group:
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.int16, copy=False)
    lengths = np.asarray(column.value_lengths().fill_null(0), np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]), flat
