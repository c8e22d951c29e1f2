"""The pixels of a result's slide, once more: from the slide itself, else from the copy in the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coverslip.errors import SlideError, StoreIncompleteError
from coverslip.workflows.outputs import STORE
from coverslip.workflows.result import SlideResult
from coverslip.wsi import Slide, open_slide


@contextmanager
def slide_again(home: Path, result: SlideResult) -> Iterator[Slide]:
    """Open for reading, with the µm/px that the result used, and the same level 0.

    A file of another size than the one the result is of is passed over. Raises StoreIncompleteError where
    neither is there.
    """
    mpp = result.slide.mpp
    for path in (result.slide.path, home / STORE):
        try:
            slide = open_slide(path, mpp=(mpp.x, mpp.y))
        except (SlideError, OSError):
            continue
        with slide:
            if (slide.size.width, slide.size.height) != result.slide.size:
                continue
            yield slide
        return
    raise StoreIncompleteError(
        result.slide.path,
        "is not there, or another slide is, and the result holds no copy of it",
        "put it back",
    )
