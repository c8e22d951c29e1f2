"""Rows of a result's tables, read a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.errors import StoreIncompleteError

# Cells with their outlines: some ten megabytes.
AT_ONCE = 16_384


def read_rows(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The table's schema, and its rows in their order; no more than `AT_ONCE` are handed out at a time.

    `columns`: those to read, None for all. Raises StoreIncompleteError where the file is damaged.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreIncompleteError(str(path), f"is no table ({error})", "run again") from error
    return file.schema_arrow, _batches(file, columns)


def _batches(file: pq.ParquetFile, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    with file:
        yield from file.iter_batches(AT_ONCE, columns=None if columns is None else list(columns))


def distinct(path: Path, column: str) -> list[str]:
    """Its texts, sorted, without reading the other columns."""
    found: set[str] = set()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(AT_ONCE, columns=[column]):
            found.update(text for text in batch[0].unique().to_pylist() if text is not None)
    return sorted(found)


def is_figure(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
