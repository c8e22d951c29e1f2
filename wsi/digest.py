"""The digest of a slide: what identifies its bytes in provenance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of one file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def files_sha256(files: Iterable[str], root: str) -> str:
    """One digest of several files: over their names relative to `root` and their own digests, sorted."""
    whole = hashlib.sha256()
    for name, path in sorted((Path(os.path.relpath(file, root)).as_posix(), file) for file in files):
        whole.update(f"{name}\0{file_sha256(path)}\n".encode())
    return whole.hexdigest()


def remote_digest(url: str) -> str:
    """What the store says identifies the file (etag, checksum, size), without fetching it."""
    filesystem, path = fsspec.core.url_to_fs(url)
    info = filesystem.info(path)
    known = "\0".join(
        f"{key}={info[key]}" for key in sorted(info) if key.lower() in {"etag", "size", "md5", "checksum"}
    )
    return hashlib.sha256(f"{url}\0{known}".encode()).hexdigest()


def files_below(folder: str) -> tuple[str, ...]:
    """Every regular file below a folder, sorted; also what links lead to, but nothing in linked folders."""
    return tuple(sorted(_below(folder)))


def _below(folder: str) -> Iterator[str]:
    """The entries of a folder say what they are: asking for each file costs ten times as much."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if _is(entry, folder=True):
            if not entry.is_symlink():
                yield from _below(entry.path)
        elif _is(entry, folder=False):
            yield entry.path


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    """Of links, what they lead to; neither where that cannot be asked."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False
