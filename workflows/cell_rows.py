"""What a viewer needs of a table of cells: where each lies, how large it is, what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coverslip.errors import StoreIncompleteError
from coverslip.workflows.outline_file import COLUMN, OutlineFile

PLACES = ("x", "y")
AREA = "area_um2"
CLASS = "class"


@dataclass(frozen=True, slots=True, eq=False)
class CellRows:
    """The rows of `cells.parquet`, in its order.

    `x`, `y`: level-0 pixels, float64 (n,). `area_um2`: float32 (n,), None where the table has none.
    `names`: the classes in the table, as they first come; `classes`: int16 (n,), which of them, -1 for none.
    `outlines`: None where the table has none.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area_um2: NDArray[np.float32] | None
    names: tuple[str, ...]
    classes: NDArray[np.int16]
    outlines: OutlineFile | None = None

    def __len__(self) -> int:
        return len(self.x)


def read_cells(file: Path, table: pa.Table | None = None) -> CellRows:
    """Read all but the outlines: of a million cells 30 MB. `table`: its columns, where somebody read them.

    Raises StoreIncompleteError for a file that is no table of cells.
    """
    try:
        # not read_table, whose import of pyarrow.dataset takes half a second
        with pq.ParquetFile(file, read_dictionary=[CLASS]) as parquet:
            names = parquet.schema_arrow.names
            wanted = [name for name in (*PLACES, AREA, CLASS) if name in names]
            columns = parquet.read(wanted) if table is None else table
        x, y = (_numbers(columns[name], pa.float64()) for name in PLACES)
        classes, called = _classes(columns[CLASS])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, ValueError, OSError) as error:
        raise StoreIncompleteError(
            str(file), f"is no table of cells ({error})", "run the workflow again"
        ) from error
    area = _numbers(columns[AREA], pa.float32()) if AREA in names else None
    return CellRows(x, y, area, called, classes, OutlineFile(file) if COLUMN in names else None)


def _numbers(column: pa.ChunkedArray, type_: pa.DataType) -> NDArray:
    return _plain(column.cast(type_, safe=False).combine_chunks())


def _plain(numbers: pa.Array, missing: float = np.nan) -> NDArray:
    # fill_null and to_numpy import pandas, which takes a third of a second
    return np.from_dlpack(numbers.fill_null(missing) if numbers.null_count else numbers)


def _classes(column: pa.ChunkedArray) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    column = column.unify_dictionaries()
    if not len(column):
        return np.empty(0, np.int16), ()
    parts = [_plain(chunk.indices, -1) for chunk in column.chunks]
    return np.concatenate(parts).astype(np.int16), tuple(map(str, column.chunk(0).dictionary.to_pylist()))
