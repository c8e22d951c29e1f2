"""What is written appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside `path` for a file or a folder; renames it when the block ends well,
    removes it otherwise.

    The parent folder is made where it is missing. A file is replaced; a folder only when it is empty.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        discard(temporary)


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear_temporaries(folder: Path, keep: str | None = None) -> None:
    """Remove what a killed process left half-written below `folder`; only while nobody writes there.

    `.tmp` is ours, `.partial` is how zarr names a chunk before it renames it. `keep`: name of a folder in it
    that is left alone.
    """
    for pattern in (".*.tmp", "*.partial"):
        for path in list(folder.rglob(pattern)):
            if keep is None or keep not in path.relative_to(folder).parts[:-1]:
                discard(path)
