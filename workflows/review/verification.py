"""Whether a review is as it was written: the trail, its end, and what was signed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import RequestError, StoreError
from coverslip.workflows.files import output_digest
from coverslip.workflows.outputs import RESULT, REVIEW, read_result
from coverslip.workflows.review.chain import Entry, Examined, Problem, head_of
from coverslip.workflows.review.signature import SIGNED, signatures_in, unsigned_folders
from coverslip.workflows.review.trail import examine_trail
from coverslip.workflows.worklist_table import read_worklist


@dataclass(frozen=True, slots=True)
class Verified:
    """`entries`: how many are sound, from the first on; `heads`: their sha256, `head` the last of these.

    `problems`: the first bad entry first; none means that all holds. `notes`: no faults, but worth knowing.
    """

    home: Path
    entries: int
    head: str
    heads: frozenset[str]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def reviewed_folders(path: Path) -> list[Path]:
    """The folder of one result that `path` is, or those below the folder of a run that hold a review.

    Raises RequestError for what is neither.
    """
    if (path / REVIEW).is_dir() or (path / RESULT).is_file():
        return [path.absolute()] if (path / REVIEW).is_dir() else []
    if not (path / "slides").is_dir():
        raise RequestError(str(path), "holds no result", "name OUT/slides/ID, or the folder OUT of a run")
    return sorted(folder.parent.absolute() for folder in path.glob(f"slides/*/{REVIEW}") if folder.is_dir())


def lost_reviews(path: Path) -> list[str]:
    """Slides that the worklist of the run in `path` calls signed, and that have no review."""
    return [
        line.id
        for line in read_worklist(path)
        if line.signed_by and not (path / "slides" / line.id / REVIEW).is_dir()
    ]


def verify_review(home: Path) -> Verified:
    """Of the result in `home`. Raises StoreIncompleteError where its files cannot be read."""
    found = examine_trail(home)
    problems = [found.problem] if found.problem else []
    problems += _removed(home, found)
    if not problems:
        problems += _other_slide(home, found.entries)
    if found.problem is None:
        problems += _signed(home, found.entries)
    end = head_of(found.entries)
    heads = frozenset(entry.sha256 for entry in found.entries)
    return Verified(home, end.count, end.sha256, heads, tuple(problems), tuple(_notes(home, found)))


def _removed(home: Path, found: Examined) -> Iterator[Problem]:
    """Signed results without a trail."""
    signed = [path.name for path in (home / REVIEW / SIGNED).glob("[!.]*")]
    if signed and not found.entries and found.problem is None:
        yield Problem(0, f"the trail is gone: {', '.join(sorted(signed))} stands without it")


def _other_slide(home: Path, entries: Sequence[Entry]) -> Iterator[Problem]:
    """A whole trail, put in the place of another."""
    for entry in entries:
        name = entry.details.get("slide", {}).get("id") if entry.event == "open" else None
        if name is not None and name != home.name:
            yield Problem(entry.number, f"is about the slide {name}, not {home.name}")
            return


def _signed(home: Path, entries: Sequence[Entry]) -> Iterator[Problem]:
    for entry in entries:
        if entry.event == "sign":
            yield from _signed_files(home, entry)
            yield from _anchored(home, entry, entries)
    for path in unsigned_folders(home, entries):
        yield Problem(0, f"{path.name} lies among what was signed, and the trail does not know it")


def _signed_files(home: Path, entry: Entry) -> Iterator[Problem]:
    folder = home / REVIEW / SIGNED / Path(entry.details["folder"]).name
    there = {path.name for path in folder.glob("*")}
    for name, digest in entry.details["files"].items():
        path = folder / Path(name).name
        if not path.is_file():
            yield Problem(entry.number, f"signed {folder.name}/{name}, which is gone")
        elif output_digest(path) != digest:
            yield Problem(entry.number, f"signed {folder.name}/{name}, which was altered")
    for name in sorted(there - set(entry.details["files"])):
        yield Problem(entry.number, f"did not sign {folder.name}/{name}, which was put there")


def _anchored(home: Path, entry: Entry, entries: Sequence[Entry]) -> Iterator[Problem]:
    """The signed result names the entry before its own."""
    folder = home / REVIEW / SIGNED / Path(entry.details["folder"]).name
    try:
        review = read_result(folder).review
    except StoreError:
        return  # gone or altered, which is said already, or of a version that is not read here
    if review is None:
        yield Problem(entry.number, f"signed {folder.name}/{RESULT}, which says of no signature")
        return
    count = review.trail_entries
    if not 0 < count < entry.number or entries[count - 1].sha256 != review.trail_sha256:
        yield Problem(count, f"is not the one that {folder.name} was signed after")


def _notes(home: Path, found: Examined) -> Iterator[str]:
    if found.torn:
        yield "a process was stopped while it wrote; what it wrote is set aside at the next opening"
    if found.ahead:
        yield f"entry {len(found.entries)} is newer than the head file: its process was stopped right after"
    for one in signatures_in(home, found.entries):
        folder = one.folder.name
        if not one.present:
            yield f"{folder} is of an earlier result"
        if one.standing and one.changed_since:
            yield f"{one.name} corrected something after signing {folder}"
