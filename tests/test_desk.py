"""The desk: what it says without a window, and a window that is worked at with clicks and keys."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from desks import (
    CELLS,
    answer,
    click,
    click_line,
    click_slide,
    drag,
    draw,
    drop,
    press,
    press_canvas,
    settle,
    until,
    write_batch,
)
from scenes import MPP
from xvfb import screen  # noqa: F401  # a fixture

from coverslip.errors import CoverslipError
from coverslip.ruo import RUO
from coverslip.workflows.desk.batch import DISCORDANT, batch_of, read_batch
from coverslip.workflows.desk.drawn import Outline, changes, polygon_of, rings_of
from coverslip.workflows.desk.lines import sections_of
from coverslip.workflows.desk.objects import Known
from coverslip.workflows.desk.person import remember, remembered, reviewer_of
from coverslip.workflows.desk.place import MARGIN, Place, World, aim, around
from coverslip.workflows.outputs import RESULT, read_result
from coverslip.workflows.palette import class_colours
from coverslip.workflows.review.base import read_base
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import DrawRegion, Exclude, RejectFinding, Relabel, RemoveArea
from coverslip.workflows.review.marks import marks_of
from coverslip.workflows.review.rejection import rejections
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.signature import signatures
from coverslip.workflows.review.trail import read_trail

if TYPE_CHECKING:
    from coverslip.workflows.desk.desk import Desk

window = pytest.mark.window
KIM, LEE = Reviewer("Kim Ås", "pathologist"), Reviewer("Lee")
WORLD = World((0.5, 0.5))
SQUARE = {"type": "Polygon", "coordinates": [[[10, 10], [200, 10], [200, 200], [10, 200], [10, 10]]]}
HOLED = {"type": "Polygon", "coordinates": [*SQUARE["coordinates"], [[50, 50], [90, 50], [90, 90], [50, 50]]]}
POSITIVE = ("1+", "2+", "3+")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_batch(tmp_path_factory.mktemp("made") / "out")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Results of `tiles`, `blood`, `histology` and `cytology`."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    folder = tmp_path_factory.mktemp("networks")
    field = shared / "cytology/cric-fields-with-cells/a9ceb5e547fed2f7d052cdc794cb1330.png"
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("desks.py"))]
    subprocess.run([*program, str(folder), str(field)], check=True)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A run nobody has reviewed."""
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def home(out: Path) -> Path:
    return out / "slides" / "a.tif"


@pytest.fixture(scope="module")
def room(screen) -> Iterator[Desk]:  # noqa: F811
    """One window for all tests of this module."""
    import napari

    from coverslip.workflows.desk.window import desk_of

    viewer = napari.Viewer()
    viewer.window.resize(1100, 760)
    desk = desk_of(viewer)
    desk.reviewer = KIM
    desk.sign.show_reviewer(KIM)
    # napari collects garbage at each layer that is removed: 0.3 s with all that is imported here
    gc.collect()
    gc.freeze()
    yield desk
    gc.unfreeze()
    viewer.close()


@pytest.fixture
def fresh(room: Desk, out: Path) -> Iterator[Desk]:
    """Sat down at the first case of the run."""
    yield sat_down(room, out)
    room.reviewer = KIM
    room.leave()


@pytest.fixture(scope="module")
def kept(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at which one test after the other sits."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("kept") / "out"))


@pytest.fixture
def desk(room: Desk, kept: Path) -> Desk:
    """At the first case of a run that others sat at before: no correction stands, nothing is selected."""
    if room.out != kept or room.session is None:
        room.leave()
        return sat_down(room, kept)
    while room.session.state.can_undo:
        room.session.undo()
        settle(room)
    room.editor.look_again()
    room.point_at(None)
    room.active = None
    room.stage.whole()
    room.tabs.setCurrentWidget(room.findings)
    settle(room)
    return room


def sat_down(desk: Desk, path: Path, reviewer: Reviewer = KIM, queue: Path | None = None) -> Desk:
    from coverslip.workflows.desk.opened import open_here
    from coverslip.workflows.desk.plan import plan_of

    desk.reviewer = reviewer
    plan = plan_of(path, queue)
    desk.begin(plan, open_here(plan.first, reviewer))
    settle(desk)
    return desk


def value(desk: Desk, name: str) -> float:
    assert desk.revised is not None
    found = next(one.value for one in desk.revised.measurements if one.name == name)
    assert found is not None
    return found


def shown(desk: Desk, name: str) -> tuple[str, str]:
    """What the findings say of a measurement: the machine's, and the revised."""
    item = desk.findings.item("measurement", name)
    assert item is not None
    return item.text(1), item.text(2)


# without a window


def test_a_place_is_framed_whole_with_a_margin_and_never_beyond_its_pixels() -> None:
    large = aim(Place(100, 200, 2000, 1000), (800, 600), WORLD)
    assert large.centre == ((700 - 0.5) * 0.5, (1100 - 0.5) * 0.5)
    assert large.zoom * 1000 == pytest.approx(800 * (1 - 2 * MARGIN))
    small = aim(Place(0, 0, 100, 100), (800, 600), WORLD)
    assert small.zoom == pytest.approx(1 / 0.5)
    cell = aim(Place(0, 0, 20, 20, single=True), (800, 600), WORLD)
    assert small.zoom < cell.zoom <= 3 / 0.5
    assert around([Place(0, 0, 10, 10), Place(40, 20, 10, 10)]) == Place(0, 0, 50, 30)


def test_changed_measurements_stand_beside_the_machine_s_and_a_rejected_finding_stays_named(home) -> None:
    with open_case(home, KIM) as case:
        machine = case.base.result
        assert not [
            line for section in sections_of(machine, machine) for line in section.lines if line.changed
        ]
        spot = machine.findings[0].name
        case.correct(Relabel(of="cells", rows=(0, 1, 2), label="3+"))
        case.correct(RejectFinding(finding=spot, why="artefact"))
        why = {name: str(one) for name, one in rejections(case.opinion, case.trail.entries).items()}
        lines = [line for section in sections_of(machine, case.revised(), why) for line in section.lines]
    by_name = {(line.kind, line.name): line for line in lines}
    assert by_name["measurement", "nuclei 3+"].changed
    said = by_name["finding", spot].rejected
    assert said.startswith("artefact (Kim Ås, 20")
    assert said.endswith(" UTC)")
    assert by_name["finding", spot].original == machine.findings[0].text
    assert by_name["finding", spot].revised == "rejected"
    assert RUO in [line.name for line in lines]


def test_the_hot_spot_s_measurement_has_its_finding_s_place(home) -> None:
    machine = read_result(home)
    lines = [line for section in sections_of(machine, machine) for line in section.lines]
    placed = {line.name: line.places for line in lines if line.kind == "measurement" and line.places}
    assert list(placed) == ["Ki-67 labelling index, hot spot"]
    tile = machine.findings[0].tiles[0]
    assert placed["Ki-67 labelling index, hot spot"][0] == Place(tile.x, tile.y, tile.width, tile.height)


def test_areas_on_the_canvas_that_are_moved_or_gone_are_corrections() -> None:
    known = {
        "a": DrawRegion(id="a", label="tumour", geometry=HOLED),
        "b": Exclude(id="b", geometry=SQUARE, why="x"),
    }
    same = [Outline(id_, ring) for id_, area in known.items() for ring in rings_of(area, WORLD)]
    assert changes(known, same, WORLD) == ((), ())
    moved = Outline("a", same[0].points + np.array([10.0, 0.0]))
    new = Outline("", same[1].points)
    (edited, gone), drawn = changes(known, [moved, new], WORLD)
    assert isinstance(edited, DrawRegion)
    assert (edited.id, edited.label) == ("a", "tumour")
    assert len(edited.geometry["coordinates"]) == 2, "its hole stays"
    assert gone == RemoveArea(id="b")
    assert drawn == (new,)


def test_an_outline_that_crosses_itself_is_made_whole() -> None:
    bow = np.array([[0, 0], [50, 50], [50, 0], [0, 50]], float)
    found = polygon_of([bow], WORLD)
    assert found is not None
    assert found["type"] == "MultiPolygon"
    assert polygon_of([bow[:2]], WORLD) is None


def test_a_cell_s_card_has_its_class_and_area(home) -> None:
    known = Known(read_base(home))
    target = known.at(*CELLS[0], reach=10)
    assert target is not None
    card = known.card(target, "3+")
    assert card.title == f"Cell {target.row + 1}: 3+"
    assert "area" in dict(card.facts)
    assert known.at(5.0, 5.0, reach=10) is None
    place = known.place(target)
    assert place.holds(*CELLS[0])
    assert place.single


def test_the_batch_is_in_the_order_of_its_worklist_with_what_failed(out: Path) -> None:
    rows = read_batch(out)
    assert {row.id for row in rows} == {"a.tif", "b.tif", "broken.tif"}
    broken = next(row for row in rows if row.id == "broken.tif")
    assert (broken.home, broken.call, broken.urgency) == (None, "failed", "unevaluable")
    assert batch_of(out / "worklist.parquet") == batch_of(out / "slides" / "a.tif") == out
    assert batch_of(out.parent) is None
    assert [row.id for row in rows if row.holds("BROKEN fail")] == ["broken.tif"]


@pytest.mark.parametrize("name", ["", "worklist.parquet", "worklist.csv", "worklist.html", "slides/b.tif"])
def test_napari_asks_us_for_a_run_and_reads_its_first_case(made: Path, monkeypatch, name: str) -> None:
    """As layers, where there is no window to dock the desk on."""
    npe2, napari = pytest.importorskip("npe2"), pytest.importorskip("napari")
    from npe2 import io_utils

    monkeypatch.setattr(napari, "current_viewer", lambda: None)
    npe2.PluginManager.instance().discover()
    path = str(made / name)
    able = {one.plugin_name for one in npe2.PluginManager.instance().iter_compatible_readers([path])}
    assert "coverslip" in able
    layers, _ = io_utils.read_get_reader([path], plugin_name="coverslip", stack=False)
    first = "b.tif" if name.endswith("b.tif") else next(row.id for row in read_batch(made) if row.home)
    assert layers[0][1]["name"].startswith(first)
    assert "cells" in [arguments["name"] for _, arguments, _ in layers]


def test_a_worklist_of_another_program_is_left_alone(tmp_path: Path) -> None:
    from coverslip.workflows.napari_plugin import get_reader

    for name in ("worklist.csv", "worklist.parquet"):
        (tmp_path / name).write_text("a,b\n")
        assert get_reader(str(tmp_path / name)) is None


def test_opinions_that_differ_are_called_discordant(home: Path, out: Path) -> None:
    from coverslip.workflows.review.corrections import ChangeCall

    with open_case(home, KIM) as case:
        case.sign("final", "")
    with open_case(home, LEE) as case:
        case.correct(ChangeCall(category="low", why="stroma"))
        case.sign("final", "")
    row = next(row for row in read_batch(out) if row.id == "a.tif")
    assert row.signed == f"Kim Ås; Lee: {DISCORDANT}"
    assert row.state == "discordant"
    assert "low (discordant)" in row.about


def test_who_reviewed_last_is_remembered_for_the_user(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COVERSLIP_CONFIG", str(tmp_path / "settings"))
    assert remembered() is None
    remember(KIM)
    assert remembered() == KIM
    assert reviewer_of(None, None) == KIM
    assert reviewer_of("Lee", None) == LEE
    assert reviewer_of("Kim Ås", "resident") == Reviewer("Kim Ås", "resident")
    (tmp_path / "settings/reviewer.json").write_text("[]")
    assert remembered() is None


# with a window


@window
def test_the_first_case_of_the_worklist_is_open_and_every_panel_says_what_it_is_not_for(desk: Desk) -> None:
    assert desk.opened is not None
    rows = desk.worklist.rows
    assert desk.opened.home == next(row.home for row in rows if row.home is not None)
    assert RUO in desk.viewer.title
    assert desk.banner.ruo.text() == RUO
    item = desk.findings.item("notice", RUO)
    assert item is not None


@window
def test_what_failed_says_why_instead_of_opening(desk: Desk) -> None:
    broken = next(row for row in desk.worklist.rows if row.home is None)
    desk.open_row(broken)
    assert "half of it is missing" in desk.banner.text.text()
    desk.worklist.filter.setText("broken")
    assert [desk.worklist.table.isRowHidden(n) for n in range(3)].count(False) == 1
    desk.worklist.filter.clear()


@window
def test_clicking_a_finding_frames_it_whole(desk: Desk) -> None:
    assert desk.opened is not None
    assert desk.opened.base is not None
    finding = desk.opened.base.result.findings[0]
    click_line(desk, "finding", finding.name)
    tile, camera = finding.tiles[0], desk.viewer.scene.camera
    middle = ((tile.y + tile.height / 2 - 0.5) * MPP, (tile.x + tile.width / 2 - 0.5) * MPP)
    np.testing.assert_allclose(camera.center[-2:], middle)
    width, height = desk.stage.canvas
    free = (1 - 2 * MARGIN) * min(width, height)
    assert camera.zoom == pytest.approx(min(1 / MPP, free / (tile.height * MPP)))
    corners = np.asarray(desk.viewer.layers["frame"].data[0])
    np.testing.assert_allclose(corners.min(axis=0), ((tile.y - 0.5) * MPP, (tile.x - 0.5) * MPP))
    assert len(desk.gallery.pictures) == 1


@window
def test_a_clicked_cell_shows_its_card_and_a_key_gives_it_another_class(desk: Desk) -> None:
    assert desk.opened is not None
    before = value(desk, "nuclei 3+"), value(desk, "Ki-67 labelling index"), value(desk, "nuclei")
    click_slide(desk, *CELLS[0])
    assert desk.target is not None
    was = desk.class_of(desk.target)
    assert desk.card.title.text() == f"<b>Cell {desk.target.row + 1}: {was}</b>"
    number = 4 if was != "3+" else 1
    label = desk.opened.labels[number - 1]
    press(desk, str(number))
    positive = (label in POSITIVE) - (was in POSITIVE)
    assert value(desk, "nuclei 3+") == before[0] + (label == "3+") - (was == "3+")
    expected = before[1] + 100 * positive / before[2]
    assert value(desk, "Ki-67 labelling index") == pytest.approx(expected)
    machine, revised = shown(desk, "nuclei 3+")
    assert (machine, revised) == (f"{before[0]:.0f}", f"{value(desk, 'nuclei 3+'):.0f}")
    assert label in desk.card.title.text()
    last = read_trail(desk.opened.home)[-1]
    assert (last.event, last.reviewer.name) == ("correct", KIM.name)
    canvas = desk.opened.cells
    assert canvas is not None
    assert canvas.names[canvas.classes[desk.target.row]] == label


@window
def test_undo_and_redo_by_their_keys(desk: Desk) -> None:
    assert desk.session is not None
    click_slide(desk, *CELLS[0])
    machine = value(desk, "nuclei 1+")
    press(desk, "2")
    changed = value(desk, "nuclei 1+")
    assert changed != machine
    press(desk, "Ctrl+Z")
    assert value(desk, "nuclei 1+") == machine
    assert shown(desk, "nuclei 1+")[1] == ""
    press(desk, "Ctrl+Shift+Z")
    assert value(desk, "nuclei 1+") == changed
    assert len(desk.session.state.corrections) == 1


@window
def test_a_lasso_of_cells_asks_for_their_class(desk: Desk) -> None:
    assert desk.opened is not None
    assert desk.session is not None
    press(desk, "L")
    draw(desk, (40, 40), (190, 40), (190, 190), (40, 190))
    cells = desk.opened.cells
    assert cells is not None
    inside = cells.index.inside([(40, 40), (190, 40), (190, 190), (40, 190)])
    assert desk.correct.question.open
    assert f"{len(inside)} cells" in desk.correct.question.text.text()
    press(desk, "4")
    (correction,) = desk.session.state.corrections
    assert correction == Relabel(of="cells", rows=tuple(inside.tolist()), label="3+")
    assert not desk.correct.question.open
    assert not desk.stage.drawing


@window
def test_a_lasso_with_a_class_chosen_before_gives_it_at_once(desk: Desk) -> None:
    assert desk.session is not None
    press(desk, "1")
    press(desk, "L")
    draw(desk, (40, 40), (190, 40), (190, 190), (40, 190))
    (correction,) = desk.session.state.corrections
    assert isinstance(correction, Relabel)
    assert correction.label == "negative"


@window
def test_an_area_is_excluded_edited_and_taken_back(desk: Desk) -> None:
    assert desk.session is not None
    all_nuclei = value(desk, "nuclei")
    press(desk, "X")
    draw(desk, (300, 300), (500, 300), (500, 500), (300, 500))
    answer(desk, "fold")
    (area,) = desk.session.state.corrections
    assert isinstance(area, Exclude)
    assert area.why == "fold"
    fewer = value(desk, "nuclei")
    assert fewer < all_nuclei
    press(desk, "E")
    click_slide(desk, 400, 400)
    drag(desk, (500, 500), (600, 640))
    edited = desk.session.state.corrections[-1]
    assert isinstance(edited, Exclude)
    assert edited.id == area.id
    was, now = (shapely.geometry.shape(one.geometry) for one in (area, edited))
    assert now.area > 1.2 * was.area
    assert value(desk, "nuclei") < fewer
    press_canvas(desk, "Delete")
    assert desk.session.state.corrections[-1] == RemoveArea(id=area.id)
    assert value(desk, "nuclei") == all_nuclei


@window
def test_a_region_that_is_cancelled_is_not_kept(desk: Desk) -> None:
    assert desk.session is not None
    press(desk, "R")
    draw(desk, (300, 300), (500, 300), (500, 500), (300, 500))
    assert desk.correct.question.open
    press(desk, "Esc")
    assert not desk.correct.question.open
    assert desk.session.state.corrections == ()
    assert not len(desk.viewer.layers["areas"].data)


@window
def test_a_finding_is_rejected_with_a_reason(desk: Desk) -> None:
    assert desk.opened is not None
    assert desk.session is not None
    name = desk.opened.base.result.findings[0].name
    click_line(desk, "finding", name)
    click(desk.correct.tools["reject"])
    assert not desk.correct.question.yes.isEnabled(), "a reason is asked for"
    answer(desk, "artefact")
    assert desk.session.state.corrections == (RejectFinding(finding=name, why="artefact"),)
    item = desk.findings.item("finding", name)
    assert item.text(2) == "rejected"
    assert item.font(0).strikeOut()
    below = [item.child(n).text(0) for n in range(item.childCount())]
    assert any(one.startswith("Rejected: artefact (Kim Ås, 20") for one in below), "why, who and when"


@window
def test_the_call_is_changed_with_a_reason(desk: Desk) -> None:
    desk.tabs.setCurrentWidget(desk.correct)
    click(desk.correct.tools["call"])
    assert "high" in [
        desk.correct.question.answer.itemText(n) for n in range(desk.correct.question.answer.count())
    ]
    answer(desk, "high")
    answer(desk, "hot spot")
    assert desk.findings.item("call", "Category").text(2) == "high"


@window
def test_a_refused_signature_says_why_and_what_to_do(desk: Desk) -> None:
    assert desk.opened is not None
    press(desk, "S")
    desk.sign.amended.setChecked(True)
    click(desk.sign.sign)
    settle(desk)
    assert "was not signed by Kim Ås yet" in desk.sign.said.text()
    assert "sign it as final" in desk.sign.said.text()
    assert signatures(desk.opened.home) == ()


@window
def test_layers_are_toggled_by_single_keys_and_letters_typed_into_a_field_are_text(desk: Desk) -> None:
    from qtpy.QtTest import QTest

    cells = desk.viewer.layers["cells"]
    assert cells.visible
    press(desk, "C")
    assert not cells.visible
    desk.worklist.filter.setFocus()
    QTest.keyClicks(desk.worklist.filter, "c")
    settle(desk)
    assert not cells.visible
    assert desk.worklist.filter.text() == "c"
    desk.worklist.filter.clear()
    press(desk, "C")
    assert cells.visible


@window
def test_the_gallery_of_a_class_is_walked_with_the_arrow_keys(desk: Desk) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    click_line(desk, "measurement", "nuclei 3+")
    pictures = desk.gallery.pictures
    assert len(pictures) == min(60, value(desk, "nuclei 3+"))
    assert {desk.class_of(one.target) for one in pictures} == {"3+"}
    press(desk, "G")
    desk.gallery.select(0)
    QTest.keyClick(desk.gallery.list, Qt.Key.Key_Right)
    settle(desk)
    assert desk.target == pictures[1].target
    middle = desk.stage.world.point(*pictures[1].place.middle)
    np.testing.assert_allclose(desk.viewer.scene.camera.center[-2:], middle)


@window
def test_magnifications_are_those_of_objectives_and_keys_are_shown(desk: Desk) -> None:
    from qtpy.QtWidgets import QDialog, QLabel

    desk.look.times.emit(20.0)
    assert desk.viewer.scene.camera.zoom == pytest.approx(2.0), "20× is 0.5 µm per pixel"
    assert desk.look.now.text() == "20×"
    press(desk, "?")
    window_ = desk.viewer.window._qt_window
    (dialog,) = [one for one in window_.findChildren(QDialog) if one.windowTitle() == "Keys"]
    assert any("lasso" in label.text() for label in dialog.findChildren(QLabel))
    dialog.close()
    settle(desk)


@window
def test_a_second_slide_comes_from_the_panel_and_a_key_lets_it_go(
    desk: Desk, kept: Path, monkeypatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    chosen = str(kept / "slides" / "b.tif" / RESULT)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (chosen, ""))
    click(desk.look.beside)
    settle(desk)
    assert desk.second is not None
    other = desk.second.beside.model.scene.camera
    click_line(desk, "finding", desk.opened.base.result.findings[0].name)
    np.testing.assert_allclose(other.center[-2:], desk.viewer.scene.camera.center[-2:])
    press(desk, "K")
    before = tuple(other.center)
    desk.viewer.scene.camera.center = (0.0, 10.0, 10.0)
    assert tuple(other.center) == before
    press(desk, "K")
    desk.viewer.scene.camera.center = (0.0, 30.0, 20.0)
    assert tuple(other.center) != before
    press(desk, "B")
    assert desk.second is None


@window
def test_a_case_is_opened_from_the_worklist_and_keys_walk_it(fresh: Desk) -> None:
    assert fresh.opened is not None
    first = fresh.opened.home
    table = fresh.worklist.table
    other = next(n for n, row in enumerate(fresh.worklist.rows) if row.home not in (None, first))
    table.setCurrentCell(other, 0)
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.keyClick(table, Qt.Key.Key_Return)
    settle(fresh)
    assert fresh.opened.home == fresh.worklist.rows[other].home != first
    press(fresh, "P")
    assert fresh.opened is not None
    assert fresh.opened.home == first
    assert [event.event for event in read_trail(fresh.worklist.rows[other].home)] == ["open", "close"]


@window
def test_signing_writes_a_report_and_the_worklist_says_who(fresh: Desk) -> None:
    assert fresh.opened is not None
    home = fresh.opened.home
    before = (home / RESULT).read_bytes()
    click_slide(fresh, *CELLS[0])
    press(fresh, "4")
    press(fresh, "S")
    fresh.sign.comment.setPlainText("looked at all of it")
    click(fresh.sign.sign)
    settle(fresh)
    assert fresh.sign.report is not None
    assert fresh.sign.open.isVisible()
    assert "looked at all of it" in fresh.sign.report.read_text()
    (signature,) = signatures(home)
    assert (signature.name, signature.status) == (KIM.name, "final")
    assert "Kim" in next(row.signed for row in fresh.worklist.rows if row.home == home)
    assert (home / RESULT).read_bytes() == before
    assert fresh.sign.amended.isChecked(), "a second signature amends the first"


@window
def test_the_second_reviewer_is_told_and_may_take_over(fresh: Desk, home: Path, out: Path) -> None:
    fresh.leave()
    program = f"""
import sys, time
from pathlib import Path
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import Relabel
from coverslip.workflows.review.reviewer import Reviewer
case = open_case(Path({str(home)!r}), Reviewer("Lee"))
case.correct(Relabel(of="cells", rows=(0, 1), label="3+"))
print("open", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    sat_down(fresh, home)
    said = fresh.banner.text.text()
    assert "Lee" in said
    assert "your corrections are kept apart" in said
    assert fresh.session.state.corrections == ()
    assert fresh.banner.adopt.isVisible()
    click(fresh.banner.adopt)
    settle(fresh)
    assert fresh.session.state.corrections == (Relabel(of="cells", rows=(0, 1), label="3+"),)
    other.communicate()
    until(lambda: "Lee has had" not in fresh.banner.text.text())


@window
def test_what_was_corrected_survives_a_killed_window(fresh: Desk, home: Path) -> None:
    fresh.leave()
    program = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__).with_name("desks.py")),
        "-",
        str(home),
        KIM.name,
    ]
    killed = subprocess.Popen(
        program, stdout=-1, stderr=-1, text=True, env={**os.environ, "NAPARI_ASYNC": "0"}
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == f"saved {len(CELLS) + 1}\n", killed.stderr.read()
    killed.kill()
    killed.communicate()
    sat_down(fresh, home)
    corrections = fresh.session.state.corrections
    assert [one.kind for one in corrections] == ["relabel", "relabel", "relabel", "exclude"]
    assert value(fresh, "nuclei") < read_base(home).result.measurements[0].n
    assert fresh.correct.list.count() == 4
    assert "Note: it was left open" in fresh.banner.text.text()
    assert len(fresh.viewer.layers["areas"].data) == 1


@window
def test_a_run_or_its_worklist_that_is_dropped_opens_at_the_desk(
    fresh: Desk, out: Path, tmp_path: Path
) -> None:
    """Where napari knows other readers, too, as of folders and .csv, it asks a person which to take."""
    other = Path(shutil.copytree(out, tmp_path / "other", ignore=shutil.ignore_patterns("review")))
    for dropped in (other, out / "worklist.html", other / "worklist.parquet", out / "worklist.csv"):
        if dropped.suffix in (".html", ".parquet"):
            drop(fresh, dropped)
        else:
            fresh.viewer.open(str(dropped), plugin="coverslip")
        settle(fresh)
        run = dropped if dropped.is_dir() else dropped.parent
        assert fresh.opened is not None
        assert fresh.opened.home.parent == run / "slides", dropped
        assert len(fresh.worklist.rows) == 3
        assert [layer.name for layer in fresh.viewer.layers].count("cells") == 1


@window
def test_what_was_reviewed_is_in_the_worklist_when_the_case_is_left(fresh: Desk, out: Path) -> None:
    from coverslip.workflows.worklist_table import read_worklist

    first = fresh.opened.home
    assert {row.state for row in fresh.worklist.rows} == {"none"}
    press(fresh, "N")
    assert next(row for row in fresh.worklist.rows if row.home == first).signed == "begun"
    assert next(line for line in read_worklist(out) if line.id == first.name).review_state == "begun"


def test_a_second_slide_that_is_not_there_leaves_no_case_open(home: Path, tmp_path: Path) -> None:
    from coverslip.workflows.desk.window import reviewing

    with pytest.raises(CoverslipError), reviewing(home, KIM, beside=tmp_path / "missing.svs"):
        pass
    assert not (home / "review").exists()


@window
def test_a_case_that_is_being_opened_when_the_desk_closes_is_closed(screen, home: Path) -> None:  # noqa: F811
    import napari

    from coverslip.workflows.desk.opened import Opened, open_here
    from coverslip.workflows.desk.plan import plan_of
    from coverslip.workflows.desk.window import desk_of

    viewer, reading = napari.Viewer(), Future[Opened]()
    desk = desk_of(viewer)
    desk.begin(plan_of(home, None), reading)
    reading.set_result(open_here(home, KIM))
    desk.close()
    viewer.close()
    assert [entry.event for entry in read_trail(home)] == ["open", "close"]


@window
def test_a_result_that_changed_can_be_begun_anew(fresh: Desk) -> None:
    home = fresh.opened.home
    click_slide(fresh, *CELLS[0])
    press(fresh, "2")
    fresh.leave()
    document = json.loads((home / RESULT).read_text())
    document["summary"] += " Computed again."
    (home / RESULT).write_text(json.dumps(document))
    sat_down(fresh, home)
    assert fresh.session is None
    assert "was computed again with another outcome" in fresh.banner.text.text()
    click(fresh.banner.anew)
    settle(fresh)
    assert fresh.session is not None
    assert fresh.session.state.corrections == ()
    assert not fresh.banner.anew.isVisible()


@window
def test_an_older_outcome_never_arrives_after_a_newer_one(room: Desk) -> None:
    from qtpy.QtWidgets import QApplication

    from coverslip.workflows.desk.background import Latest

    latest, arrived, go = Latest(), [], threading.Event()

    def slow() -> int:
        go.wait(10)
        return 1

    def fail(error: Exception) -> None:
        raise error

    latest.do(slow, arrived.append, fail)
    latest.do(lambda: 2, arrived.append, fail)
    latest.do(lambda: 3, arrived.append, fail)
    go.set()
    ends = time.monotonic() + 10
    while latest.busy and time.monotonic() < ends:
        QApplication.processEvents()
    latest.close()
    assert arrived == [3]


@window
def test_a_review_queue_is_walked_with_keys_from_slide_to_slide(room: Desk, out: Path) -> None:
    from coverslip.workflows.review.machine import machine_digest
    from coverslip.workflows.review.queue import Queue, Suggestion, write_queue

    homes = [out / "slides" / name for name in ("a.tif", "b.tif")]
    results = {home.name: machine_digest(read_result(home)) for home in homes}
    places = [("a.tif", CELLS[0]), ("a.tif", CELLS[1]), ("b.tif", CELLS[2])]
    listed = []
    for name, (x, y) in places:
        row = Known(read_base(out / "slides" / name)).at(x, y, 10)
        assert row is not None
        about = {"x": x, "y": y, "width": 20, "height": 20, "label": "3+", "why": "between 2+ and 3+"}
        listed.append(Suggestion(slide=name, of="cells", row=row.row, score=0.5, **about))
    write_queue(Queue(tuple(listed), results, 3, 0, "by hand"), out / "queue.json")
    sat_down(room, out, queue=out / "queue.json")
    for n, one in enumerate(listed):
        assert room.opened is not None
        assert room.opened.home == out / "slides" / one.slide
        assert room.target is not None
        assert room.target.row == one.row
        assert f"{n + 1} of 3 to review: between 2+ and 3+" in room.banner.text.text()
        middle = room.stage.world.point(one.x, one.y)
        np.testing.assert_allclose(room.viewer.scene.camera.center[-2:], middle)
        press(room, "1")
        assert f"{n + 1} of 3 to review" in room.banner.text.text(), "also after a correction"
        press(room, "N")
    assert "ends here" in room.banner.text.text()
    press(room, "P")
    assert room.target.row == listed[1].row
    room.leave()
    settle(room)


@window
def test_tiles_are_relabelled_in_the_class_map_and_heat_maps_cut(room: Desk, networks: Path) -> None:
    home = networks / "tiled" / "slides" / "tiled.tif"
    sat_down(room, home)
    assert room.opened is not None
    assert room.opened.of == "tiles"
    tiles = read_base(home).tiles
    assert tiles is not None
    x, y = (float(tiles[axis][5].as_py()) + 16 for axis in ("x", "y"))
    click_slide(room, x, y)
    assert room.target is not None
    assert room.target.row == 5
    layer = room.viewer.layers["classes"]

    def value_at() -> int:
        finest = layer.data[0] if layer.multiscale else layer.data
        at = (np.array(room.stage.world.point(x, y)) - layer.translate) / layer.scale
        return int(finest[tuple(np.round(at).astype(int))])

    was = room.class_of(room.target)
    assert value_at() == room.opened.labels.index(was) + 1
    to = next(n for n, name in enumerate(room.opened.labels) if name != was)
    press(room, str(to + 1))
    assert room.class_of(room.target) == room.opened.labels[to]
    assert value_at() == to + 1
    shown = np.round(255 * np.asarray(layer.colormap.color_dict[to + 1])).astype(int)
    assert tuple(shown) == class_colours(room.opened.labels)[to + 1][1]
    press(room, "Ctrl+Z")
    assert value_at() == room.opened.labels.index(was) + 1
    heat = next(one for one in room.viewer.layers if one.name.startswith("probability of"))
    assert room.look.threshold is not None
    room.look.threshold.setValue(50)
    assert [heat.colormap.color_dict[value][3] > 0 for value in (1, 127, 129, 255)] == [
        False,
        False,
        True,
        True,
    ]
    room.leave()
    settle(room)


@window
def test_tiles_and_mitoses_of_a_section_are_both_relabelled(room: Desk, networks: Path) -> None:
    """What is clicked says which classes are offered; the call follows, and is undone."""
    home = networks / "section" / "slides" / "section.tif"
    sat_down(room, home)
    machine, cells = read_base(home).result, read_base(home).cells
    assert cells is not None
    assert len(cells) > 0
    assert room.opened.of == "tiles"
    click_slide(room, cells["x"][0].as_py(), cells["y"][0].as_py())
    assert room.class_of(room.target) == "mitotic figure"
    assert [button.text() for button in room.correct._buttons] == ["1  nucleus", "2  mitotic figure"]
    press(room, "1")
    assert room.session.state.corrections == (Relabel(of="cells", rows=(0,), label="nucleus"),)
    assert room.opened.cells.names[room.opened.cells.classes[0]] == "nucleus"

    room.stage.whole()
    press(room, "L")
    draw(room, (2, 2), (382, 2), (382, 382), (2, 382))
    tiles = len(read_base(home).tiles)
    assert f"{tiles} tiles in the lasso" in room.correct.question.text.text()
    press(room, str(room.opened.labels.index("NORM") + 1))
    assert room.revised.call.category == "no tumour"
    assert room.findings.item("call", "Category").text(2) == "no tumour" != machine.call.category
    click_slide(room, 100, 100)
    assert room.target.of == "tiles"
    press(room, str(room.opened.labels.index("TUM") + 1))
    assert value(room, "tumour foci") == 1
    drawn = [name for name, *_ in marks_of(read_base(home), room.session.state.corrections)]
    assert f"NORM, as the reviewer says: {tiles - 1} tiles" in drawn
    for _ in range(3):
        press(room, "Ctrl+Z")
    assert room.revised.call == machine.call
    assert room.findings.item("call", "Category").text(2) == ""
    room.leave()
    settle(room)


@window
def test_a_cell_of_a_smear_is_relabelled_and_the_category_follows(room: Desk, networks: Path) -> None:
    home = networks / "pap" / "slides" / "pap.tif"
    sat_down(room, home)
    machine, cells = read_base(home).result, read_base(home).cells
    assert cells is not None
    labels = room.opened.labels
    row = int(np.flatnonzero(room.standing["cells"] == labels.index("LSIL"))[0])
    click_slide(room, cells["x"][row].as_py(), cells["y"][row].as_py())
    assert room.target.row == row
    press(room, str(labels.index("HSIL") + 1))
    assert room.revised.call.category == "HSIL" != machine.call.category
    shown_ = room.findings.item("call", "Category")
    assert (shown_.text(1), shown_.text(2)) == (machine.call.category, "HSIL")
    press(room, "Ctrl+Z")
    assert room.revised.call == machine.call
    room.leave()
    settle(room)


@window
def test_a_white_cell_is_given_another_part(room: Desk, networks: Path) -> None:
    home = networks / "smear" / "slides" / "smear.tif"
    sat_down(room, home)
    assert room.opened is not None
    cells = read_base(home).cells
    assert cells is not None
    row = int(np.flatnonzero(room.standing["cells"] == room.opened.labels.index("lymphocytes"))[0])
    click_slide(room, cells["x"][row].as_py(), cells["y"][row].as_py())
    assert room.target is not None
    assert room.target.row == row
    was = room.class_of(room.target)
    to = next(n for n, name in enumerate(room.opened.labels[:9]) if name != was)
    press(room, str(to + 1))
    assert room.class_of(room.target) == room.opened.labels[to]
    assert room.session.state.corrections == (Relabel(of="cells", rows=(row,), label=room.opened.labels[to]),)
    changed = [line for line in lines_of(room) if line.changed]
    assert changed, "the differential follows"
    room.leave()
    settle(room)


def lines_of(desk: Desk):
    assert desk.opened is not None
    assert desk.revised is not None
    sections = sections_of(desk.opened.base.result, desk.revised)
    return [line for section in sections for line in section.lines]
