"""Finding nuclei and cells one by one: what is learnt, what is drawn, and that a border counts none twice."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import coverslip
from discs import discs, stained, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slides import write_tiff

from coverslip.errors import CoverslipError, ModelUnavailableError, RequestError
from coverslip.models.card import render_card
from coverslip.models.detection import box_iou, f1, label_iou, match
from coverslip.models.kinds import read_any
from coverslip.models.objects import areas, centroids, outlines_of
from coverslip.models.pictures import read_pictures
from coverslip.models.star_document import FinderDocument
from coverslip.models.star_finder import StarFinder
from coverslip.models.star_network import REACH, STEP, StarArchitecture, build_star
from coverslip.models.star_shapes import Stars, draw_stars, find_candidates, suppress_boxes
from coverslip.models.star_targets import box_targets, star_targets
from coverslip.models.star_training import FinderReport, FinderSettings, train_finder
from coverslip.workflows.cell_table import OUTLINE, pack_outlines, read_outlines
from coverslip.workflows.finders import ClassicalFinder

SMALL = StarArchitecture(channels=(16, 16, 24, 32), up=16, rays=16)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_what_is_learnt_of_objects_gives_them_back(seed: int) -> None:
    labels = discs(96, 8, np.random.default_rng(seed))
    objectness, distances = star_targets(labels, 32)
    found = find_candidates(objectness[None], distances, 0.4)
    drawn, rows = draw_stars(found, labels.shape, 0.5)
    iou = label_iou(drawn, labels, len(rows), int(labels.max()))
    assert len(rows) == labels.max()
    assert (iou.max(axis=0) > 0.75).all()


def test_distances_are_those_to_the_border_of_a_disc() -> None:
    labels = np.zeros((64, 64), np.int32)
    cv2.circle(labels, (32, 32), 12, 1, -1)
    objectness, distances = star_targets(labels, 8)
    assert objectness[16, 16] == 1
    assert distances[:, 16, 16] == pytest.approx(12.5, abs=1)
    assert not distances[:, 0, 0].any()
    assert not objectness[0, 0]


def test_touching_objects_part_at_their_border() -> None:
    labels = np.zeros((32, 64), np.int32)
    labels[8:24, 8:32], labels[8:24, 32:56] = 1, 2
    objectness, distances = star_targets(labels, 4)
    assert objectness[8, 15:17].max() < 0.4  # low where they meet
    assert distances[0, 8, 10] == pytest.approx(11.5, abs=0.6)  # from 20 to the border at 32, not beyond


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_what_is_learnt_of_boxes_gives_them_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = discs(128, 6, rng, (10, 18))
    places = [np.argwhere(labels == number)[:, ::-1] for number in range(1, labels.max() + 1)]
    boxes = np.array([[*xy.min(axis=0), *(xy.max(axis=0) + 1)] for xy in places], np.float32)
    kinds = rng.integers(0, 2, len(boxes))
    objectness, distances = box_targets(boxes, kinds, labels.shape, 2)
    found = suppress_boxes(find_candidates(objectness, distances, 0.5), 0.3)
    taken = match(box_iou(found.boxes, boxes), 0.8)
    assert sorted(taken) == list(range(len(boxes)))
    assert (found.kind == kinds[taken]).all()


def test_of_two_that_overlap_the_surer_stays() -> None:
    found = Stars(
        np.array([[20, 20], [24, 20], [60, 20]], np.float32),
        np.full((3, 4), 10, np.float32),
        np.zeros(3, np.intp),
        np.array([0.9, 0.8, 0.7], np.float32),
    )
    kept = suppress_boxes(found, 0.3)
    assert kept.score.tolist() == pytest.approx([0.9, 0.7])
    assert kept.boxes[0].tolist() == [10, 10, 30, 30]
    labels, rows = draw_stars(found, (40, 80), 0.4)
    assert rows.tolist() == [0, 2]
    assert np.unique(labels).tolist() == [0, 1, 2]


def test_intersection_over_union_against_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    ones, others = (np.sort(rng.integers(0, 20, (5, 2, 2)), axis=1).reshape(5, 4) for _ in range(2))
    ones[:, 2:] += 1
    others[:, 2:] += 1

    def pixels(box: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros((22, 22), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    counted = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in others] for a in ones]
    found = box_iou(ones.astype(np.float32), others.astype(np.float32))
    assert found == pytest.approx(np.array(counted))
    assert f1(np.array([4, 6, 3])) == pytest.approx(0.6)


def test_each_object_there_is_taken_once() -> None:
    iou = np.array([[0.8, 0.6], [0.9, 0.0], [0.55, 0.7]])
    assert match(iou, 0.5).tolist() == [0, -1, 1]


def test_outlines_enclose_their_labels() -> None:
    labels = discs(96, 5, np.random.default_rng(3))
    outlines = outlines_of(labels)
    pixels = np.bincount(labels.ravel())[1:]
    assert areas(outlines) == pytest.approx(pixels, rel=0.12)
    x, y = centroids(outlines)
    for number in range(5):
        rows, columns = np.nonzero(labels == number + 1)
        assert (x[number], y[number]) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=0.3)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=5))
@settings(deadline=None)
def test_outlines_are_kept_to_an_eighth_of_a_pixel(places: list[tuple[float, float]]) -> None:
    rng = np.random.default_rng(0)
    outlines = [rng.uniform(-30, 30, (n + 3, 2)) + place for n, place in enumerate(places)]
    x, y = (np.array([place[axis] for place in places], np.float64) for axis in (0, 1))
    packed = pack_outlines(outlines, x, y)
    table = pa.table({"x": x, "y": y}).append_column(OUTLINE, packed)
    for one, other in zip(read_outlines(table), outlines, strict=True):
        assert one == pytest.approx(other, abs=1 / 16 + 1e-9)


def test_no_pixel_farther_than_the_halo_decides() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = build_star(SMALL, 1).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm begins with blocks that pass nothing on
            torch.nn.init.ones_(module.weight)
    side = 2 * (REACH + 2 * STEP)
    picture = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        whole = network(picture)
        changed = picture.clone()
        middle = side // 2
        changed[:, :, :, : middle - REACH] += 1
        far = network(changed)
        changed[:, :, :, : middle - 4] += 1
        near = network(changed)
    at = (slice(None), slice(None), side // 4, side // 4)
    assert torch.equal(whole[at], far[at])
    assert not torch.equal(whole[at], near[at])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("file,label\n0.png,gone.png", "gone.png is not there"),
        ("file,label\n0.png,0.png", "no label image"),
        ("file,label\n0.png,0_l.png\n1.png,0.xml", "some objects are marked by boxes"),
        ("file,label\n0_l.png,bad.xml", "no XML of Pascal VOC"),
        ("file,label\n0.png,nameless.xml", "without a name"),
        ("file,label\n../0.png,0_l.png", "outside the folder"),
    ],
)
def test_a_bad_labels_file_is_said_line_by_line(tmp_path: Path, lines: str, said: str) -> None:
    path = write_pictures(tmp_path, 2)
    (tmp_path / "bad.xml").write_text("<annotation", encoding="utf-8")
    (tmp_path / "nameless.xml").write_text("<a><object><bndbox/></object></a>", encoding="utf-8")
    (tmp_path / "0.xml").write_text("<annotation/>", encoding="utf-8")
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        read_pictures(path)


def test_pictures_are_resampled_with_their_marks(tmp_path: Path) -> None:
    marked = read_pictures(write_pictures(tmp_path / "labels", 1), scale=0.5)
    boxed = read_pictures(write_pictures(tmp_path / "boxes", 1, boxes=True), scale=0.5)
    picture, other = marked.pictures[0], boxed.pictures[0]
    assert picture.rgb.shape == (64, 64, 3)
    assert picture.labels is not None
    assert picture.labels.shape == (64, 64)
    assert marked.classes == ("object",)
    assert read_pictures(tmp_path / "labels" / "labels.csv", called="nucleus").classes == ("nucleus",)
    assert boxed.classes == ("large", "small")
    assert other.rgb.shape == (64, 64, 3)
    assert picture.boxes.max() <= 64
    assert other.boxes.max() <= 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FinderReport:
    """On drawn pictures, whose truth is known."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("finder")
    chosen = FinderSettings(
        mpp=0.5, name="discs", architecture=SMALL, steps=150, batch=4, side=64, learning_rate=6e-3
    )
    return train_finder(write_pictures(folder / "data", 12), folder / "model", chosen)


def test_a_network_learns_to_find_discs(trained: FinderReport) -> None:
    (found,) = trained.metrics.classes
    assert found.f1 is not None
    assert found.f1 > 0.9, found
    assert found.interval is not None
    assert found.interval[0] <= found.f1 <= found.interval[1]


def test_boxes_and_classes_are_learnt(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    architecture = SMALL.model_copy(update={"rays": 4})
    chosen = FinderSettings(
        mpp=0.5, architecture=architecture, steps=150, batch=4, side=64, scales=(1, 1), learning_rate=6e-3
    )
    report = train_finder(write_pictures(tmp_path / "data", 12, boxes=True), tmp_path / "model", chosen)
    figures = [found.f1 or 0 for found in report.metrics.classes]
    assert np.mean(figures) > 0.7, report.metrics
    picture = read_pictures(tmp_path / "data" / "labels.csv").pictures[0]
    objects = StarFinder(tmp_path / "model").find(picture.rgb)
    assert len(objects) == pytest.approx(len(picture), abs=4)
    assert objects.labels.max() <= len(objects)


def test_the_card_says_how_objects_are_found(trained: FinderReport) -> None:
    document = read_any(trained.folder)
    assert isinstance(document, FinderDocument)
    card = render_card(document)
    for said in ("discs", "F1", "kept out of training", "For Research Use Only", "outlines", "0.5 µm/px"):
        assert said in card


def test_an_altered_or_other_package_is_refused(trained: FinderReport, tmp_path: Path) -> None:
    weights = (trained.folder / "weights.safetensors").read_bytes()
    document = (trained.folder / "model.json").read_text(encoding="utf-8")
    (tmp_path / "weights.safetensors").write_bytes(weights[:-1] + b"\0\0")
    (tmp_path / "model.json").write_text(document, encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="altered"):
        StarFinder(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(weights)
    other = json.loads(document) | {"schema_name": "coverslip.model"}
    (tmp_path / "model.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(CoverslipError, match="schema"):
        StarFinder(tmp_path)
    finder = StarFinder(trained.folder)
    with pytest.raises(RequestError, match="not RGB"):
        finder.find(np.zeros((32, 32), np.uint8))
    assert len(finder.find(np.full((33, 47, 3), 255, np.uint8))) == 0


@pytest.mark.parametrize("name", ["classical", "network"])
def test_a_cell_on_a_border_is_counted_once(trained: FinderReport, tmp_path: Path, name: str) -> None:
    """The same cells, whether the slide is looked at in one piece or in many."""
    rng = np.random.default_rng(11)
    labels = discs(700, 150, rng)
    slide = write_tiff(tmp_path / "a.tif", stained(labels, rng), 0.5, levels=1)
    model = "classical" if name == "classical" else str(trained.folder)
    tables = []
    for tile in (1024, 128):
        out = tmp_path / str(tile)
        tables.append(cells_of(str(slide), out, model, tile))
    one, many = tables
    near = np.hypot(
        one["x"].to_numpy()[:, None] - many["x"].to_numpy(),
        one["y"].to_numpy()[:, None] - many["y"].to_numpy(),
    )
    assert len(one) == len(many)
    assert (near.min(axis=1) < 0.5).all()
    assert (near.min(axis=0) < 0.5).all()
    centres = np.array([np.argwhere(labels == n).mean(axis=0) for n in range(1, labels.max() + 1)])
    found = np.stack([one["y"].to_numpy(), one["x"].to_numpy()], axis=1) - 0.5
    off = np.hypot(*(centres[:, None] - found[None]).transpose(2, 0, 1)).min(axis=1)
    assert (off < 2).mean() > 0.95
    if name == "classical":
        drawn = labels[labels > 0].size * 0.25
        assert one["area_um2"].to_numpy().sum() == pytest.approx(drawn, rel=0.25)


def cells_of(slide: str, out: Path, model: str, tile: int) -> pa.Table:
    from coverslip.workflows.cells import CellSettings, cell_finding
    from coverslip.workflows.job import RunSettings
    from coverslip.workflows.progress import Silent
    from coverslip.workflows.run import execute, plan_run

    plan = plan_run([slide], out, cell_finding(model, CellSettings(tile=tile)), RunSettings())
    report = execute(plan, 1, None, False, lambda slides: nullcontext(Silent()))
    assert report.exit_code == 0, report.failures
    return pq.read_table(out / "slides" / "a.tif" / "cells.parquet")


def test_the_classical_finder_draws_what_it_measures() -> None:
    rng = np.random.default_rng(5)
    labels = discs(200, 12, rng)
    found = ClassicalFinder().find(stained(labels, rng))
    assert len(found) == labels.max()
    assert len(found.outlines) == len(found)
    x, y = centroids(found.outlines)
    assert x == pytest.approx(found.x, abs=0.5)
    assert y == pytest.approx(found.y, abs=0.5)


@pytest.mark.slow
def test_cells_are_trained_run_and_read_back_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    labels = write_pictures(tmp_path / "data", 8)
    model = tmp_path / "model"
    done = coverslip("train", "cells", labels, "-o", model, "--mpp", 0.5, "--steps", 40, "--side", 64)
    assert done.returncode == 0, done.stderr
    assert "F1 (95 % interval)" in done.stdout
    rng = np.random.default_rng(1)
    slide = write_tiff(tmp_path / "a.tif", stained(discs(600, 80, rng), rng), 0.5, levels=1)
    done = coverslip("run", slide, "-o", tmp_path / "out", "--workflow", "cells", "--model", model)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out" / "slides" / "a.tif" / "cells.parquet")
    assert {"x", "y", "area_um2", "score", "class", "outline"} <= set(table.column_names)
    assert len(read_outlines(table)) == len(table) > 0
    done = coverslip("run", slide, "-o", tmp_path / "two", "--workflow", "tiles", "--model", model)
    assert done.returncode == 2
    assert "is a model for object-detection" in done.stderr
    assert "--workflow cells" in done.stderr
    done = coverslip("run", slide, "-o", tmp_path / "cls", "--workflow", "cells")
    assert done.returncode == 0, done.stderr
