"""Files of a result: parts that say whether they are whole, tables, documents, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coverslip.atomic import replacing
from coverslip.wsi.digest import file_sha256, files_below

PART_SCHEMA = b"coverslip.part/1"


def write_json(path: Path, document: Any) -> None:
    """Sorted keys, two spaces, UTF-8, newline at the end: the same document is the same bytes.

    A file name that is not UTF-8 is written as JSON's escapes, and read back with the bytes it has.
    """
    with replacing(path) as temporary:
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def output_digest(path: Path) -> str:
    """sha256 of a file; of a folder, over the names and sizes of all files below.

    A folder is a store of thousands of chunks, each written whole or not at all; reading a pyramid of
    gigabytes again only to see that it is done would cost more than a run.
    """
    if path.is_file():
        return file_sha256(path)
    listing = (
        f"{Path(file).relative_to(path).as_posix()}\0{os.path.getsize(file)}\n"
        for file in files_below(str(path))
    )
    return hashlib.sha256("".join(listing).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one task leaves: a table, and a few whole numbers by name."""

    table: pa.Table
    numbers: Mapping[str, int] = field(default_factory=dict)


def write_part(path: Path, part: Part, request: str) -> None:
    """As Parquet that carries what it answers (`request`) and the digest of its own content."""
    marks = {
        b"schema": PART_SCHEMA,
        b"request": request.encode(),
        b"numbers": json.dumps(dict(part.numbers), sort_keys=True).encode(),
        b"content": _content(part).encode(),
    }
    with replacing(path) as temporary:
        pq.write_table(part.table.replace_schema_metadata(marks), temporary, compression="zstd")


def read_part(path: Path, request: str) -> Part | None:
    """The part if it is there, whole, and answers this request; else None, and it has to be made again."""
    try:
        # not read_table, whose import of pyarrow.dataset takes half a second
        with pq.ParquetFile(path) as parquet:
            table = parquet.read()
    except (OSError, pa.ArrowInvalid):
        return None
    marks = table.schema.metadata or {}
    if marks.get(b"schema") != PART_SCHEMA or marks.get(b"request") != request.encode():
        return None
    part = Part(table.replace_schema_metadata(None), json.loads(marks[b"numbers"]))
    return part if marks.get(b"content") == _content(part).encode() else None


def _content(part: Part) -> str:
    """sha256 of the numbers and of the columns in Arrow's stream format, in one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.table.schema.remove_metadata()) as writer:
        for batch in part.table.replace_schema_metadata(None).combine_chunks().to_batches():
            writer.write_batch(batch)
    digest = hashlib.sha256(json.dumps(dict(part.numbers), sort_keys=True).encode())
    digest.update(sink.getvalue())
    return digest.hexdigest()


# Rows lie near each other on the slide: a viewer reads the groups under the screen, 0.5 MB of outlines each.
GROUP_ROWS = 8192


def write_table(path: Path, table: pa.Table, schema: str) -> None:
    """A table for people and programs: Parquet, zstd, its schema's name and version in the metadata."""
    with replacing(path) as temporary:
        marked = table.replace_schema_metadata({b"schema": schema.encode()})
        pq.write_table(marked, temporary, compression="zstd", row_group_size=GROUP_ROWS)
