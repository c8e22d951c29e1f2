"""A slide: one open file seen through one frame, whatever its format."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import floor
from pathlib import Path
from types import TracebackType
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from coverslip.errors import NotBrightfieldError, RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi.digest import file_sha256, files_sha256, remote_digest
from coverslip.wsi.facts import Facts, Reader
from coverslip.wsi.foreign import unread
from coverslip.wsi.geometry import Box, Field, Level, Mpp, Size
from coverslip.wsi.levels import level_for, pixels_under
from coverslip.wsi.mpp import parse_mpp, resolve_mpp
from coverslip.wsi.overview import Overview, make_overview
from coverslip.wsi.pixels import Pixels, Raw, Rgb, blank, composite, place
from coverslip.wsi.ranges import OpenFiles
from coverslip.wsi.registry import reader_named, readers
from coverslip.wsi.resample import reduce, resample
from coverslip.wsi.source import Source, locate
from coverslip.wsi.stored import StoredLevel, StoresTiles
from coverslip.wsi.tiles import Place, fetch, is_worth_it, read_box

# No scanner's image has more pixels a side than some 300,000; an index may claim any number.
LARGEST_SIDE = 1 << 22
# One read may not ask for more than this many pixels: a box is a request, not a promise of memory.
LARGEST_READ = 1 << 28


@dataclass(frozen=True, slots=True)
class SlideRef:
    """What is needed to open a slide again elsewhere; crosses processes instead of the open file."""

    path: str
    mpp: Mpp | None = None
    reader: str | None = None
    z: int | None = None

    def open(self) -> Slide:
        return _open(self)


def open_slide(
    path: str | os.PathLike[str],
    *,
    mpp: float | tuple[float, float] | Mpp | None = None,
    reader: str | None = None,
    z: int | None = None,
) -> Slide:
    """Open a slide: a file, a DICOM or OME-Zarr folder, or a URL.

    `mpp`: µm per level-0 pixel, one number or (x, y), where the file does not say or says it wrongly.
    `reader`: name of the reader to use; by default the first that opens it. `z`: focal plane, by default
    the middle one.

    Raises UnreadableSlideError, UnsupportedSlideError, or RequestError for a reader that is not known.
    A missing or implausible µm/px is raised when `Slide.mpp` is first asked for, not here: a slide can be
    listed and looked at without.
    """
    given = mpp if mpp is None or isinstance(mpp, Mpp) else parse_mpp(mpp, "given")
    return _open(SlideRef(os.fspath(path), given, reader, z))


def _open(ref: SlideRef) -> Slide:
    source = locate(ref.path)
    records = (reader_named(ref.reader),) if ref.reader else readers()
    refusals: list[UnsupportedSlideError] = []
    for record in records:
        module = record.load()
        if not module.claims(source):
            continue
        try:
            return Slide(module.open_reader(source, ref.z), ref, source)
        except UnsupportedSlideError as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[-1]  # the later readers are the more particular ones
    raise unread(source)


class Slide:
    """One open slide. Close it, or use it in `with`. Safe to read from several threads.

    All coordinates are level-0 pixels, (x, y), origin at the file's top-left corner, unless a level is named.
    """

    def __init__(self, reader: Reader, ref: SlideRef, source: Source):
        size = reader.facts.levels[0].size
        if max(size.width, size.height) > LARGEST_SIDE:
            reader.close()
            raise UnreadableSlideError(
                ref.path, f"says it is {size.width}×{size.height} pixels", "copy it again from the scanner"
            )
        self._reader, self._ref, self._source = reader, ref, source
        # A slide that nobody holds any more is closed: caches let go of slides that others may still read.
        self._closing = finalize(self, reader.close)
        self._files = OpenFiles()
        self._letting_go = finalize(self, self._files.close)
        self._lock = nullcontext() if reader.thread_safe else threading.Lock()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._closing()
        self._letting_go()

    def __repr__(self) -> str:
        return (
            f"<Slide {self.name} {self.size.width}×{self.size.height} {self.facts.format} by {self.reader}>"
        )

    @property
    def ref(self) -> SlideRef:
        """What opens this slide again in another process, with this reader."""
        return SlideRef(self._ref.path, self._ref.mpp, self._reader.name, self._ref.z)

    @property
    def path(self) -> str:
        return self._ref.path

    @property
    def name(self) -> str:
        """File or folder name, without directories."""
        return self._source.name

    @property
    def facts(self) -> Facts:
        """What the file says, unjudged."""
        return self._reader.facts

    @property
    def reader(self) -> str:
        return self._reader.name

    @property
    def reader_version(self) -> str:
        return self._reader.version

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.facts.levels

    @property
    def size(self) -> Size:
        """Level 0, in pixels."""
        return self.levels[0].size

    @cached_property
    def mpp(self) -> Mpp:
        """µm per level-0 pixel, and its source.

        Raises SlideInformationError when neither the file nor the user states it, or when it is implausible.
        """
        return resolve_mpp(self.path, self.facts.mpp, self._ref.mpp)

    @property
    def bounds(self) -> Box:
        """The part that was scanned, level-0 pixels."""
        return self.facts.bounds or self.size.box

    @property
    def background(self) -> Rgb:
        """Colour of empty glass: what pixels the file does not hold are shown as."""
        return self.facts.background

    @property
    def properties(self) -> Mapping[str, str]:
        """Everything the file states, as text; untrusted."""
        return self.facts.properties

    @cached_property
    def bytes(self) -> int | None:
        """Size on disk of all files of the slide; None for a URL."""
        if self._source.is_url:
            return None
        return sum(os.path.getsize(file) for file in self.facts.files or (self.path,))

    @cached_property
    def digest(self) -> str:
        """`sha256:` and the digest of the file (or of the names and digests of all its files).

        `remote:` for URLs: what their store states of them, since fetching all would cost more than the work.
        """
        if self._source.is_url:
            return f"remote:{remote_digest(self.path)}"
        files = self.facts.files
        if len(files) > 1 or self._source.is_folder:
            root = self.path if self._source.is_folder else str(Path(self.path).parent)
            return f"sha256:{files_sha256(files, root)}"
        return f"sha256:{file_sha256(files[0] if files else self.path)}"

    def read(self, level: int, box: Box) -> Pixels:
        """Pixels of a stored level.

        `box`: whole pixels of that level, may reach outside. Returns rgb uint8 (height, width, 3) with
        the masks of `Pixels`; what the file does not hold is `background`, and not valid.
        Raises RequestError for a level that does not exist or a box of more than 2**28 pixels,
        NotBrightfieldError where the channels are not red, green and blue.
        """
        self._check(level, box)
        inside = box.clip(self.levels[level].size)
        if inside is None:
            return blank(box, self.background)
        raw = self._read_stored(level, inside)
        if raw is None:
            with self._lock:
                raw = self._reader.read(level, inside)
        pixels = composite(raw, self.background, sparse_by_design=self.facts.sparse_by_design)
        return place(pixels, inside, box, self.background)

    def stored(self, level: int) -> StoredLevel | None:
        """Where the level's compressed tiles lie; None where they are no plain grid of JPEG or JPEG 2000 from
        the level's corner."""
        stored = self._stored(level)
        return None if stored is None or stored.origin != (0, 0) else stored

    def _stored(self, level: int) -> StoredLevel | None:
        return self._reader.stored(level) if isinstance(self._reader, StoresTiles) else None

    def fetch(self, level: int, places: Sequence[Place]) -> list[memoryview]:
        """The bytes of stored tiles, (row, column) on the level's grid: as they stand in the file.

        Empty for a tile the file does not hold. Raises RequestError where `stored(level)` is None.
        """
        stored = self.stored(level)
        if stored is None:
            raise RequestError(f"level {level}", f"{self.name} shows no stored tiles", "use read instead")
        return fetch(stored, self._files.of(stored.path), places)

    def _read_stored(self, level: int, box: Box) -> Raw | None:
        """What the stored tiles decode to, which is what the reader shows: three to five times as fast.

        None where it is not known or would take longer, and where any tile is absent or corrupt: what stands
        for that is the reader's to say.
        """
        stored = self._stored(level)
        if stored is None or not is_worth_it(stored, box):
            return None
        rgb = read_box(stored, self._files.of(stored.path), box)
        return None if rgb is None else Raw(rgb)

    def _check(self, level: int, box: Box) -> None:
        if not 0 <= level < len(self.levels):
            raise RequestError(
                f"level {level}", f"{self.name} has levels 0 to {len(self.levels) - 1}", "name one of these"
            )
        if box.size.area > LARGEST_READ:
            raise RequestError(
                f"box {box.width}×{box.height}", "is too large for one read", "read it in parts, or coarser"
            )
        if self.facts.kind == "multichannel":
            raise NotBrightfieldError(
                self.path,
                f"has the channels {', '.join(self.facts.channels)}, not red, green and blue",
                "Coverslip's workflows read brightfield images; use a program for multiplexed images",
            )

    def read_field(self, field: Field) -> Pixels:
        """Pixels at a stated µm/px, from the coarsest level that is fine enough.

        Returns exactly `field.size` pixels covering exactly field.size × field.mpp µm of glass.
        """
        number = level_for(self.levels, self.mpp, field.mpp)
        box, window = pixels_under(field, self.mpp, self.levels[number])
        return resample(self.read(number, box), window, field.size)

    def overview(self, mpp: float) -> Overview:
        """The whole slide at about `mpp` µm/px (never finer); see `make_overview`."""
        level = level_for(self.levels, self.mpp, mpp)
        stored = self.levels[level]
        across = max(1, floor(mpp / (self.mpp.x * stored.downsample_x) + 1e-3))
        down = max(1, floor(mpp / (self.mpp.y * stored.downsample_y) + 1e-3))
        return make_overview(self, level, across, down)

    def thumbnail(self, longest: int = 1024) -> NDArray[np.uint8]:
        """The whole slide, at most `longest` pixels on its longer side: uint8 (height, width, 3)."""
        side = max(self.size.width, self.size.height)
        fits = [
            n for n, level in enumerate(self.levels) if side / level.downsample >= min(longest, side) * 0.999
        ]
        level = max(fits, key=lambda n: self.levels[n].downsample)
        stored = self.levels[level].size
        factor = max(1, floor(max(stored.width, stored.height) / longest))
        small = make_overview(self, level, factor, factor).pixels
        scale = min(1.0, longest / max(small.rgb.shape[:2]))
        height, width = (max(1, round(side * scale)) for side in small.rgb.shape[:2])
        return reduce(small, Size(width, height)).rgb

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """An associated image (label, macro, …): uint8 (height, width, 3). It may show a patient's name."""
        if name not in self.facts.associated:
            have = ", ".join(self.facts.associated) or "none"
            raise RequestError(f"associated image {name!r}", f"{self.name} has {have}", "name one it has")
        with self._lock:
            return self._reader.read_associated(name)
