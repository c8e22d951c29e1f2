"""The white cells of a smear called one by one, and what the rows of all cells come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError
from coverslip.models.cell_caller import BATCH, CellCaller
from coverslip.workflows.rules.differential import ERYTHROBLASTS, PLATELETS, reported
from coverslip.workflows.rules.guideline import Guideline
from coverslip.wsi import Field, Size, Slide

WHITE, RED, SCHISTOCYTES = "white", "red", "schistocytes"
UNSURE = "unsure"
KIND, CALL, STRANGE, UNDECIDED = "kind", "call", "strange", "undecided"


def roles_of(classes: Sequence[str], names: Guideline, subject: str) -> dict[str, str]:
    """What each class of a finder or model is reported as.

    Raises ModelMismatchError for one that the names do not know: it would be counted as nothing.
    """
    found = {name: reported(name, names) for name in classes}
    unknown = [name for name, role in found.items() if role is None]
    if unknown:
        raise ModelMismatchError(
            subject,
            f"has classes that mean nothing to {names.id}: {', '.join(unknown)}",
            "name them in a copy of that file, and give it as the setting names",
        )
    return {name: role for name, role in found.items() if role is not None}


def wrong_calls(confusion: Sequence[Sequence[int]], roles: Mapping[str, str]) -> dict[str, str]:
    """Of each reported name, which other cells a model took for it when it was tested, in words.

    `confusion`: rows are the true class, columns the called one, in the order of `roles`.
    """
    names = list(roles.values())
    said = {}
    for called in dict.fromkeys(names):
        taken = []
        for true in dict.fromkeys(names):
            rows = [row for row, name in zip(confusion, names, strict=True) if name == true]
            wrong = sum(row[at] for row in rows for at, name in enumerate(names) if name == called)
            if true != called and wrong:
                taken.append(f"{wrong} of {sum(map(sum, rows))} {true}")
        if taken:
            said[called] = f"of cells it was tested on, the model called so {', '.join(taken)}"
    return said


def add_calls(
    table: pa.Table, slide: Slide, caller: CellCaller, kinds: Mapping[str, str], roles: Mapping[str, str]
) -> pa.Table:
    """The rows of cells with what each is.

    `table`: `class` of a finder, `x`, `y` in level-0 pixels. Added: `kind`, by `kinds`; of white cells also
    `p_` and each class of the caller, `strange`, `undecided`, and `call`: by `roles`, or "unsure" where
    either holds; of others NaN, False and "". Each white cell is read by itself, so that no tile decides on
    it.
    """
    kind = np.array([kinds[name] for name in table["class"].to_pylist()], object)
    rows = np.flatnonzero(kind == WHITE)
    x, y = (table[name].to_numpy()[rows] for name in ("x", "y"))
    found = [
        caller.call_tiles(cell_tiles(slide, caller, x[part], y[part]))
        for part in (slice(start, start + BATCH) for start in range(0, max(len(rows), 1), BATCH))
    ]
    probabilities = np.concatenate([called.probabilities for called in found])
    strange = np.concatenate([called.strange for called in found])
    undecided = np.concatenate([called.undecided for called in found])
    best = [roles[caller.classes[number]] for number in probabilities.argmax(axis=1).tolist()]
    calls = [UNSURE if doubt else name for doubt, name in zip(strange | undecided, best, strict=True)]
    columns = {KIND: pa.array(kind.tolist(), pa.string())}
    for number, name in enumerate(caller.classes):
        columns[f"p_{name}"] = pa.array(_at(rows, probabilities[:, number], len(table), np.nan))
    columns[STRANGE] = pa.array(_at(rows, strange, len(table), False))
    columns[UNDECIDED] = pa.array(_at(rows, undecided, len(table), False))
    columns[CALL] = pa.array(_at(rows, np.array(calls, object), len(table), "").tolist(), pa.string())
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _at(rows: NDArray[np.intp], values: NDArray, n: int, elsewhere: Any) -> NDArray:
    """The values at these of `n` rows. Elsewhere no null: parts of a run are compared by their bytes."""
    column = np.full(n, elsewhere, values.dtype)
    column[rows] = values
    return column


def cell_tiles(
    slide: Slide, caller: CellCaller, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Tiles uint8 (n, size, size, 3) of a caller about places in level-0 pixels."""
    tile = caller.document.tile
    size = Size(tile.size, tile.size)
    width, height = Field(0, 0, size, tile.mpp).extent(slide.mpp)
    tiles = np.empty((len(x), tile.size, tile.size, 3), np.uint8)
    for pixels, left, top in zip(tiles, x - width / 2, y - height / 2, strict=True):
        pixels[:] = slide.read_field(Field(float(left), float(top), size, tile.mpp)).rgb
    return tiles


@dataclass(frozen=True, eq=False)
class SmearCells:
    """The rows of all cells of a smear, as `add_calls` leaves them. `classes`: the caller's."""

    table: pa.Table
    classes: tuple[str, ...]

    @cached_property
    def kind(self) -> NDArray:
        return np.array(self.table[KIND].to_pylist(), object)

    @cached_property
    def call(self) -> NDArray:
        """Of white cells; "" of others."""
        return np.array(self.table[CALL].to_pylist(), object)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(n, classes); NaN of what is no white cell."""
        columns = [self.table[f"p_{name}"].to_numpy() for name in self.classes]
        return np.stack(columns, axis=1).astype(np.float64)

    @property
    def white(self) -> int:
        """Candidates, whatever they were called."""
        return int((self.kind == WHITE).sum())

    @property
    def red(self) -> int:
        """With the schistocytes among them."""
        return int(np.isin(self.kind, (RED, SCHISTOCYTES)).sum())

    @property
    def schistocytes(self) -> int:
        return int((self.kind == SCHISTOCYTES).sum())

    @property
    def unsure(self) -> int:
        return int((self.call == UNSURE).sum())

    @cached_property
    def platelets(self) -> NDArray[np.bool_]:
        """Found as such, or large enough to be looked at as a white cell and called so."""
        return (self.kind == PLATELETS) | (self.call == PLATELETS)

    @cached_property
    def leukocytes(self) -> NDArray[np.bool_]:
        """White cells, less those that were called platelets or erythroblasts; the unsure among them."""
        return (self.kind == WHITE) & ~np.isin(self.call, (PLATELETS, ERYTHROBLASTS))

    def counts(self, names: Sequence[str]) -> dict[str, int]:
        """White cells by what they are reported as."""
        return {name: int((self.call == name).sum()) for name in names}
