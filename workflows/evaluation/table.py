"""A table of a csv or Parquet file, as text, with its columns named by what they mean."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.errors import RequestError

# What a column means → the names it goes by, the first of which is there being taken.
NAMES = {
    "slide": ("slide", "id", "slide_id", "wsi", "file", "filename"),
    "group": ("group", "patient", "patient_id", "case", "case_id"),
    "truth": ("truth", "label"),
    "prediction": ("prediction", "call", "category"),
    "score": ("score", "probability", "prob"),
    "confidence": ("confidence",),
    "why": ("why", "reason", "status"),
    "lesions": ("lesions", "mask"),
    "x": ("x",),
    "y": ("y",),
}
OF_CALLS = ("slide", "group", "truth", "prediction", "score", "confidence", "why")
WHOLE = re.compile(r"([+-]?\d+)\.0*")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as written, "" where a cell is empty; names of columns in the file's order."""

    path: Path
    names: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def column(self, meaning: str) -> str | None:
        """The column that means this, by `NAMES`, whatever its case; None where there is none."""
        by_lower = {name.strip().lower(): name for name in reversed(self.names)}
        return next((by_lower[name] for name in NAMES[meaning] if name in by_lower), None)

    def need(self, *meanings: str) -> None:
        """Raises RequestError where a column is missing."""
        missing = [meaning for meaning in meanings if self.column(meaning) is None]
        if missing:
            raise RequestError(
                str(self.path),
                f"lacks the column {' and '.join(missing)}; it has {', '.join(self.names) or 'none'}",
                "name a column so",
            )

    def cells(self, meaning: str) -> list[str]:
        """One text per row; all empty where there is no such column."""
        name = self.column(meaning)
        return [row[name] if name else "" for row in self.rows]

    def cells_of(self, name: str) -> list[str]:
        """Of the column with this very name. Raises RequestError where there is none."""
        if name not in self.names:
            raise RequestError(
                str(self.path), f"has no column {name}", f"name one of {', '.join(self.names)}"
            )
        return [row[name] for row in self.rows]

    @property
    def others(self) -> tuple[str, ...]:
        """Columns that say nothing else of a slide: those of classes are among them."""
        taken = {self.column(meaning) for meaning in OF_CALLS}
        return tuple(name for name in self.names if name not in taken)


def read_table(path: Path) -> Table:
    """A csv file in UTF-8, or Parquet by its ending. Raises RequestError for one that is none, or empty."""
    try:
        table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise RequestError(
            str(path), f"cannot be read ({error})", "give a csv file in UTF-8, or a Parquet file"
        ) from error
    if not table.rows:
        raise RequestError(str(path), "has no rows", "add a line per slide")
    return table


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        names = _distinct(path, next(reader, []))
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(names):
                    raise RequestError(
                        str(path),
                        f"line {reader.line_num} has {len(cells)} cells, and there are {len(names)} columns",
                        "mend this line",
                    )
                rows.append(dict(zip(names, (cell.strip() for cell in cells), strict=True)))
    return Table(path, names, tuple(rows))


def _distinct(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    found = tuple(name.strip() for name in names)
    if len(set(found)) < len(found):
        twice = ", ".join(sorted({name for name in found if found.count(name) > 1}))
        raise RequestError(str(path), f"has the column {twice} twice", "rename one of them")
    return found


def _read_parquet(path: Path) -> Table:
    table = pq.read_table(path)
    names = _distinct(path, table.column_names)
    rows = tuple({name: _text(row[name]) for name in names} for row in table.to_pylist())
    return Table(path, names, rows)


def _text(value: Any) -> str:
    """Empty for nothing and for NaN; numbers so that they read back alike."""
    return "" if value is None or value != value else str(value)


def label(text: str) -> str:
    """A class as written; whole numbers without decimals, which other programs add beside empty cells.

    >>> label("3.0"), label("3"), label("HSIL")
    ('3', '3', 'HSIL')
    """
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def numbers(subject: str, name: str, cells: Iterable[str]) -> list[float | None]:
    """One per cell, None where it is empty or says NaN. Raises RequestError naming every other one."""
    found, wrong = [], []
    for line, cell in enumerate(cells, 2):
        try:
            value = float(cell) if cell else None
        except ValueError:
            value, wrong = None, [*wrong, f"line {line}: {cell!r}"]
        if value is not None and abs(value) == float("inf"):
            wrong = [*wrong, f"line {line}: {cell!r}"]
        found.append(None if value is None or value != value else value)
    if wrong:
        listed = "; ".join(wrong[:10]) + ("; …" if len(wrong) > 10 else "")
        raise RequestError(subject, f"has no finite number in the column {name} ({listed})", "mend these")
    return found
