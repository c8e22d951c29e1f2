"""Workflow `cytology`: cells of a smear found and called, each once wherever tiles end; what is not said."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import yaml
from PIL import Image
from slides import write_tiff

import coverslip
from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.pap_finder import PapFinder, common_density
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.tissue import find_tissue
from coverslip.workflows.cytology.cells import cells_of, crowds_of
from coverslip.workflows.cytology.points import points_of, roles_of
from coverslip.workflows.cytology.workflow import Cytology, CytologySettings, cytology
from coverslip.workflows.registry import find_workflow
from coverslip.workflows.result import SlideResult
from coverslip.workflows.rules.guideline import FOLDER, load_guideline
from coverslip.workflows.workflow import Conclusion, Scored, grounds_of
from coverslip.wsi import Mpp, Slide, open_slide

pytest.importorskip("torch")
FIELD = "cytology/cric-fields-with-cells/a9ceb5e547fed2f7d052cdc794cb1330.png"
PART = np.s_[590:949, 440:1080]
TILE = 256
BETHESDA = load_guideline("bethesda-2014")
CLASSES = ("ASC-H", "ASC-US", "HSIL", "LSIL", "NILM", "SCC")


def look(slide: Slide, choices: CytologySettings) -> tuple[Scored, Conclusion]:
    workflow = cytology(choices=choices)
    mask, grid = find_tissue(slide), workflow.grid
    plan = plan_tiles(slide, mask, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    scored = workflow.score(slide, plan, mask, range(len(plan)))
    return scored, workflow.conclude(grounds_of(workflow, slide, plan, mask), scored.table)


def planes_of(slide: Slide, choices: CytologySettings) -> Mapping[str, Any]:
    """What provenance says of the focal planes."""
    workflow, mask = cytology(choices=choices), find_tissue(slide)
    plan = plan_tiles(slide, mask, mpp=workflow.grid.mpp, size=workflow.grid.size)
    return grounds_of(workflow, slide, plan, mask).derived.values["focus"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cytology")


@pytest.fixture(scope="module")
def field(shared: Path, folder: Path) -> Iterator[Slide]:
    """A part of a real field of a Pap smear, without loss, with annotated nuclei."""
    rgb = np.asarray(Image.open(shared / FIELD).convert("RGB"))[PART]
    with open_slide(write_tiff(folder / "field.tif", rgb, 0.25, compression="deflate")) as slide:
        yield slide


@pytest.fixture(scope="module")
def whole(field: Slide) -> tuple[Scored, Conclusion]:
    """The field in one tile."""
    return look(field, CytologySettings(tile=1024, preparation="conventional"))


@pytest.fixture(scope="module")
def cut(field: Slide) -> tuple[Scored, Conclusion]:
    """The field in many tiles."""
    return look(field, CytologySettings(tile=TILE, preparation="conventional"))


def placed(table: pa.Table) -> pa.Table:
    return table.sort_by([("y", "ascending"), ("x", "ascending")])


def test_annotated_nuclei_are_found(whole, shared: Path) -> None:
    table = whole[0].table
    nuclei = table.filter(pa.array([kind == "nucleus" for kind in table["kind"].to_pylist()]))
    x, y = nuclei["x"].to_numpy(), nuclei["y"].to_numpy()
    with (shared / FIELD).with_name("labels.csv").open() as file:
        marked = [row for row in csv.DictReader(file) if row["file"] == Path(FIELD).name]
    top, left = PART[0].start, PART[1].start
    places = [(float(row["x"]) - left, float(row["y"]) - top) for row in marked]
    inside = [(a, b) for a, b in places if 0 < a < 640 and 0 < b < 359]
    found = [np.hypot(x - a, y - b).min() * 0.25 < 5 for a, b in inside]
    assert len(inside) >= 5
    assert all(found)


def test_the_same_cells_whatever_the_tiles(whole, cut) -> None:
    assert len(cut[0].blocks) >= 4
    one, other = placed(whole[0].table), placed(cut[0].table)
    assert len(one) == len(other) > 20
    for name in ("kind", "class", "strange"):
        assert one[name].to_pylist() == other[name].to_pylist()
    for name in ("x", "y", "area_um2", "p_HSIL"):
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), atol=1e-3)
    for one_finding, other_finding in zip(whole[1].findings, cut[1].findings, strict=True):
        assert one_finding.text == other_finding.text
        places = [[(t.x, t.y) for t in finding.tiles] for finding in (one_finding, other_finding)]
        assert places[0] == places[1]
    assert whole[1].call is not None
    assert cut[1].call is not None
    assert cut[1].call.category == whole[1].call.category


def test_a_cell_on_the_border_of_tiles_is_drawn_in_one_class(field: Slide, whole, cut) -> None:
    """The canvas of many tiles is that of one."""
    canvas = np.zeros((512, 768), np.uint8)
    plan = plan_tiles(field, find_tissue(field), mpp=0.25, size=TILE, min_tissue=1e-6)
    for row, block in cut[0].blocks.items():
        canvas[plan.y[row] : plan.y[row] + TILE, plan.x[row] : plan.x[row] + TILE] = block
    (alone,) = whole[0].blocks.values()
    assert (canvas[:359, :640] > 0).any()
    np.testing.assert_array_equal(canvas[:359, :640], alone[:359, :640])


def test_what_the_model_has_no_class_for_is_said_and_not_guessed(whole) -> None:
    said = {each.what: each.why for each in whole[1].abstentions}
    for what in ("endocervical component", "organisms", "glandular lesions"):
        assert "not assessed" in said[what]
    assert "Trichomonas" in said["organisms"]


def test_few_cells_are_unsatisfactory_or_established_as_abnormal(whole) -> None:
    call = whole[1].call
    assert call is not None
    assert call.triage is not None
    if call.category == "unsatisfactory":
        assert call.urgency == "unevaluable"
    else:
        assert call.urgency in ("attention", "urgent")


def test_another_preparation_than_the_figures_are_of_gives_no_category(field: Slide) -> None:
    _, found = look(field, CytologySettings(tile=1024, preparation="liquid-based"))
    assert found.call is not None
    assert (found.call.category, found.call.urgency) == (None, "unevaluable")
    assert any("conventional" in each.why for each in found.abstentions)


def test_planes_are_fused_and_each_cell_has_its_own(shared: Path, folder: Path) -> None:
    """Left half sharp in plane 0, right half in plane 2."""
    import cv2

    rgb = np.asarray(Image.open(shared / FIELD).convert("RGB"))[560:900, 380:1060]
    rgb = np.ascontiguousarray(rgb)
    soft = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 3), np.uint8)
    left, right = soft.copy(), soft.copy()
    half = rgb.shape[1] // 2
    left[:, :half], right[:, half:] = rgb[:, :half], rgb[:, half:]
    path = folder / "planes.ome.tif"
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(
        path,
        np.stack([left, soft, right]),
        photometric="rgb",
        tile=(128, 128),
        metadata={"axes": "ZYXS", **sizes},
    )
    with open_slide(path) as slide:
        best, _ = look(slide, CytologySettings(tile=1024, focus="best"))
        focus = planes_of(slide, CytologySettings(tile=1024, focus="best"))
        assert (focus["planes"], focus["spacing_um"]) == (3, 2.0)
        assert "Nayar" in focus["fusion"]
        fused, _ = look(slide, CytologySettings(tile=1024, focus="fused"))
        middle, _ = look(slide, CytologySettings(tile=1024))
        alone = planes_of(slide, CytologySettings(tile=1024))
        assert alone == {"method": "plane", "plane": 1, "planes": 3}
    nuclei = np.asarray(best.table["kind"].to_pylist()) == "nucleus"
    x, plane = best.table["x"].to_numpy()[nuclei], best.table["plane"].to_numpy()[nuclei]
    clear = np.abs(x - half) > 60
    assert clear.sum() >= 6
    assert (plane[clear] == np.where(x[clear] < half, 0, 2)).mean() > 0.9
    seen = PapFinder().find(np.asarray(cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)))
    counts = [sum(kind == "nucleus" for kind in s.table["kind"].to_pylist()) for s in (fused, middle)]
    truth = int((seen.kind == 0).sum())
    assert abs(counts[0] - truth) <= abs(counts[1] - truth)
    assert abs(counts[0] - truth) <= 3


@pytest.fixture(scope="module")
def composed(shared: Path, shared_tools: Path, folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """A slide composed from 24 normal and 16 abnormal real cells."""
    path = folder / "smear.svs"
    labels = shared / "cytology/cric-cervix-centred/labels.csv"
    given = ["--classes", "NILM=24,HSIL=16", "--size", "1024x1024", "--seed", "3"]
    command = [sys.executable, str(shared_tools / "make_slide.py"), "cells", str(labels), str(path), *given]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with path.with_suffix(".csv").open() as file:
        return path, list(csv.DictReader(file))


def test_a_slide_with_many_abnormal_cells_is_called(composed, folder: Path) -> None:
    """The whole way: cells in a file, galleries per category, the call before everything else."""
    path, truth = composed
    out = folder / "out"
    choices = CytologySettings(preparation="conventional", tile=1024)
    report = coverslip.run([str(path)], out, cytology(choices=choices), workers=1)
    assert not report.failures
    home = out / "slides" / path.name
    result = SlideResult.model_validate_json((home / "result.json").read_text())
    assert result.call is not None
    assert result.call.category in ("ASC-H", "HSIL")
    assert result.call.urgency == "urgent"
    assert result.call.code
    assert result.call.confidence is not None
    assert {use.name for use in result.guidelines} >= {BETHESDA.name}
    cells = pq.read_table(home / "cells.parquet")
    assert {"x", "y", "class", "score", "suspicion", "crowd", *(f"p_{n}" for n in CLASSES)} <= set(
        cells.column_names
    )
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    near = [np.hypot(x - int(r["x"]) - 64, y - int(r["y"]) - 64).min() * 0.25 < 4 for r in truth]
    assert np.mean(near) > 0.85
    gallery = {finding.name: finding.tiles for finding in result.findings}
    assert 0 < len(gallery["cells called HSIL"]) <= choices.gallery
    assert len(gallery["most suspicious cells"]) == BETHESDA["triage_cells"]
    for tile in (tile for tiles in gallery.values() for tile in tiles):
        assert 0 <= tile.x < 1024
        assert 0 <= tile.y < 1024
    scores = [tile.score for tile in gallery["cells called HSIL"]]
    assert scores == sorted(scores, reverse=True)


def test_cytoplasm_is_pale_and_nuclei_are_dark_whatever_the_colour() -> None:
    """Cyan, pink and orange cytoplasm, a nucleus within each."""
    for cytoplasm in ((120, 200, 205), (235, 170, 180), (240, 180, 110)):
        picture = np.full((160, 160, 3), 250, np.uint8)
        rows, columns = np.indices(picture.shape[:2])
        from_middle = np.hypot(rows - 80, columns - 80)
        picture[from_middle < 50] = cytoplasm
        picture[from_middle < 8] = (75, 60, 115)
        found = PapFinder().find(picture)
        nuclei = np.flatnonzero(found.kind == 0)
        assert len(nuclei) == 1
        assert np.hypot(found.x[nuclei[0]] - 80.5, found.y[nuclei[0]] - 80.5) < 1
        assert common_density(picture)[80, 80] > 2.5 * common_density(picture)[80, 110]


def test_small_bodies_and_clumps_are_no_nuclei() -> None:
    picture = np.full((200, 200, 3), 250, np.uint8)
    rows, columns = np.indices(picture.shape[:2])
    for centre, radius in (((40, 40), 3), ((40, 140), 8), ((140, 100), 28)):
        picture[np.hypot(rows - centre[0], columns - centre[1]) < radius] = (70, 60, 110)
    found = PapFinder().find(picture)
    names = [PapFinder().classes[kind] for kind in found.kind]
    assert sorted(names) == ["clump", "nucleus", "small body"]
    assert not len(PapFinder().find(np.full((64, 64, 3), 250, np.uint8)))


def drawn_cells(x: list[float], y: list[float]):
    n = len(x)
    table = pa.table(
        {
            "x": np.array(x, float),
            "y": np.array(y, float),
            "class": ["NILM"] * n,
            "score": np.ones(n, np.float32),
            "strange": np.zeros(n, bool),
            "undecided": np.zeros(n, bool),
            **{f"p_{name}": np.full(n, float(name == "NILM"), np.float32) for name in CLASSES},
        }
    )
    return cells_of(table, CLASSES, roles_of(CLASSES, BETHESDA), Mpp(0.5, 0.25, "given"), 32)


def test_crowds_are_chains_of_near_nuclei_by_size() -> None:
    """µm, not pixels: 20 px are 10 µm along x and 5 µm along y."""
    row = [20.0 * n for n in range(6)]
    cells = drawn_cells([*row, *row[:4], 900.0], [0.0] * 6 + [5000.0] * 4 + [900.0])
    assert crowds_of(cells, 11, 4).tolist() == [1] * 6 + [2] * 4 + [0]
    assert crowds_of(cells, 11, 5).tolist() == [1] * 6 + [0] * 5
    assert not crowds_of(cells, 9, 2).any()
    assert not len(crowds_of(drawn_cells([], []), 9, 2))


def test_classes_are_known_by_many_names() -> None:
    names = ["ascus", "ASC_H", "agc", "Trichomonas", "EC", "metaplastic", "dust"]
    expected = ("ASC-US", "ASC-H", "AGC", "Trichomonas vaginalis", "endocervical", "endocervical", "")
    assert roles_of(names, BETHESDA) == expected


def test_without_measured_points_the_models_own_confusion_serves() -> None:
    from coverslip.models.library import find_model

    document = find_model("cervical-cells").document
    other = document.model_copy(update={"weights_sha256": "0" * 64})
    points = {point.category: point for point in points_of(other, BETHESDA, None).points}
    confusion = np.array(document.metrics.confusion)
    normal = confusion[CLASSES.index("NILM")]
    called = normal.sum() - normal[CLASSES.index("NILM")]
    assert (points["ASC-US"].normal.hits, points["ASC-US"].normal.of) == (called, normal.sum())
    assert points["ASC-US"].threshold is None
    assert points["ASC-US"].milder is None
    assert points["HSIL"].normal.hits == normal[[CLASSES.index("HSIL"), CLASSES.index("SCC")]].sum()
    assert points["HSIL"].milder is not None
    assert points_of(other, BETHESDA, None).preparations == ()
    with pytest.raises(RequestError, match="weights"):
        points_of(other, BETHESDA, "cervical-cells-points")
    with pytest.raises(ModelMismatchError, match="how often"):
        points_of(other.model_copy(update={"metrics": None}), BETHESDA, None)


def test_operating_points_that_come_along_are_of_the_weights_that_come_along() -> None:
    """After training again: python -m benchmarks.cytology calibrate, and measure again."""
    from coverslip.models.library import find_model

    document = find_model("cervical-cells").document
    measured = points_of(document, BETHESDA, "cervical-cells-points")
    assert measured.preparations == ("conventional",)
    assert measured.use is not None
    assert measured.use.unverified == ("points",)
    assert points_of(document, BETHESDA, None) == measured


def test_a_model_of_something_else_is_refused() -> None:
    with pytest.raises(ModelMismatchError, match="cervical"):
        cytology("blood-cells")


@pytest.mark.parametrize(
    "wrong", [{"tile": 100}, {"gallery": -1}, {"obscured": 2.0}, {"focus": "all"}, {"preparation": "block"}]
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(RequestError):
        CytologySettings(**wrong)


def test_it_is_known_by_name_and_its_settings_travel() -> None:
    kind = find_workflow("cytology")
    assert kind.settings is CytologySettings
    workflow = cytology(choices=CytologySettings(preparation="conventional"))
    assert isinstance(workflow, Cytology)
    changed = replace(workflow, choices=CytologySettings(preparation="liquid-based"))
    assert workflow.settings() != changed.settings()
    assert workflow.settings()["points"]


def test_a_guideline_of_ones_own_changes_the_least_count(field: Slide, whole, tmp_path: Path) -> None:
    document = yaml.safe_load((FOLDER / "bethesda-2014.yaml").read_text())
    document["values"]["least_cells"]["conventional"] = 5
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(document))
    choices = CytologySettings(tile=1024, preparation="conventional", guideline=str(path), obscured=0.9)
    workflow = cytology(choices=choices)
    mask, grid = find_tissue(field), workflow.grid
    plan = plan_tiles(field, mask, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    clear = replace(workflow, choices=replace(choices, obscured=0.1))
    doubted = replace(workflow, choices=replace(choices, obscured=0.1, squamous=0.01))
    texts = []
    for each in (workflow, clear, doubted):
        found = each.conclude(grounds_of(each, field, plan, mask), whole[0].table)
        texts.append(next(f.text for f in found.findings if f.name == "adequacy"))
    assert texts[1].startswith("satisfactory")
    assert texts[0].startswith("unsatisfactory") or "abnormal" in texts[0]
    assert texts[2].startswith("not judged") or "abnormal" in texts[2]
