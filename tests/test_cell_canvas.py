"""Cells as labels: where they lie, in which class, and redrawn only where something changed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coverslip.errors import RequestError, StoreIncompleteError
from coverslip.workflows.cell_canvas import NONE, CellCanvas, Code
from coverslip.workflows.cell_rows import read_cells
from coverslip.workflows.cell_table import OUTLINE, pack_outlines
from coverslip.workflows.files import write_table
from coverslip.workflows.mosaic import Mosaic, TileCache
from coverslip.workflows.outline_file import LARGEST_GROUP, OutlineFile
from coverslip.workflows.overlays import LabelImage
from coverslip.workflows.painted_cells import PaintedCells
from coverslip.wsi import Box, Size

MPP, SIZE = 0.5, Size(4096, 3000)
CLASSES = ("negative", "positive")


def table_of(count: int = 400, *, outlined: bool = True) -> pa.Table:
    """Boxes of 24 × 16 px (or discs of their area), apart from each other."""
    columns = 60
    x = 30.0 + 65 * (np.arange(count) % columns)
    y = 40.0 + 65 * (np.arange(count) // columns)
    corners = np.array([(-12, -8), (12, -8), (12, 8), (-12, 8), (-12, -8)], float)
    table = pa.table(
        {
            "x": x,
            "y": y,
            "area_um2": np.full(count, 24 * 16 * MPP**2),
            "class": [CLASSES[n % 3 == 0] for n in range(count)],
        }
    )
    if not outlined:
        return table
    packed = pack_outlines([corners + at for at in np.stack([x, y], axis=1)], x, y)
    return table.append_column(OUTLINE, packed)


def canvas_of(tmp_path: Path, table: pa.Table, cache: TileCache | None = None, **given) -> CellCanvas:
    write_table(tmp_path / "cells.parquet", table, "coverslip.cells/1")
    cells = read_cells(tmp_path / "cells.parquet")
    return CellCanvas(cells, SIZE, MPP, names=CLASSES, cache=cache, number=7, **given)


def classes_in(canvas: CellCanvas, picture: np.ndarray) -> np.ndarray:
    """The class of each pixel, -2 for background."""
    table = np.array([-2, *(canvas.code.class_of(value) for value in range(1, int(picture.max()) + 1))])
    return table[picture]


def test_near_each_outline_is_filled_in_its_class_and_nothing_else(tmp_path):
    table = table_of()
    canvas = canvas_of(tmp_path, table)
    seen = classes_in(canvas, np.asarray(canvas.levels[0]))
    expected = np.full(SIZE.shape, -2)
    for x, y, name in zip(*(table[c].to_pylist() for c in ("x", "y", "class")), strict=True):
        expected[int(y) - 8 : int(y) + 8, int(x) - 12 : int(x) + 12] = CLASSES.index(name)
    wrong = seen != expected
    # the rim, half a pixel wide, is all that may differ
    rim = cv2.morphologyEx((expected >= 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    assert not (wrong & (rim == 0)).any()
    assert wrong.sum() < 0.5 * rim.sum()


def test_without_outlines_a_disc_has_the_cell_s_area(tmp_path):
    canvas = canvas_of(tmp_path, table_of(1, outlined=False))
    drawn = np.asarray(canvas.levels[0])[:100, :100] > 0
    assert drawn.sum() == pytest.approx(24 * 16, rel=0.15)
    rows, columns = np.nonzero(drawn)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((40, 30), abs=0.6)
    ring = canvas.outline(0)
    assert cv2.contourArea(ring.astype(np.float32)) == pytest.approx(24 * 16, rel=0.01)


def test_tiles_meet_without_seams(tmp_path):
    canvas = canvas_of(tmp_path, table_of())
    mosaic = canvas.mosaic(0)
    whole = mosaic.read(Box(0, 0, 1024, 512))
    parts = np.concatenate([mosaic.read(Box(0, 0, 512, 512)), mosaic.read(Box(512, 0, 512, 512))], axis=1)
    np.testing.assert_array_equal(whole, parts)


def test_far_out_every_cell_leaves_a_dot_and_a_pixel_shows_the_commonest_class(tmp_path):
    canvas = canvas_of(tmp_path, table_of())
    coarse = classes_in(canvas, np.asarray(canvas.levels[-1]))
    scale = SIZE.width / coarse.shape[1]
    at = (canvas.cells.y / scale).astype(int), (canvas.cells.x / scale).astype(int)
    np.testing.assert_array_equal(coarse[at], canvas.classes)
    crowd = pa.table({"x": [9.0] * 5, "y": [9.0] * 5, "class": [CLASSES[n > 1] for n in range(5)]})
    crowded = canvas_of(tmp_path, crowd)
    assert classes_in(crowded, np.asarray(crowded.levels[-1]))[2, 2] == 1


def test_more_cells_than_fit_beside_each_other_are_dots(tmp_path, monkeypatch):
    monkeypatch.setattr("coverslip.workflows.cell_canvas.MOST_DRAWN", 10)
    canvas = canvas_of(tmp_path, table_of())
    assert (np.asarray(canvas.levels[0])[:300, :300] > 0).sum() < 400


def test_touching_cells_have_different_values_of_one_colour(tmp_path):
    table = pa.table({"x": [50.0, 62.0], "y": [50.0, 50.0], "area_um2": [40.0, 40.0], "class": ["a", "a"]})
    write_table(tmp_path / "cells.parquet", table, "coverslip.cells/1")
    canvas = CellCanvas(read_cells(tmp_path / "cells.parquet"), SIZE, MPP)
    values = set(np.unique(np.asarray(canvas.levels[0]))) - {0}
    assert len(values) == 2
    assert len({canvas.value_colours[int(value)] for value in values}) == 1
    assert {canvas.value_names[int(value)] for value in values} == {"a"}


def test_a_new_class_is_drawn_and_only_its_tiles_are_forgotten(tmp_path):
    cache = TileCache()
    canvas = canvas_of(tmp_path, table_of(), cache)
    before = np.asarray(canvas.levels[0])
    held = set(cache.held())
    dropped = canvas.recolour([0], 1 - canvas.classes[0])
    assert set(dropped) == {(7, 0, 0)}
    assert set(cache.held()) == held - {(7, 0, 0)}
    after = np.asarray(canvas.levels[0])
    changed = np.argwhere(before != after)
    assert len(changed)
    assert (np.abs(changed - (40, 30)) <= (9, 13)).all()
    assert canvas.recolour([0], canvas.classes[0]) == ()


def test_after_any_change_what_is_held_is_what_would_be_drawn_anew(tmp_path):
    cache = TileCache()
    canvas = canvas_of(tmp_path, table_of(), cache)
    rng = np.random.default_rng(3)
    for _ in range(4):
        _ = [np.asarray(level) for level in canvas.levels]
        rows = rng.choice(400, 30, replace=False)
        canvas.recolour(rows, rng.integers(-1, 2, 30))
        for number, level in enumerate(canvas.levels):
            mosaic = canvas.mosaic(number)
            np.testing.assert_array_equal(np.asarray(level), mosaic.read(Box(0, 0, *mosaic.shape[::-1])))


def test_what_does_not_count_has_a_colour_of_its_own(tmp_path):
    canvas = canvas_of(tmp_path, table_of())
    canvas.recolour([0], NONE)
    value = int(np.asarray(canvas.levels[0])[40, 30])
    assert canvas.code.class_of(value) == NONE
    assert canvas.value_names[value] == "not counted"


@pytest.mark.parametrize(("rows", "classes"), [([400], [0]), ([-1], [0]), ([0], [2]), ([0], [-2])])
def test_rows_and_classes_that_are_not_there_are_refused(tmp_path, rows, classes):
    with pytest.raises(RequestError):
        canvas_of(tmp_path, table_of()).recolour(rows, classes)


@pytest.mark.parametrize("names", [1, 14, 40, 5000])
def test_every_value_leads_back_to_its_class(names):
    code = Code(tuple(map(str, range(names))))
    classes = np.array([-1, 0, names - 1] * 20)
    values = code.values(classes, np.arange(60))
    assert values.min() > 0
    assert [code.class_of(int(value)) for value in values] == classes.tolist()


@pytest.mark.parametrize("group", [LARGEST_GROUP, 1 << 20])
def test_outlines_are_the_same_whether_the_table_has_small_or_large_groups(tmp_path, monkeypatch, group):
    monkeypatch.setattr("coverslip.workflows.outline_file.LARGEST_GROUP", 100)
    table = table_of(350)
    rows_each = 80 if group == LARGEST_GROUP else group
    pq.write_table(table, tmp_path / "cells.parquet", row_group_size=rows_each)
    rows = np.array([0, 5, 79, 80, 349])
    found = OutlineFile(tmp_path / "cells.parquet").of(rows)
    expected = [np.array(table["outline"][int(row)].as_py()).reshape(-1, 2) for row in rows]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_more_outlines_are_kept_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("coverslip.workflows.outline_file.CACHE_BYTES", 8000)
    pq.write_table(table_of(400), tmp_path / "cells.parquet", row_group_size=50)
    file = OutlineFile(tmp_path / "cells.parquet")
    assert file.bytes == 0
    assert len(file.of(np.arange(400))) == 400
    assert 0 < file.bytes <= 8000


def test_painted_patches_take_the_class_of_the_cell_in_them_and_shared_ones_are_divided(tmp_path):
    painted = np.zeros((1500, 2048), np.uint8)
    painted[10:20, 10:20] = 1  # level 0: 20 to 40
    painted[30:40, 10:30] = 2  # holds two cells
    painted[80:90, 80:90] = 1  # holds none
    mosaic = Mosaic(painted.shape, painted.dtype, lambda box: painted[box.within(Box(0, 0, 1, 1))])
    label = LabelImage("nuclei", (mosaic,), (2.0, 2.0), (0.5, 0.5))
    table = pa.table(
        {
            "x": [30.0, 30.0, 50.0],
            "y": [30.0, 70.0, 70.0],
            "area_um2": [100.0] * 3,
            "class": ["negative", "positive", "negative"],
        }
    )
    cache = TileCache()
    canvas = canvas_of(tmp_path, table, cache, painted=PaintedCells(label, cache, 900))
    seen = classes_in(canvas, np.asarray(canvas.levels[0])[:200, :200])
    expected = np.full((200, 200), -2)
    expected[20:40, 20:40] = 0
    expected[60:80, 20:40], expected[60:80, 40:60] = 1, 0
    np.testing.assert_array_equal(seen, expected)


def test_a_table_that_is_none_says_so(tmp_path):
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "cells.parquet")
    with pytest.raises(StoreIncompleteError, match="no table of cells"):
        read_cells(tmp_path / "cells.parquet")
    (tmp_path / "cells.parquet").write_bytes(b"nothing")
    with pytest.raises(StoreIncompleteError):
        read_cells(tmp_path / "cells.parquet")
