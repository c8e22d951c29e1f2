"""Workflow `histology`: a slide composed of real tiles, of which it is known what lies where."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from networks import NORMALISATION, network_of, write_network
from numpy.typing import NDArray
from PIL import Image
from slides import write_tiff

import coverslip
from coverslip.errors import RequestError
from coverslip.models.objects import Objects
from coverslip.tiling.plan import TilePlan
from coverslip.workflows import cells as cells_module
from coverslip.workflows.cells import CellFinding, CellSettings
from coverslip.workflows.cli import run as command
from coverslip.workflows.histology import mitoses as mitoses_module
from coverslip.workflows.histology.call import call_main_class, call_slide, call_tumour
from coverslip.workflows.histology.grade import find_grade, read_grade
from coverslip.workflows.histology.mitoses import (
    densest_square,
    mitoses_by_tiles,
    mitosis_finder,
    poisson_interval,
    read_mitoses,
)
from coverslip.workflows.histology.reading import ClassedTiles, Reading
from coverslip.workflows.histology.roles import Roles, RoleSettings, find_roles
from coverslip.workflows.histology.settings import HistologySettings
from coverslip.workflows.histology.stroma import read_stroma, tumour_bed
from coverslip.workflows.histology.tumour import Tumour, find_tumour, foci_table, focus_features, read_tumour
from coverslip.workflows.histology.workflow import Histology, histology
from coverslip.workflows.result import Finding, Measurement, SlideResult
from coverslip.workflows.rules.guideline import load_guideline
from coverslip.wsi import Mpp, Size

SIDE, MARGIN = 32, 3
# As the tiles' maker states it: a tile here is 16 µm.
MPP = 0.5
TILE_MM = SIDE * MPP / 1000
CLASSES = ("LYM", "NORM", "STR", "TUM")
ROWS, COLUMNS = 36, 52


def layout() -> NDArray[np.str_]:
    """Class of each tile: glands; a ring of tumour around stroma with lymphocytes; two smaller foci; and
    lymphocytes and stroma far from all tumour."""
    classes = np.full((ROWS, COLUMNS), "NORM", dtype="<U4")
    classes[4:20, 4:24] = "TUM"
    classes[6:18, 6:22] = "STR"
    classes[8:12, 8:14] = "LYM"
    classes[28, 6:9] = "TUM"
    classes[30, 30] = classes[31, 31] = "TUM"
    classes[2:8, 36:50] = "LYM"
    classes[8:14, 36:50] = "STR"
    return classes


def crops(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Of each class eight real pieces of 32 px without much white, uint8 (8, 32, 32, 3)."""
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {}
    for name in CLASSES:
        tiles = [
            np.asarray(Image.open(folder / row["file"]).convert("RGB"))
            for row in rows
            if row["label"] == name
        ]
        pieces = [
            tile[y : y + SIDE, x : x + SIDE]
            for tile in tiles
            for y in range(0, 192, 48)
            for x in range(0, 192, 48)
        ]
        pieces.sort(key=lambda piece: np.percentile(piece, 95))
        found[name] = np.stack(pieces[:8])
    return found


@pytest.fixture(scope="module")
def pieces(shared: Path) -> dict[str, NDArray[np.uint8]]:
    return crops(shared / "histology-tiles/crc-val-he-7k-mini")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("histology")


def teach(network, pieces: dict[str, NDArray[np.uint8]]) -> None:
    """Set the classifier so that it tells these pieces apart: least squares on what random weights see."""
    import torch

    from coverslip.models.network import features_and_logits, normalise

    pixels = np.concatenate([pieces[name] for name in CLASSES])
    batch = normalise(torch.from_numpy(pixels), NORMALISATION)
    with torch.no_grad():
        features = features_and_logits(network.eval(), batch)[0].double().numpy()
    wanted = np.repeat(12 * np.eye(len(CLASSES)), 8, axis=0)
    ones = np.ones((len(features), 1))
    solved = np.linalg.lstsq(np.hstack([features, ones]), wanted, rcond=None)[0]
    head = network.get_classifier()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(solved[:-1].T))
        head.bias.copy_(torch.from_numpy(solved[-1]))


@pytest.fixture(scope="module")
def model(folder: Path, pieces) -> Path:
    """A network that knows the pieces the slide is made from."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = network_of("test_resnet", SIDE)
        network.reset_classifier(len(CLASSES))
    teach(network, pieces)
    return Path(write_network(folder / "model", network, classes=CLASSES).folder)


@pytest.fixture(scope="module")
def slide(folder: Path, pieces) -> Path:
    """The layout, of pieces in turn, on glass."""
    classes = layout()
    rgb = np.full(((ROWS + 2 * MARGIN) * SIDE, (COLUMNS + 2 * MARGIN) * SIDE, 3), 245, np.uint8)
    for (row, column), name in np.ndenumerate(classes):
        y, x = (row + MARGIN) * SIDE, (column + MARGIN) * SIDE
        rgb[y : y + SIDE, x : x + SIDE] = pieces[name][(7 * row + 3 * column) % 8]
    return write_tiff(folder / "case.tif", rgb, MPP, compression="deflate", levels=2)


CHOICES = [
    *("--set", "least_mm2=0.01", "--set", "bed_mm=0.05", "--set", "specimen=lymph node"),
    *("--set", "tiles.strange_share=1.0"),
]


@pytest.fixture(scope="module")
def done(folder: Path, model: Path, slide: Path) -> tuple[SlideResult, Path]:
    """As a user runs it."""
    arguments = ["--workflow", "histology", "--model", str(model), *CHOICES]
    assert command(["run", str(slide), "-o", str(folder / "out"), *arguments]) == 0
    home = folder / "out/slides/case.tif"
    return coverslip.read_result(home), home


def values(result: SlideResult) -> dict[str, Measurement]:
    return {measured.name: measured for measured in result.measurements}


def value(result: SlideResult, name: str) -> float:
    found = values(result)[name].value
    assert found is not None
    return found


def area(tiles: float) -> float:
    return tiles * TILE_MM**2


# what is found on a slide of which all is known


def test_the_class_of_every_tile_is_the_one_that_lies_there(done):
    """Else the figures below would say nothing."""
    _, home = done
    tiles = pq.read_table(home / "tiles.parquet")
    columns, rows = (tiles[name].to_numpy() // SIDE - MARGIN for name in ("x", "y"))
    assert len(tiles) == ROWS * COLUMNS
    assert (tiles["tissue"].to_numpy() == 1).all()
    assert (tiles["class"].to_numpy(zero_copy_only=False) == layout()[rows, columns]).all()


def test_areas_and_the_share_of_tumour_are_those_of_the_layout(done):
    result, _ = done
    counts = dict(zip(*np.unique(layout(), return_counts=True), strict=True))
    assert counts["TUM"] == 133
    for name, tiles in counts.items():
        assert value(result, f"{name}, area") == pytest.approx(area(tiles))
    assert value(result, "tumour area") == pytest.approx(area(133))
    assert value(result, "tumour fraction") == pytest.approx(100 * 133 / (ROWS * COLUMNS))


def test_foci_are_where_they_lie_and_the_largest_comes_first(done):
    result, home = done
    foci = pq.read_table(home / "foci.parquet").to_pylist()
    assert value(result, "tumour foci") == 3
    assert [focus["focus"] for focus in foci] == [1, 2, 3]
    assert [focus["tiles"] for focus in foci] == [128, 3, 2]
    assert [focus["area_mm2"] for focus in foci] == pytest.approx([area(n) for n in (128, 3, 2)])
    centres = [(14, 12), (7.5, 28.5), (31, 31)]
    expected = [((x + MARGIN) * SIDE, (y + MARGIN) * SIDE) for x, y in centres]
    assert np.allclose([(focus["x"], focus["y"]) for focus in foci], expected)
    lengths = [TILE_MM * np.hypot(20, 16), 3 * TILE_MM, TILE_MM * np.hypot(2, 2)]
    for focus, length in zip(foci, lengths, strict=True):
        assert focus["extent_low_mm"] <= length <= focus["extent_high_mm"]
        assert focus["extent_high_mm"] - focus["extent_low_mm"] == pytest.approx(2 * TILE_MM)
    assert foci[1]["extent_mm"] == pytest.approx(3 * TILE_MM)
    assert value(result, "largest focus, extent") == foci[0]["extent_mm"]
    assert value(result, "largest focus, area") == pytest.approx(area(128))


def test_each_tile_names_its_focus(done):
    _, home = done
    tiles = pq.read_table(home / "tiles.parquet")
    focus = tiles["focus"].to_numpy()
    assert np.bincount(focus).tolist() == [ROWS * COLUMNS - 133, 128, 3, 2]
    assert set(tiles["class"].to_numpy(zero_copy_only=False)[focus > 0]) == {"TUM"}


def test_lymphocytes_and_stroma_count_inside_the_tumours_bed_only(done):
    """24 of 192 tiles in the ring; as many again lie far away."""
    result, _ = done
    assert value(result, "stromal lymphocytes") == pytest.approx(100 * 24 / 192)
    assert values(result)["stromal lymphocytes"].n == 192
    assert (
        "an approximation: a tile is all lymphocytes or none" in values(result)["stromal lymphocytes"].method
    )
    assert value(result, "stroma of tumour and stroma") == pytest.approx(100 * 168 / (168 + 133))
    said = {finding.name: finding.text for finding in result.findings}
    assert said["stromal lymphocytes"] == "intermediate by 5 % and 30 %; 15 % in steps of 5 %"
    assert said["stroma of tumour and stroma"] == "stroma-high; 60 % in steps of 10 %"


def test_the_slide_is_called_by_its_largest_deposit_and_is_urgent(done):
    result, _ = done
    call = result.call
    assert call is not None
    assert (call.category, call.urgency, call.confidence) == ("micrometastasis", "urgent", None)
    assert call.text == result.summary
    assert "3 foci, the largest 0.403 mm across (± 0.016 mm, one tile: 0.387 to 0.419 mm)" in call.text
    assert call.triage is not None
    assert call.triage > 0.99
    deposit = next(finding for finding in result.findings if finding.name == "largest deposit")
    assert deposit.text.startswith("micrometastasis (pN1mi): 0.403 mm")


def test_the_tiles_shown_are_the_surest_of_each_focus(done):
    result, home = done
    found = next(finding for finding in result.findings if finding.name == "tumour foci")
    tiles = {(row["x"], row["y"]): row for row in pq.read_table(home / "tiles.parquet").to_pylist()}
    assert [tiles[tile.x, tile.y]["focus"] for tile in found.tiles] == [1, 2, 3]
    for tile in found.tiles:
        own = [row["p_TUM"] for row in tiles.values() if row["focus"] == tiles[tile.x, tile.y]["focus"]]
        assert tile.score == pytest.approx(max(own))


def test_only_what_was_applied_is_named_as_a_guideline_and_what_is_lacking_is_said(done):
    result, _ = done
    assert [rule.name for rule in result.guidelines] == [
        load_guideline(name).name for name in ("nodes", "stil", "tsr")
    ]
    left = {abstention.what: abstention.why for abstention in result.abstentions}
    assert left["Gleason score and ISUP grade group"] == (
        "not assessed: the model has no class for Gleason patterns"
    )
    assert left["mitoses per mm²"].startswith("not assessed: the model has no class for mitosis")
    assert len(left) == 2


def test_outlines_of_the_foci_are_annotations(done):
    _, home = done
    features = json.loads((home / "annotations.geojson").read_text())["features"]
    foci = [one for one in features if one["properties"].get("name", "").startswith("focus ")]
    assert [one["properties"]["classification"]["name"] for one in foci] == ["Tumor"] * 3
    import shapely.geometry

    shapes = [shapely.geometry.shape(one["geometry"]) for one in foci]
    assert [shape.area / SIDE**2 for shape in shapes] == pytest.approx([128, 3, 2])
    left, top = (4 + MARGIN) * SIDE, (4 + MARGIN) * SIDE
    assert shapes[0].bounds == (left, top, left + 20 * SIDE, top + 16 * SIDE)
    assert shapes[2].geom_type == "MultiPolygon"


def test_the_report_and_the_class_map_show_it(done):
    _, home = done
    page = (home / "report.html").read_text()
    assert "largest deposit" in page
    assert coverslip.RUO in page
    shown = np.asarray(zarr.open_array(home / "slide.ome.zarr/labels/classes/0", mode="r")[:]).squeeze()
    assert (np.array(["", *CLASSES])[shown] == layout()).all()


def test_provenance_holds_the_roles_and_every_cut_off(done, model):
    result, _ = done
    settings = result.provenance.settings["workflow"]
    assert settings["roles"]["tumour"] == ["TUM"]
    assert settings["roles"]["lymphocytes"] == ["LYM"]
    assert settings["guidelines"]["nodes"]["values"]["itc_most_mm"] == 0.2
    assert (settings["wraps"], settings["specimen"], settings["classes"]) == (
        "tiles",
        "lymph node",
        [*CLASSES],
    )


def test_other_rules_or_roles_are_another_request(model, tmp_path):
    mine = tmp_path / "mine.yaml"
    theirs = Path(load_guideline.__code__.co_filename).parent / "guidelines/nodes.yaml"
    mine.write_text(theirs.read_text().replace("itc_most_mm: 0.2", "itc_most_mm: 0.3"))
    usual = histology(model)
    rules = histology(
        model, HistologySettings(guidelines=replace(HistologySettings().guidelines, nodes=str(mine)))
    )
    roles = histology(model, HistologySettings(roles=RoleSettings(tumour=("NORM",))))
    asked = [json.dumps(workflow.settings(), sort_keys=True) for workflow in (usual, rules, roles)]
    assert len(set(asked)) == 3
    assert asked[0] == json.dumps(histology(model).settings(), sort_keys=True)


# mitoses by a finder of cells


class Marks:
    """Finds pixels of one green, each a mitosis; of another, each a nucleus."""

    classes: tuple[str, ...] = ("nucleus", "mitotic figure")
    mpp, margin, step = MPP, 16, 8

    def find(self, rgb: NDArray[np.uint8]) -> Objects:
        places = [np.argwhere((rgb == colour).all(axis=2)) for colour in (NUCLEUS, MITOSIS)]
        kind = np.repeat([0, 1], [len(part) for part in places])
        y, x = np.concatenate(places).T
        labels = np.zeros(rgb.shape[:2], np.int32)
        labels[y, x] = 1 + np.arange(len(x))
        square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
        outlines = [square + np.array(place, np.float32) for place in zip(x, y, strict=True)]
        score = np.linspace(0.5, 0.9, len(x), dtype=np.float32)
        return Objects(x + 0.5, y + 0.5, outlines, kind, score, labels)


NUCLEUS, MITOSIS = (1, 250, 0), (0, 250, 2)


def with_finder(workflow: Histology, monkeypatch, finder: Any = None) -> Histology:
    finder = finder or Marks()
    for module in (cells_module, mitoses_module):
        monkeypatch.setattr(module, "open_finder", lambda name: finder)
    cells = CellFinding("marks", finder.mpp, 0.1, finder.margin, finder.classes, CellSettings(), None)
    names = load_guideline("histology-classes")["mitosis"]
    return replace(workflow, finder=mitosis_finder(cells, workflow.grid, names))


def test_mitoses_in_tumour_are_counted_each_once(folder, model, slide, monkeypatch):
    """Some on the borders of tiles, some at the corner of four; in stroma and glands none is looked for."""
    rgb = np.asarray(
        coverslip.open_slide(slide).read(0, coverslip.Box(0, 0, 26 * SIDE, 26 * SIDE)).rgb
    ).copy()
    corner = (4 + MARGIN) * SIDE
    inside = [(corner + SIDE * 3, corner + SIDE), (corner + SIDE * 5 - 1, corner + 5), (corner, corner)]
    inside += [(corner + SIDE * 8, corner + SIDE * 2 - 1), (corner + 40, corner + 300)]
    outside = [(corner - 1, corner + 5), (corner + 200, corner + 200), (MARGIN * SIDE + 5, MARGIN * SIDE + 5)]
    for x, y in (*inside, *outside):
        rgb[y, x] = MITOSIS
    rgb[corner + 20, corner + 20] = NUCLEUS
    marked = write_tiff(folder / "marked.tif", rgb, MPP, compression="deflate")
    choices = HistologySettings(specimen="breast", field_mm=0.5, hot_spot_mm2=(4 * TILE_MM) ** 2)
    workflow = with_finder(histology(model, choices), monkeypatch)
    report = coverslip.run([str(marked)], folder / "marked", workflow, workers=1)
    assert report.failures == ()
    result, home = report.results[0], folder / "marked/slides/marked.tif"
    tiles = pq.read_table(home / "tiles.parquet")
    tumour = (tiles["class"].to_numpy(zero_copy_only=False) == "TUM").sum()
    assert tumour == values(result)["mitoses"].n
    assert value(result, "mitoses") == len(inside)
    density = values(result)["mitoses per area"]
    assert density.value == pytest.approx(len(inside) / area(tumour))
    assert density.interval is not None
    assert density.interval.low < len(inside) / area(tumour) < density.interval.high
    densest = value(result, "mitoses per area, densest square")
    assert densest == pytest.approx(2 / area(12))  # four tiles a side, twelve of them in the ring
    ten = 10 * np.pi * 0.25**2
    assert value(result, "mitoses per 10 fields") == pytest.approx(densest * ten)
    assert value(result, "mitotic score (Elston)") == 3
    cells = pq.read_table(home / "cells.parquet")
    assert sorted(cells["class"].to_pylist()) == ["mitotic figure"] * 5 + ["nucleus"]
    rows = [row for row in cells.to_pylist() if row["class"] == "mitotic figure"]
    assert {(row["x"] - 0.5, row["y"] - 0.5) for row in rows} == set(inside)
    assert "cells" not in tiles.column_names
    shown = next(finding for finding in result.findings if finding.name == "mitoses")
    assert len(shown.tiles) == 5
    assert "mitoses per mm²" not in {abstention.what for abstention in result.abstentions}


def test_a_finder_that_knows_no_mitosis_or_does_not_fill_the_tiles_is_refused(model, monkeypatch):
    workflow = histology(model)
    finder = Marks()
    finder.classes = ("nucleus",)
    with pytest.raises(RequestError, match="has no class for mitosis: its classes are nucleus"):
        with_finder(workflow, monkeypatch, finder)
    finder = Marks()
    finder.mpp = 0.3
    with pytest.raises(RequestError, match="do not fill tiles of 16 µm"):
        with_finder(workflow, monkeypatch, finder)


# a slide-level model


@pytest.fixture(scope="module")
def slide_model(folder: Path) -> Path:
    """Learnt from figures drawn at random: what it says means nothing."""
    import h5py

    from coverslip.models.slide_training import SlideTrainingSettings, train_slides

    rng, lines = np.random.default_rng(0), ["file,label,group"]
    for number in range(10):
        features = rng.normal(number % 2, 1, (20, 96)).astype(np.float32)
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["features"], file["coords"] = features, np.zeros((20, 2), np.int64)
        lines.append(f"{number}.h5,{('normal', 'tumor')[number % 2]},{number}")
    (folder / "bags.csv").write_text("\n".join(lines) + "\n")
    settings = SlideTrainingSettings(epochs=2, encoder="test_resnet")
    train_slides(folder / "bags.csv", folder / "slide-model", settings)
    return folder / "slide-model"


def test_a_slide_level_model_calls_the_slide_and_shows_its_attention(folder, slide_model, slide):
    choices = [*("--set", "slide.mpp=0.5"), *("--set", "slide.size=128"), *("--set", "slide.strange_share=1")]
    arguments = ["--workflow", "histology", "--model", str(slide_model), "--random-weights", *choices]
    assert command(["run", str(slide), "-o", str(folder / "by-slide"), *arguments]) == 0
    result = coverslip.read_result(folder / "by-slide/slides/case.tif")
    call = result.call
    assert call is not None
    if call.category is None:  # its prediction set may hold both
        assert call.urgency == "unevaluable"
    else:
        probability = value(result, f"{call.category}, probability")
        assert probability > 0.5
        assert call.confidence == probability
        assert call.urgency == {"tumor": "urgent", "normal": "routine"}[call.category]
    assert call.triage == pytest.approx(value(result, "tumor, probability"))
    assert "tiles that counted most" in {finding.name for finding in result.findings}
    left = {abstention.what: abstention.why for abstention in result.abstentions}
    assert "calls whole slides" in left["areas, foci, lymphocytes, stroma and grade"]
    assert "mitoses per mm²" in left
    assert result.guidelines == ()


# rules on tiles that are never looked at


def tiles_like(picture: str, classes: dict[str, str], weight: float = 1.0, **changes: Any) -> ClassedTiles:
    """A tile of 112 µm for each mark of the picture, one line per row; `classes`: mark → class."""
    marks = np.array([[*line] for line in picture.split()])
    rows, columns = np.indices(marks.shape).reshape(2, -1)
    names = tuple(dict.fromkeys(classes.values()))
    best = np.array([names.index(classes[mark]) for mark in marks.ravel()])
    probabilities = np.full((len(best), len(names)), 0.1 / max(1, len(names) - 1))
    probabilities[np.arange(len(best)), best] = 0.9
    plan = TilePlan(
        "s",
        "d",
        Size(99999, 99999),
        Mpp(0.5, 0.5, "given"),
        0.5,
        224,
        0,
        224 * columns,
        224 * rows,
        np.full(len(best), weight, np.float32),
    )
    return replace(ClassedTiles(plan, names, best, probabilities), **changes)


def tumour_of(picture: str, roles: Roles | None = None, least: int = 1, **changes: Any) -> Tumour:
    roles = roles or Roles(tumour=("T",), stroma=("S",), lymphocytes=("L",), background=("B",))
    marks = {"t": "T", "s": "S", "l": "L", "b": "B", ".": "N"}
    return find_tumour(tiles_like(picture, marks, **changes), roles, least)


SQUARE = 0.112**2


def test_background_is_no_tissue_for_the_share_of_tumour():
    tumour = tumour_of("tt.. bbbb bbbb")
    assert tumour.fraction == pytest.approx(0.5)
    half = tumour_of("tt.. bbbb bbbb", weight=0.5)
    assert half.area_mm2 == pytest.approx(SQUARE)
    assert tumour_of("bb bb").fraction is None


def test_a_slide_of_background_has_no_share_of_tumour():
    found = {one.name: one for one in read_tumour(tumour_of("bb bb"), 8).measurements}
    assert found["tumour fraction"].value is None
    assert found["tumour area"].value == 0


def test_foci_below_the_least_are_no_tumour():
    tumour = tumour_of("tt...t ...... ttt...", least=2)
    assert [len(focus.rows) for focus in tumour.foci] == [3, 2]
    assert tumour.inside.sum() == 5
    assert foci_table(tumour)["tiles"].to_pylist() == [3, 2]


def test_no_focus_is_no_feature_and_an_empty_table():
    tumour = tumour_of("... ...")
    assert focus_features(tumour) == ()
    assert len(foci_table(tumour)) == 0
    assert foci_table(tumour).schema == foci_table(tumour_of("t.. ...")).schema


@pytest.mark.parametrize(
    ("length", "category"),
    [
        (1, "isolated tumour cells or micrometastasis"),
        (3, "micrometastasis"),
        (16, "micrometastasis"),
        (17, "micrometastasis or macrometastasis"),
        (18, "micrometastasis or macrometastasis"),
        (19, "macrometastasis"),
    ],
)
def test_a_category_is_a_range_where_a_tile_cannot_tell(length: int, category: str):
    """Tiles of 0.112 mm: 17 are 1.904 mm, give or take one."""
    call = call_tumour(tumour_of("t" * length + "." * (30 - length)), None, load_guideline("nodes"))
    assert call.category == category


def test_deposits_are_not_added_up():
    """Four of 0.9 mm in a row, two tiles apart, and half a slide of them."""
    row = "tttttttt..tttttttt..tttttttt..tttttttt"
    tumour = tumour_of(f"{row} {'.' * 38} {row}")
    assert len(tumour.foci) == 8
    assert call_tumour(tumour, None, load_guideline("nodes")).category == "micrometastasis"


def test_no_tumour_is_routine_and_says_what_was_looked_at():
    call = call_tumour(tumour_of(".... .... bbbb"), None, None)
    assert (call.category, call.urgency) == ("no tumour", "routine")
    assert call.text == "no tumour found in 12 tiles, 0.1 mm² of tissue"
    assert call.triage == pytest.approx(0.025)  # of the four other classes each


def test_a_tile_in_doubt_widens_the_share_of_tumour():
    tiles = tiles_like("tt..", {"t": "T", ".": "N"})
    sets = np.array([[True, False], [True, True], [True, True], [False, True]])
    tumour = find_tumour(replace(tiles, sets=sets), Roles(tumour=("T",)), 1)
    found = {one.name: one for one in read_tumour(tumour, 8).measurements}
    assert found["tumour fraction"].value == pytest.approx(50)
    note = found["tumour fraction"].note
    assert note is not None
    assert note.startswith("25.0 % if only tiles count")
    assert "75.0 % if all" in note


def stroma_of(tumour: Tumour, bed_mm: float = 0.25, least_mm2: float = 0.0) -> dict[str, Measurement]:
    found = read_stroma(tumour, bed_mm, least_mm2, load_guideline("stil"), load_guideline("tsr"))
    return {one.name: one for one in found.measurements}


def test_a_bed_closes_gaps_up_to_twice_its_reach_and_fills_holes():
    grid = np.zeros((9, 20), bool)
    grid[:, [2, 6, 15]] = True
    assert np.flatnonzero(tumour_bed(grid, 2.0)[4]).tolist() == [2, 3, 4, 5, 6, 15]
    assert tumour_bed(grid, 0.0).sum() == 27
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    assert tumour_bed(ring, 0.0).all()
    assert not tumour_bed(np.zeros((3, 3), bool), 2).any()


def test_too_little_stroma_is_not_evaluable():
    tumour = tumour_of("ttttt tslst ttttt")
    assert stroma_of(tumour)["stromal lymphocytes"].value == pytest.approx(100 / 3)
    few = stroma_of(tumour, least_mm2=0.05)["stromal lymphocytes"]
    assert few.value is None
    assert few.note == "0.038 mm² of stroma in the tumour's bed, less than the 0.05 mm² asked for"
    assert stroma_of(tumour, least_mm2=0.05)["stroma of tumour and stroma"].value is not None


def test_stroma_without_tumour_is_not_evaluable():
    assert stroma_of(tumour_of("sssl ssss"))["stromal lymphocytes"].value is None


@pytest.mark.parametrize(
    ("roles", "what", "role"),
    [
        (Roles(), "stromal lymphocytes", "tumour"),
        (Roles(tumour=("T",), stroma=("S",)), "stromal lymphocytes", "lymphocytes"),
        (Roles(tumour=("T",), lymphocytes=("L",)), "stroma of tumour and stroma", "stroma"),
    ],
)
def test_a_role_the_model_lacks_is_no_measurement_but_said(roles: Roles, what: str, role: str):
    tumour = tumour_of("tsl", roles)
    found = read_stroma(tumour, 0.25, 0.0, load_guideline("stil"), load_guideline("tsr"))
    why = {abstention.what: abstention.why for abstention in found.abstentions}
    assert why[what] == f"not assessed: the model has no class for {role}"
    assert what not in {one.name for one in found.measurements}


GLEASON = {"3": "G3", "4": "G4", "5": "G5", ".": "N"}


def grade_of(picture: str, least: float | None = None):
    roles = find_roles(["G3", "G4", "G5", "N"], RoleSettings(), load_guideline("histology-classes"))
    tiles = tiles_like(picture, GLEASON)
    present = tuple(name for name in roles.tumour if name in tiles.classes)
    tumour = find_tumour(tiles, replace(roles, tumour=present), 1)
    rules = load_guideline("gleason-isup")
    grade = find_grade(tumour, least, rules)
    return tumour, grade, read_grade(tumour, grade, least, rules)


@pytest.mark.parametrize(
    ("picture", "least", "text"),
    [
        ("3333 33.. 44..", None, "Gleason 3+4=7, ISUP grade group 2"),
        ("4444 44.. 33..", None, "Gleason 4+3=7, ISUP grade group 3"),
        ("3333 4... ....", 0.25, "Gleason 3+3=6, ISUP grade group 1"),
        ("4455 5... ....", None, "Gleason 5+4=9, ISUP grade group 5"),
        (".... .... ....", None, "benign"),
    ],
)
def test_patterns_by_area_give_the_grade_group(picture: str, least: float | None, text: str):
    _, grade, _ = grade_of(picture, least)
    assert grade is not None
    assert grade.text == text


def test_the_grade_is_the_call_with_its_score_shares_and_code():
    tumour, grade, reading = grade_of("4444 44.. ....")
    found = {one.name: one for one in reading.measurements}
    assert (found["Gleason score"].value, found["ISUP grade group"].value) == (8, 4)
    assert found["Gleason score"].code == "SNOMED CT 372278000"
    assert found["ISUP grade group"].code == "SNOMED CT 1279718003"
    assert found["Gleason pattern 4, share of the patterns"].value == 100
    assert [finding.text for finding in reading.findings] == ["Gleason 4+4=8, ISUP grade group 4"]
    call = call_tumour(tumour, grade, None)
    assert (call.category, call.code, call.urgency) == (
        "ISUP grade group 4",
        "SNOMED CT 1279718003",
        "urgent",
    )
    assert call.text.startswith("Gleason 4+4=8, ISUP grade group 4: one focus, 0.466 mm across")


def test_benign_prostate_is_group_0_and_routine():
    tumour, grade, _ = grade_of("....")
    call = call_tumour(tumour, grade, None)
    assert (call.category, call.urgency) == ("ISUP grade group 0", "routine")


def test_tumour_of_no_pattern_has_no_grade():
    roles = Roles(tumour=("T", "S"), gleason=((4, "S"),))
    tumour = tumour_of("tt.", roles)
    rules = load_guideline("gleason-isup")
    assert find_grade(tumour, None, rules) is None
    found = read_grade(tumour, None, None, rules).measurements
    assert [one.value for one in found] == [None, None]
    assert call_tumour(tumour, None, None).category == "tumour"


def mitoses_of(tumour: Tumour, names: tuple[str, ...] = ("L",), **changes: Any) -> Reading:
    found = mitoses_by_tiles(tumour.tiles, names, tumour.inside, 8)
    given = {"hot_spot_mm2": 2.0, "field_mm": None, "elston": False} | changes
    return read_mitoses(found, tumour.tiles.plan, "tiles of tumour", **given, rules=load_guideline("mitoses"))


def test_tiles_of_mitosis_that_touch_count_once():
    reading = mitoses_of(tumour_of("ttltt tltlt ttttt llttt"))
    found = {one.name: one for one in reading.measurements}
    assert found["mitoses"].value == 2
    assert found["mitoses per area"].value == pytest.approx(2 / (20 * SQUARE))
    assert len(reading.findings[0].tiles) == 2


def test_twelve_in_two_square_millimetres_are_six_each_and_fourteen_per_ten_fields():
    """The rule's own example: 12 among 160 tiles of 0.112 mm, 2.007 mm²."""
    lines = ["t" * 16] * 4 + ["ltltltltltltttt" + "t"] + ["t" * 16] + ["ttttltltltltltlt"] + ["t" * 16] * 3
    found = {
        one.name: one.value
        for one in mitoses_of(tumour_of(" ".join(lines)), hot_spot_mm2=4.0, field_mm=0.55).measurements
    }
    assert found["mitoses"] == 12
    assert found["mitoses per area"] == pytest.approx(6.0, abs=0.03)
    assert found["mitoses per 10 fields"] == pytest.approx(14.3, abs=0.1)


def test_the_densest_square_holds_most():
    tiles = tiles_like(" ".join(["." * 12] * 12), {".": "N"})
    counts = np.zeros(144, np.int64)
    counts[[0, 2, 13, 100]] = 1
    count, square = densest_square(tiles.plan, counts, np.full(144, SQUARE), 3.2) or (0, 0.0)
    assert (count, square) == (3, pytest.approx(9 * SQUARE))
    everything = densest_square(tiles.plan, counts, np.full(144, SQUARE), 50)
    assert everything == (4, pytest.approx(144 * SQUARE))
    assert densest_square(tiles.plan, counts, np.zeros(144), 3) is None


def test_a_count_of_none_still_has_an_interval():
    assert poisson_interval(0, 0.95) == (0.0, pytest.approx(3.689, abs=1e-3))
    assert poisson_interval(10, 0.95) == pytest.approx((4.795, 18.390), abs=1e-3)


def test_without_tumour_there_is_no_density():
    found = {one.name: one.value for one in mitoses_of(tumour_of("....")).measurements}
    assert found == {"mitoses": 0, "mitoses per area": None}


def test_a_density_of_less_than_half_the_square_is_not_evaluable():
    found = {
        one.name: one for one in mitoses_of(tumour_of("tl.. ...."), field_mm=0.5, elston=True).measurements
    }
    densest = found["mitoses per area, densest square"]
    assert densest.value is None
    assert densest.note == "1 in 0.025 mm² looked at, less than 1 mm²"
    assert "mitoses per 10 fields" not in found
    assert "mitotic score (Elston)" not in found


# calls of models that know no tumour, or nothing of tiles


def test_a_model_without_tumour_calls_its_main_class_and_somebody_must_look():
    tiles = tiles_like("aab", {"a": "adipose", "b": "muscle"})
    call = call_main_class(tiles, Finding(name="slide-level call", text="adipose, on 67% of the tissue"))
    assert (call.category, call.urgency, call.triage) == ("adipose", "attention", None)


@pytest.mark.parametrize(
    ("chances", "roles", "category", "urgency", "triage"),
    [
        ((0.8, 0.2), Roles(tumour=("LUAD",)), "LUAD", "urgent", 0.8),
        ((0.3, 0.7), Roles(tumour=("LUAD",)), "normal", "routine", 0.3),
        ((0.3, 0.7), Roles(), "normal", "attention", None),
    ],
)
def test_a_slide_level_class_of_tumour_is_urgent(chances, roles, category, urgency, triage):
    classes = ("LUAD", "normal")
    measured = [
        Measurement(name=f"{name}, probability", value=chance, unit="1", method="m")
        for name, chance in zip(classes, chances, strict=True)
    ]
    call = call_slide(Finding(name="slide-level call", text="t", confidence=0.7), measured, classes, roles)
    assert (call.category, call.urgency, call.triage, call.confidence) == (category, urgency, triage, 0.7)


def test_a_slide_unlike_those_of_training_is_not_called_free_of_tumour(folder, pieces, slide, model):
    """Its tiles' colours lie beyond a limit that the package states."""
    document = json.loads((model / "model.json").read_text())
    document["out_of_distribution"] = {
        "method": "standardised",
        "mean": [1000.0] * 96,
        "std": [1.0] * 96,
        "limit": 1.0,
        "quantile": 0.99,
    }
    strange = folder / "strange"
    strange.mkdir()
    (strange / "model.json").write_text(json.dumps(document))
    (strange / "weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes())
    small = np.full((12 * SIDE, 12 * SIDE, 3), 245, np.uint8)
    small[3 * SIDE : 9 * SIDE, 3 * SIDE : 9 * SIDE] = np.tile(pieces["NORM"][0], (6, 6, 1))
    path = write_tiff(folder / "small.tif", small, MPP, compression="deflate")
    report = coverslip.run([str(path)], folder / "out-strange", histology(strange), workers=1)
    (result,) = report.results
    assert result.call is not None
    assert (result.call.category, result.call.urgency) == (None, "unevaluable")
    assert (
        result.summary
        == result.call.text
        == ("no call: 100% of the tiles are unlike those the model learnt from")
    )


# roles, settings, models


NAMES = load_guideline("histology-classes")


def test_usual_names_are_recognised():
    crc = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
    roles = find_roles(crc, RoleSettings(), NAMES)
    assert roles == Roles(tumour=("TUM",), stroma=("STR",), lymphocytes=("LYM",), background=("BACK",))
    lung = find_roles(["lung_aca", "lung_n", "lung_scc"], RoleSettings(), NAMES)
    assert lung.tumour == ("lung_aca", "lung_scc")
    prostate = find_roles(["benign", "stroma", "Gleason 3", "gleason_4", "G5"], RoleSettings(), NAMES)
    assert prostate.gleason == ((3, "Gleason 3"), (4, "gleason_4"), (5, "G5"))
    assert prostate.tumour == ("Gleason 3", "gleason_4", "G5")
    assert find_roles(["a", "b"], RoleSettings(), NAMES) == Roles()


def test_what_is_said_goes_before_usual_names_and_nothing_is_nothing():
    classes = ["tumour", "stroma", "x"]
    assert find_roles(classes, RoleSettings(tumour=("x",)), NAMES).tumour == ("x",)
    assert find_roles(classes, RoleSettings(tumour=()), NAMES).tumour == ()
    assert find_roles(classes, RoleSettings(gleason={4: "x"}), NAMES).tumour == ("tumour", "x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (RoleSettings(tumour=("TUMOR",)), "roles.tumour: names no class of the model: TUMOR"),
        (RoleSettings(gleason={3: "G3"}), "roles.gleason: names no class"),
        (RoleSettings(stroma=("TUM",)), "class TUM: is said to be tumour and stroma"),
    ],
)
def test_a_class_that_is_not_there_or_two_things_is_refused(given: RoleSettings, said: str):
    with pytest.raises(RequestError, match=said):
        find_roles(["TUM", "STR"], given, NAMES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"specimen": "toe"},
        {"least_tiles": 0},
        {"gleason_share": 1.5},
        {"bed_mm": -1},
        {"hot_spot_mm2": 0},
        {"field_mm": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict):
    with pytest.raises(RequestError):
        HistologySettings(**wrong)


def test_what_cannot_be_used_is_refused(model):
    with pytest.raises(RequestError, match="finds cells"):
        histology("nuclei")
    with pytest.raises(RequestError, match="a model of tiles"):
        histology(model, encoder="resnet10t")


def test_gleason_can_be_said_on_the_command_line(model, tmp_path, capsys):
    """Patterns are numbers there; a class the model lacks is named."""
    blank = write_tiff(tmp_path / "blank.tif", np.full((512, 512, 3), 245, np.uint8), MPP)
    arguments = [
        "run",
        str(blank),
        "-o",
        str(tmp_path / "out"),
        "--workflow",
        "histology",
        "--model",
        str(model),
    ]
    assert command([*arguments, "--set", "roles.gleason={3: G3}"]) == 2
    assert "names no class of the model: G3" in capsys.readouterr().err
    assert command([*arguments, "--set", "roles.gleason={3: TUM}", "--dry-run"]) == 0
