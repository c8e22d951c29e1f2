"""Workflow `ihc`: each nucleus once, wherever tiles end, and no number where there is none to give."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import KDTree
from slides import tissue, write_tiff

import coverslip
from coverslip.errors import RequestError
from coverslip.tiling.plan import TilePlan, plan_tiles, tile_positions
from coverslip.tiling.tissue import TissueMask, find_tissue
from coverslip.workflows.ihc.workflow import Ihc, IhcSettings
from coverslip.workflows.job import RunSettings
from coverslip.workflows.ownership import owned
from coverslip.workflows.result import SlideResult
from coverslip.wsi import Box, Mpp, Size, Slide, open_slide

Looked = tuple[Slide, TissueMask]
COLUMNS = ("x", "y", "area_um2", "haematoxylin_od_mean", "dab_od_mean")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a workflow saw: cells sorted by place, their classes, and the canvas put together."""

    cells: NDArray[np.float64]
    classes: list[str]
    canvas: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.cells)


def look(slide: Slide, mask: TissueMask, choices: IhcSettings) -> Seen:
    """All tiles of a slide whose tiles' corners need no rounding at `choices.mpp`."""
    workflow = Ihc(choices)
    grid = workflow.grid
    plan = plan_tiles(slide, mask, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    scored = workflow.score(slide, plan, mask, range(len(plan)))
    cells = np.stack([scored.table[name].to_numpy() for name in COLUMNS], axis=1)
    order = np.lexsort((cells[:, 0], cells[:, 1]))
    classes = [scored.table["class"][int(n)].as_py() for n in order]
    canvas = np.zeros((4096, 4096), np.uint8)
    for row, block in scored.blocks.items():
        x, y = round(plan.x[row] * slide.mpp.x / grid.mpp), round(plan.y[row] * slide.mpp.y / grid.mpp)
        canvas[y : y + grid.size, x : x + grid.size] = block
    return Seen(cells[order], classes, canvas)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ihc")


@pytest.fixture(scope="module")
def field(folder: Path) -> Iterator[Looked]:
    """A real field mirrored to 1300 × 900 px at 0.5 µm/px, without loss."""
    with open_slide(write_tiff(folder / "field.tif", tissue(1300, 900), 0.5, compression="deflate")) as slide:
        yield slide, find_tissue(slide)


@pytest.fixture(scope="module")
def whole(field: Looked) -> Seen:
    """The field in one tile."""
    return look(*field, IhcSettings(tile=1300))


@pytest.mark.parametrize("tile", [1024, 512, 300, 257])
def test_every_tile_size_gives_the_nuclei_of_one_tile(field: Looked, whole: Seen, tile: int) -> None:
    seen = look(*field, IhcSettings(tile=tile))
    assert len(seen) == len(whole) > 500
    assert np.allclose(seen.cells, whole.cells, rtol=0, atol=1e-9)
    assert seen.classes == whole.classes


@pytest.mark.parametrize("tile", [512, 257])
def test_nuclei_are_drawn_across_the_borders_of_tiles_without_a_seam(
    field: Looked, whole: Seen, tile: int
) -> None:
    border = whole.canvas[:, tile - 1 : tile + 1]
    assert ((border[:, 0] > 0) & (border[:, 0] == border[:, 1])).sum() > 20, "no nucleus lies on the border"
    assert np.array_equal(look(*field, IhcSettings(tile=tile)).canvas, whole.canvas)


def test_the_canvas_shows_as_many_classes_as_the_table(whole: Seen) -> None:
    names = {1: "negative", 2: "1+", 3: "2+", 4: "3+"}
    shown = {names[value] for value in np.unique(whole.canvas) if value}
    assert shown == set(whole.classes) == set(names.values())
    for (x, y, *_), name in list(zip(whole.cells, whole.classes, strict=True))[::20]:
        near = whole.canvas[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9]
        assert name in {names.get(int(value)) for value in np.unique(near)}


def test_a_cytoplasmic_marker_leaves_dab_out_of_the_search(field: Looked, whole: Seen) -> None:
    seen = look(*field, IhcSettings(site="cytoplasm"))
    again = look(*field, IhcSettings(site="cytoplasm", tile=300))
    assert 0.4 * len(whole) < len(seen) < 0.8 * len(whole)
    assert np.allclose(seen.cells, again.cells, rtol=0, atol=1e-9)
    assert np.mean([name != "negative" for name in seen.classes]) < np.mean(
        [name != "negative" for name in whole.classes]
    )


@given(
    mpp=st.tuples(st.floats(0.1, 0.55), st.floats(0.1, 0.55)),
    size=st.integers(20, 400),
    left=st.integers(0, 1000),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_place_of_the_scan_belongs_to_exactly_one_tile(
    mpp: tuple[float, float], size: int, left: int, seed: int
) -> None:
    """Also places on corners, and where corners had to be rounded."""
    scanned = Box(left, 2 * left, 1500, 1100)
    slide_mpp = Mpp(mpp[0], mpp[1], "given")
    step_x, step_y = size * 0.5 / mpp[0], size * 0.5 / mpp[1]
    across = tile_positions(scanned.width, step_x, step_x) + scanned.x
    down = tile_positions(scanned.height, step_y, step_y) + scanned.y
    x, y = np.tile(across, len(down)), np.repeat(down, len(across))
    plan = TilePlan("s", "d", Size(4000, 4000), slide_mpp, 0.5, size, 0, x, y, np.ones(len(x), np.float32))
    rng = np.random.default_rng(seed)
    px = np.concatenate([rng.uniform(scanned.x, scanned.right, 200), rng.choice(across, 20), [scanned.x]])
    py = np.concatenate([rng.uniform(scanned.y, scanned.bottom, 200), rng.choice(down, 20), [scanned.y]])
    px, py = np.minimum(px, scanned.right - 1e-3), np.minimum(py, scanned.bottom - 1e-3)
    owners = sum(owned(px, py, plan, row, scanned).astype(int) for row in range(len(plan)))
    # The last row and column may end half a pixel early, since a plan covers the scan up to rounding.
    inner = (px < scanned.right - 1) & (py < scanned.bottom - 1)
    assert (np.asarray(owners)[inner] == 1).all()


def test_at_a_fractional_resolution_hardly_a_nucleus_is_counted_twice(folder: Path) -> None:
    path = write_tiff(folder / "fine.tif", tissue(1300, 1000), (0.37, 0.41), compression="deflate")
    with open_slide(path) as slide:
        mask = find_tissue(slide)
        one, many = (look(slide, mask, IhcSettings(tile=tile)) for tile in (1024, 128))
    assert len(many) == pytest.approx(len(one), rel=0.02)
    places = many.cells[:, :2] * (0.37, 0.41)
    # Tiles sample the glass up to half a pixel apart, so that their outlines of one nucleus differ a little:
    # of those on a border a few are still seen by both. Tiles of 128 px have eight times the borders.
    assert len(KDTree(places).query_pairs(1.5)) <= len(many) / 250
    # Most are in the same place: half a pixel can part a clump elsewhere, not lose it.
    apart, _ = KDTree(one.cells[:, :2] * (0.37, 0.41)).query(places)
    assert np.mean(apart < 1) > 0.8


def run(path: Path, out: Path, choices: IhcSettings | None = None) -> SlideResult:
    report = coverslip.run([str(path)], out, Ihc(choices or IhcSettings()), workers=1)
    assert report.failures == ()
    return report.results[0]


def label_on(store: Path) -> NDArray[np.uint8]:
    """The label `nuclei`, laid where its translation says, at 0.5 µm/px."""
    group = zarr.open_group(store, path="labels/nuclei", mode="r")
    ome = cast(Any, group.attrs.asdict()["ome"])
    steps = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    values = np.asarray(zarr.open_array(store, path="labels/nuclei/0", mode="r")[:])
    values = values.reshape(values.shape[-2], values.shape[-1])
    at_y, at_x = (round(value / 0.5) for value in steps[1]["translation"][-2:])
    canvas = np.zeros((4096, 4096), np.uint8)
    canvas[at_y : at_y + values.shape[0], at_x : at_x + values.shape[1]] = values
    return canvas


def test_a_run_stores_the_label_and_the_cells_whatever_the_tile(
    field: Looked, whole: Seen, folder: Path
) -> None:
    """1031 is prime: no smaller chunk divides it."""
    slide, _ = field
    for tile in (300, 1031):
        out = folder / f"out-{tile}"
        result = run(Path(slide.path), out, IhcSettings(tile=tile))
        home = out / "slides" / "field.tif"
        assert np.array_equal(label_on(home / "slide.ome.zarr"), whole.canvas)
        cells = pq.read_table(home / "cells.parquet")
        assert cells.num_rows == len(whole)
        numbers = {m.name: m.value or 0 for m in result.measurements}
        counted = [numbers[f"nuclei {name}"] for name in ("negative", "1+", "2+", "3+")]
        assert counted == [whole.classes.count(name) for name in ("negative", "1+", "2+", "3+")]
        positive, h_score = numbers["positive nuclei"], numbers["H-score"]
        assert positive == pytest.approx(100 * sum(counted[1:]) / len(whole))
        assert h_score == pytest.approx(100 * np.dot(counted, (0, 1, 2, 3)) / len(whole))


def test_blank_glass_gives_no_number_at_all(folder: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (600, 600, 3)).clip(0, 255).astype(np.uint8)
    result = run(write_tiff(folder / "blank.tif", glass, 0.5), folder / "out-blank")
    assert (result.status, result.summary, result.measurements) == ("no tissue", "no tissue", ())


def test_tissue_without_nuclei_is_not_evaluable_which_is_not_zero(folder: Path) -> None:
    rgb = np.full((800, 800, 3), 245, np.uint8)
    rgb[200:600, 200:600] = (225, 215, 205)  # evenly stained, faint: nothing stands out
    result = run(write_tiff(folder / "even.tif", rgb, 0.5), folder / "out-even")
    assert result.status == "done"
    assert result.quality.tiles > 0
    values = {m.name: m.value for m in result.measurements}
    assert values["nuclei"] == 0
    assert values["positive nuclei"] is None
    assert values["H-score"] is None
    assert result.abstentions


def test_few_nuclei_are_said(folder: Path) -> None:
    result = run(write_tiff(folder / "few.tif", tissue(320, 320), 0.5), folder / "out-few")
    values = {m.name: (m.value, m.note) for m in result.measurements}
    assert 0 < (values["nuclei"][0] or 0) < 500
    assert values["positive nuclei"][1] == "fewer than 500 nuclei"
    assert "few nuclei" in result.summary
    assert [a.what for a in result.abstentions] == ["reliability of the score"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mpp": 0},
        {"mpp": float("nan")},
        {"mpp": 5},
        {"tile": 0},
        {"shard": 0},
        {"site": "membrane"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(RequestError):
        IhcSettings(**wrong)


def test_ki67_is_inside_the_spread_of_qupath(shared: Path, folder: Path) -> None:
    with (shared / "ihc/OS-2-ndpi_qupath-results.tsv").open(encoding="utf-8") as lines:
        reference = list(csv.DictReader(lines, delimiter="\t"))
    cells = [int(row["Num cells"]) for row in reference]
    percent = [float(row["Positive %"]) for row in reference]
    result = run(shared / "ihc/OS-2-ndpi_Ki67.ome.tif", folder / "out-ki67")
    values = {m.name: m for m in result.measurements}
    assert min(cells) <= (values["nuclei"].value or 0) <= max(cells)
    assert min(percent) <= (values["positive nuclei"].value or 0) <= max(percent)
    interval = values["positive nuclei"].interval
    assert interval is not None
    assert interval.low < (values["positive nuclei"].value or 0) < interval.high
    assert result.abstentions == ()


def test_h_and_e_is_refused_and_doubted_where_it_is_accepted(shared: Path, folder: Path) -> None:
    path, workflow = shared / "wsi/ome-tiff/OS-1-detail.ome.tif", Ihc()
    refused = coverslip.run([str(path)], folder / "refused", workflow, workers=1)
    assert [(one.path, one.error) for one in refused.failures] == [(str(path), "StainMismatchError")]
    accepted = RunSettings(accept_stain=True)
    (result,) = coverslip.run([str(path)], folder / "out-he", workflow, settings=accepted, workers=1).results
    assert "stain doubtful" in result.summary
    assert [a.what for a in result.abstentions] == ["whether this is haematoxylin and DAB"]
