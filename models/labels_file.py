"""A csv file that names files and their classes: its lines, and what is wrong with them."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import RequestError

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the csv; `number` as an editor counts it."""

    number: int
    file: str
    label: str
    group: str


def raise_problems(path: Path, problems: list[str]) -> None:
    """RequestError that lists them, where there are any."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise RequestError(
            str(path), f"has {count}: {'; '.join(problems[:SHOWN])}{more}", "mend or remove these lines"
        )


def read_rows(path: Path, group_column: str, noun: str) -> tuple[list[Row], str]:
    """The lines, and the sha256 of the file. `noun`: what a line names. Raises RequestError."""
    try:
        content = path.read_bytes()
        reader = csv.DictReader(content.decode("utf-8-sig").splitlines(), strict=True)
        _check_columns(path, list(reader.fieldnames or []), group_column)
        rows = [_row(reader.line_num, line, group_column) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(str(path), f"cannot be read ({error})", "give a csv file in UTF-8") from error
    if not rows:
        raise RequestError(str(path), f"names no {noun}", f"add a line per {noun}: file,label,group")
    return rows, hashlib.sha256(content).hexdigest()


def _check_columns(path: Path, columns: list[str], group_column: str) -> None:
    wanted = ["file", "label"] + [group_column] * (group_column != "group")
    if missing := [name for name in wanted if name not in columns]:
        raise RequestError(
            str(path),
            f"lacks the column {' and '.join(missing)}; it has {', '.join(columns) or 'none'}",
            "begin it with the line: file,label,group",
        )


def _row(number: int, line: dict[str, str | None], group_column: str) -> Row:
    file, label, group = ((line.get(name) or "").strip() for name in ("file", "label", group_column))
    return Row(number, file, label, group)


def check_rows(rows: list[Row], folder: Path, noun: str) -> list[str]:
    """What is wrong with them, a clause each; files are looked for, not opened."""
    problems = [f"line {row.number}: {problem}" for row in rows if (problem := check_row(row, folder))]
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(os.path.normpath(row.file), row)
        if first is not row and row.file:
            problems.append(f"line {row.number}: {row.file} is already on line {first.number}")
    labels = {row.label for row in rows}
    if len(labels) == 1:
        problems.append(f"all {noun}s are of the class {labels.pop()}, and a model needs two")
    grouped = sum(bool(row.group) for row in rows)
    if 0 < grouped < len(rows):
        problems.append(f"the group is empty on {len(rows) - grouped} of {len(rows)} lines")
    return problems


def check_row(row: Row, folder: Path) -> str | None:
    """What is wrong with one; None where nothing is."""
    if not row.file or not row.label:
        return f"the {'label' if row.file else 'file'} is empty"
    inside = os.path.normpath(row.file)
    if os.path.isabs(inside) or inside.startswith(".."):
        return f"{row.file} lies outside the folder of the csv file"
    return None if (folder / inside).is_file() else f"{row.file} is not there"


def numbered(names: Iterable[str | bytes]) -> NDArray[np.intp]:
    """Each name's number, in the order in which names first occur."""
    seen: dict[str | bytes, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], np.intp)
