"""Overviews from stored tiles: the picture a full read gives, and no more decoded than it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from slides import corrupt_tiles, tissue, write_tiff

from coverslip.wsi import Box, Size, Slide, open_slide, overview
from coverslip.wsi.overview import Reduction, make_overview
from coverslip.wsi.plain_tiles import plain_tiles
from coverslip.wsi.resample import reduce

GLASS = (243, 242, 244)
SIDE = 2048


def on_glass() -> np.ndarray:
    """Tissue in one corner, one red cell of 8 px far away, glass everywhere else."""
    rgb = np.empty((SIDE, SIDE, 3), np.uint8)
    rgb[:] = GLASS
    rgb[:700, :900] = tissue(900, 700)
    rgb[1300:1308, 1300:1308] = (200, 120, 130)
    return rgb


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_tiff(tmp_path_factory.mktemp("o") / "p.tif", on_glass(), 0.5, levels=6)
    with open_slide(path) as slide:
        yield slide


def in_full(slide: Slide, level: int, factor: int) -> np.ndarray:
    box = slide.levels[level].size.box
    return reduce(slide.read(level, box), Size(box.width // factor, box.height // factor)).rgb


@pytest.mark.parametrize(("level", "factor"), [(0, 8), (0, 16), (1, 4), (1, 2), (2, 2)])
def test_the_picture_is_that_of_a_full_read(pyramid: Slide, level: int, factor: int) -> None:
    made = make_overview(pyramid, level, factor, factor)
    error = np.mean((made.pixels.rgb.astype(float) - in_full(pyramid, level, factor)) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 40
    assert made.pixels.valid.all()
    assert not made.pixels.damaged.any()


def test_tiles_of_one_colour_are_not_decoded_and_those_with_a_cell_are(pyramid: Slide, monkeypatch) -> None:
    decoded = []
    real = overview.decode
    monkeypatch.setattr(overview, "decode", lambda *given: decoded.append(1) or real(*given))
    stored = pyramid.stored(0)
    assert stored is not None
    plain, colour = plain_tiles(pyramid, 0, stored)
    made = make_overview(pyramid, 0, 16, 16)
    assert plain.sum() >= 40
    assert len(decoded) == plain.size - plain.sum()
    assert not plain[5, 5], "the tile of the single cell"
    assert not plain[:2, :3].any(), "tissue"
    assert np.abs(colour[plain].astype(int) - GLASS).max() <= 2
    assert np.abs(made.pixels.rgb[81, 81].astype(int) - GLASS).max() > 10, "the cell is seen"


def test_a_level_without_a_coarser_one_is_decoded(pyramid: Slide) -> None:
    last = len(pyramid.levels) - 1
    stored = pyramid.stored(last)
    assert stored is not None
    assert not plain_tiles(pyramid, last, stored)[0].any()


def test_a_lost_tile_is_shown_as_the_reader_shows_it(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "t.tif", tissue(1024, 1000), 0.5)
    corrupt_tiles(path, [5])
    with open_slide(path) as slide:
        made = make_overview(slide, 0, 8, 8).pixels
        lost = np.zeros((125, 128), bool)
        lost[32:64, 32:64] = True
        assert np.array_equal(made.damaged, lost)
        assert np.array_equal(made.valid, ~lost)
        assert (made.rgb[lost] == slide.background).all()


def test_edges_that_are_no_whole_tile_are_read(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "t.tif", tissue(1000, 700), 0.5)
    with open_slide(path) as slide:
        made = make_overview(slide, 0, 8, 8).pixels
        assert made.rgb.shape == (88, 125, 3)
        exact = reduce(slide.read(0, Box(768, 512, 232, 192)), Size(29, 24)).rgb
        assert np.array_equal(made.rgb[64:, 96:], exact)


def test_blocks_cover_a_level_once() -> None:
    how = Reduction(0, 3, 5)
    seen = np.zeros((100 // 5 + 1, 77 // 3 + 1), int)
    for box in how.blocks(Size(77, 101), 20):
        seen[how.of(box).within(Box(0, 0, seen.shape[1], seen.shape[0]))] += 1
    assert (seen == 1).all()
