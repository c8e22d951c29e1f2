"""The worklist: what wants somebody first stands first, links lead to reports, no text becomes a command."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import EVIL, safe_page
from trees import contents

from coverslip.ruo import RUO
from coverslip.workflows.batch import BatchReport, Failure
from coverslip.workflows.batch_plots import FEWEST, batch_plots, limits
from coverslip.workflows.csv_table import STARTS, plain_cell, write_csv
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.job import Job, RunSettings
from coverslip.workflows.result import Call, SlideResult, Times
from coverslip.workflows.worklist import write_worklist
from coverslip.wsi import SlideRef

STORED = Path(__file__).with_name("stored") / "slide-result-1-ihc.json"
LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs"])


def result(name: str, call: Call | None = None, **changed: object) -> SlideResult:
    """A stored result under another name, with nothing left unanswered unless it is said."""
    whole = SlideResult.model_validate_json(STORED.read_text())
    slide = whole.slide.model_copy(update={"id": name})
    return whole.model_copy(update={"slide": slide, "call": call, "abstentions": (), **changed})


def job(out: Path, name: str, case: str | None = None) -> Job:
    return Job(
        name, SlideRef(f"/slides/{name}", None), str(out / "slides" / name), Ihc(), RunSettings(), case
    )


def listed(out: Path, results: list[SlideResult], failed: tuple[str, ...] = ()) -> list[dict]:
    """Written to `out`; the rows of the Parquet file."""
    out.mkdir(exist_ok=True)
    failures = tuple(
        Failure(f"/slides/{name}", "UnreadableSlideError", "is cut off", "copy") for name in failed
    )
    names = [*failed, *(one.slide.id for one in results)]
    write_worklist(out, [job(out, name) for name in names], BatchReport(tuple(results), failures))
    return pq.read_table(out / "worklist.parquet").to_pylist()


def test_what_is_urgent_stands_first_and_failed_slides_count_as_unevaluable(tmp_path: Path) -> None:
    calls = {
        "a routine": Call(category="NILM", text="", triage=0.4),
        "b routine, sooner": Call(category="NILM", text="", triage=0.6),
        "c attention": Call(category="ASC-US", text="", triage=0.99, urgency="attention"),
        "d unevaluable": Call(category=None, text="", triage=0.1, urgency="unevaluable"),
        "e urgent": Call(category="HSIL", text="", triage=0.7, urgency="urgent"),
        "f urgent, sooner": Call(category="SCC", text="", triage=0.9, urgency="urgent"),
        "g urgent, no score": Call(category="SCC", text="", urgency="urgent"),
    }
    rows = listed(tmp_path, [result(name, call) for name, call in calls.items()], ("failed",))
    assert [row["id"][0] for row in rows] == ["f", "e", "g", "d", "f", "c", "b", "a"]
    failed = next(row for row in rows if row["status"] == "failed")
    assert (failed["urgency"], failed["summary"], failed["report"]) == ("unevaluable", "is cut off", None)
    assert rows[1]["call"] == "HSIL"
    assert [row["triage"] for row in rows[:3]] == [0.9, 0.7, None]


@pytest.mark.parametrize(
    ("changed", "urgency"),
    [
        ({}, "routine"),
        ({"status": "no tissue"}, "unevaluable"),
        ({"abstentions": ({"what": "score", "why": "few"},)}, "attention"),
    ],
)
def test_without_a_call_what_was_not_answered_decides(tmp_path: Path, changed: dict, urgency: str) -> None:
    document = result("a").model_dump(mode="json") | changed
    (row,) = listed(tmp_path, [SlideResult.model_validate(document)])
    assert row["urgency"] == urgency


def test_all_three_files_say_the_same_and_carry_the_notice(tmp_path: Path) -> None:
    rows = listed(tmp_path, [result("alpha"), result("beta")], ("gamma",))
    with open(tmp_path / "worklist.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert list(lines[0])[:-1] == list(rows[0])
    assert list(lines[0])[-1] == RUO
    assert float(lines[1]["seconds"]) == rows[1]["seconds"] is not None
    page = safe_page((tmp_path / "worklist.html").read_text(encoding="utf-8"), links=True)
    assert page.text.count(RUO) == 2
    places = [page.text.index(f" {row['id']} ") for row in rows]
    assert places == sorted(places)
    schema = pq.read_schema(tmp_path / "worklist.parquet")
    assert schema.metadata[b"schema"] == b"coverslip.worklist/3"


def test_a_hostile_name_is_text_in_the_page_and_a_link_still_leads_there(tmp_path: Path) -> None:
    name = "a\"><script>x#?%20'<&"
    call = Call(category=EVIL, text=EVIL, code=EVIL, triage=0.5)
    listed(tmp_path, [result(name, call, summary=EVIL)])
    page = safe_page((tmp_path / "worklist.html").read_text(encoding="utf-8"), links=True)
    assert page.text.count(EVIL) >= 3
    (link,) = (value for tag, key, value in page.attributes if (tag, key) == ("a", "href"))
    assert unquote(link) == f"slides/{name}/report.html"
    assert not re.search(r'[<>"\'#?]', link)


def test_the_same_run_gives_the_same_bytes_times_apart(tmp_path: Path) -> None:
    first, later = (
        result("a", Call(category="b", text="c")),
        Times(started="2030-01-01T00:00:00Z", finished="2030-01-01T01:00:00Z"),
    )
    listed(tmp_path / "x", [first])
    listed(tmp_path / "y", [first])
    listed(tmp_path / "z", [first.model_copy(update={"times": later})])
    for name in ("worklist.html", "worklist.csv", "worklist.parquet"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()
        assert (tmp_path / "x" / name).read_bytes() != (tmp_path / "z" / name).read_bytes()
    assert contents(tmp_path / "x") == contents(tmp_path / "z")
    listed(tmp_path / "z", [result("a", Call(category="other", text="c"))])
    assert contents(tmp_path / "x") != contents(tmp_path / "z")


@given(st.text(LETTERS))
def test_no_cell_is_computed(text: str) -> None:
    shown = plain_cell(text)
    assert not shown.lstrip().startswith(STARTS) or shown == ""
    assert shown.removeprefix("'") == text.removeprefix("'") or shown == text


def test_a_csv_file_holds_no_formula_and_gives_numbers_back(tmp_path: Path) -> None:
    texts = ["=1+1", "@x", "\t=2", "-3", "+4", 'quote " comma ,', None, "plain", "＝1", " =5"]
    values = [-1.5, 0.1, 1e-12, -0.0, 1e300, 2.0, None, 3.25, 4.0, 5.0]
    table = pa.table({"text": texts, "value": pa.array(values, pa.float64())})
    assert write_csv(tmp_path / "a.csv", table.to_batches(), table.schema) == len(texts)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) if row["value"] else None for row in rows] == values
    for row, text in zip(rows, texts, strict=True):
        assert not row["text"].lstrip().startswith(STARTS)
        assert row["text"].removeprefix("'") == (text or "")


def test_limits_are_the_median_and_three_robust_spreads() -> None:
    values = np.random.default_rng(0).normal(10, 2, 20_000)
    found = limits(values)
    assert (found.low, found.median, found.high) == pytest.approx((4, 10, 16), abs=0.15)
    with_outliers = limits(np.concatenate([values, np.full(2_000, 1e6)]))
    assert with_outliers.high < 18


def drifting(number: int, stain: float) -> SlideResult:
    one = result(f"slide {number} <&", Call(category="a", text="b", triage=number / 20, confidence=0.5))
    quality = one.quality.model_copy(update={"artefacts": {"out_of_focus": 0.01 * (number % 3)}})
    derived = {"stain_off_plane": stain, "glass_colour": [240, 240, 239], "name": "x", "yes": True}
    return one.model_copy(
        update={"quality": quality, "provenance": one.provenance.model_copy(update={"derived": derived})}
    )


def test_a_slide_whose_stain_is_apart_is_marked_with_its_name() -> None:
    results = [drifting(number, 0.1 + 0.002 * (number % 5) + (number == 7)) for number in range(12)]
    plots = batch_plots(results)
    titles = [re.findall("<title>(.*?)</title>", plot)[0] for plot in plots]
    assert titles[:2] == ["triage score", "confidence"]
    assert {"out of focus, % of tissue", "stain off plane", "glass colour", "tissue, mm²"} <= set(titles)
    assert not {"name", "yes"} & set(titles)
    stain = plots[titles.index("stain off plane")]
    assert stain.count("<circle") == 1
    assert "slide 7 &lt;&amp;: 1.104" in stain
    assert "1 apart" in stain
    bars = re.findall(r"<title>(\d+)</title>", plots[0])
    assert sum(map(int, bars)) == 12


def test_few_slides_or_figures_have_no_plots() -> None:
    assert batch_plots([]) == []
    assert batch_plots([drifting(0, 0.1)] * (FEWEST - 1)) == []
    assert batch_plots([result("a")] * FEWEST), "and enough have"
