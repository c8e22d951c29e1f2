"""What a reviewer gave another class is seen in the picture of the signed report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from reviewed import excluded, write_run

from coverslip.workflows.review import marks
from coverslip.workflows.review.base import Base
from coverslip.workflows.review.case import open_case
from coverslip.workflows.review.corrections import Relabel
from coverslip.workflows.review.marks import marks_of
from coverslip.workflows.review.reviewer import Reviewer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("marks") / "out")


def called(base: Base, label: str) -> np.ndarray:
    assert base.cells is not None
    return np.flatnonzero(np.array(base.cells["class"].to_pylist()) == label)


def test_cells_of_another_class_are_ringed_in_its_colour(home: Path, monkeypatch) -> None:
    with open_case(home, Reviewer("Kim")) as case:
        base, cells = case.base, case.base.cells
        assert cells is not None
        assert marks_of(base, ()) == []
        negative = called(base, "negative")
        rows = np.sort(np.append(negative[-3:], called(base, "3+")[-1] if len(called(base, "3+")) else []))
        case.correct(Relabel(of="cells", rows=tuple(rows.astype(int).tolist()), label="3+"))
        ((name, colour, polygons),) = marks_of(base, case.corrections)
        assert (name, colour) == ("3+, as the reviewer says: 3 cells", "#d55e00")
        shape = shapely.union_all([shapely.Polygon(rings[0]) for rings in polygons])
        places = [shapely.Point(cells["x"][int(n)].as_py(), cells["y"][int(n)].as_py()) for n in negative]
        assert [shape.contains(place) for place in places] == [False] * (len(negative) - 3) + [True] * 3

        monkeypatch.setattr(marks, "MOST", 1)
        assert len(marks_of(base, case.corrections)[0][2]) <= 3, "as many as there are places for"
        case.correct(Relabel(of="cells", rows=(int(negative[0]),), label="1+"))
        case.correct(excluded())
        assert [name for name, *_ in marks_of(base, case.corrections)] == [name], "the first lies there"

        page = (case.sign("final", "") / "report.html").read_text()
    assert f"<title>{name}</title>" in page
    assert 'class="drawn" fill="#d55e00"' in page
