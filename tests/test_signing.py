"""Signing: what is signed says so, stays as it is, is refused with the reason, and reaches the worklist."""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from browser import chromium
from pages import EVIL, safe_page
from reviewed import excluded, first_cells, write_run
from trees import contents

from coverslip.errors import NotSignableError, RequestError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.workflows.files import output_digest, write_json
from coverslip.workflows.outputs import discard_result, read_result
from coverslip.workflows.report import write_report_again
from coverslip.workflows.result import schema_text
from coverslip.workflows.review import presence as presences
from coverslip.workflows.review import signing
from coverslip.workflows.review.case import Case, open_case
from coverslip.workflows.review.corrections import ChangeCall, DrawRegion
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.signature import signatures
from coverslip.workflows.review.trail import read_trail
from coverslip.workflows.review.verification import verify_review
from coverslip.workflows.worklist import refresh_worklist
from coverslip.workflows.worklist_table import Line, read_worklist

KIM, LEE = Reviewer("Kim Ås", "pathologist"), Reviewer("Lee")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "out")


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parents[1], tmp_path / "out")
    return tmp_path / "out" / "slides" / made.name


def sign(home: Path, who: Reviewer, category: str | None, status="final", comment: str = "") -> Path:
    """Open, call the slide so where a category is given, sign, close."""
    with open_case(home, who) as case:
        if category is not None:
            case.correct(ChangeCall(category=category, why="by eye"))
        return case.sign(status, comment)


def line_of(home: Path) -> Line:
    (line,) = read_worklist(home.parents[1])
    return line


def test_a_signed_result_is_whole_and_names_what_the_machine_said(home: Path) -> None:
    before = contents(home)
    with open_case(home, KIM) as case:
        case.correct(first_cells(30))
        case.correct(excluded())
        head = read_trail(home)[-1]
        folder = case.sign("final", " checked on glass ")
        revised = case.revised()
    assert folder == home / "review" / "signed" / "001-kim-as"
    result = read_result(folder)
    jsonschema.validate(json.loads((folder / "result.json").read_text()), json.loads(schema_text()))
    review = result.review
    assert review is not None
    assert (review.status, review.signed_by, review.role, review.comment, review.corrections) == (
        *("final", "Kim Ås", "pathologist", "checked on glass"),
        2,
    )
    assert (review.trail_entries, review.trail_sha256) == (head.number, head.sha256)
    assert result.measurements == revised.measurements
    machine = {one.name: one for one in read_result(home).measurements}
    now = {one.name: one for one in revised.measurements}
    assert (
        {one.name for one in review.machine_measurements}
        == {name for name, one in machine.items() if now.get(name) != one}
        != set()
    )
    assert all(machine[one.name] == one for one in review.machine_measurements)
    assert set(result.outputs) == {"annotations.geojson", "report.html"}
    assert all(output_digest(folder / name) == digest for name, digest in result.outputs.items())
    features = json.loads((folder / "annotations.geojson").read_text())["features"]
    assert "Polygon" in {feature["geometry"]["type"] for feature in features}
    assert {name: at for name, at in contents(home).items() if not name.startswith("review")} == before
    entry = read_trail(home)[head.number]
    assert entry.event == "sign"
    assert set(entry.before) == set(entry.after) | {"call"}
    assert set(entry.details["files"]) == {"annotations.geojson", "report.html", "result.json"}
    assert not verify_review(home).problems


def test_a_machines_result_says_nothing_of_signing(home: Path) -> None:
    assert "review" not in json.loads((home / "result.json").read_text())
    assert "signed by" not in (home / "report.html").read_text().lower()


def test_the_signed_report_says_who_when_and_what_was_before(home: Path, tmp_path: Path) -> None:
    with open_case(home, Reviewer(f"Kim {EVIL}"[:120], "a<b")) as case:
        case.correct(first_cells(30))
        case.correct(excluded())
        case.correct(DrawRegion(id="r", label=EVIL, geometry=excluded().geometry))
        case.correct(ChangeCall(category="positive <&", why="by eye"))
        folder = case.sign("final", f"checked {EVIL}")
        machine, revised = case.base.result, case.revised()
    page = safe_page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.text.count(RUO) == 2
    assert page.text.count(EVIL) >= 3
    for text in ("Signed by", "a<b", "positive <&", "After 4 corrections", "drawn by the reviewer"):
        assert text in page.text
    names = [one.name for one in signing.changed_measurements(machine, revised)]
    assert names
    shown = tmp_path / "shown"
    with chromium(shown) as tab:
        tab.size(1100, 900)
        tab.open(folder / "report.html")
        assert tab.said == []
        rows = tab.run(
            "[...document.querySelectorAll('.measured tr')].map(r => [r.querySelector('.name')?.textContent, "
            "r.querySelector('td.machine s')?.textContent])"
        )
        struck = {name for name, was in rows if was}
        assert struck == set(names)
        box = tab.run("(() => { const b = document.querySelector('.signed').getBoundingClientRect();"
                      "return [b.y, b.width]; })()")  # fmt: skip
        assert box[0] < 400, "it is seen without scrolling"
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")


def refused(case: Case, status, comment: str = "a") -> str:
    before = contents(case.base.home / "review")
    with pytest.raises(NotSignableError) as error:
        case.sign(status, comment)
    assert contents(case.base.home / "review") == before, "nothing is left of it"
    assert error.value.remedy
    return error.value.reason


def test_signing_is_refused_with_the_reason(home: Path) -> None:
    with open_case(home, KIM) as case:
        assert refused(case, "amended") == "nothing to amend"
        with pytest.raises(RequestError, match="preliminary"):
            case.sign("preliminary", "")  # type: ignore[arg-type]
        result = (home / "result.json").read_bytes()
        (home / "annotations.geojson").rename(home / "away")
        assert refused(case, "final") == "incomplete"
        (home / "annotations.geojson").write_text("{}")
        assert refused(case, "final") == "incomplete"
        (home / "away").rename(home / "annotations.geojson")
        (home / "result.json").write_bytes(result[:-20])
        assert refused(case, "final") == "incomplete"
        changed = read_json(result) | {"summary": "another"}
        write_json(home / "result.json", changed)
        assert refused(case, "final") == "changed"
        (home / "result.json").write_bytes(result)
        case.sign("final", "")
        assert refused(case, "final") == "already final"
        assert refused(case, "amended", " \n") == "no comment"
        case.sign("amended", "a second look")
    assert [one.status for one in signatures(home)] == ["final", "amended"]
    assert read_result(signatures(home)[1].folder).review.supersedes == "001-kim-as"  # type: ignore[union-attr]


def read_json(data: bytes) -> dict:
    return json.loads(data)


def test_signing_what_another_window_changed_is_refused(home: Path) -> None:
    shown = open_case(home, KIM)
    presences.leave(home, KIM)
    with open_case(home, KIM) as other:
        other.correct(first_cells(3))
        assert refused(shown, "final") == "elsewhere"


def test_a_call_left_open_is_signed_and_said(home: Path) -> None:
    """All of the tissue excluded: nothing can be said of it."""
    everything = {"type": "Polygon", "coordinates": [[[0, 0], [768, 0], [768, 768], [0, 768], [0, 0]]]}
    with open_case(home, KIM) as case:
        case.correct(excluded().model_copy(update={"geometry": everything}))
        folder = case.sign("final", "")
    review = read_result(folder).review
    assert review is not None
    assert "states none of their own" in review.notes[0]
    assert review.notes[0] in safe_page((folder / "report.html").read_text(encoding="utf-8")).text
    folder = sign(home, LEE, None, "final")
    assert read_result(folder).review.notes == ()  # type: ignore[union-attr]


def test_what_is_corrected_after_signing_is_shown_until_amended(home: Path) -> None:
    with open_case(home, KIM) as case:
        case.sign("final", "")
        assert not case.changed_since_signed
        case.correct(first_cells(4))
        assert case.changed_since_signed
        assert signatures(home)[0].changed_since
        refresh_worklist(home.parents[1])
        assert line_of(home).review_state == "changed"
        case.undo()
        assert not signatures(home)[0].changed_since, "what stands is what was signed"
        case.redo()
        case.sign("amended", "four more")
    first, second = signatures(home)
    assert (first.standing, second.standing, second.changed_since) == (False, True, False)
    assert line_of(home).review_state == "amended"


def test_both_opinions_are_kept_and_the_worklist_tells_them_apart(home: Path) -> None:
    assert (line_of(home).review_state, line_of(home).signed_by) == ("none", None)
    sign(home, KIM, "positive")
    line = line_of(home)
    assert (line.review_state, line.signed_by, line.signed_call) == ("signed", "Kim Ås", "positive")
    assert line.signed_report == f"slides/{home.name}/review/signed/001-kim-as/report.html"
    sign(home, LEE, "negative")
    line = line_of(home)
    assert (line.review_state, line.signed_by, line.signed_call) == (
        *("discordant", "Kim Ås; Lee"),
        "positive; negative",
    )
    found = signatures(home)
    assert [(one.name, one.category) for one in found] == [("Kim Ås", "positive"), ("Lee", "negative")]
    assert all(read_result(one.folder).call.category == one.category for one in found)  # type: ignore[union-attr]
    sign(home, LEE, "positive", "amended", "agreed at the microscope")
    assert (line_of(home).review_state, line_of(home).signed_call) == ("amended", "positive")
    assert not verify_review(home).problems


def test_all_three_worklists_follow_and_keep_what_the_run_said(home: Path) -> None:
    out = home.parents[1]
    before = pq.read_table(out / "worklist.parquet").to_pylist()
    sign(home, KIM, "positive")
    rows = pq.read_table(out / "worklist.parquet").to_pylist()
    new = {"signed_by", "signed_at", "signed_call", "review_state", "signed_report"}
    assert [{key: value for key, value in row.items() if key not in new} for row in rows] == [
        {key: value for key, value in row.items() if key not in new} for row in before
    ]
    with open(out / "worklist.csv", newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert (line["signed_by"], line["review_state"]) == ("Kim Ås", "signed")
    page = safe_page((out / "worklist.html").read_text(encoding="utf-8"), links=True)
    links = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href")]
    assert f"slides/{home.name}/review/signed/001-kim-as/report.html" in links
    assert "1 signed" in page.text
    assert refresh_worklist(home) == (), "there is none"


def test_several_may_write_the_worklist_at_once(home: Path) -> None:
    sign(home, KIM, "positive")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: refresh_worklist(home.parents[1]), range(8)))
    assert set(found) == {read_worklist(home.parents[1])}
    assert not list(home.parents[1].glob(".*.tmp"))


def test_a_worklist_of_the_version_before_is_read_and_another_is_refused(home: Path) -> None:
    path = home.parents[1] / "worklist.parquet"
    table = pq.read_table(path)
    old = table.select([name for name in table.column_names if not name.startswith(("signed", "review"))])
    pq.write_table(old.replace_schema_metadata({b"schema": b"coverslip.worklist/2"}), path)
    assert line_of(home).review_state == "none"
    pq.write_table(old.replace_schema_metadata({b"schema": b"coverslip.worklist/9"}), path)
    with pytest.raises(StoreVersionError):
        read_worklist(home.parents[1])


def test_a_run_anew_keeps_the_review_and_shows_it_as_of_an_earlier_result(home: Path, made: Path) -> None:
    sign(home, KIM, "positive")
    review = contents(home / "review")
    discard_result(home)
    assert [path.name for path in home.iterdir()] == ["review"]
    assert contents(home / "review") == review
    again = write_run(home.parents[1], seed=1)
    assert again == home
    assert contents(home / "review") == review
    assert [one.present for one in signatures(home)] == [False]
    line = line_of(home)
    assert (line.review_state, line.signed_by) == ("earlier", "Kim Ås")
    with open_case(home, KIM, anew=True) as case:
        assert refused(case, "final") == "already final"
        case.sign("amended", "the slide was scanned again")
    assert line_of(home).review_state == "amended"
    assert verify_review(home).notes == ("001-kim-as is of an earlier result",)


def test_a_signed_report_is_not_rendered_again(home: Path) -> None:
    folder = sign(home, KIM, None)
    before = contents(folder)
    with pytest.raises(RequestError, match="is signed, and stays as it is"):
        write_report_again(folder)
    assert contents(folder) == before


def test_what_was_written_and_never_signed_is_set_aside(home: Path) -> None:
    """Its process was killed between the files and the trail."""
    folder = sign(home, KIM, None)
    shutil.copytree(folder, folder.with_name("002-kim-as"))
    assert "002-kim-as lies among what was signed" in str(verify_review(home).problems[0])
    with open_case(home, KIM) as case:
        assert any("002-kim-as was never signed" in note for note in case.notes)
        assert case.sign("amended", "more").name == "002-kim-as"
    assert not verify_review(home).problems
    assert len(list((home / "review" / "unsigned").iterdir())) == 1


def test_a_worklist_that_cannot_be_written_does_not_undo_a_signature(home: Path) -> None:
    (home.parents[1] / "worklist.parquet").write_bytes(b"no parquet")
    with open_case(home, KIM) as case:
        folder = case.sign("final", "")
        assert "the worklist could not be written" in case.notes[-1]
    assert signatures(home)[0].folder == folder
