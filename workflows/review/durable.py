"""Writing that a crash of the machine does not undo."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from coverslip.atomic import replacing


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file whole; on disk when this returns."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    sync_folder(path.parent)


def write_json_durably(path: Path, document: Any) -> None:
    """As JSON, two spaces, UTF-8, newline at the end; keys as given."""
    write_durably(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """So that names in it last, too; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """All files below, and the folders that name them."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "r+b") as handle:
                os.fsync(handle.fileno())
        sync_folder(Path(parent))
