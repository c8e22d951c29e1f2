"""Where a slide is: a file, a folder or a URL, and what can be told of it without opening it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coverslip.errors import UnreadableSlideError

HEAD_BYTES = 512
EMPTY = "copy it again from the scanner; if it is empty there too, the scan failed"


@dataclass(frozen=True, slots=True)
class Source:
    """`path` as the user gave it; `head` the first bytes of a local file (empty for folders and URLs)."""

    path: str
    head: bytes = b""
    is_url: bool = False
    is_folder: bool = False

    @property
    def name(self) -> str:
        """File or folder name without its directories.

        >>> Source("https://host/a/b.svs", is_url=True).name
        'b.svs'
        """
        return PurePosixPath(self.path).name if self.is_url else Path(self.path).name

    @property
    def is_tiff(self) -> bool:
        """Starts as a classic or a Big TIFF, or is a URL that ends like one."""
        if self.is_url:
            return self.path.lower().endswith((".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".qptiff"))
        return self.head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}

    @property
    def is_dicom(self) -> bool:
        return self.head[128:132] == b"DICM"


def locate(path: str | os.PathLike[str]) -> Source:
    """Look at what is there.

    Raises UnreadableSlideError when nothing is, when it may not be read, or when the file is empty.
    """
    text = os.fspath(path)
    if "://" in text:
        return Source(text, is_url=True)
    if os.path.isdir(text):
        return Source(text, is_folder=True)
    try:
        with open(text, "rb") as handle:
            head = handle.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise UnreadableSlideError(text, "there is no such file", "check the path") from error
    except OSError as error:
        raise UnreadableSlideError(
            text, f"cannot be opened ({error.strerror})", "check its permissions"
        ) from error
    if not head:
        raise UnreadableSlideError(text, "the file is empty (0 bytes)", EMPTY)
    return Source(text, head)
