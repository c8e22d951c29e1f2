"""A review queue: tiles and cells in the order in which a person should look at them, and its file.

JSON with a schema of its own name and version (`coverslip.review-queue`, 1). It names the results whose rows
it lists by the digest that their reviews name, so that rows are never taken from another run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from coverslip.errors import RequestError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.workflows.files import write_json
from coverslip.workflows.outputs import RESULT, read_result
from coverslip.workflows.result import Share, Value
from coverslip.workflows.review.corrections import Objects
from coverslip.workflows.review.machine import machine_digest

SCHEMA = "coverslip.review-queue"
SCHEMA_VERSION = 1
REMEDY = "make one with coverslip suggest"


class Suggestion(Value):
    """One tile or cell worth a look.

    `slide`: id of the slide in OUT. `row`: of `cells.parquet` or `tiles.parquet`, from 0. `x`, `y`: its
    middle, level-0 pixels; `width`, `height`: its extent about that, level-0 pixels. `label`: what the
    machine calls it, None where it has no class. `why`: in words. `score`: how much doubt there is, 0 to 1;
    not the order, which also keeps like ones apart.
    """

    slide: str
    of: Objects
    row: int = Field(ge=0)
    x: float
    y: float
    width: float = Field(gt=0)
    height: float = Field(gt=0)
    label: str | None
    why: str
    score: Share


class Document(Value):
    """The file. `results`: by slide id, `machine_digest` of the result; `reviewed`: rows left out since a
    person had already looked; `candidates`: rows that were judged."""

    schema_name: Literal["coverslip.review-queue"] = SCHEMA
    schema_version: Literal[1] = SCHEMA_VERSION
    notice: str = RUO
    method: str
    results: dict[str, str]
    candidates: int = Field(ge=0)
    reviewed: int = Field(ge=0)
    suggestions: tuple[Suggestion, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """What was suggested, and of how much; fields as in `Document`."""

    suggestions: tuple[Suggestion, ...]
    results: Mapping[str, str]
    candidates: int
    reviewed: int
    method: str


def write_queue(queue: Queue, path: Path) -> None:
    """As JSON; the same queue gives the same bytes."""
    document = Document(
        method=queue.method,
        results=dict(queue.results),
        candidates=queue.candidates,
        reviewed=queue.reviewed,
        suggestions=queue.suggestions,
    )
    write_json(path, document.model_dump(mode="json"))


def read_queue(path: str | Path, out: Path | None = None) -> tuple[Suggestion, ...]:
    """What `write_queue` wrote, in its order.

    `out`: the folder of the run it is of; then RequestError is raised where a result in it is no longer the
    one that was judged. RequestError also for what is no queue, StoreVersionError for another version's.
    """
    document = _document(Path(path))
    if out is not None:
        changed = [name for name, digest in document.results.items() if _digest(out, name) != digest]
        if changed:
            which = ", ".join(sorted(changed)[:5])
            raise RequestError(str(path), f"is of other results than those in {out}: {which}", REMEDY)
    return document.suggestions


def _digest(out: Path, slide: str) -> str | None:
    # An id is a folder's name: anything else would lead out of the run.
    if Path(slide).name != slide or slide in ("", ".", ".."):
        return None
    homes = [home for home in (out / "slides" / slide, out) if home.name == slide]
    found = [home for home in homes if (home / RESULT).is_file()]
    return machine_digest(read_result(found[0])) if found else None


def _document(path: Path) -> Document:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RequestError(str(path), f"is no review queue ({error})", REMEDY) from error
    schema = given.get("schema_name") if isinstance(given, dict) else None
    if schema != SCHEMA:
        raise RequestError(str(path), "is no review queue", REMEDY)
    if given.get("schema_version") != SCHEMA_VERSION:
        written = given.get("schema_version")
        raise StoreVersionError(
            str(path), f"has version {written!r} of {SCHEMA}, this one reads {SCHEMA_VERSION}", REMEDY
        )
    try:
        document = Document.model_validate(given)
    except ValidationError as error:
        raise RequestError(str(path), f"is no review queue ({error})", REMEDY) from error
    strangers = {one.slide for one in document.suggestions} - document.results.keys()
    if strangers:
        raise RequestError(str(path), f"lists rows of results it does not name: {sorted(strangers)}", REMEDY)
    return document
