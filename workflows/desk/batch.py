"""What the worklist panel lists: the slides of a run in the order in which somebody should look at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coverslip.workflows.outputs import RESULT, read_result
from coverslip.workflows.result import Quality, SlideResult
from coverslip.workflows.review.signature import Signature
from coverslip.workflows.review.state import State, signed_state
from coverslip.workflows.worklist_table import WORKLIST, Line, read_worklist

# Where nearly all tissue is evaluable there is nothing to say of it in a list.
WORTH_SAYING = 0.95
DISCORDANT = "discordant"
# How `review_state` is said after the names of who signed.
AFTER_NAMES = {
    "amended": "amended",
    "discordant": DISCORDANT,
    "changed": "corrected since",
    "earlier": "on an earlier result",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One slide. `home`: its result, None where it failed. `state`: of its review; `by`: who signed; `about`:
    the review at length; `note`: what the run said of it."""

    id: str
    home: Path | None
    call: str
    urgency: str
    quality: str
    state: str = "none"
    by: str = ""
    about: str = ""
    note: str = ""

    @property
    def signed(self) -> str:
        """By whom, and what is to be said of that; in a few words."""
        if self.state == "altered":
            return "trail altered"
        if not self.by:
            return "" if self.state == "none" else self.state
        said = AFTER_NAMES.get(self.state)
        return f"{self.by}: {said}" if said else self.by

    def holds(self, words: str) -> bool:
        """Whether every word is somewhere in it, in whatever case."""
        text = " ".join((self.id, self.call, self.urgency, self.quality, self.signed, self.note)).casefold()
        return all(word in text for word in words.casefold().split())


def batch_of(path: Path) -> Path | None:
    """The run's folder that a path is of or belongs to: OUT, its worklist, or OUT/slides/ID; else None."""
    path = path.absolute()
    for folder in (path, path.parent, *path.parents[1:2]):
        if (folder / f"{WORKLIST}.parquet").is_file() and (folder / "slides").is_dir():
            belongs = folder in (path, path.parent) and path.stem in (WORKLIST, path.name)
            return folder if belongs or path.parent == folder / "slides" else None
    return None


def read_batch(path: Path) -> tuple[Row, ...]:
    """Of a run's folder in the order of its worklist; of a result alone, that one.

    Raises the errors of `read_worklist`.
    """
    out = batch_of(path)
    if out is None:
        return (_alone(path),) if (path / RESULT).is_file() else ()
    return tuple(_row(out, line) for line in read_worklist(out))


def reviewed_batch(rows: tuple[Row, ...], home: Path, out: Path | None) -> tuple[Row, ...]:
    """The rows as they are reviewed after somebody was at `home`; the run's worklist is written again only
    where its line says otherwise, since that reads all of its results.

    Raises the errors of `refresh_worklist`.
    """
    if out is None:
        return tuple(_alone(home) if row.home == home else row for row in rows)
    now = signed_state(home)
    before = next((line for line in read_worklist(out) if line.id == home.name), None)
    said = (before.review_state, before.signed_by, before.signed_at) if before else None
    if said != (now.state, "; ".join(now.by) or None, now.at):
        # Imported here: what draws the worklist's page is not needed to open a case.
        from coverslip.workflows.worklist import refresh_worklist

        refresh_worklist(out)
    return read_batch(out)


def _row(out: Path, line: Line) -> Row:
    done = line.status != "failed" and line.result
    return Row(
        id=line.id,
        home=(out / line.result).parent if done and line.result else None,
        call=line.call or ("failed" if not done else "no category"),
        urgency=line.urgency,
        quality=_quality(line.tissue_mm2, line.evaluable_mm2, line.damaged_fraction),
        state=line.review_state,
        by=line.signed_by or "",
        about=_about(line.review_state, line.signed_by, line.signed_call, line.signed_at),
        note=line.summary,
    )


def _alone(home: Path) -> Row:
    result: SlideResult = read_result(home)
    call, quality, state = result.call, result.quality, signed_state(home)
    by, calls = "; ".join(state.by), "; ".join(state.calls)
    return Row(
        id=result.slide.id,
        home=home,
        call=(call.category if call else None) or "no category",
        urgency=call.urgency if call else "routine",
        quality=_quality(*_areas(quality)),
        state=state.state,
        by=by,
        about=_about(state.state, by, calls, state.at),
        note=result.summary,
    )


def _about(state: State | str, by: str | None, calls: str | None, at: str | None) -> str:
    if not by:
        return {"begun": "Opened, not signed", "altered": "The audit trail is not as it was written"}.get(
            state, ""
        )
    when = f", last on {at[:10]}" if at else ""
    said = AFTER_NAMES.get(state, "")
    return f"Signed by {by}{when}: {calls or 'no category'}" + (f" ({said})" if said else "")


def _areas(quality: Quality) -> tuple[float, float | None, float]:
    return quality.tissue_area_mm2, quality.evaluable_area_mm2, quality.damaged_fraction


def _quality(tissue: float | None, evaluable: float | None, damaged: float | None) -> str:
    if tissue is None:
        return "not evaluable"
    usable = 1.0 if evaluable is None or not tissue else evaluable / tissue
    share = f", {usable:.0%} evaluable" if usable < WORTH_SAYING else ""
    return f"{tissue:.3g} mm²{share}" + (f", {damaged:.0%} damaged" if damaged else "")


def told(one: Signature) -> str:
    """A signed opinion in a sentence."""
    who = f"{one.name} ({one.role})" if one.role else one.name
    since = "; corrected since" if one.changed_since else ""
    return f"{who} signed {one.category or 'no category'}, {one.status}, on {one.at[:10]}{since}"
