"""The class of each row after corrections, as files show it: excluded rows keep theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.workflows.review.corrections import Correction, Objects, Relabel


@dataclass(frozen=True, slots=True, eq=False)
class RowClasses:
    """Classes of the rows of one table.

    `names`: of all classes. `machine`, `now`: (n,) int32 into `names`, -1 for none. `reason`: (n,) int32 into
    `reasons`, what was said when the row was last relabelled; -1 where nobody relabelled it.
    """

    names: tuple[str, ...]
    machine: NDArray[np.int32]
    now: NDArray[np.int32]
    reason: NDArray[np.int32]
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.machine)


def row_classes(table: pa.Table, corrections: tuple[Correction, ...], of: Objects) -> RowClasses:
    """Raises RequestError for a correction of rows that the table does not have."""
    names, machine = _machine(table)
    now, reason = machine.copy(), np.full(len(table), -1, np.int32)
    numbers, reasons = {name: number for number, name in enumerate(names)}, dict[str, int]()
    for one in corrections:
        if isinstance(one, Relabel) and one.of == of:
            if one.rows[-1] >= len(table):
                raise RequestError(f"{of} {one.rows[-1]}", f"is not among the {len(table)}", "see the result")
            rows = list(one.rows)
            now[rows] = numbers.setdefault(one.label, len(numbers))
            reason[rows] = reasons.setdefault(one.why, len(reasons))
    return RowClasses(tuple(numbers), machine, now, reason, tuple(reasons))


def _machine(table: pa.Table) -> tuple[list[str], NDArray[np.int32]]:
    if "class" not in table.column_names or not len(table):
        return [], np.full(len(table), -1, np.int32)
    column = table["class"].cast(pa.string()).combine_chunks().dictionary_encode()
    numbers = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return column.dictionary.to_pylist(), numbers
