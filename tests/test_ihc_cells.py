"""Cells of `ihc` beyond their nuclei: compartments, membranes, each cell once; and what people drew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage import measure
from slides import write_tiff

from coverslip.errors import RequestError
from coverslip.models.compartments import CellShape, grow, measure_compartments
from coverslip.models.nuclei import Nuclei, measure_nuclei
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.stain import H_DAB, StainVectors
from coverslip.tiling.tissue import TissueMask, find_tissue
from coverslip.workflows.ihc.cells import find_cells, nuclear_doubt, pattern_bins
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.wsi import Slide, open_slide

MPP = 0.5
RADIUS = 6  # of painted nuclei, px
RING = 10  # of painted membranes, px
GLASS = (243, 243, 243)


def painted(
    shape: tuple[int, int],
    places: list[tuple[int, int]],
    rings: list[tuple[float, float]],
    vectors: StainVectors = H_DAB,
    nuclear: float = 0.0,
    under: float = 0.1,
) -> NDArray[np.uint8]:
    """Blue nuclei on pale tissue, each with a ring of the second stain. `rings`: (its density, share of the
    circumference it covers); `nuclear`: the second stain in the nucleus, of that same density × this, and
    `under`: the first stain there."""
    amounts = np.zeros((*shape, 2), np.float32)
    amounts[..., 0] = 0.16  # so dense that nobody takes it for glass
    for (x, y), (density, share) in zip(places, rings, strict=True):
        layer = np.ascontiguousarray(amounts[..., 1])
        cv2.ellipse(layer, (x, y), (RING, RING), 0, 0, 360 * share, density, 3)
        if nuclear:
            cv2.circle(layer, (x, y), RADIUS, density * nuclear, -1)
        amounts[..., 1] = layer
        blue = np.ascontiguousarray(amounts[..., 0])
        cv2.circle(blue, (x, y), RADIUS, under if nuclear and density else 0.6, -1)
        amounts[..., 0] = blue
    density = cv2.GaussianBlur(amounts, (0, 0), 0.7) @ np.asarray(vectors.rows[:2], np.float32)
    return np.clip(np.rint(255 * 10**-density), 0, 255).astype(np.uint8)


def lattice(side: int, step: int = 34) -> list[tuple[int, int]]:
    return [(x, y) for y in range(step, side - step // 2, step) for x in range(step, side - step // 2, step)]


def nuclei_at(labels: NDArray[np.int32]) -> Nuclei:
    none = np.zeros(labels.shape, np.float32)
    return measure_nuclei(labels, none, none, MPP)


def test_a_cell_is_its_nucleus_grown_and_meets_its_neighbour_halfway() -> None:
    labels = np.zeros((60, 80), np.int32)
    cv2.circle(labels, (30, 30), 4, 1, -1)
    cv2.circle(labels, (48, 30), 4, 2, -1)
    cells = grow(labels, 6)
    assert np.array_equal(cells[labels > 0], labels[labels > 0])
    assert set(cells[30, 20:59].tolist()) == {1, 2}
    assert cells[30, 19] == cells[30, 59] == 0
    away = np.asarray(ndimage.distance_transform_edt(labels == 0))
    assert cells[(away > 0) & (away <= 5.5)].all()
    assert not cells[away > 6.5].any()
    assert (cells[30, 30:39] == 1).all()
    assert (cells[30, 40:48] == 2).all()


def test_compartments_are_measured_where_the_stain_was_put() -> None:
    labels = np.zeros((60, 60), np.int32)
    cv2.circle(labels, (30, 30), 6, 1, -1)
    cells = grow(labels, 10)
    stain = np.zeros((60, 60), np.float32)
    stain[cells > 0] = 0.3
    stain[labels > 0] = 0.7
    away = np.asarray(ndimage.distance_transform_edt(cells > 0))
    stain[(away > 0) & (away <= 2)] = 0.9
    found = measure_compartments(labels, cells, nuclei_at(labels), stain, MPP, CellShape())
    assert found.cell_area_um2[0] == pytest.approx((cells > 0).sum() * MPP**2)
    assert found.cytoplasm[0] == pytest.approx(0.3, abs=1e-3)
    assert found.completeness(0.6)[0] == 1
    assert found.membrane(0.6)[0] == pytest.approx(0.85, abs=0.1)
    assert found.completeness(1.0)[0] == 0


def test_a_cell_all_of_nucleus_has_no_cytoplasm_and_its_rim_for_membrane() -> None:
    labels = np.ones((20, 20), np.int32)
    found = measure_compartments(
        labels, labels, nuclei_at(labels), np.full((20, 20), 0.5, np.float32), MPP, CellShape()
    )
    assert np.isnan(found.cytoplasm[0])
    # the picture's edge is no border of a cell
    assert np.isnan(found.peaks).all()
    assert (found.membrane(0.2)[0], found.completeness(0.2)[0]) == (0, 0)


@pytest.mark.parametrize(
    ("ring", "marker", "name"),
    [
        ((0.0, 1.0), "her2", "negative"),
        ((0.6, 0.02), "her2", "negative"),
        ((0.33, 0.5), "her2", "1+"),
        ((1.4, 0.5), "her2", "2+"),
        ((0.33, 1.0), "her2", "2+"),
        ((0.55, 1.0), "her2", "2+"),
        ((1.4, 1.0), "her2", "3+"),
        ((0.6, 0.02), "pdl1", "negative"),
        ((0.33, 0.5), "pdl1", "1+"),
        ((1.4, 0.5), "pdl1", "3+"),
    ],
)
def test_a_painted_membrane_is_read_as_it_was_painted(ring, marker, name) -> None:
    """A ring 1.5 µm wide loses some of its density to the blur."""
    places = lattice(140)
    rgb = painted((140, 140), places, [ring] * len(places))
    cells = find_cells(rgb, H_DAB, IhcSettings(marker=marker))
    assert len(cells.nuclei) == len(places)
    assert {("negative", "1+", "2+", "3+")[n] for n in cells.bins} == {name}


def test_her2_patterns_are_those_of_the_guideline() -> None:
    intensity = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    complete = np.array([0.9] * 4 + [0.5] * 4)
    assert pattern_bins(intensity, complete, CellShape()).tolist() == [0, 2, 2, 3, 0, 1, 2, 2]


@pytest.mark.parametrize(("nuclear", "doubted"), [(0.0, False), (1.5, True)])
def test_an_antibody_of_nuclei_is_not_read_as_one_of_membranes(nuclear, doubted) -> None:
    places = lattice(240)
    rgb = painted((240, 240), places, [(0.6, 1.0)] * len(places), nuclear=nuclear, under=0.5)
    cells = find_cells(rgb, H_DAB, IhcSettings(marker="her2"))
    every = np.ones(len(cells.nuclei), bool)
    table = cells.rows(cells.nuclei.x, cells.nuclei.y, every, {})
    assert (table["class"].to_numpy(zero_copy_only=False) != "negative").sum() >= 20
    assert (nuclear_doubt(table, "DAB", 0.2) is not None) is doubted
    assert nuclear_doubt(table.slice(0, 5), "DAB", 0.2) is None


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slide, TissueMask]]:
    """330 × 290 px of nuclei, some touching, with membranes of all kinds."""
    rng = np.random.default_rng(3)
    places = [(int(x), int(y)) for x, y in rng.uniform(12, 278, (90, 2))]
    rings = [
        (float(d), float(s)) for d, s in zip(rng.uniform(0, 1.5, 90), rng.uniform(0, 1, 90), strict=True)
    ]
    rgb = np.full((290, 330, 3), GLASS, np.uint8)
    rgb[:, 20:310] = painted((290, 290), places, rings)
    path = write_tiff(tmp_path_factory.mktemp("crowd") / "crowd.tif", rgb, MPP, compression="deflate")
    with open_slide(path) as slide:
        yield slide, find_tissue(slide)


def rows_of(slide: Slide, mask: TissueMask, marker: str, tile: int, shard: int) -> NDArray[np.float64]:
    """All cells, in order of place, scored shard by shard: figures, and the class as a number."""
    workflow = Ihc(IhcSettings(marker=marker, tile=tile, shard=shard))
    grid = workflow.grid
    plan = plan_tiles(slide, mask, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    tables = [workflow.score(slide, plan, mask, range(*part)).table for part in plan.shards(shard)]
    found = []
    for table in tables:
        figures = [table[name].to_numpy() for name in table.column_names if name != "class"]
        names = np.array([("negative", "1+", "2+", "3+").index(name) for name in table["class"].to_pylist()])
        found.append(np.stack([*figures, names], axis=1))
    rows = np.concatenate(found)
    return rows[np.lexsort((rows[:, 0], rows[:, 1]))]


@given(
    tile=st.integers(90, 300), shard=st.integers(1, 5), marker=st.sampled_from(["generic", "her2", "pdl1"])
)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_each_cell_is_counted_once_whatever_tiles_and_shards(crowd, tile, shard, marker) -> None:
    """Also its membrane, its cytoplasm and its class are those of one large picture."""
    slide, mask = crowd
    whole = rows_of(slide, mask, marker, 400, 1)
    parts = rows_of(slide, mask, marker, tile, shard)
    assert len(parts) == len(whole) > 50
    assert np.allclose(parts, whole, rtol=0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"expansion_um": 0.5},
        {"membrane_um": 0},
        {"sectors": 3},
        {"complete": 0.2},
        {"partial": 0},
        {"complete": 1.1},
    ],
)
def test_cell_shapes_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(RequestError):
        CellShape(**wrong)


def read_rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB), np.uint8)


def drawn_nuclei(picture: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Centroids (n, 2) of what people drew: red is positive, blue negative, green the border between."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    found = {}
    for name, mask in (
        ("positive", (red > 100) & (green < 100) & (blue < 100)),
        ("negative", (blue > 100) & (red < 100) & (green < 100)),
    ):
        labels = np.asarray(measure.label(mask, connectivity=1))
        n = int(labels.max())
        numbers = [k for k in range(1, n + 1) if (labels == k).sum() >= 20]
        places = np.array(ndimage.center_of_mass(mask, labels, numbers)).reshape(-1, 2)
        found[name] = places[:, ::-1] + 0.5
    return found


def f1(truth: NDArray[np.float64], found: NDArray[np.float64], within: float) -> float:
    """Each pairs with one other at most, no further away than this."""
    away = np.hypot(*(truth[:, None] - found[None]).transpose(2, 0, 1))
    pairs = linear_sum_assignment(np.where(away <= within, away, 1e6))
    return 2 * int((away[pairs] <= within).sum()) / (len(truth) + len(found))


@pytest.mark.parametrize(
    ("tile", "drawn", "positive", "negative"),
    [("Bladder1", (15, 168), 0.55, 0.78), ("6_2", (22, 24), 0.67, 0.22), ("22_2", (10, 127), 0.9, 0.74)],
)
def test_nuclei_agree_with_those_that_people_drew_as_measured_before(
    shared, tile, drawn, positive, negative
) -> None:
    """Pairs within 4 µm, at 0.25 µm/px, which the files do not state. When written, F1 of positive and
    negative nuclei was 0.58 and 0.81, 0.70 and 0.26, 0.95 and 0.77: the palest are missed, and in 6_2 people
    drew only tumour, of whose 72 nuclei found 26 are stroma's."""
    folder = shared / "ihc/deepliif-restricted"
    if tile == "Bladder1":
        strip = read_rgb(folder / "Bladder1_6panel.png")
        rgb, truth = strip[:, :512], drawn_nuclei(strip[:, 5 * 512 :])
    else:
        rgb, truth = read_rgb(folder / f"{tile}.png"), drawn_nuclei(read_rgb(folder / f"{tile}_gt.png"))
    assert (len(truth["positive"]), len(truth["negative"])) == drawn
    half = np.asarray(cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    cells = find_cells(half, H_DAB, IhcSettings(marker="ki67"))
    places = 2 * np.stack([cells.nuclei.x, cells.nuclei.y], axis=1)
    assert f1(truth["positive"], places[cells.bins > 0], 16) >= positive
    assert f1(truth["negative"], places[cells.bins == 0], 16) >= negative


def test_a_real_antibody_of_membrane_and_cytoplasm_is_told_from_one_of_nuclei(shared) -> None:
    """FHL2 in colon, taken as 0.5 µm/px, which its file does not state."""
    cells = find_cells(read_rgb(shared / "ihc/skimage_ihc_FHL2.png"), H_DAB, IhcSettings(marker="pdl1"))
    every = np.ones(len(cells.nuclei), bool)
    table = cells.rows(cells.nuclei.x, cells.nuclei.y, every, {})
    assert 250 < len(table) < 350
    assert 0.5 < float((cells.bins > 0).mean()) < 0.8
    assert nuclear_doubt(table, "DAB", 0.2) is None
