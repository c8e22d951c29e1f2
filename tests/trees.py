"""Comparing folders of results byte for byte, timestamps apart."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import csv


def contents(folder: Path) -> dict[str, str]:
    """Relative name → sha256 of every file below; of JSON and worklists without the times they state."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _timeless(path: Path) -> bytes:
    if path.stem == "worklist":
        return _timeless_worklist(path)
    if path.name not in {"result.json", "run.json"}:
        return path.read_bytes()
    document = json.loads(path.read_text(encoding="utf-8"))
    for key in ("times", "started", "finished"):
        document.pop(key, None)
    return json.dumps(document, sort_keys=True).encode()


def _timeless_worklist(path: Path) -> bytes:
    if path.suffix == ".html":
        return re.sub(rb"<time>.*?</time>", b"", path.read_bytes())
    table = csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    schema = str(table.schema.metadata).encode()
    return schema + json.dumps(table.drop_columns(["finished", "seconds"]).to_pylist()).encode()
