"""Tile plans on disk: Parquet, one row per tile, everything else in the file's metadata."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.atomic import replacing
from coverslip.errors import StoreIncompleteError, StoreVersionError
from coverslip.tiling.plan import TilePlan
from coverslip.wsi.geometry import Mpp, Size

SCHEMA = "coverslip.tile-plan"
VERSION = 1
COLUMNS = pa.schema([("x", pa.int64()), ("y", pa.int64()), ("tissue", pa.float32())])


def write_plan(plan: TilePlan, path: str | os.PathLike[str]) -> None:
    """Parquet with the columns x, y (int64, level-0 pixels) and tissue (float32, 0 to 1).

    The rest is JSON under the metadata key `coverslip`. The same plan gives the same bytes with the same
    version of Arrow. The file appears whole or not at all.
    """
    head = {
        "schema": SCHEMA,
        "version": VERSION,
        "slide": plan.slide,
        "digest": plan.digest,
        "slide_size": [plan.slide_size.width, plan.slide_size.height],
        "slide_mpp": [plan.slide_mpp.x, plan.slide_mpp.y, plan.slide_mpp.source],
        "mpp": plan.mpp,
        "size": plan.size,
        "overlap": plan.overlap,
    }
    schema = COLUMNS.with_metadata({b"coverslip": json.dumps(head, sort_keys=True).encode()})
    table = pa.table([plan.x, plan.y, plan.tissue], schema=schema)
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_plan(path: str | os.PathLike[str]) -> TilePlan:
    """The plan that `write_plan` wrote.

    Raises StoreIncompleteError when the file is missing or cut off, StoreVersionError when it is no tile
    plan or of a version that is not known.
    """
    subject = os.fspath(path)
    try:
        table = pq.read_table(subject)
    except (OSError, pa.ArrowException) as error:
        raise StoreIncompleteError(
            subject, f"the tile plan cannot be read ({error})", "make it again"
        ) from error
    head = _head(subject, table.schema.metadata or {})
    x, y, tissue = (table.column(name).to_numpy() for name in COLUMNS.names)
    return TilePlan(
        head["slide"],
        head["digest"],
        Size(*head["slide_size"]),
        Mpp(*head["slide_mpp"]),
        head["mpp"],
        head["size"],
        head["overlap"],
        np.asarray(x, np.int64),
        np.asarray(y, np.int64),
        np.asarray(tissue, np.float32),
    )


def _head(subject: str, metadata: dict[bytes, bytes]) -> dict:
    try:
        head = json.loads(metadata[b"coverslip"])
    except (KeyError, ValueError) as error:
        raise StoreVersionError(subject, "is not a tile plan of Coverslip", "name one that is") from error
    if (head.get("schema"), head.get("version")) != (SCHEMA, VERSION):
        found = f"{head.get('schema')} version {head.get('version')}"
        raise StoreVersionError(subject, f"is {found}, not {SCHEMA} version {VERSION}", "make the plan again")
    return head
