"""One result written for another program: which of its parts, in which format, as the machine or a reviewer
says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.atomic import replacing
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.tiling.coords import write_coords
from coverslip.tiling.plan import TilePlan
from coverslip.workflows.again import slide_again
from coverslip.workflows.csv_table import write_csv
from coverslip.workflows.exports.qupath import (
    cell_features,
    tile_features,
    write_cells,
    write_features,
    write_tiles,
)
from coverslip.workflows.exports.rows import is_figure, read_rows
from coverslip.workflows.outputs import ANNOTATIONS, FEATURES_H5, STORE, read_result
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.annotations import classes_of, review_features
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.corrections import Correction
from coverslip.workflows.review.json_stream import read_features
from coverslip.workflows.review.standing import Standing, standing_of
from coverslip.wsi import Mpp, Size

What = Literal["cells", "tiles", "regions"]
Format = Literal["geojson", "csv", "parquet", "h5"]
# What each format can hold; the first that the result has is the default.
HOLDS: dict[Format, tuple[What, ...]] = {
    "geojson": ("cells", "tiles", "regions"),
    "csv": ("cells", "tiles"),
    "parquet": ("cells", "tiles"),
    "h5": ("tiles",),
}


def export(
    home: Path,
    file: Path,
    to: Format,
    what: What | None = None,
    reviewer: str | None = None,
    *,
    signed: bool = False,
) -> int | None:
    """Write `what` of the result in the folder `home` to `file`; returns how many, where that was counted.

    `reviewer`: after this person's corrections, and with their regions; `signed`: after those last signed,
    by this person or by anybody. Raises RequestError for what the format cannot hold or the result does not
    have, and where there is no such review.
    """
    result = read_result(home)
    _refuse_inside(home, file)
    chosen = _chosen(home, to, what)
    if reviewer is not None or signed:
        return _write_review(home, result, file, to, chosen, standing_of(home, reviewer, signed=signed))
    if chosen == "regions":
        _copy(home / ANNOTATIONS, file)
        return None
    table = home / f"{chosen}.parquet"
    if to == "csv":
        return _write_csv(table, file)
    if to == "parquet":
        return _write_parquet(result, table, file)
    if to == "h5":
        return _write_h5(home, result, table, file)
    key = result.provenance.request
    if chosen == "cells":
        return write_cells(table, home / STORE, key, file)
    return write_tiles(table, home / STORE, _plan(result, table).extent, key, file)


def _write_review(
    home: Path, result: SlideResult, file: Path, to: Format, chosen: What, standing: Standing
) -> int:
    if to != "geojson":
        raise RequestError(f"--to {to}", "cannot hold a review", "use geojson")
    base = read_base(home)
    drawn = review_features(base, standing.corrections, standing.reviewer or "")
    return write_features(file, chain(drawn, _reviewed(base, result, chosen, standing.corrections)))


def _reviewed(
    base: Base, result: SlideResult, chosen: What, corrections: tuple[Correction, ...]
) -> Iterator[dict[str, Any]]:
    store, key = base.home / STORE, result.provenance.request
    if chosen == "regions":
        return read_features(base.home / ANNOTATIONS)
    table = base.home / f"{chosen}.parquet"
    classes = classes_of(base, corrections, chosen)
    if chosen == "cells":
        return cell_features(table, store, key, classes)
    return tile_features(table, store, _plan(result, table).extent, key, classes)


def _refuse_inside(home: Path, file: Path) -> None:
    if not file.parent.is_dir():
        raise RequestError(str(file), f"there is no folder {file.parent}", "make it first")
    if home.resolve() in file.resolve().parents:
        raise RequestError(str(file), "lies in the result's own folder", "name a file elsewhere")


def _chosen(home: Path, to: Format, what: What | None) -> What:
    holds = HOLDS[to]
    if what is not None and what not in holds:
        can = ", ".join(one for one in get_args(Format) if what in HOLDS[one])
        raise RequestError(f"--to {to}", f"cannot hold {what}", f"use one of {can}")
    there: list[What] = [one for one in holds if _source(home, one).is_file()]
    if what is not None and what not in there:
        has = ", ".join(there) or "nothing that this format holds"
        raise RequestError(str(home), f"has no {what}", f"it has {has}")
    if not there:
        raise RequestError(str(home), f"has nothing that {to} holds", "name another format")
    return what or there[0]


def _source(home: Path, what: What) -> Path:
    return home / (ANNOTATIONS if what == "regions" else f"{what}.parquet")


def _copy(source: Path, file: Path) -> None:
    with replacing(file) as part:
        shutil.copyfile(source, part)


def _write_csv(table: Path, file: Path) -> int:
    """Without lists, such as outlines."""
    schema, batches = read_rows(table)
    kept = pa.schema([field for field in schema if is_figure(field.type) or pa.types.is_string(field.type)])
    return write_csv(file, batches, kept)


def _write_parquet(result: SlideResult, table: Path, file: Path) -> int:
    """All columns, and in the metadata which slide they are of."""
    schema, batches = read_rows(table)
    slide = result.slide
    said = {
        **(schema.metadata or {}),
        b"notice": RUO.encode(),
        b"slide": slide.id.encode(),
        b"digest": slide.digest.encode(),
        b"mpp": f"{slide.mpp.x!r} {slide.mpp.y!r}".encode(),
    }
    rows = 0
    marked = schema.with_metadata(said)
    with replacing(file) as part, pq.ParquetWriter(part, marked, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(pa.record_batch(batch.columns, schema=marked))
            rows += len(batch)
    return rows


def _write_h5(home: Path, result: SlideResult, table: Path, file: Path) -> int:
    """CLAM's and TRIDENT's layout: the features where the result has some, else the coordinates."""
    plan = _plan(result, table)
    if (home / FEATURES_H5).is_file():
        _copy(home / FEATURES_H5, file)
    else:
        with slide_again(home, result) as slide:
            write_coords(plan, slide, file)
    return len(plan)


def _plan(result: SlideResult, table: Path) -> TilePlan:
    """The tiles that were looked at."""
    grid = result.provenance.settings.get("grid")
    if grid is None:
        raise RequestError(result.slide.id, "does not say how large its tiles are", "run again")
    slide = result.slide
    rows = pq.read_table(table, columns=["x", "y", "tissue"])
    return TilePlan(
        slide=Path(slide.path).name,
        digest=slide.digest,
        slide_size=Size(*slide.size),
        slide_mpp=Mpp(slide.mpp.x, slide.mpp.y, slide.mpp.source),
        mpp=grid["mpp"],
        size=grid["size"],
        overlap=grid["overlap"],
        x=rows["x"].to_numpy().astype(np.int64),
        y=rows["y"].to_numpy().astype(np.int64),
        tissue=rows["tissue"].to_numpy().astype(np.float32),
    )
