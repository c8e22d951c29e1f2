"""Markers of `ihc`: which stains, which cells, which rule, and what a slide is called; or why it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from slides import tissue, write_tiff
from test_ihc_cells import GLASS, MPP, lattice, painted

import coverslip
from coverslip.errors import RequestError, SlideInformationError
from coverslip.models.engine import Outputs
from coverslip.tiling.geojson_reader import read_regions
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.stain import H_AEC, H_DAB, StainVectors, separate, stain_vectors
from coverslip.tiling.tissue import find_tissue
from coverslip.workflows import tile_classes
from coverslip.workflows.ihc import stains as ihc_stains
from coverslip.workflows.ihc.fields import STEPS, FieldSettings, Places, hot_spot, representatives
from coverslip.workflows.ihc.markers import marker_of
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.stains import chosen_vectors, stains_of
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.registry import build_workflow, find_workflow
from coverslip.workflows.result import Measurement, ModelIdentity, SlideResult
from coverslip.workflows.run import RunSettings
from coverslip.workflows.tile_classes import TileClasses, TileClassSettings
from coverslip.workflows.workflow import Conclusion, Grid, grounds_of
from coverslip.wsi import Box, Mpp, Slide, open_slide

OWN = """
name: ours
version: '3'
source: our validation
values:
  categories: [{{name: few, below: 40}}, {{name: many, urgency: urgent}}]
  least_cells: {least_cells}
  levels: 4
  field_cells: {field_cells}
"""
NO_PYRAMID = RunSettings(pyramid=None)


def field_of(
    density: float,
    share: float,
    vectors: StainVectors = H_DAB,
    *,
    nuclear: float = 1.0,
    under: float = 0.1,
    side: int = 480,
) -> NDArray[np.uint8]:
    """Nuclei on a lattice in the middle of glass; the first `share` of them, row by row, are stained."""
    places = lattice(side)
    stained = round(share * len(places))
    rings = [(density, 0.0 if nuclear else 1.0)] * stained + [(0.0, 0.0)] * (len(places) - stained)
    rgb = np.full((side + 100, side + 100, 3), GLASS, np.uint8)
    rgb[50:-50, 50:-50] = painted((side, side), places, rings, vectors, nuclear, under)
    return rgb


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("markers")


@pytest.fixture(scope="module")
def stained(folder: Path) -> Path:
    """169 nuclei, the upper 40 % of them brown."""
    return write_tiff(folder / "stained.tif", field_of(0.5, 0.4), MPP, compression="deflate")


def conclude(slide: Slide, choices: IhcSettings) -> tuple[Conclusion, pa.Table]:
    workflow, mask = Ihc(choices), find_tissue(slide)
    grid = workflow.grid
    plan = plan_tiles(slide, mask, mpp=grid.mpp, size=grid.size, min_tissue=grid.min_tissue)
    workflow.check(slide)
    table = workflow.score(slide, plan, mask, range(len(plan))).table
    return workflow.conclude(grounds_of(workflow, slide, plan, mask), table), table


def derived(slide: Slide, choices: IhcSettings) -> Mapping[str, Any]:
    workflow, mask = Ihc(choices), find_tissue(slide)
    plan = plan_tiles(slide, mask, mpp=workflow.grid.mpp, size=workflow.grid.size)
    return grounds_of(workflow, slide, plan, mask).derived.values


def look(path: Path, **choices: Any) -> tuple[Conclusion, pa.Table]:
    with open_slide(path) as slide:
        return conclude(slide, IhcSettings(**choices))


def named(conclusion: Conclusion | SlideResult, name: str) -> Measurement:
    return next(m for m in conclusion.measurements if m.name == name)


def annotate(path: Path, boxes: dict[str | None, tuple[int, int, int, int]]) -> Path:
    """QuPath's GeoJSON: a rectangle (left, top, right, bottom) for each class."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[a, b], [c, b], [c, d], [a, d], [a, b]]]},
            "properties": {"objectType": "annotation"}
            | ({"classification": {"name": name, "color": [200, 0, 0]}} if name else {}),
        }
        for name, (a, b, c, d) in boxes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def test_aec_is_measured_with_its_own_vector() -> None:
    """Landini's, as scikit-image has it; at such density 8 bits hold it to 0.003."""
    for amount in (0.2, 0.4, 0.6):
        colour = np.rint(255 * 10 ** (-amount * np.asarray(H_AEC.rows[1])))
        found = separate(colour.astype(np.uint8).reshape(1, 1, 3), H_AEC)[0, 0]
        np.testing.assert_allclose(found, (0, amount, 0), atol=3e-3)
    np.testing.assert_allclose(H_AEC.rows[1], [0.274313, 0.679632, 0.680332], atol=1e-6)


def test_red_nuclei_are_counted_as_stained_with_aec(folder: Path) -> None:
    path = write_tiff(folder / "aec.tif", field_of(0.5, 0.4, H_AEC, side=360), MPP, compression="deflate")
    found, table = look(path, stains="aec")
    assert table.column_names[4] == "aec_od_mean"
    assert named(found, "positive nuclei").value == pytest.approx(40, abs=1.5)
    assert not any("haematoxylin and DAB" in abstention.what for abstention in found.abstentions)
    with open_slide(path) as slide:
        assert derived(slide, IhcSettings(stains="aec"))["stain_vectors"]["names"][1] == "AEC"


def test_vectors_and_glass_that_are_given_are_used_and_written_down(stained: Path) -> None:
    one, other = (0.6, 0.75, 0.3), (0.3, 0.5, 0.8)
    with open_slide(stained) as slide:
        said = derived(slide, IhcSettings(stains=(one, other), background=(240, 241, 242)))["stain_vectors"]
    vectors = stain_vectors(("haematoxylin", "DAB"), one, other)
    assert said["rows"] == [list(row) for row in vectors.rows]
    assert (said["background"], said["source"], said["convention"]) == ([240, 241, 242], "given", "log10")
    assert chosen_vectors(IhcSettings()) == H_DAB


def test_estimated_stains_are_those_painted_also_where_few_nuclei_are_brown(folder: Path) -> None:
    """And the same from every shard and process: whatever was kept is forgotten in between."""
    vectors = stain_vectors(("haematoxylin", "DAB"), (0.55, 0.78, 0.30), (0.35, 0.52, 0.78))
    rgb = field_of(0.6, 0.05, vectors)
    with open_slide(write_tiff(folder / "own.tif", rgb, MPP, compression="deflate")) as slide:
        mask, choices = find_tissue(slide), IhcSettings(stains="estimate", background="estimate")
        found = stains_of(slide, mask, "one", choices)
        ihc_stains._STAINS.forget(("one", "estimate", "estimate", mask.settings))
        assert stains_of(slide, mask, "one", choices) == found
        said = derived(slide, choices)["stain_vectors"]
    assert found.reason is None
    assert found.vectors.background == GLASS
    for painted_row, row in zip(vectors.rows[:2], found.vectors.rows[:2], strict=True):
        assert np.degrees(np.arccos(np.dot(painted_row, row))) < 6
    assert said["rows"] == [list(row) for row in found.vectors.rows]
    assert said["source"] == "estimated"


def test_stains_that_cannot_be_estimated_are_the_defaults_and_that_is_said(folder: Path) -> None:
    path = write_tiff(folder / "pale.tif", field_of(0.0, 0.0, side=200), MPP, compression="deflate")
    found, _ = look(path, stains="estimate")
    with open_slide(path) as slide:
        said = derived(slide, IhcSettings(stains="estimate"))
    assert said["stain_vectors"]["source"] == "default"
    assert said["stain_vectors_not_estimated"]
    assert "stain vectors of this slide" in [a.what for a in found.abstentions]


def test_only_cells_in_the_annotated_class_count(stained: Path, folder: Path) -> None:
    """Above y = 240 all are brown, below 270 none."""
    file = annotate(folder / "upper.geojson", {"Tumor": (0, 0, 600, 240), "Stroma": (0, 270, 600, 600)})
    upper, table = look(stained, marker="er", tumour=str(file), tumour_class="tumor")
    lower, _ = look(stained, marker="er", tumour=str(file), tumour_class="Stroma")
    both, _ = look(stained, marker="er", tumour=str(file))
    assert named(upper, "nuclei negative").value == 0
    assert [named(lower, f"nuclei {n}+").value for n in (1, 2, 3)] == [0, 0, 0]
    for name in ("ER positive", "H-score", "Allred score, registry bins"):
        assert named(upper, name).value is None
        assert "insufficient (<100)" in (named(upper, name).note or "")
    counts = [named(found, "nuclei").value or 0 for found in (upper, lower, both)]
    assert counts[0] + counts[1] == counts[2] < len(table)
    assert sum(table["tumour"].to_pylist()) == counts[0]
    assert upper.call
    assert "annotated in upper.geojson, class tumor" in upper.call.text
    assert upper.features[0].classification == "tumor"
    assert named(upper, "tumour area").value == pytest.approx(600 * 240 * MPP**2 / 1e6)
    assert "restriction to tumour" not in [a.what for a in upper.abstentions]


def test_what_is_annotated_decides_the_request(folder: Path) -> None:
    file = annotate(folder / "changing.geojson", {None: (0, 0, 10, 10)})
    before = Ihc(IhcSettings(tumour=str(file))).settings()
    assert before == Ihc(IhcSettings(tumour=str(file))).settings()
    annotate(file, {None: (0, 0, 10, 11)})
    after = Ihc(IhcSettings(tumour=str(file))).settings()
    assert before["tumour"]["annotation"] != after["tumour"]["annotation"]
    assert Ihc().settings()["tumour"] == {"cells": "all"}


def test_a_folder_holds_an_annotation_for_each_slide(stained: Path, folder: Path) -> None:
    drawn = folder / "drawn"
    drawn.mkdir()
    annotate(drawn / "stained.tif.geojson", {None: (0, 0, 600, 240)})
    found, _ = look(stained, marker="ki67", tumour=str(drawn))
    assert named(found, "Ki-67 labelling index").value == 100
    (drawn / "stained.tif.geojson").rename(drawn / "another.geojson")
    with open_slide(stained) as slide, pytest.raises(SlideInformationError, match="no annotation"):
        Ihc(IhcSettings(tumour=str(drawn))).check(slide)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no GeoJSON"),
        ("5", "no GeoJSON"),
        ('{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0]]]}}', "no GeoJSON"),
        ("[]", "no area"),
        ('{"type": "Point", "coordinates": [1, 2]}', "no area"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [5, 0], [0, 0]]]}', "no"),
    ],
)
def test_what_is_no_annotation_is_refused(text: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        read_regions(text, "a.geojson")


def test_a_class_that_nobody_drew_is_refused_with_those_there_are(folder: Path) -> None:
    file = annotate(folder / "classes.geojson", {"Tumor": (0, 0, 9, 9), "Stroma": (9, 9, 20, 20)})
    with pytest.raises(RequestError, match="Stroma, Tumor"):
        read_regions(file.read_text(), "a", "Necrosis")
    regions = read_regions(file.read_text(), "a", "TUMOR")
    assert regions.contain(np.array([5.0, 12.0]), np.array([5.0, 12.0])).tolist() == [True, False]
    with pytest.raises(RequestError, match="cannot be read"):
        Ihc(IhcSettings(tumour=str(folder / "missing.geojson")))


@dataclass(frozen=True, slots=True)
class ByBrightness:
    """In place of a network: a tile is dark or bright."""

    def examine(self, tiles: NDArray[np.uint8]) -> Outputs:
        dark = tiles.mean(axis=(1, 2, 3)) < 150
        return Outputs(np.stack([dark, ~dark], axis=1).astype(np.float32), None)


def test_a_tile_model_says_where_tumour_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place has the class of the tile it lies in; tiles begin at the scan's corner."""
    identity = ModelIdentity(name="demo", version="1", sha256="0" * 64, licence="Apache-2.0")
    model = TileClasses(
        "f", identity, "d" * 64, ("dark", "bright"), Grid(1.0, 32, 0.1), None, TileClassSettings()
    )
    monkeypatch.setattr(tile_classes, "tile_classes", lambda named: model)
    monkeypatch.setattr(tile_classes, "engine_of", lambda named, sha: ByBrightness())
    monkeypatch.chdir(folder)  # where nothing is called demo, as the folder of the demonstration is
    with pytest.raises(RequestError, match="dark, bright"):
        Ihc(IhcSettings(tumour="demo", tumour_class="tumour"))
    workflow = Ihc(IhcSettings(tumour="demo", tumour_class="dark"))
    assert workflow.model == identity
    assert workflow.settings()["tumour"] == {
        "cells": "by model",
        "model": "demo",
        "document": "d" * 64,
        "class": "dark",
    }
    rgb = tissue(256, 256)
    x, y = (axis.ravel().astype(float) for axis in np.mgrid[3:256:8, 3:256:8])
    with open_slide(write_tiff(folder / "tiles.tif", rgb, MPP, compression="deflate")) as slide:
        inside = workflow.tumour.contains(slide, x, y)
        assert workflow.tumour.contains(slide, x[:0], y[:0]).shape == (0,)
    means = rgb.reshape(4, 64, 4, 64, 3).mean(axis=(1, 3, 4))
    assert 0 < (means < 150).sum() < 16
    clear = np.abs(means[(y // 64).astype(int), (x // 64).astype(int)] - 150) > 1
    expected = means[(y // 64).astype(int), (x // 64).astype(int)] < 150
    assert np.array_equal(inside[clear], expected[clear])


COUNTED = st.integers(0, 2**32 - 1)


def places_of(seed: int, n: int, side: int = 600) -> Places:
    """More positive in one corner."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(50, 50 + side, (2, n))
    positive = rng.random(n) < 0.1 + 0.5 * ((x < 250) & (y > 400))
    return Places(x, y, positive, Box(50, 50, side, side), Mpp(0.5, 0.5, "given"))


@given(COUNTED, st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_no_square_of_the_grid_is_hotter_than_the_hot_spot(seed: int, n: int) -> None:
    places, chosen = places_of(seed, n), FieldSettings(hotspot_mm2=0.0064, hotspot_cells=20)
    found = hot_spot(places, chosen)
    side, best = 160.0, None
    for row in range(12):
        for column in range(12):
            left, top = 50 + column * side / STEPS, 50 + row * side / STEPS
            inside = (places.x >= left) & (places.x < left + side)
            inside &= (places.y >= top) & (places.y < top + side)
            if inside.sum() >= 20:
                share = Fraction(int(places.positive[inside].sum()), int(inside.sum()))
                best = share if best is None else max(best, share)
    assert (found is None) is (best is None)
    if found is not None and best is not None:
        assert found.index == 100 * best
        order = np.random.default_rng(seed).permutation(n)
        moved = Places(places.x[order], places.y[order], places.positive[order], places.scanned, places.mpp)
        assert hot_spot(moved, chosen) == found
        inside = (places.x >= found.x) & (places.x < found.x + side)
        inside &= (places.y >= found.y) & (places.y < found.y + side)
        assert (int(places.positive[inside].sum()), int(inside.sum())) == (found.positive, found.total)


def test_fields_stand_for_levels_of_staining() -> None:
    places, chosen = places_of(1, 4000), FieldSettings(field_mm2=0.0025)
    found = representatives(places, chosen, levels=4, least_cells=50)
    indices = [part.field.index for part in found]
    assert 2 <= len(found) <= 4
    assert indices == sorted(indices)
    assert sum(part.weight for part in found) == 1
    assert max(found, key=lambda part: part.weight).field.index < 20
    assert representatives(places, chosen, levels=4, least_cells=10**6) == ()


def test_ki67_is_reported_by_every_method_and_called_by_one(stained: Path, folder: Path) -> None:
    """Four squares of 300 px: the upper two hold all that is brown."""
    rule = folder / "fewer.yaml"
    rule.write_text(OWN.format(least_cells=500, field_cells=20))
    small = FieldSettings(hotspot_mm2=0.01, hotspot_cells=20, field_mm2=0.0225)
    found, _ = look(stained, marker="ki67", fields=small, method="hot-spot", guideline=str(rule))
    assert named(found, "Ki-67 labelling index").value == pytest.approx(40, abs=1)
    assert named(found, "Ki-67 labelling index").code == "LOINC 29593-1"
    assert named(found, "Ki-67 labelling index").note == "insufficient (<500)"
    hot = named(found, "Ki-67 labelling index, hot spot")
    assert hot.value == 100
    assert hot.interval
    assert 20 < (named(found, "Ki-67 labelling index, weighted fields").value or 0) < 60
    assert [f.name for f in found.findings] == ["Ki-67 hot spot", "Ki-67 fields"]
    tile = found.findings[0].tiles[0]
    assert (tile.width, tile.score) == (pytest.approx(200), 1)
    assert found.call
    assert (found.call.category, found.call.urgency) == (None, "unevaluable")
    assert "insufficient (<500)" in found.call.text
    assert found.guidelines[0].name == "ours"


def test_a_laboratory_may_bring_its_own_cut_offs(stained: Path, folder: Path) -> None:
    own = folder / "own.yaml"
    own.write_text(OWN.format(least_cells=100, field_cells=100))
    found, _ = look(stained, marker="ki67", guideline=str(own))
    assert found.call
    assert (found.call.category, found.call.urgency) in {("few", "routine"), ("many", "urgent")}
    assert found.guidelines[0].cut_offs["least_cells"] == 100
    workflow = Ihc(IhcSettings(marker="ki67", guideline=str(own)))
    assert workflow.settings()["guideline"]["values"]["least_cells"] == 100
    with pytest.raises(RequestError, match="levels"):
        Ihc(IhcSettings(marker="ki67", guideline="er-asco-cap-2020"))


@pytest.mark.parametrize(("marker", "status"), [("er", "positive"), ("pr", "positive")])
def test_receptors_have_category_and_both_allred_scores(stained: Path, marker: str, status: str) -> None:
    found, _ = look(stained, marker=marker)
    name = marker_of(marker).name
    assert found.call
    assert (found.call.category, found.call.urgency) == (status, "routine")
    assert found.call.code
    assert "all tissue, not only tumour" in found.call.text
    assert named(found, f"{name} positive").code
    assert [m.value for m in found.measurements if m.name.startswith("Allred")] == [5, 5]
    assert "restriction to tumour" in [a.what for a in found.abstentions]


@pytest.mark.parametrize(
    ("density", "share", "score"), [(1.4, 0.4, "3+"), (0.33, 0.5, "2+"), (1.4, 0.05, "2+"), (0.0, 0.0, "0")]
)
def test_her2_is_scored_from_painted_membranes(
    folder: Path, density: float, share: float, score: str
) -> None:
    rgb = field_of(density, share, nuclear=0.0, side=420)
    path = write_tiff(folder / f"her2-{density}-{share}.tif", rgb, MPP, compression="deflate")
    found, table = look(path, marker="her2")
    assert found.call
    assert found.call.category == score
    assert named(found, "HER2 score").value == int(score[0])
    assert named(found, "HER2 score").code == "LOINC 48676-1"
    assert {"membrane_complete", "membrane_dab_od", "cytoplasm_dab_od_mean"} <= set(table.column_names)
    assert any(use.unverified for use in found.guidelines)


@pytest.mark.parametrize(
    ("guideline", "category"),
    [
        (None, "TPS 1–49 %"),
        ("pdl1-22c3-gastric", None),
        ("pdl1-sp142-nsclc", None),
        ("pdl1-22c3-nsclc", "TPS 1–49 %"),
    ],
)
def test_pdl1_gives_tps_and_never_a_cps(folder: Path, guideline: str | None, category: str | None) -> None:
    path = folder / "pdl1.tif"
    if not path.exists():
        write_tiff(path, field_of(0.5, 0.4, nuclear=0.0, side=420), MPP, compression="deflate")
    found, _ = look(path, marker="pdl1", guideline=guideline)
    assert named(found, "TPS").value == pytest.approx(40, abs=1)
    assert named(found, "CPS").value is None
    assert "immune cells" in (named(found, "CPS").note or "")
    assert found.call
    assert found.call.category == category
    assert (found.call.urgency == "unevaluable") is (category is None)


def test_immune_cells_that_somebody_drew_make_cps_and_the_area_of_sp142(folder: Path) -> None:
    """The upper 40 % of the cells are stained; immune cells lie at the left."""
    rgb = field_of(0.5, 0.4, nuclear=0.0, side=420)
    path = write_tiff(folder / "immune.tif", rgb, MPP, compression="deflate")
    file = annotate(folder / "cps.geojson", {"Tumor": (0, 0, 520, 520), "Immune cells": (0, 0, 100, 520)})
    drawn = {"marker": "pdl1", "tumour": str(file), "tumour_class": "Tumor", "immune_class": "Immune cells"}
    found, table = look(path, guideline="pdl1-22c3-gastric", **drawn)
    immune = table["x"].to_numpy() < 100
    stained = np.asarray(table["class"].to_pylist()) != "negative"
    viable = int((~immune).sum())
    assert viable >= 100
    assert immune[stained].any()
    assert named(found, "TPS").value == pytest.approx(100 * (stained & ~immune).sum() / viable)
    assert named(found, "CPS").value == pytest.approx(100 * stained.sum() / viable)
    assert found.call
    assert found.call.category == "CPS ≥ 1"
    by_area, _ = look(path, guideline="pdl1-sp142-urothelial", **drawn)
    covered = table["cell_area_um2"].to_numpy()[stained & immune].sum() / (520 * MPP) ** 2
    assert named(by_area, "stained immune cells, area").value == pytest.approx(100 * covered)
    assert by_area.call
    assert (by_area.call.category, by_area.call.code) == ("criterion not met", "LOINC 83057-0")


def test_too_few_cells_have_no_tps(folder: Path) -> None:
    path = write_tiff(
        folder / "few.tif", field_of(0.5, 0.4, nuclear=0.0, side=250), MPP, compression="deflate"
    )
    found, table = look(path, marker="pdl1")
    assert 20 < len(table) < 100
    assert named(found, "TPS").value is None
    assert found.call
    assert "insufficient (<100)" in found.call.text


def test_an_antibody_of_nuclei_gives_no_her2_score(folder: Path) -> None:
    rgb = field_of(0.7, 0.4, under=0.6, side=360)
    found, _ = look(write_tiff(folder / "nuclear.tif", rgb, MPP, compression="deflate"), marker="her2")
    assert found.call
    assert (found.call.category, found.call.urgency) == (None, "unevaluable")
    assert "no membrane marker" in found.call.text
    assert named(found, "HER2 score").value is None
    assert "no membrane marker" in (named(found, "HER2 score").note or "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"marker": "s100"},
        {"marker": "her2", "site": "nucleus"},
        {"tumour_class": "Tumor"},
        {"marker": "pdl1", "immune_class": "Immune cells"},
        {"marker": "er", "tumour": "t.geojson", "immune_class": "Immune cells"},
        {"guideline": "her2-asco-cap-2023"},
    ],
)
def test_choices_that_contradict_each_other_are_refused(wrong) -> None:
    with pytest.raises(RequestError):
        IhcSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stains": ((1, 1, 1), (1, 1, 1))},
        {"background": (0, 1, 2)},
        {"marker": "er", "guideline": "no-such-rule"},
    ],
)
def test_what_cannot_be_used_is_refused_before_a_slide_is_opened(wrong) -> None:
    with pytest.raises(RequestError):
        Ihc(IhcSettings(**wrong))


def test_settings_can_be_written_in_a_file() -> None:
    given_there = {
        "marker": "her2",
        "stains": [[0.65, 0.7, 0.29], [0.27, 0.57, 0.78]],
        "background": [240, 240, 240],
        "cell": {"complete": 0.9},
    }
    workflow = build_workflow(find_workflow("ihc"), given_there)
    assert isinstance(workflow, Ihc)
    assert workflow.choices.cell.complete == 0.9
    assert json.loads(json.dumps(workflow.settings()))["stains"]["background"] == [240, 240, 240]


def test_a_run_gives_call_rule_and_code_and_the_same_bytes_again(stained: Path, folder: Path) -> None:
    file = annotate(folder / "all.geojson", {"Tumor": (0, 0, 600, 500)})
    workflow = Ihc(IhcSettings(marker="er", tumour=str(file), stains="estimate", tile=300, shard=2))
    texts = []
    for name in ("one", "two"):
        report = coverslip.run([str(stained)], folder / name, workflow, settings=NO_PYRAMID, workers=1)
        assert report.failures == ()
        home = folder / name / "slides/stained.tif"
        result = json.loads((home / "result.json").read_text())
        texts.append({key: value for key, value in result.items() if key != "times"})
    assert texts[0] == texts[1]
    assert result["call"]["category"] == "positive"
    assert result["guidelines"][0]["cut_offs"]["least_cells"] == 100
    assert result["provenance"]["derived"]["stain_vectors"]["source"] == "estimated"
    assert "Tumour" in (home / "annotations.geojson").read_text()
    assert (
        pq.read_table(home / "cells.parquet")["tumour"].to_pylist().count(True)
        == result["measurements"][0]["n"]
    )


def test_the_compartments_of_any_marker_can_be_measured(folder: Path) -> None:
    path = write_tiff(folder / "plain.tif", tissue(300, 300), MPP)
    plain, table = look(path)
    found, wider = look(path, compartments=True)
    assert found.summary == plain.summary
    assert set(wider.column_names) - set(table.column_names) == {
        "cell_area_um2",
        "cytoplasm_dab_od_mean",
        "membrane_dab_od",
        "membrane_complete",
    }
    for name in table.column_names[:5]:
        assert np.allclose(wider[name].to_numpy(), table[name].to_numpy(), rtol=0, atol=1e-9)
    assert wider["class"].to_pylist() == table["class"].to_pylist()
