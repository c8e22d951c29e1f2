"""What a reviewer changes, as values: one record per change, never an edit of what the machine said.

Places are level-0 pixels, (x, y). Rows are those of `cells.parquet` or `tiles.parquet` of the result under
review, counted from 0; a review holds for one result only, whose digest its trail names.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

import shapely
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, TypeAdapter
from shapely.errors import ShapelyError

from coverslip.errors import RequestError
from coverslip.workflows.result import Value
from coverslip.workflows.revision import Objects

RUN = re.compile(r"(\d+)(?:-(\d+))?")


def rows_as_runs(rows: tuple[int, ...]) -> str:
    """Ascending numbers as people write them.

    >>> rows_as_runs((3, 7, 8, 9))
    '3,7-9'
    """
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def rows_from_runs(text: Any) -> Any:
    """The inverse of `rows_as_runs`; what is no text is left as it is. Raises ValueError."""
    if not isinstance(text, str):
        return text
    rows: list[int] = []
    for part in text.split(","):
        found = RUN.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no row and no run of rows")
        first = int(found[1])
        rows += range(first, int(found[2] or first) + 1)
    return tuple(rows)


def _ascending(rows: tuple[int, ...]) -> tuple[int, ...]:
    if not rows:
        raise ValueError("no rows")
    if any(a >= b for a, b in pairwise(rows)) or rows[0] < 0:
        raise ValueError("rows must ascend from 0 on, each once")
    return rows


def _area(geometry: dict[str, Any]) -> dict[str, Any]:
    """A GeoJSON Polygon or MultiPolygon with an area; one that crosses itself is refused by `shape_of`."""
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise ValueError("is no polygon")
    try:
        shape = shapely.geometry.shape(geometry)
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"is no polygon ({error})") from error
    if shape.is_empty or not shape.area > 0 or not shapely.is_valid(shape):
        raise ValueError("encloses no area, or crosses itself")
    return geometry


Rows = Annotated[
    tuple[int, ...],
    BeforeValidator(rows_from_runs),
    AfterValidator(_ascending),
    PlainSerializer(rows_as_runs, return_type=str, when_used="json"),
]
Area = Annotated[dict[str, Any], AfterValidator(_area)]
Reason = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Relabel(Value):
    """Rows of a table have this class. `why` may be empty: that a person looked is reason enough."""

    kind: Literal["relabel"] = "relabel"
    of: Objects
    rows: Rows
    label: str
    why: str = ""


class DrawRegion(Value):
    """An area with a name; the same `id` again is its edited state.

    Where the workflow counts only cells of tumour, regions called so by the workflow decide which those are;
    other regions are notes, exported as annotations.
    """

    kind: Literal["region"] = "region"
    id: str
    label: str
    geometry: Area
    why: str = ""


class Exclude(Value):
    """Nothing in this area counts; the same `id` again is its edited state."""

    kind: Literal["exclude"] = "exclude"
    id: str
    geometry: Area
    why: Reason


class RemoveArea(Value):
    """A region or an exclusion that was drawn is taken back, by its `id`."""

    kind: Literal["remove"] = "remove"
    id: str
    why: str = ""


class RejectFinding(Value):
    """A finding of the machine, by its name, does not hold."""

    kind: Literal["reject"] = "reject"
    finding: str
    why: Reason


class ChangeCall(Value):
    """The reviewer's own category for the slide, over what the rules come to; None withdraws the call."""

    kind: Literal["call"] = "call"
    category: str | None
    why: Reason


Correction = Annotated[
    Relabel | DrawRegion | Exclude | RemoveArea | RejectFinding | ChangeCall, Field(discriminator="kind")
]
_CORRECTION: TypeAdapter[Correction] = TypeAdapter(Correction)


def read_correction(document: Any, subject: str) -> Correction:
    """From what `write_correction` gave. Raises RequestError, naming `subject`, for anything else."""
    try:
        return _CORRECTION.validate_python(document)
    except ValueError as error:
        raise RequestError(subject, f"holds no correction ({error})", "see docs/review.md") from error


def write_correction(correction: Correction) -> dict[str, Any]:
    """As JSON values."""
    return _CORRECTION.dump_python(correction, mode="json")


def areas_of(corrections: tuple[Correction, ...]) -> dict[str, DrawRegion | Exclude]:
    """The regions and exclusions that stand after all of these, by id, in the order they were first drawn."""
    standing: dict[str, DrawRegion | Exclude] = {}
    for one in corrections:
        if isinstance(one, DrawRegion | Exclude):
            standing[one.id] = one
        elif isinstance(one, RemoveArea):
            standing.pop(one.id, None)
    return standing
