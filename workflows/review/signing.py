"""Signing: what a person stands for, in a folder of its own, beside what the machine said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coverslip.atomic import discard
from coverslip.errors import CoverslipError, NotSignableError, RequestError, ReviewOpenError, StoreError
from coverslip.workflows.files import output_digest, write_json
from coverslip.workflows.outputs import ANNOTATIONS, REPORT, RESULT, REVIEW, digests, read_result
from coverslip.workflows.report import page_of
from coverslip.workflows.result import Measurement, Review, SlideResult
from coverslip.workflows.review.chain import Draft, Head
from coverslip.workflows.review.corrections import ChangeCall, Correction
from coverslip.workflows.review.durable import sync_folder, sync_tree
from coverslip.workflows.review.machine import machine_digest, refuse_altered
from coverslip.workflows.review.marks import marks_of
from coverslip.workflows.review.regions import outlines_of, write_review
from coverslip.workflows.review.signature import SIGNED, Status, set_aside_unsigned
from coverslip.workflows.review.trail import now_ms

if TYPE_CHECKING:
    from coverslip.workflows.review.case import Case

Reason = Literal["incomplete", "changed", "elsewhere", "already final", "nothing to amend", "no comment"]


def sign(case: Case, status: Status, comment: str) -> Path:
    """Write the signed result, its report and the drawn regions, and enter it into the trail.

    Gives the folder `review/signed/NNN-<reviewer>`. Raises NotSignableError. What is signed is what the
    rules come to from this reviewer's corrections alone.
    """
    home = case.base.home
    _refuse_status(case, status, comment)
    _refuse_result(case)
    with case.trail.held():
        _catch_up(case)
        result = signed_result(case, status, comment, case.trail.head)
    # Drawing takes seconds, in which nobody else need wait.
    with _fresh(home / REVIEW / SIGNED) as temporary:
        result = _write(temporary, case, result)
        with case.trail.held():
            _catch_up(case)
            folder = _enter(case, result, temporary)
    _refresh(case)
    return folder


def _refresh(case: Case) -> None:
    """In the worklist of the run; that it cannot be written does not undo the signature."""
    # Imported here: the worklist reads signatures, too.
    from coverslip.workflows.worklist import refresh_worklist

    try:
        refresh_worklist(case.base.home.parents[1])
    except (CoverslipError, OSError) as error:
        case.notes += (f"signed, but the worklist could not be written again: {error}",)


def _catch_up(case: Case) -> None:
    try:
        case.catch_up()
    except ReviewOpenError as error:
        raise _refusal(case, error.problem, error.remedy, "elsewhere") from error


@contextmanager
def _fresh(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, which is gone afterwards unless it was given another name."""
    folder = parent / f".{os.getpid()}.{os.urandom(4).hex()}.tmp"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        discard(folder)


def _enter(case: Case, result: SlideResult, written: Path) -> Path:
    """Give what is written its name, and enter it: from then on it is signed."""
    set_aside_unsigned(case.base.home, case.trail.entries)
    number = 1 + sum(entry.event == "sign" for entry in case.trail.entries)
    folder = written.with_name(f"{number:03d}-{case.reviewer.slug}")
    os.replace(written, folder)
    sync_folder(folder.parent)
    case.take(_entry(case, result, folder))
    return folder


def _refuse_status(case: Case, status: Status, comment: str) -> None:
    earlier = case.opinion.signed
    if status == "final" and earlier:
        text = f"was signed by {case.reviewer.name} on {earlier[-1].at[:10]} already"
        raise _refusal(case, text, "sign it as amended, and say what changed", "already final")
    if status == "amended" and not earlier:
        text = f"was not signed by {case.reviewer.name} yet"
        raise _refusal(case, text, "sign it as final", "nothing to amend")
    if status == "amended" and not comment.strip():
        raise _refusal(case, "is amended without a comment", "say what changed and why", "no comment")
    if status not in ("final", "amended"):
        raise RequestError(f"the status {status!r}", "is none", "choose final or amended")


def _refuse_result(case: Case) -> None:
    """What lies there must be whole, and what was reviewed."""
    try:
        result = read_result(case.base.home)
        changed = machine_digest(result) != case.opinion.machine
        if not changed:
            refuse_altered(case.base.home, result)
    except StoreError as error:
        raise _refusal(
            case, f"is not whole: {error.subject} {error.problem}", error.remedy, "incomplete"
        ) from error
    if changed:
        raise _refusal(
            case,
            "was computed again with another outcome since this review was begun",
            "close it, and begin anew on the result that is there now",
            "changed",
        )


def _refusal(case: Case, problem: str, remedy: str, reason: Reason) -> NotSignableError:
    return NotSignableError(str(case.base.home), problem, remedy, reason)


def signed_result(case: Case, status: Status, comment: str, head: Head) -> SlideResult:
    """The revised result with who signs it; its outputs are yet to be written."""
    revised, machine = case.revised(), case.base.result
    earlier = case.opinion.signed
    review = Review(
        status=status,
        signed_by=case.reviewer.name,
        role=case.reviewer.role,
        at=now_ms(),
        comment=comment.strip(),
        corrections=len(case.corrections),
        supersedes=str(earlier[-1].details["folder"]) if earlier else None,
        notes=_notes(revised, case.corrections),
        machine=machine_digest(machine),
        machine_summary=machine.summary,
        machine_call=machine.call,
        machine_measurements=changed_measurements(machine, revised),
        trail_entries=head.count,
        trail_sha256=head.sha256,
    )
    return revised.model_copy(update={"review": review, "outputs": {}})


def _notes(result: SlideResult, standing: tuple[Correction, ...]) -> tuple[str, ...]:
    if result.call is None or result.call.category is not None:
        return ()
    if any(isinstance(one, ChangeCall) for one in standing):
        return ()  # to withdraw the call is a statement
    return ("The slide's call is not evaluable, and the reviewer states none of their own.",)


def changed_measurements(machine: SlideResult, revised: SlideResult) -> tuple[Measurement, ...]:
    """Of the machine's measurements those that are others after the corrections, or gone."""
    now = {one.name: one for one in revised.measurements}
    return tuple(one for one in machine.measurements if now.get(one.name) != one)


def _write(folder: Path, case: Case, result: SlideResult) -> SlideResult:
    """All files of a signed result; `result.json` names the others' digests."""
    drawn = [*outlines_of(case.corrections), *marks_of(case.base, case.corrections)]
    page = page_of(case.base.home, result, drawn)
    (folder / REPORT).write_text(page, encoding="utf-8")
    write_review(folder / ANNOTATIONS, case.base, case.corrections, case.reviewer.name)
    result = result.model_copy(update={"outputs": digests(folder, (ANNOTATIONS, REPORT))})
    write_json(folder / RESULT, result.model_dump(mode="json"))
    sync_tree(folder)
    return result


def _entry(case: Case, result: SlideResult, folder: Path) -> Draft:
    review = result.review
    assert review is not None
    call = result.call.category if result.call else None
    machine_call = review.machine_call.category if review.machine_call else None
    details = {
        "status": review.status,
        "at": review.at,
        "category": call,
        "summary": result.summary,
        "result": review.machine,
        "folder": folder.name,
        "files": {name: output_digest(folder / name) for name in sorted(os.listdir(folder))},
        "corrections": review.corrections,
        "notes": list(review.notes),
    }
    what = f"signed the result, {review.status}: {call or result.summary}"
    before = {"call": machine_call, **_figures(review.machine_measurements)}
    named = {one.name for one in review.machine_measurements}
    after = {"call": call, **_figures([one for one in result.measurements if one.name in named])}
    return Draft("sign", case.person, what, before, after, review.comment, (), details)


def _figures(measurements: Sequence[Measurement]) -> dict[str, float | str]:
    return {one.name: "not evaluable" if one.value is None else one.value for one in measurements}
