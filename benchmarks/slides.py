"""The slides the rows work on, composed from real pixels and kept for the next time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
COMPOSER = SHARED / "tools/make_slide.py"
SOURCE = SHARED / "data/wsi/aperio-svs/CMU-1-Small-Region.svs"
# By gigapixels: the slide of the rows, and one smaller and one larger for what must not grow with the slide.
SMALL, MIDDLE, LARGE = "0.3", "1.3", "5"
SIZES = {
    SMALL: "20480x16896",
    MIDDLE: "40960x30976",
    LARGE: "81920x61952",
    "tiny": "4096x5632",
    "tiny-2": "8192x5632",
}


def slide(folder: Path, name: str) -> Path:
    """The slide of that name, composed on first use: 0.25 µm/px, JPEG tiles of 256 px, levels 1, 4, 16."""
    path = folder / f"{name}.svs"
    if not path.is_file():
        if not (COMPOSER.is_file() and SOURCE.is_file()):
            raise SystemExit(f"{COMPOSER} and {SOURCE} are needed to compose the slides")
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.svs")
        command = [sys.executable, COMPOSER, "tissue", SOURCE, part, "--size", SIZES[name]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        part.replace(path)
    return path


def warm(path: Path) -> None:
    """Into the page cache, so that the first to read does not wait for the disk."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
