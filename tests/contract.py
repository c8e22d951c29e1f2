"""The suite every reader passes, ours and a plug-in's: import `check_reader` and give it an opened slide.

from contract import check_reader

def test_my_reader_keeps_the_contract(tmp_path):
    with open_slide(write_mine(tmp_path), reader="mine") as slide:
        check_reader(slide)
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from math import ceil

import numpy as np
import pytest

from coverslip.errors import NotBrightfieldError, RequestError
from coverslip.wsi import Box, Facts, Reader, Size, Slide
from coverslip.wsi.pixels import Raw
from coverslip.wsi.tiles import decode

BOXES_PER_LEVEL = 12


def check_reader(slide: Slide) -> None:
    """Assert all that a reader promises (`coverslip.wsi.facts.Reader`); asserts name what is broken."""
    check_facts(slide.facts)
    check_identity(slide)
    if slide.facts.kind == "multichannel":
        with pytest.raises(NotBrightfieldError):
            slide.read(0, Box(0, 0, 1, 1))
        return
    for level in range(len(slide.levels)):
        check_pixels(slide, level)
        check_stored(slide, level)
    check_arrays_are_not_kept(slide)
    check_threads(slide)
    check_associated(slide)


def check_facts(facts: Facts) -> None:
    """Levels shrink, all that is stated is plausible in itself, and text is text."""
    assert facts.format
    areas = [level.size.area for level in facts.levels]
    assert areas == sorted(areas, reverse=True), "levels come largest first"
    assert len(set(areas)) == len(areas), "no level twice"
    base = facts.levels[0]
    assert (base.downsample_x, base.downsample_y) == (1.0, 1.0)
    for level in facts.levels:
        assert level.downsample_x * level.size.width == pytest.approx(
            base.size.width, abs=level.downsample_x + 1
        )
        assert level.downsample_y * level.size.height == pytest.approx(
            base.size.height, abs=level.downsample_y + 1
        )
    assert facts.missing_fraction is None or 0 <= facts.missing_fraction <= 1
    assert 0 <= facts.z_plane < facts.z_planes
    assert facts.bounds is None or facts.bounds.clip(base.size) == facts.bounds, "bounds lie inside"
    assert all(0 <= value <= 255 for value in facts.background)
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in facts.properties.items())
    assert facts.icc is None or isinstance(facts.icc, bytes)


def check_identity(slide: Slide) -> None:
    """Name and version for provenance, and a reference that opens the same slide again."""
    reader: Reader = slide._reader
    assert reader.name
    assert reader.version
    again = pickle.loads(pickle.dumps(slide.ref)).open()  # noqa: S301
    with again:
        assert again.reader == slide.reader
        assert again.levels == slide.levels
        assert again.facts.mpp == slide.facts.mpp


def boxes(size: Size, seed: int) -> list[Box]:
    """Inside a level: its corners, one pixel, and boxes at random."""
    random = np.random.default_rng(seed)
    width, height = min(size.width, 257), min(size.height, 255)
    found = [
        Box(0, 0, width, height),
        Box(size.width - width, size.height - height, width, height),
        Box(size.width - 1, 0, 1, 1),
        Box(0, size.height - 1, 1, 1),
    ]
    while len(found) < BOXES_PER_LEVEL:
        x, y = int(random.integers(0, size.width)), int(random.integers(0, size.height))
        box = Box(x, y, int(random.integers(1, 300)), int(random.integers(1, 300))).clip(size)
        assert box is not None
        found.append(box)
    return found


def check_raw(raw: Raw, box: Box) -> None:
    """Shapes, types, and that what is corrupt is also absent."""
    assert raw.rgb.shape == (*box.size.shape, 3)
    assert raw.rgb.dtype == np.uint8
    for mask, kind in ((raw.alpha, np.uint8), (raw.corrupt, np.bool_)):
        assert mask is None or (mask.shape == box.size.shape and mask.dtype == kind)
    if raw.corrupt is not None:
        assert raw.alpha is not None
        assert not raw.alpha[raw.corrupt].any()


def check_pixels(slide: Slide, level: int) -> None:
    """A box is a part of a larger one, wherever the level is a whole number of times smaller."""
    stored = slide.levels[level]
    for box in boxes(stored.size, level):
        raw = slide._reader.read(level, box)
        check_raw(raw, box)
    outer = Box(0, 0, min(stored.size.width, 700), min(stored.size.height, 700))
    inner = Box(outer.width // 3, outer.height // 3, max(1, outer.width // 3), max(1, outer.height // 3))
    if stored.downsample_x == stored.downsample_y == 1.0:
        whole, part = slide.read(level, outer), slide.read(level, inner)
        at = inner.within(outer)
        assert (whole.rgb[at] == part.rgb).all()
        assert (whole.valid[at] == part.valid).all()


def check_stored(slide: Slide, level: int) -> None:
    """Where it says how its tiles are stored, they decode to what it reads."""
    stored = slide.stored(level)
    if stored is None:
        return
    size, tile = slide.levels[level].size, stored.tile
    assert stored.size == size
    assert stored.offsets.dtype == stored.counts.dtype == np.int64
    assert stored.offsets.shape == stored.counts.shape
    assert stored.counts.shape == (ceil(size.height / tile.height), ceil(size.width / tile.width))
    assert min(stored.offsets.min(), stored.counts.min()) >= 0
    for row, column in [(0, 0), (stored.counts.shape[0] - 1, stored.counts.shape[1] - 1)]:
        pixels = decode(stored, slide.fetch(level, [(row, column)])[0])
        box = Box(column * tile.width, row * tile.height, tile.width, tile.height)
        part = box.clip(size)
        assert part is not None
        if pixels is not None and slide.levels[level].downsample == 1.0:
            raw = slide._reader.read(level, part)
            assert (raw.rgb == pixels[part.within(box)]).all()


def check_arrays_are_not_kept(slide: Slide) -> None:
    """What is returned belongs to the caller: writing into it changes nothing read later."""
    box = Box(0, 0, min(slide.size.width, 64), min(slide.size.height, 64))
    first = np.array(slide._reader.read(0, box).rgb)
    again = slide._reader.read(0, box).rgb
    if again.flags.writeable:
        again[:] = 7
    assert (slide._reader.read(0, box).rgb == first).all()


def check_threads(slide: Slide) -> None:
    """Four threads read what one reads."""
    wanted = boxes(slide.size, 99)
    alone = [slide.read(0, box) for box in wanted]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda box: slide.read(0, box), wanted * 2))
    for one, two in zip(alone * 2, together, strict=True):
        assert (one.rgb == two.rgb).all()
        assert (one.valid == two.valid).all()


def check_associated(slide: Slide) -> None:
    """Each named image is RGB; another name is refused."""
    for name in slide.facts.associated:
        image = slide.read_associated(name)
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
    with pytest.raises(RequestError):
        slide.read_associated("no such image")
