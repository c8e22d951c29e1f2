"""A case: what is corrected is saved, survives a killed process, and stays each reviewer's own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from reviewed import SQUARE, excluded, first_cells, write_run
from trees import contents

from coverslip.errors import (
    RequestError,
    ResultChangedError,
    ReviewOpenError,
    StoreIncompleteError,
    TrailAlteredError,
)
from coverslip.ruo import RUO
from coverslip.workflows.files import write_json
from coverslip.workflows.outputs import read_result
from coverslip.workflows.review import presence as presences
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import ChangeCall, DrawRegion, RejectFinding, Relabel, RemoveArea
from coverslip.workflows.review.opinion import opinion_of, opinions
from coverslip.workflows.review.presence import Presence, all_present, announce
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.trail import read_trail
from coverslip.workflows.review.verification import verify_review

KIM, LEE = Reviewer("Kim Ås", "pathologist"), Reviewer("Lee")
KILLED = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "out")


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A result nobody has reviewed, in a run's folder."""
    shutil.copytree(made.parents[1], tmp_path / "out")
    return tmp_path / "out" / "slides" / made.name


def events(home: Path) -> list[str]:
    return [entry.event for entry in read_trail(home)]


def change_result(home: Path) -> None:
    """As another run would, with another outcome."""
    result = read_result(home)
    write_json(home / "result.json", result.model_copy(update={"summary": "x"}).model_dump(mode="json"))


def test_corrections_are_there_again_and_the_result_is_untouched(home: Path) -> None:
    before = contents(home)
    with open_case(home, KIM) as case:
        case.correct(first_cells(20))
        case.correct(excluded())
        wanted, revised = case.corrections, case.revised()
        assert case.revised() is revised
    with open_case(home, KIM) as again:
        assert again.corrections == wanted
        assert again.revised() == revised
        assert revised.measurements != again.base.result.measurements
    assert {name: at for name, at in contents(home).items() if not name.startswith("review")} == before
    assert events(home) == ["open", "correct", "correct", "close", "open", "close"]


def test_steps_are_taken_back_and_made_again_across_openings(home: Path) -> None:
    one, two, three = first_cells(2), first_cells(2, "2+"), first_cells(3, "1+")
    with open_case(home, KIM) as case:
        assert (case.undo(), case.redo(), case.can_undo, case.can_redo) == (None, None, False, False)
        case.correct(one)
        case.correct(two)
        assert case.undo() == two
        assert (case.corrections, case.can_undo, case.can_redo) == ((one,), True, True)
    with open_case(home, KIM) as case:
        assert case.redo() == two
        assert case.corrections == (one, two)
        case.undo()
        case.correct(three)
        assert (case.corrections, case.can_redo) == ((one, three), False)
    undo = next(entry for entry in read_trail(home) if entry.event == "undo")
    assert undo.what.startswith("took back entry 3: called 2 cells 2+")
    assert (undo.before, undo.after) == ({"2+": 2}, {"3+": 2})


def test_each_entry_says_who_when_what_before_after_and_why(home: Path) -> None:
    with open_case(home, KIM) as case:
        case.correct(first_cells(4))
        case.correct(first_cells(4, "negative"))
        case.correct(DrawRegion(id="r", label="tumour", geometry=SQUARE))
        case.correct(DrawRegion(id="r", label="stroma", geometry=SQUARE, why="was stroma"))
        case.correct(RemoveArea(id="r"))
        case.correct(ChangeCall(category="positive", why="clinically so"))
    found = [entry for entry in read_trail(home) if entry.event == "correct"]
    assert found[1].what == "called 4 cells negative (4 3+ before)"
    assert (found[1].before, found[1].after, found[1].why) == ({"3+": 4}, {"negative": 4}, "clearly so")
    assert found[2].what.startswith("drew a region, tumour (")
    assert (found[2].before, found[3].before["label"], found[3].after["label"]) == (None, "tumour", "stroma")
    assert found[3].why == "was stroma"
    assert (found[4].what, found[4].before["id"], found[4].after) == ("removed a region, stroma", "r", None)
    assert (found[5].after, found[5].why) == ("positive", "clinically so")
    for entry in found:
        assert (entry.reviewer.name, entry.reviewer.role, entry.system.pid) == (
            *("Kim Ås", "pathologist"),
            os.getpid(),
        )
        assert abs(datetime.fromisoformat(entry.at) - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize(
    "wrong",
    [
        Relabel(of="cells", rows=(10**6,), label="3+"),
        Relabel(of="cells", rows=(0,), label="malignant"),
        RemoveArea(id="never drawn"),
        RejectFinding(finding="none such", why="x"),
    ],
    ids=["row", "class", "area", "finding"],
)
def test_what_the_result_has_no_place_for_is_refused_and_not_written(home: Path, wrong) -> None:
    with open_case(home, KIM) as case:
        with pytest.raises(RequestError):
            case.correct(wrong)
        assert case.corrections == ()
    assert events(home) == ["open", "close"]
    with pytest.raises(RequestError, match="is closed"):
        case.correct(first_cells(1))


@pytest.mark.parametrize("name", ["", "  \t", "a\x00b", "x" * 121])
def test_a_reviewer_has_a_name_that_can_be_printed(name: str) -> None:
    with pytest.raises(RequestError):
        Reviewer(name)
    assert Reviewer(" Kim  A\u030as ", " a ") == Reviewer("Kim Ås", "a")
    assert Reviewer("王").slug == "reviewer"
    assert Reviewer("王").key != Reviewer("李").key


def test_a_result_that_changed_is_refused_or_begun_anew(home: Path) -> None:
    with open_case(home, KIM) as case:
        case.correct(first_cells(5))
    change_result(home)
    with pytest.raises(ResultChangedError) as refused:
        open_case(home, KIM)
    assert "begin anew" in refused.value.remedy
    with open_case(home, LEE) as other:
        assert other.corrections == (), "who had not begun begins with what is there"
    with open_case(home, KIM, anew=True) as case:
        assert (case.corrections, case.can_undo) == ((), False)
    assert [entry.what for entry in read_trail(home) if entry.event == "open"][
        -1
    ] == "began anew on a changed result"
    assert not verify_review(home).problems


def test_the_same_result_found_again_is_no_change(home: Path) -> None:
    with open_case(home, KIM) as case:
        case.correct(first_cells(5))
    result = read_result(home)
    times = result.times.model_copy(update={"finished": "2031-01-01T00:00:00Z"})
    outputs = {**result.outputs, "report.html": "0" * 64}
    again = result.model_copy(update={"times": times, "outputs": outputs})
    write_json(home / "result.json", again.model_dump(mode="json"))
    with open_case(home, KIM) as case:
        assert len(case.corrections) == 1


def test_a_table_that_is_not_the_results_is_refused(home: Path) -> None:
    table = home / "cells.parquet"
    table.write_bytes(table.read_bytes() + b"\0")
    with pytest.raises(StoreIncompleteError):
        open_case(home, KIM)


def test_a_trail_that_was_altered_is_not_gone_on_with(home: Path) -> None:
    with open_case(home, KIM) as case:
        case.correct(first_cells(5))
    file = home / "review" / "audit.jsonl"
    file.write_bytes(file.read_bytes().replace(b"clearly so", b"clearly no"))
    with pytest.raises(TrailAlteredError, match="entry 2 was altered") as refused:
        open_case(home, LEE)
    assert refused.value.entry == 2


def test_two_reviewers_know_of_each_other_and_keep_their_own(home: Path) -> None:
    with open_case(home, KIM) as kim:
        with open_case(home, LEE) as lee:
            assert [(one.name, one.host) for one in lee.others] == [("Kim Ås", presences.host())]
            assert str(lee.others[0]).startswith("Kim Ås (pathologist), since 20")
            assert [one.name for one in kim.others] == ["Lee"]
            kim.correct(first_cells(3))
            lee.correct(first_cells(7, "2+"))
            kim.correct(excluded())
            assert (len(kim.corrections), len(lee.corrections)) == (2, 1)
        assert kim.others == ()
    assert [len(one.corrections) for one in opinions(read_trail(home))] == [2, 1]
    with open_case(home, KIM) as kim:
        assert kim.corrections == (first_cells(3), excluded())


def test_another_opinion_is_taken_over_as_one_step(home: Path) -> None:
    with open_case(home, KIM) as kim, open_case(home, LEE) as lee:
        kim.correct(first_cells(3))
        kim.correct(excluded())
        lee.correct(first_cells(7, "2+"))
        assert lee.adopt("Kim Ås") == kim.corrections
        assert lee.corrections == (first_cells(7, "2+"), *kim.corrections)
        assert lee.undo() == excluded()
        assert lee.corrections == (first_cells(7, "2+"),)
        lee.redo()
        for name in ("Nobody", "Lee"):
            with pytest.raises(RequestError, match="holds no corrections"):
                lee.adopt(name)
    entry = next(entry for entry in read_trail(home) if entry.event == "adopt")
    assert entry.what == "took over 2 corrections of Kim Ås"
    assert len(opinion_of(read_trail(home), "Lee").corrections) == 3


def test_the_same_reviewer_cannot_open_it_twice(home: Path) -> None:
    with open_case(home, KIM), pytest.raises(ReviewOpenError, match="is open for Kim Ås"):
        open_case(home, Reviewer(" Kim  Ås"))
    open_case(home, KIM).close()


def test_a_window_left_behind_is_refused_when_another_went_on(home: Path) -> None:
    """As a laptop that slept while its owner went on elsewhere."""
    asleep = open_case(home, KIM)
    presences.leave(home, KIM)
    with open_case(home, KIM) as case:
        case.correct(first_cells(2))
        with pytest.raises(ReviewOpenError, match="in another window"):
            asleep.correct(first_cells(4))
        asleep.close()
        assert [one.name for one in all_present(home)] == ["Kim Ås"], "the other is still there"
    assert events(home) == ["open", "open", "correct", "close"]


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, True),
        ({"pid": 2**22 + 1}, False),
        ({"begun": 5.0}, False),
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "seen": "2020-01-01T00:00:00.000Z"}, False),
    ],
    ids=["here", "process gone", "number used again", "elsewhere", "elsewhere, silent"],
)
def test_who_is_gone_is_told_from_who_is_there(home: Path, change: dict, alive: bool) -> None:
    here = replace(presences.present(KIM), **change)
    assert here.alive == alive
    announce(home, KIM, here)
    file = next((home / "review" / "open").glob("*.json"))
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["notice"] == RUO
    if "seen" in change:  # it is always of now when it is written
        file.write_text(json.dumps(written | change), encoding="utf-8")
    assert len(all_present(home)) == alive
    file.write_text("{", encoding="utf-8")
    assert all_present(home) == ()


def test_a_case_left_open_by_a_killed_process_is_told_and_opened(home: Path) -> None:
    announce(
        home, KIM, Presence("Kim Ås", "", "2030-01-01T00:00:00.000Z", "", presences.host(), 2**22 + 1, 0.0)
    )
    for name in (".audit-head.json.5.ab.tmp", "open/.kim.json.5.ab.tmp"):
        (home / "review" / name).touch()
    with open_case(home, KIM) as case:
        assert not list((home / "review").rglob("*.tmp"))
        assert "it was left open: Kim Ås, since 2030-01-01 00:00 UTC" in case.notes[0]
    assert read_trail(home)[0].details["notes"] == list(case.notes)


@pytest.fixture(scope="module")
def reviewers(made: Path) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, str(Path(__file__).with_name("reviewing.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        ask(process, f"warm {made}")
        told(process)
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def told(process: subprocess.Popen[str]) -> list[str]:
    """What was said up to the end of a command."""
    assert process.stdout is not None
    return list(iter(lambda: process.stdout.readline().strip(), "over"))


def ask(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(home: Path, reviewers) -> None:
    chance = random.Random(0)
    for _ in range(KILLED):
        ask(reviewers, f"kill {home} Kim")
        process = int(reviewers.stdout.readline().split()[1])
        time.sleep(chance.uniform(0, 0.06))
        os.kill(process, signal.SIGKILL)
        saved = [int(line.split()[-1]) for line in told(reviewers)]
        found = opinion_of(read_trail(home), "Kim").corrections
        assert [one.rows[0] for one in found] == list(range(len(found)))
        # One more may be on disk than was said.
        assert not saved or len(found) in (saved[-1] + 1, saved[-1] + 2)
    assert found
    with open_case(home, Reviewer("Kim")) as case:
        assert case.corrections == found
    verified = verify_review(home)
    assert (verified.problems, verified.notes) == ((), ())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_that_write_at_once_keep_one_chain(home: Path, reviewers) -> None:
    ask(reviewers, f"both {home} Kim Lee 15")
    said = told(reviewers)
    assert sum(line.startswith("saved") for line in said) == 30
    entries = read_trail(home)
    assert len(entries) == 34
    assert [len(one.corrections) for one in opinions(entries)] == [15, 15]
    assert not verify_review(home).problems
