"""`coverslip audit`: exit code and first bad entry, for one result and a run; the trail as people read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from reviewed import excluded, first_cells, write_run

from coverslip.ruo import RUO
from coverslip.workflows.cli import run
from coverslip.workflows.outputs import read_result
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import ChangeCall
from coverslip.workflows.review.reviewer import Reviewer
from coverslip.workflows.review.trail import read_trail

SIGNED = "signed/001-kim-as"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose one result was corrected and signed."""
    home = write_run(tmp_path_factory.mktemp("made") / "out")
    with open_case(home, Reviewer("Kim Ås", "pathologist")) as case:
        case.correct(first_cells(4))
        case.correct(excluded())
        case.undo()
        case.correct(ChangeCall(category="positive", why="by\x1b[2J eye"))
        case.sign("final", "checked")
    return home.parents[1]


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str]:
        code = run(["audit", *map(str, arguments)])
        said = capsys.readouterr()
        assert code == 2 or RUO in said.err
        return code, said.out + (said.err if code == 2 else "")

    return call


def home_in(out: Path) -> Path:
    (home,) = (out / "slides").iterdir()
    return home


def test_a_sound_review_gives_0_and_its_head(out: Path, audit) -> None:
    end = read_trail(home_in(out))[-1]
    said = f"a.tif: sound, 7 entries, head {end.sha256}\n"
    assert audit("verify", out) == (0, said)
    assert audit("verify", home_in(out)) == (0, said)


def cut_end(review: Path) -> None:
    change_lines(review, lambda lines: lines[:5])


def change_lines(review: Path, change) -> None:
    file = review / "audit.jsonl"
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def alter(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda r: alter(r / "audit.jsonl", b"clearly so", b"clearly no"), "entry 2 was altered"),
        (lambda r: change_lines(r, lambda n: [*n[:2], *n[3:]]), "entry 3 was deleted"),
        (lambda r: change_lines(r, lambda n: [n[0], n[2], n[1], *n[3:]]), "entry 2 is out of order"),
        (lambda r: change_lines(r, lambda n: [*n[:3], n[1], *n[3:]]), "entry 4 was put in: entry 2"),
        (cut_end, "entry 6 was cut off at the end, with all up to entry 7"),
        (lambda r: (r / "audit.jsonl").unlink(), "entry 1 was cut off at the end, with all up to entry 7"),
        (lambda r: (r / "audit-head.json").unlink(), "entry 7 is the last of a trail without head file"),
        (lambda r: alter(r / "audit-head.json", b'"count": 7', b'"count": 6'), "entry 6 is not the one"),
        (
            lambda r: [(r / name).unlink() for name in ("audit.jsonl", "audit-head.json")],
            "the trail is gone: 001-kim-as stands without it",
        ),
        (lambda r: alter(r / SIGNED / "result.json", b"checked", b"chucked"), "result.json, which was"),
        (lambda r: (r / SIGNED / "report.html").unlink(), "report.html, which is gone"),
        (lambda r: (r / SIGNED / "more.txt").touch(), "entry 6 did not sign 001-kim-as/more.txt"),
        (lambda r: (r / "signed/002-lee").mkdir(), "002-lee lies among what was signed"),
        (lambda r: shutil.rmtree(r / "signed"), "entry 6 signed 001-kim-as/annotations.geojson, which is"),
        (shutil.rmtree, "the worklist says that it was signed, and its review is gone"),
    ],
)  # fmt: skip
def test_whatever_was_done_is_named_and_gives_3(out: Path, audit, harm, said: str) -> None:
    harm(home_in(out) / "review")
    code, text = audit("verify", out)
    assert code == 3
    assert f"a.tif: altered: {said}" in text or said in text
    assert text.startswith("a.tif: altered: ")


def test_the_trail_of_another_slide_is_not_taken_for_this_ones(out: Path, audit) -> None:
    home_in(out).rename(out / "slides" / "b.tif")
    code, text = audit("verify", out / "slides" / "b.tif")
    assert (code, text.splitlines()[0]) == (
        *(3,),
        "b.tif: altered: entry 1 is about the slide a.tif, not b.tif",
    )


def test_a_trail_written_anew_is_found_by_a_head_that_was_kept(out: Path, audit) -> None:
    review = read_result(home_in(out) / "review/signed/001-kim-as").review
    assert review is not None
    assert audit("verify", out, "--head", review.trail_sha256.upper())[0] == 0
    page = (home_in(out) / "review/signed/001-kim-as/report.html").read_text(encoding="utf-8")
    assert review.trail_sha256 in page
    shutil.rmtree(home_in(out) / "review")
    with open_case(home_in(out), Reviewer("Kim Ås")) as case:
        case.sign("final", "as if nothing had been")
    assert audit("verify", out)[0] == 0
    code, text = audit("verify", out, "--head", review.trail_sha256)
    assert code == 3
    assert f"no trail here holds an entry with the sha256 {review.trail_sha256}" in text


def test_the_trail_is_shown_for_people(out: Path, audit) -> None:
    code, text = audit("show", out)
    assert code == 0
    assert "Kim Ås (pathologist)" in text
    assert "called 4 cells 3+" in text
    assert "why: clearly so" in text
    assert "took back entry 3: excluded an area" in text
    assert "after: positive" in text
    assert "signed the result, final: positive" in text
    assert r"by\x1b[2J eye" in text
    assert "\x1b" not in text
    numbers = [int(line[:4]) for line in text.splitlines() if line[:4].strip().isdigit()]
    assert numbers == list(range(1, 8))
    alter(home_in(out) / "review" / "audit.jsonl", b"took back", b"took buck")
    code, text = audit("show", home_in(out))
    assert (code, text.splitlines()[-1]) == (3, "altered: entry 4 was altered; nothing after that is shown")
    assert "called 4 cells" in text


def test_what_holds_no_result_or_no_review_is_said(out: Path, audit, tmp_path: Path) -> None:
    code, text = audit("verify", tmp_path / "nothing")
    assert code == 2
    assert "holds no result" in text
    shutil.rmtree(home_in(out) / "review")
    (out / "worklist.parquet").unlink()
    assert audit("verify", out) == (0, f"{out}: nobody has reviewed anything here\n")
    assert audit("show", out)[0] == 2
