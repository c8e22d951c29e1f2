"""Comparing folders of results byte for byte, timestamps apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def contents(folder: Path) -> dict[str, str]:
    """Relative name → sha256 of every file below; of JSON without the times it states."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_timeless(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _timeless(path: Path) -> bytes:
    if path.name not in {"result.json", "run.json"}:
        return path.read_bytes()
    document = json.loads(path.read_text(encoding="utf-8"))
    for key in ("times", "started", "finished"):
        document.pop(key, None)
    return json.dumps(document, sort_keys=True).encode()
