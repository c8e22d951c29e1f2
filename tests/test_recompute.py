"""A result after corrections: the machine's own again without any, and what arithmetic says with some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from slides import write_tiff
from smears import draw_smear
from test_ihc_cells import lattice, painted
from test_ihc_markers import field_of

from coverslip.errors import RequestError, StoreIncompleteError, StoreVersionError
from coverslip.tiling.raster import covered
from coverslip.workflows import steps
from coverslip.workflows.cells import cell_finding
from coverslip.workflows.clock import now
from coverslip.workflows.conclude import finish
from coverslip.workflows.files import write_json
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.job import RunSettings
from coverslip.workflows.result import Finding, Measurement, SlideResult
from coverslip.workflows.review.base import Base, read_base
from coverslip.workflows.review.corrections import (
    ChangeCall,
    Correction,
    DrawRegion,
    Exclude,
    RejectFinding,
    Relabel,
    RemoveArea,
)
from coverslip.workflows.review.recompute import labels_of, recompute, standing_labels
from coverslip.workflows.rules_file import plain, read_rules, write_rules
from coverslip.workflows.run import plan_run
from coverslip.workflows.scores import wilson
from coverslip.workflows.workflow import Workflow

MPP = 0.5
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def concluded(path: Path, out: Path, workflow: Workflow) -> Base:
    """The result of a run in this process, read back; the slide is gone by then."""
    (job,) = plan_run([str(path)], out, workflow, RunSettings(pyramid=None, accept_stain=True)).jobs
    prepared = steps.prepare(job, now())
    for number in range(prepared.shares):
        steps.score(job, prepared, number)
    finish(job, prepared)
    path.rename(path.with_name(f"gone-{path.name}"))
    return read_base(job.home)


def box(left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    return shapely.geometry.mapping(shapely.box(left, top, right, bottom))


def figures(result: SlideResult) -> dict[str, Any]:
    """All that the rules say."""
    document = result.model_dump(mode="json")
    names = ("summary", "call", "measurements", "findings", "abstentions", "guidelines", "quality")
    return {name: document[name] for name in names}


def measured(result: SlideResult, name: str) -> Measurement:
    return next(one for one in result.measurements if one.name == name)


def finding(result: SlideResult, name: str) -> Finding:
    return next(one for one in result.findings if one.name == name)


def rows_of(base: Base, label: str) -> tuple[int, ...]:
    """Rows of cells with this class."""
    assert base.cells is not None
    return tuple(np.flatnonzero(np.array(base.cells["class"].to_pylist()) == label).tolist())


# bases, one of each workflow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recompute")


@pytest.fixture(scope="module")
def ki67(folder: Path) -> Base:
    path = write_tiff(folder / "ki67.tif", field_of(0.5, 0.4), MPP, compression="deflate")
    return concluded(path, folder / "ki67", Ihc(IhcSettings(marker="ki67")))


def membranes(folder: Path, name: str, **choices: Any) -> Base:
    """Every third cell with a strong membrane all round, every third with a weak one."""
    places = lattice(480)
    rings = [((0.7, 1.0), (0.3, 0.5), (0.0, 0.0))[number % 3] for number in range(len(places))]
    rgb = np.full((580, 580, 3), 245, np.uint8)
    rgb[50:-50, 50:-50] = painted((480, 480), places, rings)
    path = write_tiff(folder / f"{name}.tif", rgb, MPP, compression="deflate")
    return concluded(path, folder / name, Ihc(IhcSettings(**choices)))


@pytest.fixture(scope="module")
def her2(folder: Path) -> Base:
    return membranes(folder, "her2", marker="her2")


@pytest.fixture(scope="module")
def sp142(folder: Path) -> Base:
    return membranes(folder, "sp142", marker="pdl1", guideline="pdl1-sp142-nsclc")


@pytest.fixture(scope="module")
def cells(folder: Path) -> Base:
    path = write_tiff(folder / "cells.tif", field_of(0.0, 0.0), MPP, compression="deflate")
    return concluded(path, folder / "cells", cell_finding())


@pytest.fixture(scope="module")
def tile_model(folder: Path, shared: Path) -> Path:
    """A network that knows the pieces of real tissue that `tiled` is made from."""
    torch = pytest.importorskip("torch")
    from networks import network_of, write_network
    from test_histology import CLASSES, SIDE, crops, teach

    pieces = crops(shared / "histology-tiles/crc-val-he-7k-mini")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = network_of("test_resnet", SIDE)
        network.reset_classifier(len(CLASSES))
    teach(network, pieces)
    np.save(folder / "pieces.npy", np.stack([pieces[name] for name in CLASSES]))
    return Path(write_network(folder / "model", network, classes=CLASSES).folder)


def tiled(folder: Path, name: str) -> Path:
    """16 × 20 tiles of 32 px: glands, and tumour around stroma with lymphocytes."""
    pieces, side, rim = np.load(folder / "pieces.npy"), 32, 96
    known = ("LYM", "NORM", "STR", "TUM")
    classes = np.full((16, 20), "NORM", "<U4")
    classes[2:12, 2:14], classes[4:10, 4:12], classes[6:8, 5:8] = "TUM", "STR", "LYM"
    rgb = np.full((16 * side + 2 * rim, 20 * side + 2 * rim, 3), 245, np.uint8)
    for (row, column), label in np.ndenumerate(classes):
        y, x = rim + row * side, rim + column * side
        rgb[y : y + side, x : x + side] = pieces[known.index(label)][(7 * row + 3 * column) % 8]
    return write_tiff(folder / f"{name}.tif", rgb, MPP, compression="deflate")


@pytest.fixture(scope="module")
def tiles(folder: Path, tile_model: Path) -> Base:
    from coverslip.workflows.tile_classes import TileClassSettings, tile_classes

    workflow = tile_classes(tile_model, TileClassSettings(call_share=0.4, strange_share=1.0))
    return concluded(tiled(folder, "tiles"), folder / "tiles", workflow)


@pytest.fixture(scope="module")
def histology(folder: Path, tile_model: Path) -> Base:
    """With mitoses that a finder finds."""
    from test_histology import with_finder

    from coverslip.workflows.histology.settings import HistologySettings
    from coverslip.workflows.histology.workflow import histology
    from coverslip.workflows.tile_classes import TileClassSettings

    choices = HistologySettings(
        specimen="lymph node", bed_mm=0.05, least_mm2=0.01, tiles=TileClassSettings(strange_share=1.0)
    )
    path = tiled(folder, "histology")
    rgb = np.asarray(Image.open(path).convert("RGB")).copy()
    for x, y in ((96 + 70, 96 + 75), (96 + 100, 96 + 70), (96 + 72, 96 + 200)):
        rgb[y, x] = (0, 250, 2)
    path = write_tiff(path, rgb, MPP, compression="deflate")
    with pytest.MonkeyPatch.context() as patch:
        return concluded(path, folder / "histology", with_finder(histology(tile_model, choices), patch))


@pytest.fixture(scope="module")
def cytology(folder: Path, shared: Path) -> Base:
    pytest.importorskip("torch")
    from coverslip.workflows.cytology.workflow import CytologySettings, cytology

    field = shared / "cytology/cric-fields-with-cells/a9ceb5e547fed2f7d052cdc794cb1330.png"
    rgb = np.asarray(Image.open(field).convert("RGB"))[590:949, 440:1080]
    path = write_tiff(folder / "smear.tif", rgb, 0.25, compression="deflate")
    choices = CytologySettings(tile=1024, preparation="conventional")
    return concluded(path, folder / "cytology", cytology(choices=choices))


@pytest.fixture(scope="module")
def blood(folder: Path) -> Base:
    pytest.importorskip("torch")
    from networks import network_of, write_network
    from test_blood import CLASSES, SURE, spread_calls

    from coverslip.models.document import TileFit
    from coverslip.workflows.blood.workflow import BloodSettings, blood
    from coverslip.workflows.rules.differential import Counting

    smear, network = draw_smear(), network_of()
    padded = np.pad(smear.rgb, ((32, 32), (32, 32), (0, 0)), mode="edge")
    corners = smear.white.astype(int).tolist()
    spread_calls(network, np.stack([padded[y : y + 64, x : x + 64] for x, y in corners]))
    fit = TileFit(size=64, mpp=0.25, tolerance=0.1)
    write_network(folder / "caller", network, classes=CLASSES, tile=fit, prediction_sets=SURE)
    choices = BloodSettings(
        finder="classical",
        classifier=str(folder / "caller"),
        counting=Counting(least_cells=10),
        unsure_share=1.0,
    )
    path = write_tiff(folder / "blood.tif", smear.rgb, 0.25, compression="deflate")
    return concluded(path, folder / "blood", blood(choices))


BASES = ("ki67", "her2", "sp142", "cells", "tiles", "histology", "cytology", "blood")


@pytest.fixture
def base(request: pytest.FixtureRequest) -> Base:
    return request.getfixturevalue(request.param)


every = pytest.mark.parametrize("base", BASES, indirect=True)


# what holds for every workflow


@every
def test_without_corrections_the_rules_say_what_the_machine_said(base: Base) -> None:
    assert base.result.measurements
    assert recompute(base, ()) == base.result


@every
def test_the_rules_are_read_as_they_were_written(base: Base, tmp_path: Path) -> None:
    assert base.judge is not None
    write_rules(tmp_path / "rules.yaml", base.judge)
    again = read_rules(tmp_path / "rules.yaml", type(base.judge))
    assert plain(again) == plain(base.judge)
    assert (tmp_path / "rules.yaml").read_bytes() == (base.home / "rules.yaml").read_bytes()


@every
def test_what_is_taken_back_leaves_nothing(base: Base) -> None:
    area = box(0, 0, 300, 300)
    corrections = (
        Exclude(id="a", geometry=area, why="fold"),
        DrawRegion(id="b", label="Tumor", geometry=area),
        RemoveArea(id="a"),
        RemoveArea(id="b"),
    )
    assert recompute(base, corrections) == base.result
    assert recompute(base, corrections[:1]) != base.result


@every
def test_nothing_is_evaluable_where_all_is_excluded(base: Base) -> None:
    width, height = base.result.slide.size
    found = recompute(base, (Exclude(id="a", geometry=box(-1, -1, width + 1, height + 1), why="crushed"),))
    assert all(one.value is None and one.interval is None for one in found.measurements)
    assert "not evaluable" in found.summary
    assert found.call is not None
    assert (found.call.category, found.call.urgency) == (None, "unevaluable")
    assert (found.quality.tissue_area_mm2, found.quality.evaluable_area_mm2) == (0, 0)
    of = "tiles" if labels_of(base, "tiles") else "cells"
    excluded = (Exclude(id="a", geometry=box(-1, -1, width + 1, height + 1), why="crushed"),)
    assert (standing_labels(base, excluded, of) == -1).all()


@every
def test_the_order_of_independent_corrections_does_not_matter(base: Base) -> None:
    of = "tiles" if labels_of(base, "tiles") else "cells"
    labels = labels_of(base, of)
    first, last = labels[0], labels[-1]
    corrections: list[Correction] = [
        Relabel(of=of, rows=(0, 3), label=last),
        Relabel(of=of, rows=(1,), label=first),
        Exclude(id="a", geometry=box(0, 0, 200, 200), why="fold"),
        DrawRegion(id="b", label="note", geometry=box(0, 0, 90, 90)),
        RejectFinding(finding=base.result.findings[0].name, why="no")
        if base.result.findings
        else RemoveArea(id="none"),
        ChangeCall(category="other", why="seen"),
    ]
    forth, back = (figures(recompute(base, tuple(some))) for some in (corrections, corrections[::-1]))
    assert forth == back != figures(base.result)


@every
def test_excluded_tissue_is_gone_from_area_and_rows(base: Base) -> None:
    half = base.result.slide.size[0] // 2
    found = recompute(base, (Exclude(id="a", geometry=box(0, 0, half, 10_000), why="fold"),))
    assert base.layout is not None
    tissue = base.layout.tissue
    centres = (np.arange(tissue.mask.shape[1]) + 0.5) * tissue.scale_x
    left = int(tissue.mask[:, centres > half].sum())
    area = left * tissue.mpp.x * tissue.mpp.y / 1e6
    assert 0 < area < base.result.quality.tissue_area_mm2
    assert found.quality.tissue_area_mm2 == pytest.approx(area, rel=1e-12)
    labels = standing_labels(base, (Exclude(id="a", geometry=box(0, 0, half, 10_000), why="fold"),), "tiles")
    if labels_of(base, "tiles"):
        assert base.tiles is not None
        x = base.tiles["x"].to_numpy() + base.layout.plan.extent[0] / 2
        assert ((labels == -1) == (x < half)).all()


@every
def test_a_rejected_finding_stays_and_says_why(base: Base) -> None:
    for one in base.result.findings[:2]:
        found = recompute(base, (RejectFinding(finding=one.name, why="an artefact"),))
        assert finding(found, one.name).rejected == "an artefact"
        assert finding(found, one.name).tiles == one.tiles
        assert found.measurements == base.result.measurements
    with pytest.raises(RequestError, match="none of this result"):
        recompute(base, (RejectFinding(finding="unicorns", why="no"),))


@every
def test_the_reviewers_call_stands_beside_that_of_the_rules(base: Base) -> None:
    found = recompute(base, (ChangeCall(category="mine", why="I know"),))
    assert found.call is not None
    assert (found.call.category, found.call.confidence) == ("mine", None)
    assert "I know" in found.call.text
    own = base.result.call
    if own is not None:
        assert own.text in found.call.text
    assert found.measurements == base.result.measurements
    gone = recompute(
        base, (ChangeCall(category="mine", why="I know"), ChangeCall(category=None, why="or not"))
    )
    assert gone.call is not None
    assert gone.call.category is None
    assert gone.call.urgency == ("urgent" if own is not None and own.urgency == "urgent" else "unevaluable")
    assert "withdrew" in gone.summary


@every
def test_what_does_not_fit_the_result_is_refused(base: Base) -> None:
    of = "tiles" if labels_of(base, "tiles") else "cells"
    table = base.table(of)
    assert table is not None
    label = labels_of(base, of)[0]
    with pytest.raises(RequestError, match="none of these"):
        recompute(base, (Relabel(of=of, rows=(0,), label="unicorn"),))
    with pytest.raises(RequestError, match="beyond"):
        recompute(base, (Relabel(of=of, rows=(len(table),), label=label),))


# Ki-67


def index_of(base: Base, corrections: tuple[Correction, ...]) -> float:
    value = measured(recompute(base, corrections), "Ki-67 labelling index").value
    assert value is not None
    return value


@FEW
@given(data=st.data())
def test_negatives_made_positive_change_the_index_by_so_many(ki67: Base, data: st.DataObject) -> None:
    negative, total = rows_of(ki67, "negative"), len(ki67.cells or ())
    chosen = data.draw(st.sets(st.sampled_from(negative), min_size=1))
    label = data.draw(st.sampled_from(("1+", "2+", "3+")))
    found = recompute(ki67, (Relabel(of="cells", rows=tuple(sorted(chosen)), label=label),))
    positive = total - len(negative) + len(chosen)
    index = measured(found, "Ki-67 labelling index")
    expected = wilson(positive, total)
    assert (index.value, index.n) == (100 * expected.value, total)
    assert index.interval is not None
    assert (index.interval.low, index.interval.high) == (100 * expected.low, 100 * expected.high)
    assert found.quality == ki67.result.quality


@FEW
@given(data=st.data())
def test_a_class_given_and_given_back_is_no_change(ki67: Base, data: st.DataObject) -> None:
    assert ki67.cells is not None
    names = ki67.cells["class"].to_pylist()
    row = data.draw(st.integers(0, len(names) - 1))
    other = data.draw(st.sampled_from(("negative", "1+", "2+", "3+")))
    there = Relabel(of="cells", rows=(row,), label=other)
    back = Relabel(of="cells", rows=(row,), label=names[row])
    assert recompute(ki67, (there, back)) == ki67.result
    labels = labels_of(ki67, "cells")
    assert labels[standing_labels(ki67, (there,), "cells")[row]] == other


@FEW
@given(edge=st.integers(60, 520))
def test_cells_in_what_was_drawn_as_tumour_count_alone(ki67: Base, edge: int) -> None:
    assert ki67.cells is not None
    drawn = DrawRegion(id="t", label="tumor", geometry=box(0, 0, 600, edge))
    found = recompute(ki67, (drawn,))
    inside = ki67.cells["y"].to_numpy() < edge
    positive = np.array(ki67.cells["class"].to_pylist()) != "negative"
    assert measured(found, "nuclei").value == inside.sum()
    if inside.any():
        assert measured(found, "Ki-67 labelling index").value == 100 * float(np.mean(positive[inside]))
    assert measured(found, "tumour area").value == pytest.approx(600 * edge * MPP**2 / 1e6)
    assert "reviewer drew" in (found.call.text if found.call else "")
    assert "restriction to tumour" not in {one.what for one in found.abstentions}


def test_another_label_restricts_nothing(ki67: Base) -> None:
    drawn = DrawRegion(id="t", label="3+", geometry=box(0, 0, 300, 300))
    assert recompute(ki67, (drawn,)) == ki67.result


def test_an_exclusion_inside_drawn_tumour_is_cut_from_its_area(ki67: Base) -> None:
    drawn = DrawRegion(id="t", label="Tumour", geometry=box(0, 0, 600, 300))
    hole = Exclude(id="h", geometry=box(100, 100, 200, 200), why="necrosis")
    found = recompute(ki67, (drawn, hole))
    assert measured(found, "tumour area").value == pytest.approx((600 * 300 - 100 * 100) * MPP**2 / 1e6)


def test_the_density_is_that_of_the_tissue_that_is_left(ki67: Base) -> None:
    hidden = Exclude(id="h", geometry=box(0, 0, 290, 600), why="crushed")
    found = recompute(ki67, (hidden,))
    counted = measured(found, "nuclei").value
    assert ki67.cells is not None
    assert counted == (ki67.cells["x"].to_numpy() >= 290).sum()
    assert measured(found, "nuclear density").value == (counted or 0) / found.quality.tissue_area_mm2


def test_an_annotation_that_said_where_the_tumour_is_may_be_gone(folder: Path) -> None:
    from test_ihc_markers import annotate

    path = write_tiff(folder / "drawn.tif", field_of(0.5, 0.4), MPP, compression="deflate")
    file = annotate(folder / "upper.geojson", {"Tumor": (0, 0, 600, 240)})
    base = concluded(path, folder / "drawn", Ihc(IhcSettings(marker="er", tumour=str(file))))
    file.unlink()
    assert recompute(base, ()) == base.result
    assert measured(base.result, "tumour area").value == pytest.approx(600 * 240 * MPP**2 / 1e6)
    half = recompute(base, (Exclude(id="h", geometry=box(0, 0, 300, 600), why="fold"),))
    assert measured(half, "tumour area").value == pytest.approx(300 * 240 * MPP**2 / 1e6)
    other = recompute(base, (DrawRegion(id="t", label="Tumor", geometry=box(0, 270, 600, 600)),))
    assert [measured(other, f"nuclei {n}+").value for n in (1, 2, 3)] == [0, 0, 0]


# membranes


def test_membranes_count_by_the_class_given(her2: Base) -> None:
    strong = rows_of(her2, "3+")
    before = measured(her2.result, "membranes intense complete")
    assert len(strong) > 30
    assert (before.value or 0) > 10
    found = recompute(her2, (Relabel(of="cells", rows=strong, label="1+"),))
    assert measured(found, "membranes intense complete").value == 0
    assert measured(found, "HER2 score").value == 1
    assert measured(her2.result, "HER2 score").value == 3
    assert found.call is not None
    assert found.call.category == "1+"


def test_combined_score_and_area_are_given_where_immune_cells_were_marked(sp142: Base) -> None:
    assert measured(sp142.result, "CPS").value is None
    strong, negative = rows_of(sp142, "3+"), rows_of(sp142, "negative")
    assert sp142.cells is not None
    total = len(sp142.cells)
    stained = total - len(negative)
    tumour = DrawRegion(id="t", label="Tumour", geometry=box(0, 0, 580, 580))
    marked = Relabel(of="cells", rows=tuple(sorted((*strong[:10], *negative[:5]))), label="immune")
    found = recompute(sp142, (tumour, marked))
    assert measured(found, "TPS").value == pytest.approx(100 * (stained - 10) / (total - 15))
    assert measured(found, "CPS").value == pytest.approx(min(100, 100 * stained / (total - 15)))
    area = sp142.cells["cell_area_um2"].to_numpy()[list(strong[:10])].sum() / 1e6
    covered_by = measured(found, "stained immune cells, area").value
    assert covered_by == pytest.approx(100 * area / (580**2 * MPP**2 / 1e6))
    assert "CPS" not in {one.what for one in found.abstentions}
    assert {"TPS", "CPS"} <= {one.name for one in recompute(sp142, (marked,)).measurements}


def test_an_area_of_immune_cells_holds_them_alone(sp142: Base) -> None:
    assert sp142.cells is not None
    drawn = DrawRegion(id="i", label="Immune cells", geometry=box(0, 0, 580, 200))
    found = recompute(sp142, (drawn,))
    y = sp142.cells["y"].to_numpy()
    assert measured(found, "cells").value == (y >= 200).sum()
    note = measured(found, "CPS").note or ""
    assert f"of the {(y < 200).sum()} immune cells" in note


def test_a_real_slide_is_read_back_and_corrected(shared: Path, folder: Path) -> None:
    path = folder / "OS-2.ome.tif"
    path.symlink_to(shared / "ihc/OS-2-ndpi_Ki67.ome.tif")
    base = concluded(path, folder / "real", Ihc(IhcSettings(marker="ki67")))
    assert recompute(base, ()) == base.result
    assert finding(base.result, "Ki-67 hot spot")
    assert base.cells is not None
    positive = len(base.cells) - len(rows_of(base, "negative"))
    found = recompute(base, (Relabel(of="cells", rows=rows_of(base, "1+"), label="negative"),))
    left = positive - len(rows_of(base, "1+"))
    assert measured(found, "Ki-67 labelling index").value == 100 * left / len(base.cells)


# cells and tiles


def test_counts_of_cells_follow_their_classes(cells: Base) -> None:
    (name,) = labels_of(cells, "cells")
    hidden = Exclude(id="h", geometry=box(0, 0, 290, 600), why="crushed")
    assert cells.cells is not None
    left = int((cells.cells["x"].to_numpy() >= 290).sum())
    assert measured(recompute(cells, (hidden,)), name).value == left


def test_a_tile_that_a_person_called_is_of_that_class_for_sure(tiles: Base) -> None:
    assert tiles.tiles is not None
    names, weights = np.array(tiles.tiles["class"].to_pylist()), tiles.tiles["tissue"].to_numpy()
    rows = np.flatnonzero(names == "NORM")[:40]
    found = recompute(tiles, (Relabel(of="tiles", rows=tuple(rows.tolist()), label="TUM"),))
    now_tumour = (names == "TUM") | np.isin(np.arange(len(names)), rows)
    share = 100 * weights[now_tumour].sum(dtype=np.float64) / weights.sum(dtype=np.float64)
    assert measured(found, "TUM, share of the tissue").value == pytest.approx(share)
    assert measured(found, "TUM, area").n == now_tumour.sum()
    assert max(one.score for one in finding(found, "TUM").tiles) == 1


def test_rejecting_the_call_withdraws_it(tiles: Base) -> None:
    assert finding(tiles.result, "slide-level call")
    found = recompute(tiles, (RejectFinding(finding="slide-level call", why="it is necrosis"),))
    assert finding(found, "slide-level call").rejected == "it is necrosis"
    assert found.call is not None
    assert found.call.category is None
    assert "it is necrosis" in found.summary


def test_tumour_and_its_mitoses_follow_the_tiles(histology: Base) -> None:
    assert histology.tiles is not None
    names = np.array(histology.tiles["class"].to_pylist())
    tumour = tuple(np.flatnonzero(names == "TUM").tolist())
    assert measured(histology.result, "mitoses").value == 3
    found = recompute(histology, (Relabel(of="tiles", rows=tumour, label="STR"),))
    assert measured(found, "tumour foci").value == 0
    assert measured(found, "mitoses").value == 0
    assert found.call is not None
    assert (found.call.category, found.call.urgency) == ("no tumour", "routine")
    one = recompute(histology, (Relabel(of="cells", rows=(0,), label="nucleus"),))
    assert measured(one, "mitoses").value == 2
    changed = recompute(histology, (ChangeCall(category="no tumour", why="a benign gland"),))
    assert changed.call is not None
    assert changed.call.urgency == "routine"


def test_excluded_tumour_is_no_tumour(histology: Base) -> None:
    found = recompute(histology, (Exclude(id="a", geometry=box(0, 0, 96 + 8 * 32, 2000), why="fold"),))
    before, after = (measured(result, "tumour area").value for result in (histology.result, found))
    assert before is not None
    assert after is not None
    assert 0 < after < before
    assert measured(found, "mitoses").value == 0


# smears


def test_a_cell_that_a_person_confirmed_is_no_false_positive(cytology: Base) -> None:
    assert cytology.cells is not None
    called = np.flatnonzero(np.isin(cytology.cells["class"].to_pylist(), labels_of(cytology, "cells")[:-2]))
    normal = Relabel(of="cells", rows=tuple(called.tolist()), label="NILM")
    clear = recompute(cytology, (normal,))
    assert clear.call is not None
    assert clear.call.category in (None, "NILM", "unsatisfactory")
    assert measured(clear, "triage score").value == 0
    assert measured(clear, "strange cells").value == 0
    hsil = Relabel(of="cells", rows=(int(called[0]),), label="HSIL")
    found = recompute(cytology, (normal, hsil))
    assert found.call is not None
    assert found.call.category == "HSIL"
    assert found.call.urgency == "urgent"
    assert "as the reviewer says" in found.call.text
    assert finding(found, "cells called HSIL").text.startswith("1 cells")
    assert max(one.score for one in finding(found, "most suspicious cells").tiles) > 0
    mine = recompute(cytology, (ChangeCall(category="LSIL", why="koilocytes"),))
    assert mine.call is not None
    assert mine.call.code == "SNOMED CT 62051000119105" or mine.call.urgency != "routine"


def test_white_cells_count_as_they_are_called(blood: Base) -> None:
    assert blood.cells is not None
    calls = np.array(blood.cells["call"].to_pylist())
    unsure = np.flatnonzero(calls == "unsure")
    assert len(unsure) > 2
    assert measured(blood.result, "unsure white cells").value == len(unsure)
    rows = tuple(unsure.tolist())
    found = recompute(blood, (Relabel(of="cells", rows=rows, label="neutrophils"),))
    total, count = len(calls) - (calls == "erythroblasts").sum(), (calls == "neutrophils").sum() + len(unsure)
    assert measured(found, "unsure white cells").value == 0
    assert measured(found, "neutrophils").value == pytest.approx(100 * count / total)
    blasts = recompute(blood, (Relabel(of="cells", rows=rows, label="blasts"),))
    assert blasts.call is not None
    assert "blasts" in (blasts.call.category or "")
    platelet = recompute(blood, (Relabel(of="cells", rows=rows[:1], label="platelets"),))
    before = measured(blood.result, "white cells found").value or 0
    assert measured(platelet, "white cells found").value == before - 1


# a workflow that nobody can say again


def test_without_rules_findings_areas_and_the_call_can_be_corrected(tiles: Base) -> None:
    bare = replace(tiles, judge=None)
    assert labels_of(bare, "tiles") == ()
    assert recompute(bare, ()) == tiles.result
    found = recompute(bare, (Exclude(id="a", geometry=box(0, 0, 200, 200), why="fold"),))
    assert found.measurements == tiles.result.measurements
    assert found.abstentions[0].what == "excluded areas"
    assert found.quality.tissue_area_mm2 < tiles.result.quality.tissue_area_mm2
    with pytest.raises(RequestError, match="no class that a person could give"):
        recompute(bare, (Relabel(of="tiles", rows=(0,), label="TUM"),))


def test_a_result_that_kept_too_little_is_refused(ki67: Base, tmp_path: Path) -> None:
    outputs = {name: digest for name, digest in ki67.result.outputs.items() if name != "layout.parquet"}
    older = ki67.result.model_copy(update={"outputs": outputs})
    write_json(tmp_path / "result.json", older.model_dump(mode="json"))
    with pytest.raises(StoreVersionError, match="kept too little to be reviewed"):
        read_base(tmp_path)


def test_a_file_that_is_gone_is_named(ki67: Base, tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", ki67.result.model_dump(mode="json"))
    with pytest.raises(StoreIncompleteError, match=r"cells\.parquet"):
        read_base(tmp_path)


# areas on a mask


@settings(max_examples=20, deadline=None)
@given(points=arrays(np.float64, (6, 2), elements=st.floats(-30, 130, width=16)), scale=st.floats(0.5, 3))
def test_the_pixels_of_an_area_are_those_whose_centre_is_in_it(points: NDArray, scale: float) -> None:
    area = shapely.make_valid(shapely.Polygon(points))
    area = shapely.union_all([part for part in shapely.get_parts(area) if part.geom_type == "Polygon"])
    found = covered(area, (40, 50), scale, 2 * scale)
    y, x = np.mgrid[:40, :50] + 0.5
    centres = shapely.points(x * scale, y * 2 * scale)
    clear = (
        ~(shapely.distance(shapely.boundary(area), centres) < 1e-6)
        if not area.is_empty
        else np.ones((40, 50), bool)
    )
    assert (found == shapely.contains(area, centres))[clear].all()
