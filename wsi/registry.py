"""The readers: names eager, imports lazy, ours through the same door as a plug-in's.

A reader module has `claims(source) -> bool` (cheap, from the name and the first bytes) and
`open_reader(source, z) -> Reader`. Another package adds one with an entry point of the group
`coverslip.readers` whose name is the reader's and whose value is such a module; it is tried first.
`tests/contract.py` holds the suite every reader passes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, cast

from coverslip.errors import RequestError
from coverslip.wsi.facts import Reader
from coverslip.wsi.source import Source


class ReaderModule(Protocol):
    """What a reader's module offers."""

    def claims(self, source: Source) -> bool:
        """Whether this reader should try; False costs nothing and is no error."""
        ...

    def open_reader(self, source: Source, z: int | None) -> Reader:
        """Open it. Raises UnsupportedSlideError to let the next reader try, UnreadableSlideError to stop."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderRecord:
    """`what` is for people; `module` is imported when first needed."""

    name: str
    module: str
    what: str

    def load(self) -> ReaderModule:
        return cast(ReaderModule, importlib.import_module(self.module))


# In the order they are tried.
BUILT_IN = (
    ReaderRecord("ome-zarr", "coverslip.wsi.readers.ome_zarr", "OME-Zarr 0.4 and 0.5"),
    ReaderRecord(
        "openslide", "coverslip.wsi.readers.openslide", "SVS, NDPI, MRXS, SCN, BIF, Philips, DICOM, …"
    ),
    ReaderRecord("tiffslide", "coverslip.wsi.readers.tiffslide", "OME-TIFF, remote files, other TIFF"),
    ReaderRecord("wsidicom", "coverslip.wsi.readers.wsidicom", "DICOM that OpenSlide refuses"),
    ReaderRecord("image", "coverslip.wsi.readers.image", "PNG, JPEG, BMP"),
)


def readers() -> tuple[ReaderRecord, ...]:
    """All readers, plug-ins first."""
    return _plug_ins() + BUILT_IN


@cache
def _plug_ins() -> tuple[ReaderRecord, ...]:
    """Looked for once: that reads what every installed package says of itself."""
    return tuple(
        ReaderRecord(point.name, point.value, f"plug-in {point.value}")
        for point in entry_points(group="coverslip.readers")
    )


def reader_named(name: str) -> ReaderRecord:
    """The record of that name; RequestError lists the names there are."""
    known = {record.name: record for record in readers()}
    if name not in known:
        raise RequestError(f"reader {name!r}", "is not known", f"use one of {', '.join(known)}")
    return known[name]
