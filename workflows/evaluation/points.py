"""Where something was found: points with scores, per slide."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from coverslip.errors import RequestError
from coverslip.workflows.evaluation.answers import results_of
from coverslip.workflows.evaluation.table import Table, numbers


@dataclass(frozen=True, slots=True)
class Point:
    """A position in level-0 pixels and its score, 0 or more."""

    x: float
    y: float
    score: float


@dataclass(frozen=True, slots=True)
class Detections:
    """Of one slide. `points` None: the slide was not answered, and `why` says the reason."""

    slide: str
    names: tuple[str, ...]
    points: tuple[Point, ...] | None
    why: str = ""


def detections_of_table(table: Table) -> list[Detections]:
    """From the columns slide, x, y, score. A row with a slide only says that nothing was found there."""
    table.need("slide", "x", "y", "score")
    x, y, scores = (
        numbers(str(table.path), table.column(name) or name, table.cells(name))
        for name in ("x", "y", "score")
    )
    found: dict[str, list[Point]] = {}
    for line, (slide, *row) in enumerate(zip(table.cells("slide"), x, y, scores, strict=True), 2):
        points = found.setdefault(slide, [])
        if row != [None, None, None]:
            points.append(_point(str(table.path), line, *row))
    return [Detections(slide, (slide,), tuple(points)) for slide, points in found.items()]


def _point(subject: str, line: int, x: float | None, y: float | None, score: float | None) -> Point:
    if x is None or y is None or score is None:
        raise RequestError(subject, f"line {line} lacks x, y or score", "fill it, or leave all three empty")
    if score < 0:
        raise RequestError(
            subject, f"line {line} has the score {score:g}", "give scores of 0 or more: lesions begin at 0"
        )
    return Point(x, y, score)


def detections_of_folder(folder: Path) -> list[Detections]:
    """A csv file per slide, named as the slide, lines of score,x,y without a heading: CAMELYON16's form.

    An empty file says that nothing was found.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise RequestError(str(folder), "holds no csv files", "give one per slide, with lines of score,x,y")
    return [Detections(path.stem, (path.stem,), _read_plain(path)) for path in files]


def _read_plain(path: Path) -> tuple[Point, ...]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(str(path), f"cannot be read ({error})", "give a csv file in UTF-8") from error
    if wrong := [number for number, line in enumerate(lines, 1) if len(line) != 3]:
        raise RequestError(str(path), f"line {wrong[0]} is not score,x,y", "write it so, without a heading")
    cells = ([line[place].strip() for line in lines] for place in range(3))
    scores, x, y = (
        numbers(str(path), name, column) for name, column in zip(("score", "x", "y"), cells, strict=True)
    )
    return tuple(
        _point(str(path), number, *row) for number, row in enumerate(zip(x, y, scores, strict=True), 1)
    )


def detections_of_results(out: Path, finding: str | None) -> list[Detections]:
    """The middles of the tiles that show findings, with their scores; of one finding, or of all.

    A slide that failed, or whose result was not done, is not answered.
    """
    return [
        _of_result(row["id"], (row["id"], row["path"]), row["summary"], result, finding)
        for row, result in results_of(out)
    ]


def _of_result(id: str, names: tuple[str, str], summary: str, result, finding: str | None) -> Detections:
    if result is None:
        return Detections(id, names, None, f"failed: {summary}")
    if result.status != "done":
        return Detections(id, names, None, result.status)
    shown = [one for one in result.findings if finding in (None, one.name)]
    return Detections(
        id,
        names,
        tuple(
            Point(tile.x + tile.width / 2, tile.y + tile.height / 2, tile.score)
            for one in shown
            for tile in one.tiles
        ),
    )
