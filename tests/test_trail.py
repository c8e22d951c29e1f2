"""The audit trail: whatever is done to its lines, the first bad entry is named; a crash is no tampering."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coverslip.errors import RequestError, ReviewOpenError, StoreIncompleteError, TrailAlteredError
from coverslip.ruo import RUO
from coverslip.workflows.lock import locked
from coverslip.workflows.review.chain import (
    START,
    Draft,
    Entry,
    Examined,
    Head,
    Person,
    System,
    examine,
    head_of,
    read_line,
    seal,
)
from coverslip.workflows.review.trail import Trail, examine_trail, read_trail

SYSTEM = System(host="h", user="u", pid=1)
KIM = Person(name="Kim Ås", role="pathologist")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def draft(what: str = "called 3 cells 2+", **more: object) -> Draft:
    return Draft("correct", KIM, what, {"1+": 3}, {"2+": 3}, "seen", **more)


def resealed(lines: list[bytes], start: int, what: str) -> list[bytes]:
    """The entry at `start` with other words and a sha256 that fits, the others left."""
    entry = read_line(lines[start][:-1])
    assert entry is not None
    before = Head(entry.number - 1, entry.previous)
    return [*lines[:start], seal(draft(what), SYSTEM, entry.at, before)[1], *lines[start + 1 :]]


def chain(texts: list[str]) -> list[bytes]:
    lines, head = [], Head()
    for text in texts:
        entry, line = seal(draft(text), SYSTEM, "2030-01-01T00:00:00.000Z", head)
        lines.append(line)
        head = head_of((entry,))
    return lines


def end_of(lines: list[bytes]) -> Head:
    found = examine(b"".join(lines), None).entries
    return head_of(found)


chains = st.lists(TEXTS, min_size=1, max_size=7).map(chain)
LONG = chain([f"entry {number}" for number in range(6)])
HEAD = end_of(LONG)


def named(lines: list[bytes], head: Head | None = HEAD) -> int:
    """The entry that is named; -1 where all is well."""
    problem = examine(b"".join(lines), head).problem
    return -1 if problem is None else problem.entry


@given(chains)
def test_what_was_written_is_sound_and_read_as_it_was(lines: list[bytes]) -> None:
    found = examine(b"".join(lines), end_of(lines))
    assert (found.problem, found.torn, found.ahead) == (None, b"", False)
    assert [entry.number for entry in found.entries] == list(range(1, len(lines) + 1))
    assert all(line.decode().count("\n") == 1 for line in lines)


@given(chains, st.data())
def test_a_byte_that_was_changed_names_its_entry(lines: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lines) - 1))
    line = bytearray(lines[at])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
    assert named([*lines[:at], bytes(line), *lines[at + 1 :]], end_of(lines)) == at + 1


@given(chains, st.data())
def test_a_byte_that_was_removed_or_put_in_names_its_entry(lines: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(lines) - 1))
    line, head = lines[at], end_of(lines)
    place = data.draw(st.integers(0, len(line) - 1))
    removed = line[:place] + line[place + 1 :]
    assert named([*lines[:at], removed, *lines[at + 1 :]], head) == at + 1
    byte = data.draw(st.integers(0, 255))
    more = line[:place] + bytes([byte]) + line[place:]
    blank_line_after = byte == ord("\n") and place == len(line) - 1
    assert named([*lines[:at], more, *lines[at + 1 :]], head) == at + 1 + blank_line_after


@given(chains, st.data())
def test_entries_that_were_deleted_are_named(lines: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(lines) - 1))
    last = data.draw(st.integers(first, len(lines) - 1))
    found = examine(b"".join(lines[:first] + lines[last + 1 :]), end_of(lines)).problem
    assert found is not None
    assert found.entry == first + 1
    assert f"all up to entry {last + 1}" in str(found) or first == last


@given(st.permutations(range(len(LONG))))
def test_the_first_entry_out_of_order_is_named(order: list[int]) -> None:
    first = next((place for place, number in enumerate(order) if place != number), None)
    assert named([LONG[number] for number in order]) == (-1 if first is None else first + 1)


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_copy_put_in_is_named_by_its_place(source: int, place: int) -> None:
    lines = [*LONG[:place], LONG[source], *LONG[place:]]
    assert named(lines) == place + 1 + (source == place)


@given(st.integers(0, 5))
def test_a_forged_entry_put_in_is_named_by_its_place(place: int) -> None:
    before = head_of(examine(b"".join(LONG[:place]), None).entries)
    forged = seal(draft("forged"), SYSTEM, "2030-01-01T00:00:00.000Z", before)[1]
    assert named([*LONG[:place], forged, *LONG[place:]]) == place + 2


@given(chains, st.data())
def test_a_trail_cut_off_anywhere_names_the_first_that_is_gone(
    lines: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(lines)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert named([cut], end_of(lines)) == cut.count(b"\n") + 1


@given(st.integers(0, 5))
def test_an_entry_replaced_by_one_with_a_sha256_that_fits_is_named(at: int) -> None:
    assert named(resealed(LONG, at, "other")) == at + 1


def test_a_trail_written_anew_to_its_end_does_not_fit_its_head() -> None:
    anew = chain([f"entry {number}" for number in range(5)] + ["other"])
    assert named(anew) == 6
    assert named(chain(["other"] * 6)) == 6
    assert named(chain(["other"] * 6), end_of(chain(["other"] * 6))) == -1, "the head must be kept elsewhere"


def test_a_head_that_is_gone_or_altered_is_told() -> None:
    assert named(LONG, None) == 6
    assert named(LONG, Head(-1, "")) == 0
    assert named(LONG[:1], None) == -1, "killed before the first head was written"
    assert named([], None) == -1


def test_a_crash_is_not_taken_for_tampering() -> None:
    """Killed in a line, nothing acknowledged; killed between a line and the head, one entry ahead of it."""
    before = end_of(LONG[:5])
    assert examine(b"".join(LONG), before) == Examined(
        examine(b"".join(LONG), HEAD).entries, None, ahead=True
    )
    for cut in (1, 40, len(LONG[5]) - 1):
        found = examine(b"".join(LONG[:5]) + LONG[5][:cut], before)
        assert (found.problem, found.torn, found.ahead) == (None, LONG[5][:cut], False)
    assert named(LONG, end_of(LONG[:4])) == 5, "two ahead is none"


def test_lines_are_for_people_and_sealed_with_their_own_bytes() -> None:
    entry, line = seal(draft(), SYSTEM, "2030-01-01T00:00:00.000Z", Head())
    document = json.loads(line)
    assert list(document)[:5] == ["schema_name", "number", "at", "event", "reviewer"]
    assert list(document)[-2:] == ["previous", "sha256"]
    assert "Kim Ås" in line.decode()
    assert entry.previous == START
    assert Entry.model_validate(document) == entry
    with pytest.raises(ValueError, match="JSON compliant"):
        seal(draft(details={"a": float("nan")}), SYSTEM, "", Head())


def add(trail: Trail, what: str = "a") -> Entry:
    with trail.held():
        trail.refresh()
        return trail.add(draft(what))


def test_a_trail_on_disk_is_added_to_by_several_and_read_by_all(tmp_path: Path) -> None:
    assert read_trail(tmp_path) == ()
    first, second = Trail(tmp_path), Trail(tmp_path)
    added = [add(first), add(second), add(second), add(first)]
    assert read_trail(tmp_path) == tuple(added)
    head = json.loads((tmp_path / "review" / "audit-head.json").read_text(encoding="utf-8"))
    assert (head["count"], head["sha256"], head["notice"]) == (4, added[-1].sha256, RUO)
    assert first.entries == tuple(added)


def test_a_torn_line_is_kept_aside_and_the_trail_goes_on(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    add(trail)
    file = tmp_path / "review" / "audit.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"schema_name": "cov')
    assert examine_trail(tmp_path).torn == b'{"schema_name": "cov'
    assert file.read_bytes() != whole, "reading mends nothing"
    again = Trail(tmp_path)
    assert "audit-torn-001.txt" in again.notes[0]
    assert (tmp_path / "review" / "audit-torn-001.txt").read_bytes() == b'{"schema_name": "cov'
    add(again)
    add(trail)
    assert [entry.number for entry in read_trail(tmp_path)] == [1, 2, 3]


def test_a_head_one_behind_follows(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    add(trail)
    head = (tmp_path / "review" / "audit-head.json").read_bytes()
    add(trail)
    (tmp_path / "review" / "audit-head.json").write_bytes(head)
    assert examine_trail(tmp_path).ahead
    assert "entry 2" in Trail(tmp_path).notes[0]
    assert not examine_trail(tmp_path).ahead


def test_nothing_is_added_to_a_trail_that_was_altered(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    for _ in range(3):
        add(trail)
    file = tmp_path / "review" / "audit.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    for act in (lambda: Trail(tmp_path), lambda: add(trail), lambda: read_trail(tmp_path)):
        with pytest.raises(TrailAlteredError) as refused:
            act()
        assert refused.value.entry == 3
    file.unlink()
    with pytest.raises(TrailAlteredError, match="entry 1 was cut off at the end, with all up to entry 3"):
        read_trail(tmp_path)


def test_what_the_disk_refuses_is_not_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = Trail(tmp_path)
    add(trail)
    whole = (tmp_path / "review" / "audit.jsonl").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("coverslip.workflows.review.trail.write_json_durably", "os.fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            with pytest.raises(StoreIncompleteError, match=r"No space left on device.*not saved"):
                add(trail)
        assert (tmp_path / "review" / "audit.jsonl").read_bytes() == whole
    assert add(trail).number == 2


def test_text_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        add(Trail(tmp_path), "\ud800")


def test_a_lock_keeps_others_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    file = tmp_path / "x" / ".lock"
    with locked(file), pytest.raises(ReviewOpenError), locked(file, longest_s=0.02):
        raise AssertionError("held twice")
    with locked(tmp_path / "x" / ".lock", longest_s=0):
        pass


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="cannot be written"):
        Trail(tmp_path)
