"""The worklist of a run as a table: a line per slide, those that want somebody first."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.errors import StoreIncompleteError, StoreVersionError
from coverslip.workflows.result import Urgency

SCHEMA = "coverslip.worklist/3"
# Of 2 the columns of signing are missing.
READ = (b"coverslip.worklist/2", SCHEMA.encode())
WORKLIST = "worklist"


@dataclass(frozen=True, slots=True)
class Line:
    """One slide. `urgency`: its place in the list, `triage` its place within; None is not known.

    `finished`: UTC, ISO 8601; `seconds`: since it was begun, its waiting for others with it. These two are
    all that differs when the run is repeated.

    `signed_by`, `signed_call`: of the last signature of each reviewer, "; " between them; `signed_at`: of the
    last of all; `signed_report`: that one's. `review_state`: see `coverslip.workflows.review.state`.
    """

    id: str
    path: str
    case: str | None
    workflow: str
    status: str
    summary: str
    tissue_mm2: float | None
    damaged_fraction: float | None
    result: str | None
    report: str | None
    urgency: Urgency
    call: str | None
    confidence: float | None
    triage: float | None
    code: str | None
    evaluable_mm2: float | None
    not_answered: str | None
    finished: str | None
    seconds: float | None
    signed_by: str | None = None
    signed_at: str | None = None
    signed_call: str | None = None
    review_state: str = "none"
    signed_report: str | None = None

    @property
    def signed_link(self) -> str | None:
        return quote(self.signed_report) if self.signed_report else None

    @property
    def link(self) -> str | None:
        """The report's address: a name may hold whatever a file name may."""
        return quote(self.report) if self.report else None

    @property
    def quality(self) -> str:
        """In a few words, for the list."""
        if self.tissue_mm2 is None:
            return ""
        evaluable = "" if self.evaluable_mm2 is None else f", {self.evaluable_mm2:.3g} evaluable"
        damage = f", {self.damaged_fraction:.1%} damaged" if self.damaged_fraction else ""
        return f"{self.tissue_mm2:.3g} mm² tissue{evaluable}{damage}"


TYPES = {"tissue_mm2", "damaged_fraction", "confidence", "triage", "evaluable_mm2", "seconds"}
TABLE = pa.schema(
    [(field.name, pa.float64() if field.name in TYPES else pa.string()) for field in fields(Line)]
)


def read_worklist(out: Path) -> tuple[Line, ...]:
    """The lines in their order; () where there is no worklist. Raises StoreIncompleteError for one that
    cannot be read, StoreVersionError for one of another version."""
    path = out / f"{WORKLIST}.parquet"
    if not path.is_file():
        return ()
    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreIncompleteError(str(path), "cannot be read", "run again: it is written anew") from error
    if (table.schema.metadata or {}).get(b"schema") not in READ:
        raise StoreVersionError(str(path), "is of another version", "run again: it is written anew")
    return tuple(Line(**row) for row in table.to_pylist())
