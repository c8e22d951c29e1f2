"""Workflow `blood`: white cells wherever tiles end, and a differential that says what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NORMALISATION, network_of, write_network
from numpy.typing import NDArray
from scipy.spatial import KDTree
from slides import write_tiff
from smears import MPP, Smear, draw_smear

import coverslip
from coverslip.errors import ModelMismatchError, RequestError
from coverslip.models.detection import IOU, box_iou, f1, match
from coverslip.models.document import TileFit
from coverslip.models.doubt import PredictionSets
from coverslip.models.network import features_and_logits, normalise
from coverslip.models.objects import Objects, centroids, outlines_of
from coverslip.models.pictures import read_pictures
from coverslip.models.smear_finder import SmearFinder, smear_finder
from coverslip.models.white_cells import WhiteCellFinder, WhiteCellSettings
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.tissue import TissueMask, find_tissue
from coverslip.workflows.blood.cells import SmearCells, wrong_calls
from coverslip.workflows.blood.fields import FieldSettings, count_fields
from coverslip.workflows.blood.report import Assessed, BloodReport, blood_report
from coverslip.workflows.blood.workflow import Blood, BloodSettings, blood
from coverslip.workflows.finders import open_finder, settle_finder
from coverslip.workflows.registry import build_workflow, find_workflow
from coverslip.workflows.result import SlideResult
from coverslip.workflows.rules.differential import Counting, Rules
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.wsi import Slide, open_slide

torch = pytest.importorskip("torch")
CLASSES = ("neutrophil", "lymphocyte", "erythroblast")
SURE = PredictionSets(
    method="lac", coverage=0.9, by_class=False, thresholds=(0.4,) * 3, n=9, groups=9, measured=None
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blood")


@pytest.fixture(scope="module")
def smear() -> Smear:
    return draw_smear()


@pytest.fixture(scope="module")
def slide_path(folder: Path, smear: Smear) -> Path:
    return write_tiff(folder / "smear.tif", smear.rgb, MPP, compression="deflate")


@pytest.fixture(scope="module")
def model(folder: Path, smear: Smear) -> str:
    """A network that calls tiles of 64 px at 0.25 µm/px one of three cells, of the drawn ones some each."""
    fit = TileFit(size=64, mpp=MPP, tolerance=0.1)
    padded = np.pad(smear.rgb, ((32, 32), (32, 32), (0, 0)), mode="edge")
    corners = smear.white.astype(int).tolist()
    network = network_of()
    spread_calls(network, np.stack([padded[y : y + 64, x : x + 64] for x, y in corners]))
    write_network(folder / "caller", network, classes=CLASSES, tile=fit, prediction_sets=SURE)
    return str(folder / "caller")


def spread_calls(network: Any, tiles: NDArray[np.uint8]) -> None:
    """Change its last layer so that over these tiles each class has the same mean and spread."""
    with torch.no_grad():
        logits = features_and_logits(network, normalise(torch.from_numpy(tiles), NORMALISATION))[1]
        last = network.get_classifier()
        times = 1.5 / logits.std(dim=0)
        last.weight.mul_(times[:, None])
        last.bias.copy_((last.bias - logits.mean(dim=0)) * times)


@pytest.fixture(scope="module")
def looked(slide_path: Path) -> Iterator[tuple[Slide, TissueMask]]:
    with open_slide(slide_path) as slide:
        yield slide, find_tissue(slide)


def classical(model: str, **others: Any) -> BloodSettings:
    return BloodSettings(finder="classical", classifier=model, **others)


def cells_of(workflow: Blood, slide: Slide, tissue: TissueMask) -> pa.Table:
    """All cells of a slide, sorted by place."""
    grid = workflow.grid
    plan = plan_tiles(slide, tissue, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    shards = [range(start, stop) for start, stop in plan.shards(grid.shard)]
    parts = [workflow.score(slide, plan, tissue, rows).table for rows in shards]
    return pa.concat_tables(parts).sort_by([("y", "ascending"), ("x", "ascending")])


@pytest.fixture(scope="module")
def whole(looked: tuple[Slide, TissueMask], model: str) -> pa.Table:
    """The smear in one tile."""
    return cells_of(blood(classical(model)), *looked)


def test_every_drawn_white_cell_is_found_once_and_nothing_else(whole: pa.Table, smear: Smear) -> None:
    found = np.stack([whole["x"].to_numpy(), whole["y"].to_numpy()], axis=1)
    distance, nearest = KDTree(smear.white).query(found)
    assert sorted(np.asarray(nearest).tolist()) == list(range(len(smear.white)))
    assert distance.max() < 1 / MPP
    assert {1, 2, 3} == set(smear.lobes.tolist()), "lobes must be joined, or it is not tested"


@pytest.mark.parametrize(("tile", "shard"), [(256, 1), (144, 5), (400, 2)])
def test_every_tile_size_gives_the_cells_and_calls_of_one_tile(
    looked: tuple[Slide, TissueMask], whole: pa.Table, model: str, tile: int, shard: int
) -> None:
    many = cells_of(blood(classical(model, tile=tile, shard=shard)), *looked)
    assert len(many) == len(whole) > 20
    for name in ("x", "y", "area_um2", *(f"p_{name}" for name in CLASSES)):
        assert np.allclose(many[name].to_numpy(), whole[name].to_numpy(), rtol=0, atol=1e-5), name
    for name in ("class", "kind", "call", "strange", "undecided"):
        assert many[name].to_pylist() == whole[name].to_pylist()
    assert len(set(whole["call"].to_pylist())) > 1, "all called alike proves little"


@given(x=st.integers(0, 200), y=st.integers(0, 200), seed=st.integers(0, 3))
@settings(max_examples=12, deadline=None)
def test_a_picture_with_its_halo_has_the_white_cells_of_the_whole(x: int, y: int, seed: int) -> None:
    smear, finder = draw_smear(500, 500, seed), WhiteCellFinder()
    halo, side = finder.margin, 90
    padded = np.pad(smear.rgb, ((halo, halo), (halo, halo), (0, 0)), mode="edge")
    part = finder.find(padded[y : y + side + 2 * halo, x : x + side + 2 * halo])
    everything = finder.find(padded)
    here = np.stack([part.x - halo, part.y - halo], axis=1)
    there = np.stack([everything.x - halo - x, everything.y - halo - y], axis=1)
    inside = [rows[((rows >= 0) & (rows < side)).all(axis=1)] for rows in (here, there)]
    assert np.allclose(*[rows[np.lexsort(rows.T)] for rows in inside], atol=1e-6)


def test_platelets_red_cells_and_glass_are_no_white_cells() -> None:
    smear = draw_smear(300, 300)
    without = smear.rgb.copy()
    for x, y in smear.white.astype(int):
        without[max(0, y - 30) : y + 30, max(0, x - 30) : x + 30] = (250, 232, 208)
    assert len(WhiteCellFinder().find(without)) == 0
    assert len(WhiteCellFinder().find(np.zeros((0, 0, 3), np.uint8))) == 0
    with pytest.raises(RequestError):
        WhiteCellFinder().find(smear.rgb.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(RequestError):
        WhiteCellSettings(least_um2=500)


def test_the_lamp_does_not_matter() -> None:
    smear, finder = draw_smear(400, 300), WhiteCellFinder()
    darker = (smear.rgb * 0.7).astype(np.uint8)
    assert len(finder.find(darker)) == len(finder.find(smear.rgb)) == len(smear.white)


@dataclass(frozen=True)
class Discs:
    """A finder that calls the drawn places what it is told, for which it needs no picture."""

    places: NDArray[np.float64]
    kinds: NDArray[np.intp]
    classes: tuple[str, ...] = ("RBC", "WBC")
    mpp: float = MPP
    margin: int = 20
    step: int = 16

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        labels = np.zeros(rgb.shape[:2], np.int32)
        for number, (x, y) in enumerate(self.places.astype(int), 1):
            labels[y - 9 : y + 9, x - 9 : x + 9] = number
        outlines = outlines_of(labels)
        x, y = centroids(outlines)
        return Objects(x, y, outlines, self.kinds, np.ones(len(x), np.float32), labels)


def test_white_cells_of_one_finder_replace_those_of_another(smear: Smear) -> None:
    """The other calls every cell red, but two of the red ones white."""
    kinds = np.zeros(len(smear.red) + len(smear.white), np.intp)
    kinds[:2] = 1
    other = Discs(np.concatenate([smear.red, smear.white]), kinds)
    finder = smear_finder(other)
    found = finder.find(smear.rgb)
    names = np.array(finder.classes)[found.kind]
    assert finder.classes == ("RBC", "WBC")
    assert finder.margin % 16 == 0
    assert finder.margin >= finder.white.margin
    assert (names == "WBC").sum() == len(smear.white)
    assert (names == "RBC").sum() == len(smear.red) - 2
    for row in range(len(found)):
        at = found.labels[int(found.y[row]), int(found.x[row])]
        assert at == row + 1
    assert len(np.unique(found.labels)) == len(found) + 1


def test_a_finder_without_white_cells_is_given_them(smear: Smear) -> None:
    other = Discs(smear.red, np.zeros(len(smear.red), np.intp), classes=("cell",))
    finder = SmearFinder(other, WhiteCellFinder(mpp=MPP))
    assert finder.classes == ("cell", "WBC")
    assert (finder.find(smear.rgb).kind == 1).sum() == len(smear.white)


def test_finders_of_smears_have_names(folder: Path) -> None:
    assert isinstance(open_finder("white-cells"), WhiteCellFinder)
    name = settle_finder("white-cells+smear-cells")
    assert Path(name.removeprefix("white-cells+")).is_absolute()
    finder = open_finder(name)
    assert isinstance(finder, SmearFinder)
    assert finder.white.mpp == finder.mpp == open_finder("smear-cells").mpp
    assert BloodSettings().finder_name == "white-cells+smear-cells"
    assert BloodSettings(white_cells="finder").finder_name == "smear-cells"


def run(path: Path, out: Path, choices: BloodSettings) -> SlideResult:
    report = coverslip.run([str(path)], out, blood(choices), workers=1)
    assert report.failures == ()
    return report.results[0]


@pytest.fixture(scope="module")
def result(slide_path: Path, folder: Path, model: str) -> SlideResult:
    few = Counting(least_cells=5)
    choices = classical(model, tile=256, counting=few, unsure_share=1.0, fields=FieldSettings(0.004, 0.1))
    return run(slide_path, folder / "out", choices)


def numbers(result: SlideResult) -> Mapping[str, float | None]:
    return {measured.name: measured.value for measured in result.measurements}


def test_a_run_reports_what_its_cells_add_up_to(result: SlideResult, folder: Path, smear: Smear) -> None:
    home = folder / "out" / "slides" / "smear.tif"
    calls = pq.read_table(home / "cells.parquet")["call"].to_pylist()
    said = numbers(result)
    white = calls.count("neutrophils") + calls.count("lymphocytes")
    assert len(calls) == len(smear.white)
    assert white >= 5, "the network must be sure of some"
    assert said["neutrophils"] == pytest.approx(100 * calls.count("neutrophils") / white)
    assert said["unsure white cells"] == calls.count("unsure") > 0
    assert said["erythroblasts"] == calls.count("erythroblasts")
    assert said["white cells found"] == len(calls) - calls.count("erythroblasts")
    assert said["monocytes"] is None
    shares = [m for m in result.measurements if m.name in ("neutrophils", "lymphocytes")]
    assert len(shares) == 2
    for m in shares:
        assert m.interval is not None
        assert m.value is not None
        assert m.interval.low <= m.value <= m.interval.high
    assert {m.n for m in shares} == {white}
    assert result.call is not None
    assert (result.call.category or "").startswith(("flagged: ", "normal"))
    assert result.guidelines[0].unverified


def test_a_gallery_shows_the_surest_cells_first(result: SlideResult) -> None:
    shown = {finding.name: finding.tiles for finding in result.findings if finding.tiles}
    assert set(shown) <= {"neutrophils", "lymphocytes", "erythroblasts", "unsure white cells"}
    for tiles in shown.values():
        scores = [tile.score for tile in tiles]
        assert scores == sorted(scores, reverse=True)
        assert all(tile.width == pytest.approx(64) for tile in tiles)


def test_what_a_model_called_wrongly_when_it_was_tested_is_said_beside_the_share() -> None:
    confusion = ((12, 0, 1), (0, 13, 0), (0, 2, 11))
    roles = {"neutrophil": "neutrophils", "lymphocyte": "lymphocytes", "ig": "immature granulocytes"}
    assert wrong_calls(confusion, roles) == {
        "immature granulocytes": "of cells it was tested on, the model called so 1 of 13 neutrophils",
        "lymphocytes": "of cells it was tested on, the model called so 2 of 13 immature granulocytes",
    }
    report = report_of(table_of({**NORMAL, "immature granulocytes": 5}), wrong={"neutrophils": "1 of 13"})
    assert {m.name: m.note for m in report.measurements()}["neutrophils"] == "1 of 13"


def test_what_the_models_have_no_class_of_is_said(result: SlideResult) -> None:
    lacking = {abstention.what for abstention in result.abstentions}
    assert lacking >= {"blasts", "smudge cells", "monocytes", "red cells", "schistocytes"}
    assert "neutrophils" not in lacking
    assert "red cells found" not in numbers(result)


def test_the_result_is_the_same_document_when_it_is_made_again(
    result: SlideResult, slide_path: Path, folder: Path, model: str
) -> None:
    few = Counting(least_cells=5)
    choices = classical(model, tile=400, counting=few, unsure_share=1.0, fields=FieldSettings(0.004, 0.1))
    again = run(slide_path, folder / "again", choices)
    assert numbers(again) == numbers(result)
    assert again.call == result.call


def test_fields_hold_every_cell_of_their_squares_once(result: SlideResult, folder: Path) -> None:
    home = folder / "out" / "slides" / "smear.tif"
    fields, cells = pq.read_table(home / "fields.parquet"), pq.read_table(home / "cells.parquet")
    assert len(fields) > 4
    side = 1000 * np.sqrt(0.004) / MPP
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    white = np.array(cells["call"].to_pylist()) != "erythroblasts"
    for row in fields.to_pylist():
        inside = (x >= row["x"]) & (x < row["x"] + side) & (y >= row["y"]) & (y < row["y"] + side)
        assert abs(row["white cells"] - (inside & white).sum()) <= 1
    value = numbers(result)["white cells per field"]
    assert value == pytest.approx(np.mean(fields["white cells"].to_numpy()))


def table_of(calls: Mapping[str, int], red: int = 0, schistocytes: int = 0) -> SmearCells:
    """Cells with these calls, as `add_calls` writes them; places do not matter."""
    names = [name for name, count in calls.items() for _ in range(count)]
    kinds = ["white"] * len(names) + ["red"] * red + ["schistocytes"] * schistocytes
    n = len(kinds)
    blank = [""] * (n - len(names))
    columns = {"x": np.arange(n, dtype=float), "y": np.zeros(n), "kind": kinds, "call": names + blank}
    return SmearCells(pa.table({**columns, "p_a": np.full(n, 0.9, np.float32)}), ("a",))


NORMAL = {"neutrophils": 60, "lymphocytes": 30, "monocytes": 6, "eosinophils": 3, "basophils": 1}
ALL = Assessed(frozenset({"white", "red"}), frozenset(NORMAL))
FRAGMENTS = load_guideline("schistocytes-icsh-2021")


def report_of(
    cells: SmearCells, assessed: Assessed = ALL, wrong: Mapping[str, str] | None = None
) -> BloodReport:
    return blood_report(cells, assessed, Counting(), Rules(), FRAGMENTS, 0.3, wrong or {})


def test_unsure_cells_are_in_no_denominator_and_too_many_end_the_call() -> None:
    few, many = (report_of(table_of({**NORMAL, "unsure": n})) for n in (42, 43))
    assert few.found.total == many.found.total == 100
    assert few.call().category == "normal differential"
    assert (many.call().category, many.call().urgency) == (None, "unevaluable")
    assert "30% of the white cells are unsure" in many.call().text
    assert "white-cell differential" in {abstention.what for abstention in many.abstentions()}
    shares = [m.value for m in many.measurements() if m.name in NORMAL]
    assert shares == [None] * 5


def test_too_few_cells_are_not_evaluable() -> None:
    report = report_of(table_of({**NORMAL, "neutrophils": 59}))
    assert report.summary.startswith("not evaluable: insufficient (<100): 99")
    assert report.call().urgency == "unevaluable"


def test_platelets_and_erythroblasts_among_the_candidates_are_no_white_cells() -> None:
    cells = table_of({**NORMAL, "platelets": 20, "erythroblasts": 10, "unsure": 5})
    said = {m.name: m.value for m in report_of(cells).measurements()}
    assert said["white cells found"] == 105
    assert said["unsure white cells, share"] == pytest.approx(100 * 5 / 105)
    assert said["neutrophils"] == 60


@pytest.mark.parametrize(("fragments", "urgency"), [(11, "urgent"), (10, "routine")])
def test_schistocytes_are_judged_where_the_finder_knows_them(fragments: int, urgency: str) -> None:
    cells = table_of(NORMAL, red=1000 - fragments, schistocytes=fragments)
    knows = Assessed(frozenset({"white", "red", "schistocytes"}), ALL.called)
    report = report_of(cells, knows)
    assert report.call().urgency == urgency
    assert {m.name: m.value for m in report.measurements()}["schistocytes"] == pytest.approx(fragments / 10)
    assert "schistocytes" not in {abstention.what for abstention in report.abstentions()}
    few = report_of(table_of(NORMAL, red=790, schistocytes=10), knows)
    assert {m.name: m.value for m in few.measurements()}["schistocytes"] is None
    assert few.call().urgency == "routine"
    unknown = {abstention.what: abstention.why for abstention in report_of(cells).abstentions()}
    assert unknown["schistocytes"].startswith("not assessed")


def test_blasts_are_urgent() -> None:
    assert report_of(table_of({**NORMAL, "blasts": 1})).call().urgency == "urgent"


def test_no_whole_field_gives_no_count(looked: tuple[Slide, TissueMask], whole: pa.Table) -> None:
    cells = SmearCells(whole, CLASSES)
    slide, tissue = looked
    fields = count_fields(tissue, slide.mpp, cells, FieldSettings(area_mm2=1.0))
    assert len(fields) == 0
    assert [m.value for m in fields.measurements()] == [None] * 3


def test_a_class_nobody_knows_the_meaning_of_is_refused(folder: Path) -> None:
    fit = TileFit(size=64, mpp=0.25, tolerance=0.1)
    write_network(folder / "odd", network_of(), classes=("neutrophil", "zebra", "basophil"), tile=fit)
    with pytest.raises(ModelMismatchError, match="zebra"):
        blood(classical(str(folder / "odd")))


def test_a_coarse_slide_and_impossible_settings_are_refused(folder: Path, smear: Smear, model: str) -> None:
    path = write_tiff(folder / "coarse.tif", smear.rgb, 0.5, compression="deflate")
    with open_slide(path) as slide, pytest.raises(ModelMismatchError, match="too coarse"):
        blood(classical(model)).check(slide)
    for wrong in ({"unsure_share": 1.5}, {"white_cells": "magic"}):
        with pytest.raises(RequestError):
            BloodSettings(**wrong)  # type: ignore[arg-type]


def test_a_file_of_settings_builds_it(model: str) -> None:
    given = {"finder": "classical", "classifier": model, "counting": {"least_cells": 200}}
    workflow = build_workflow(find_workflow("blood"), given)
    assert workflow.name == "blood"
    assert json.loads(json.dumps(workflow.settings()))["counting"]["least_cells"] == 200
    with pytest.raises(RequestError, match="no setting"):
        build_workflow(find_workflow("blood"), {"finders": "x"})


@pytest.mark.slow
def test_white_cells_of_real_smears_are_found(shared: Path, tmp_path: Path) -> None:
    """Every third field of BCCD at half overlap of boxes. The settings were looked at on such fields, so this
    is no measurement: it would not do so by chance."""
    home = shared / "blood/bccd"
    (tmp_path / "data").symlink_to(home)
    names = sorted(path.stem for path in (home / "JPEGImages").glob("*.jpg"))[::3]
    lines = [f"data/JPEGImages/{name}.jpg,data/Annotations/{name}.xml" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    marked = read_pictures(tmp_path / "labels.csv", scale=7.5 / 102 / 0.25)
    finder, counts = open_finder("white-cells"), np.zeros(3, np.int64)
    for picture in marked.pictures:
        there = picture.boxes[picture.kinds == marked.classes.index("WBC")]
        found = [[*points.min(axis=0), *points.max(axis=0)] for points in finder.find(picture.rgb).outlines]
        overlap = box_iou(there, np.array(found, np.float32).reshape(-1, 4))
        pairs = match(overlap, IOU) if overlap.size else np.array([-1])
        counts += len(there), len(found), int((np.asarray(pairs) >= 0).sum())
    assert counts[0] > 40
    assert f1(counts) > 0.93
