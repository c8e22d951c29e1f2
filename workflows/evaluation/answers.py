"""What was said of each slide, and what it is: read from tables and from a folder of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pyarrow.parquet as pq

from coverslip.errors import RequestError, StoreIncompleteError
from coverslip.workflows.evaluation.table import Table, label, numbers
from coverslip.workflows.outputs import read_result
from coverslip.workflows.result import SlideResult

WORKLIST = "worklist.parquet"
NO_ANSWER = "no reason given"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of one slide. None where nothing was; `why` says the reason.

    `names`: what the slide may be called. `by_class`: text of columns that may be those of classes.
    `triage`: whether the score is one, and so no probability.
    """

    slide: str
    names: tuple[str, ...]
    prediction: str | None
    score: float | None = None
    confidence: float | None = None
    by_class: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    why: str = ""
    triage: bool = False


@dataclass(frozen=True, slots=True)
class Truth:
    slide: str
    truth: str
    group: str


def answers_of_table(table: Table) -> list[Answer]:
    """One per row: the columns slide, and prediction, score, or one per class."""
    table.need("slide")
    _refuse_same_slide(table)
    scores, confidences = (_numbers(table, meaning) for meaning in ("score", "confidence"))
    return [
        Answer(
            slide=slide,
            names=(slide,),
            prediction=label(prediction) or None,
            score=score,
            confidence=confidence,
            by_class={label(name): row[name] for name in table.others},
            why=why,
        )
        for slide, prediction, score, confidence, why, row in zip(
            table.cells("slide"),
            table.cells("prediction"),
            scores,
            confidences,
            table.cells("why"),
            table.rows,
            strict=True,
        )
    ]


def truths_of_table(table: Table, group: str | None) -> tuple[list[Truth], str]:
    """One per row, and what a group is: the group's column's name, or "slide".

    `group`: its column; by default one that is called so. Rows whose truth is empty are given too.
    """
    table.need("slide", "truth")
    _refuse_same_slide(table)
    column = group or table.column("group")
    slides = table.cells("slide")
    groups = table.cells_of(column) if column else slides
    if missing := [slide for slide, one in zip(slides, groups, strict=True) if not one]:
        raise RequestError(
            str(table.path),
            f"has no {column} for {', '.join(missing[:10])}",
            "fill it, or name another column with --group",
        )
    rows = zip(slides, table.cells("truth"), groups, strict=True)
    return [Truth(slide, label(truth), one) for slide, truth, one in rows], column or "slide"


def _numbers(table: Table, meaning: str) -> list[float | None]:
    return numbers(str(table.path), table.column(meaning) or meaning, table.cells(meaning))


def _refuse_same_slide(table: Table) -> None:
    seen: set[str] = set()
    twice = [slide for slide in table.cells("slide") if slide in seen or seen.add(slide)]
    if twice or "" in seen:
        what = f"names {', '.join(twice[:10])} twice" if twice else "has a row without a slide"
        raise RequestError(str(table.path), what, "keep one row per slide")


def is_results(path: Path) -> bool:
    return (path / WORKLIST).is_file()


def answers_of_folder(out: Path) -> list[Answer]:
    """Of what `coverslip run -o OUT` wrote: each slide's call and its triage score.

    A slide that failed, or whose result gives no call, is an answer without a prediction.
    """
    return [_answer_of_result(row, result) for row, result in results_of(out)]


def results_of(out: Path) -> list[tuple[dict[str, str], SlideResult | None]]:
    """Each line of the worklist, and the slide's result where it has one that is whole."""
    try:
        rows = pq.read_table(out / WORKLIST, columns=["id", "path", "summary", "result"]).to_pylist()
    except (OSError, ValueError) as error:
        raise StoreIncompleteError(
            str(out / WORKLIST), f"cannot be read ({error})", "run again: it continues"
        ) from error
    if not rows:
        raise RequestError(str(out), "holds no slides", "name a folder that coverslip run wrote")
    return [_read(out, row) for row in rows]


def _read(out: Path, row: dict[str, str]) -> tuple[dict[str, str], SlideResult | None]:
    if not row["result"]:
        return row, None
    try:
        return row, read_result(out / "slides" / row["id"])
    except StoreIncompleteError as error:
        return {**row, "summary": f"its result {error.problem}"}, None


def _answer_of_result(row: Mapping[str, str], result: SlideResult | None) -> Answer:
    names = (row["id"], row["path"])
    if result is None:
        return Answer(row["id"], names, None, why=f"failed: {row['summary']}", triage=True)
    call = result.call
    if call is None:
        return Answer(row["id"], names, None, why=_why(result), triage=True)
    return Answer(
        slide=row["id"],
        names=names,
        prediction=None if call.category is None else label(call.category),
        score=call.triage,
        confidence=call.confidence,
        why="" if call.category is not None else call.text,
        triage=True,
    )


def _why(result: SlideResult) -> str:
    said = "; ".join(one.why for one in result.abstentions)
    return said or (result.status if result.status != "done" else "its result gives no call")
