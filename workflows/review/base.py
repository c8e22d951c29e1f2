"""What the machine said of one slide, and all that its rules need to say it again. No pixels are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from coverslip.errors import RequestError, StoreIncompleteError, StoreVersionError
from coverslip.workflows.cell_table import OUTLINE
from coverslip.workflows.job import LAYOUT, RunSettings
from coverslip.workflows.layout import Layout, read_layout
from coverslip.workflows.outputs import RULES, read_result
from coverslip.workflows.registry import find_workflow
from coverslip.workflows.result import SlideResult
from coverslip.workflows.revision import TABLES, Objects
from coverslip.workflows.rules_file import read_rules
from coverslip.workflows.workflow import Derived, Grounds, Judge


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """One result. `cells`, `tiles`: its tables as they are on disk, without outlines (see `with_outlines`),
    None where it has none.

    `judge`: the rules as they were applied, None for a workflow whose rows nobody can correct. `layout`: its
    tissue and tiles; `settings`: of the run.
    """

    home: Path
    result: SlideResult
    cells: pa.Table | None
    tiles: pa.Table | None
    judge: Judge | None = None
    layout: Layout | None = None
    settings: RunSettings = field(default_factory=RunSettings)

    def table(self, of: Objects) -> pa.Table | None:
        return self.cells if of == "cells" else self.tiles

    @property
    def tables(self) -> dict[str, pa.Table]:
        """By the file's name."""
        found = {name: self.table(of) for of, name in TABLES.items()}
        return {name: table for name, table in found.items() if table is not None}

    @property
    def grounds(self) -> Grounds:
        """What the machine concluded on beside its rows."""
        assert self.layout is not None
        derived = Derived(self.result.provenance.derived, self.layout.regions)
        return Grounds(self.layout.plan, self.layout.tissue, derived)


def read_base(home: Path) -> Base:
    """The result in a folder, with its tables. Neither its slide nor its model need be there any more.

    Raises StoreIncompleteError for what is missing or altered, StoreVersionError for a result of a version
    that kept too little to be reviewed or whose rules this version does not read, RequestError where the
    package that brings its workflow is not installed.
    """
    result = read_result(home)
    if LAYOUT not in result.outputs:
        raise StoreVersionError(
            str(home),
            "was made by a version that kept too little to be reviewed",
            "run again with --overwrite",
        )
    settings = _settings(home, result.provenance.settings["run"])
    request = result.provenance.request
    return Base(
        home=home,
        result=result,
        cells=_table(home, result, "cells"),
        tiles=_table(home, result, "tiles"),
        judge=_judge(home, result),
        layout=read_layout(home / LAYOUT, request, settings.tissue),
        settings=settings,
    )


def _settings(home: Path, document: Any) -> RunSettings:
    try:
        return TypeAdapter(RunSettings).validate_python(document)
    except ValidationError as error:
        again = "run again with --overwrite"
        raise StoreVersionError(
            str(home), f"has settings this version does not read ({error})", again
        ) from error


def _judge(home: Path, result: SlideResult) -> Judge | None:
    if RULES not in result.outputs:
        return None
    kind = find_workflow(result.workflow).judge
    if kind is None:
        raise RequestError(
            f"workflow {result.workflow}",
            "does not say how its rules are read back",
            "install the version of its package that wrote the result",
        )
    return read_rules(home / RULES, kind)


def _table(home: Path, result: SlideResult, of: Objects) -> pa.Table | None:
    name = TABLES[of]
    if name not in result.outputs:
        return None
    return _columns(home / name, lambda columns: [one for one in columns if one != OUTLINE.name])


def with_outlines(base: Base, of: Objects) -> pa.Table | None:
    """A table of the result with the outlines of its rows, where it has them: of a million cells 130 MB.

    Raises StoreIncompleteError.
    """
    table, file = base.table(of), base.home / TABLES[of]
    if table is None or OUTLINE.name in table.column_names or not file.is_file():
        return table
    outlines = _columns(file, lambda columns: [one for one in columns if one == OUTLINE.name])
    if not outlines.num_columns:
        return table
    return table.append_column(outlines.schema.field(0), outlines.column(0))


def _columns(file: Path, wanted: Callable[[list[str]], list[str]]) -> pa.Table:
    try:
        # not read_table, whose import of pyarrow.dataset takes half a second
        with pq.ParquetFile(file) as parquet:
            return parquet.read(wanted(parquet.schema_arrow.names))
    except (OSError, pa.ArrowInvalid) as error:
        again = "run again with the same output folder: it makes what is not whole"
        raise StoreIncompleteError(str(file), f"cannot be read ({error})", again) from error
