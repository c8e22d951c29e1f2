"""A review as GeoJSON objects for QuPath and back: nothing is lost on the way, and nothing else is changed.

Beside cells or tiles with their classes after corrections (`exports.qupath`), a file holds each region as an
annotation of its class, each exclusion as one of QuPath's class "Ignore*", the reason as its description, and
one point, `REVIEW`, whose metadata keep all corrections. QuPath keeps objects, their ids and their metadata,
but nothing else of a file, so that they must be in an object.

Back, an object is known by its id, else by its outline. What differs from what was written was done in QuPath
and becomes corrections; what the review has since is left alone.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.geojson import NAMESPACE
from coverslip.workflows.palette import class_colours
from coverslip.workflows.review.area_edits import ID, LABEL, Areas, area_edits
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.corrections import (
    ChangeCall,
    Correction,
    DrawRegion,
    Exclude,
    Objects,
    RejectFinding,
    Relabel,
    areas_of,
    read_correction,
    write_correction,
)
from coverslip.workflows.review.json_stream import read_features
from coverslip.workflows.review.qupath_object import DESCRIPTION, IGNORE, QuPathObject, read_objects
from coverslip.workflows.review.recompute import labels_of
from coverslip.workflows.review.row_classes import RowClasses, row_classes
from coverslip.workflows.review.row_edits import RowsSaid, row_edits

SCHEMA = "coverslip.review-annotations/1"
# The metadata of one object, by which a file is known to be of a review.
REVIEW = "coverslip.review"
REVIEW_NAME = "Coverslip review: leave this here"
GREY = (180, 180, 180)
# Objects are looked up so many at a time.
AT_ONCE = 4096
# Annotations are held until the file is read; a million drawn by hand is not what this is.
MOST_ANNOTATIONS = 100_000
AGAIN = "export the review again, and edit that file"


@dataclass(frozen=True, slots=True)
class Brought:
    """What a file changes: corrections in their order, and in plain words what was left out or mended."""

    corrections: tuple[Correction, ...]
    notes: tuple[str, ...]


def classes_of(base: Base, corrections: tuple[Correction, ...], of: Objects) -> RowClasses | None:
    """The class of each cell or tile after corrections; None where the result has none."""
    table = base.cells if of == "cells" else base.tiles
    return None if table is None else row_classes(table, corrections, of)


def review_features(
    base: Base, corrections: tuple[Correction, ...], reviewer: str
) -> Iterator[dict[str, Any]]:
    """The point that keeps the review, then its regions and exclusions, as GeoJSON features."""
    key = base.result.provenance.request
    kept = {
        "schema": SCHEMA,
        "request": key,
        "digest": base.result.slide.digest,
        "reviewer": reviewer,
        "corrections": [write_correction(one) for one in corrections],
    }
    yield {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, f"{key}#review")),
        "geometry": {"type": "Point", "coordinates": [0, 0]},
        "properties": {
            "objectType": "annotation",
            "name": REVIEW_NAME,
            "isLocked": True,
            "metadata": {
                **_in_words(corrections, reviewer),
                REVIEW: json.dumps(kept, ensure_ascii=False, separators=(",", ":")),
            },
        },
    }
    areas = areas_of(corrections)
    labels = sorted({one.label for one in areas.values() if isinstance(one, DrawRegion)})
    colours = {name: rgba[:3] for name, rgba in class_colours(labels).values()}
    for area in areas.values():
        yield _area_feature(area, key, colours)


def _in_words(corrections: tuple[Correction, ...], reviewer: str) -> dict[str, str]:
    """What has no place on the slide, for a person to read in QuPath."""
    rejected = [f"{one.finding} ({one.why})" for one in corrections if isinstance(one, RejectFinding)]
    calls = [one for one in corrections if isinstance(one, ChangeCall)]
    said = {"notice": RUO, "reviewer": reviewer, "rejected findings": "; ".join(rejected)}
    if calls:
        said["call"] = f"{calls[-1].category or 'withdrawn'} ({calls[-1].why})"
    return {name: text for name, text in said.items() if text}


def _area_feature(
    area: DrawRegion | Exclude, key: str, colours: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    label = area.label if isinstance(area, DrawRegion) else IGNORE
    properties: dict[str, Any] = {"objectType": "annotation"}
    if label.strip():
        properties["name"] = label if isinstance(area, DrawRegion) else "excluded"
        properties["classification"] = {"name": label, "color": list(colours.get(label, GREY))}
    properties["metadata"] = {ID: area.id}
    if isinstance(area, DrawRegion):
        properties["metadata"][LABEL] = label
    if area.why:
        properties["metadata"][DESCRIPTION] = area.why
    return {
        "type": "Feature",
        "id": area_uuid(key, area.id),
        "geometry": area.geometry,
        "properties": properties,
    }


def area_uuid(key: str, name: str) -> str:
    """The id in files of an area of the result `key`: its own where that is a UUID, as QuPath gave it."""
    try:
        if str(uuid.UUID(name)) == name:
            return name
    except ValueError:
        pass
    return str(uuid.uuid5(NAMESPACE, f"{key}#area#{name}"))


def read_annotations(
    base: Base, standing: tuple[Correction, ...], path: Path, *, deleted: bool = False
) -> Brought:
    """What the objects in a GeoJSON file change in a review whose corrections are `standing`.

    The class of a cell or tile that differs from the one written becomes a Relabel, "Ignore*" an Exclude of
    its outline; annotations become regions, or exclusions where they are "Ignore*", and those that are gone
    are taken back, if the file has the review's own object. On a review without corrections, all that the
    file kept are brought first. `deleted`: cells and tiles that the file does not have are excluded; else
    only told. Outlines of cells are not read.

    Memory: the tables and some 30 bytes for each of their rows, and the annotations. Raises RequestError for
    a file that is no whole GeoJSON, has an object that QuPath would not read, is of another slide, or holds
    too much.
    """
    found = _collect(base, path)
    kept, notes = _kept(base, found, path)
    shared = _shared(kept, standing)
    missing = kept[len(standing) :] if shared else ()
    now = standing + missing
    before = kept if shared else now
    listed = frozenset(areas_of(kept))
    brought: list[Correction] = list(missing)
    if not shared:
        brought += _said_in(kept, standing)
    edits = area_edits(found.drawn, _areas(base, before, now, listed), notes)
    brought += edits
    for rows in found.rows.values():
        was, is_ = classes_of(base, before, rows.of), classes_of(base, now, rows.of)
        assert was is not None
        assert is_ is not None
        brought += row_edits(rows, was, is_, now + tuple(edits), notes, deleted=deleted)
    return Brought(tuple(brought), tuple(f"{count} {what}" for what, count in notes.items()))


def _shared(kept: tuple[Correction, ...], standing: tuple[Correction, ...]) -> bool:
    """Whether one of the two is the beginning of the other."""
    length = min(len(kept), len(standing))
    first, second = (list(map(write_correction, some[:length])) for some in (kept, standing))
    return bool(kept) and json.dumps(first) == json.dumps(second)


def _said_in(kept: tuple[Correction, ...], standing: tuple[Correction, ...]) -> Iterator[Correction]:
    """Of another review: rejected findings, and its call where this review has none."""
    rejected = {one.finding for one in standing if isinstance(one, RejectFinding)}
    calls = [one for one in kept if isinstance(one, ChangeCall)]
    for one in kept:
        if isinstance(one, RejectFinding) and one.finding not in rejected:
            rejected.add(one.finding)
            yield one
    if calls and not any(isinstance(one, ChangeCall) for one in standing):
        yield calls[-1]


def _areas(
    base: Base,
    before: tuple[Correction, ...],
    now: tuple[Correction, ...],
    listed: frozenset[str],
) -> Areas:
    key = base.result.provenance.request
    labels = tuple(label for of in ("cells", "tiles") for label in labels_of(base, of))
    standing = {**areas_of(now), **areas_of(before)}
    return Areas(
        areas_of(before),
        areas_of(now),
        listed,
        {area_uuid(key, name): name for name in standing},
        labels,
        base.result.slide.size,
        key,
    )


@dataclass(slots=True, eq=False)
class _Found:
    """What a file holds, gathered while it is read."""

    rows: dict[Objects, RowsSaid]
    drawn: list[QuPathObject] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    machine: int = 0
    no_table: int = 0
    other: int = 0
    planes: int = 0


def _collect(base: Base, path: Path) -> _Found:
    from coverslip.workflows.outputs import ANNOTATIONS

    machine = _machine_ids(base.home / ANNOTATIONS)
    tables: dict[Objects, Any] = {"cells": base.cells, "tiles": base.tiles}
    found = _Found({of: RowsSaid(base, of) for of, table in tables.items() if table is not None})
    waiting: dict[Objects, list[QuPathObject]] = {of: [] for of in found.rows}
    count = 0
    for one in _objects(path):
        count += 1
        of = _sort(one, found, machine)
        if of is None:
            continue
        waiting[of].append(one)
        if len(waiting[of]) == AT_ONCE:
            found.rows[of].add(waiting[of], str(path))
            waiting[of] = []
    if not count:
        raise RequestError(str(path), "holds no object", AGAIN)
    for of, rest in waiting.items():
        found.rows[of].add(rest, str(path))
    return found


def _objects(path: Path) -> Iterator[QuPathObject]:
    number = 0
    for number, feature in enumerate(read_features(path), 1):
        try:
            yield from read_objects(feature)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path}, object {number}", str(error), AGAIN) from error


def _sort(one: QuPathObject, found: _Found, machine: Mapping[str, Any]) -> Objects | None:
    """Puts away what is no row; of which table it is otherwise."""
    found.planes += one.plane != (0, 0)
    if one.kind in ("detection", "tile"):
        of: Objects = "cells" if one.kind == "detection" else "tiles"
        if of in found.rows:
            return of
        found.no_table += 1
    elif one.kind == "other":
        found.other += 1
    elif REVIEW in one.metadata:
        found.kept.append(str(one.metadata[REVIEW]))
    elif one.id is not None and one.id in machine and _same_as(one, machine[one.id]):
        found.machine += 1
    else:
        found.drawn.append(one)
        if len(found.drawn) > MOST_ANNOTATIONS:
            raise RequestError("the file", f"has more than {MOST_ANNOTATIONS} annotations", AGAIN)
    return None


def _machine_ids(path: Path) -> dict[str, Any]:
    """Of the annotations that the workflow itself wrote, such as tissue: id → geometry."""
    if not path.is_file():
        return {}
    return {str(feature.get("id")): feature.get("geometry") for feature in read_features(path)}


def _same_as(one: QuPathObject, geometry: Any) -> bool:
    from coverslip.workflows.review.area_edits import same_outline
    from coverslip.workflows.review.qupath_object import shape_of

    return same_outline(shape_of(one.geometry), shape_of(geometry))


def _kept(base: Base, found: _Found, path: Path) -> tuple[tuple[Correction, ...], Counter[str]]:
    """The corrections that the file's own object has; and what is to be told of the file as a whole."""
    notes: Counter[str] = Counter()
    for what, count in (
        ("detections or tiles are left out: the result has no such table", found.no_table),
        ("objects are cores of a tissue array or the whole image: left out", found.other),
        ("objects lie on another focal plane or time: taken for what they cover", found.planes),
    ):
        if count:
            notes[what] = count
    if len(set(found.kept)) > 1:
        raise RequestError(
            str(path), "is of several exported reviews", f"leave one object “{REVIEW_NAME}” in it"
        )
    if not found.kept:
        return (), notes
    document = _document(found.kept[0], path)
    if document["digest"] != base.result.slide.digest:
        raise RequestError(str(path), "was exported from another slide", "name the result it is of")
    if document["request"] != base.result.provenance.request:
        notes["file was exported from another result of this slide: objects are matched by place"] = 1
        return (), notes
    corrections = tuple(read_correction(one, str(path)) for one in document["corrections"])
    _check(base, corrections, path)
    return corrections, notes


def _document(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        if not isinstance(document["corrections"], list):
            raise ValueError("no corrections")
        return {**document, "digest": document["digest"], "request": document["request"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(f"{path}, “{REVIEW_NAME}”", f"cannot be read ({error})", AGAIN) from error


def _check(base: Base, corrections: Iterable[Correction], path: Path) -> None:
    """What the file says was corrected must be possible here."""
    findings = {finding.name for finding in base.result.findings}
    for one in corrections:
        if isinstance(one, Relabel):
            table = base.cells if one.of == "cells" else base.tiles
            if table is None or one.rows[-1] >= len(table) or one.label not in labels_of(base, one.of):
                raise RequestError(str(path), f"relabels {one.of} that this result does not have", AGAIN)
        elif isinstance(one, RejectFinding) and one.finding not in findings:
            raise RequestError(str(path), f"rejects {one.finding}, which was not found", AGAIN)
