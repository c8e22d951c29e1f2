"""`coverslip evaluate` as it is typed: what it reads, writes and says."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from coverslip.ruo import RUO
from coverslip.workflows.cli import run
from coverslip.workflows.evaluation.document import SCHEMA_VERSION, Evaluation, schema_text
from coverslip.workflows.files import write_json, write_table
from coverslip.workflows.result import Call, Finding, SlideResult, TileReference

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "tests/stored/slide-result-1-tiles.json"


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def said(*arguments: object) -> tuple[int, str, str]:
        code = run(["evaluate", *map(str, arguments)])
        written = capsys.readouterr()
        return code, written.out, written.err

    return said


def read(folder: str) -> dict[str, Any]:
    """The document, which fits the published schema."""
    document = json.loads(Path(folder, "evaluation.json").read_text(), parse_constant=pytest.fail)
    published = json.loads((ROOT / f"docs/schema/evaluation-{SCHEMA_VERSION}.json").read_text())
    jsonschema.validate(document, published, jsonschema.Draft202012Validator)
    Evaluation.model_validate(document)
    return document


def figures(document: dict[str, Any], which: str = "figures") -> dict[str, float | None]:
    return {figure["name"]: figure["value"] for figure in document[which]}


def test_the_published_schema_is_that_of_the_model() -> None:
    """Write it anew: python -m coverslip.workflows.evaluation.document > docs/schema/evaluation-1.json"""
    assert (ROOT / f"docs/schema/evaluation-{SCHEMA_VERSION}.json").read_text() == schema_text()


BINARY = """slide,patient,truth,prediction,score,why
a.svs,p1,tumour,tumour,0.9,
b.svs,p1,normal,normal,0.2,
c.svs,p2,tumour,normal,0.4,
d.svs,p2,normal,normal,0.1,
e.svs,p3,tumour,tumour,0.8,
f.svs,p3,normal,tumour,0.6,
<script>g,p4,tumour,,,too little tissue & <b>blurred</b>
"""


def test_a_table_gives_a_document_a_page_and_plots(say, tmp_path: Path) -> None:
    Path("a.csv").write_text(BINARY)
    code, out, err = say("a.csv", "--positive", "tumour", "-o", "report", "--specificity", "0.6")
    assert (code, err.strip()) == (0, RUO)
    document = read("report")
    assert document["notice"] == RUO
    assert (document["schema_name"], document["schema_version"]) == ("coverslip.evaluation", 1)
    assert (document["slides"], document["answered"], document["groups"], document["unit"]) == (
        7,
        6,
        4,
        "patient",
    )
    (missing,) = document["unanswered"]
    assert missing["why"] == "too little tissue & <b>blurred</b>"
    assert "not answered: <script>g (tumour): too little tissue" in out
    found, counted = figures(document), figures(document, "counting_unanswered")
    assert (found["accuracy"], counted["accuracy"]) == (pytest.approx(4 / 6), pytest.approx(4 / 7))
    assert (found["AUC"], counted["AUC"]) == (pytest.approx(8 / 9), pytest.approx(8 / 12))
    assert found["sensitivity at specificity 0.6"] == 1
    assert document["confusion"]["counts"] == [[2, 1, 0], [1, 2, 1]]
    assert document["calibration"]["bins"]
    files = {path.name for path in Path("report").iterdir()}
    assert files == {"evaluation.json", "evaluation.html", "confusion.svg", "roc.svg", "calibration.svg"}
    for name in files:
        assert RUO in Path("report", name).read_text()
    page = Path("report/evaluation.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert not re.findall(r"(?:src|href|url)\s*[=(]", page)
    for name in ("confusion", "roc", "calibration"):
        plot = Path(f"report/{name}.svg").read_text()
        ET.fromstring(plot)  # noqa: S314 - our own text
        assert plot.strip() in page
    points = ET.parse("report/roc.svg").getroot().find("{*}polyline")  # noqa: S314 - our own text
    assert points is not None
    assert points.get("points", "").startswith("60.0,420.0 ")
    assert points.get("points", "").endswith(" 420.0,60.0")


def test_the_same_request_gives_the_same_bytes(say) -> None:
    Path("a.csv").write_text(BINARY)
    for folder in ("one", "two"):
        assert say("a.csv", "--positive", "tumour", "-o", folder)[0] == 0
    for path in Path("one").iterdir():
        assert path.read_bytes() == Path("two", path.name).read_bytes()
    code, _, err = say("a.csv", "--positive", "tumour", "-o", "one")
    assert code == 2
    assert "--overwrite" in err


def test_grades_in_parquet_and_truth_in_another_file(say) -> None:
    """The reference value of quadratic kappa; floats with empty cells, as pandas writes grades."""
    said = [0.0, 2.0, 2.0, 3.0, 4.0, 4.0, None]
    ids = [f"s{number}.tif" for number in range(7)]
    pq.write_table(pa.table({"id": ids, "prediction": said}), "p.parquet")
    lines = [f"s{number},{number}" for number in range(6)]
    Path("t.csv").write_text("\n".join(["slide,truth", *lines, "s6,", "s7,5"]) + "\n")
    assert say("p.parquet", "--truth", "t.csv", "-o", "report")[0] == 0
    document = read("report")
    assert figures(document)["quadratic weighted kappa"] == pytest.approx(0.931034, abs=5e-7)
    assert document["without_truth"] == ["s6.tif"]
    assert [one["slide"] for one in document["unanswered"]] == ["s7"]
    assert document["unanswered"][0]["why"] == "no prediction"
    assert figures(document, "counting_unanswered")["quadratic weighted kappa"] < 0.6


def test_what_is_undefined_is_not_evaluable(say) -> None:
    Path("a.csv").write_text("slide,truth,prediction,score\na,0,0,0.1\nb,0,0,0.7\nc,0,,\n")
    code, out, _ = say("a.csv", "-o", "report")
    document = read("report")
    assert code == 0
    for name in ("AUC", "Cohen's kappa", "quadratic weighted kappa", "sensitivity at specificity 0.95"):
        assert figures(document)[name] is None
    assert "roc.svg" not in {path.name for path in Path("report").iterdir()}
    assert "not evaluable" in out
    assert all(one["note"] for one in document["figures"] if one["value"] is None)


def test_a_column_per_class(say) -> None:
    rows = [
        "slide,truth,x,y,z",
        "a,x,0.7,0.2,0.1",
        "b,y,0.2,0.5,0.3",
        "c,z,0.5,0.1,0.4",
        "d,z,,,",
        "e,y,0.1,0.8,0.1",
    ]
    Path("a.csv").write_text("\n".join(rows) + "\n")
    assert say("a.csv", "-o", "report")[0] == 0
    document = read("report")
    found = figures(document)
    assert found["accuracy"] == 0.75
    assert (found["AUC, x"], found["AUC, mean of classes"]) == (1, 1)
    assert found["expected calibration error"] is not None
    assert {curve["name"] for curve in document["curves"]} == {"x", "y", "z"}
    assert [one["slide"] for one in document["unanswered"]] == ["d"]


# results


def stored_result(id: str, **changes: Any) -> SlideResult:
    result = SlideResult.model_validate_json(STORED.read_text())
    slide = result.slide.model_copy(update={"id": id, "path": f"/slides/{id}"})
    return result.model_copy(update={"slide": slide, **changes})


def write_results(out: Path, results: dict[str, SlideResult | None]) -> None:
    rows = []
    for id, result in results.items():
        if result is not None:
            write_json(out / "slides" / id / "result.json", result.model_dump(mode="json"))
        rows.append(
            {
                "id": id,
                "path": f"/slides/{id}",
                "case": None,
                "status": result.status if result else "failed",
                "summary": "" if result else "the file is cut off",
                "result": f"slides/{id}/result.json" if result else None,
            }
        )
    write_table(out / "worklist.parquet", pa.Table.from_pylist(rows), "coverslip.worklist/1")


def call(category: str | None, triage: float, confidence: float | None = None) -> Call:
    return Call(category=category, text="blurred", triage=triage, confidence=confidence)


def test_a_folder_of_results_with_slides_that_failed_or_abstained(say, tmp_path: Path) -> None:
    results = {
        "a.svs": stored_result("a.svs", call=call("NILM", 0.1, 0.9)),
        "b.svs": stored_result("b.svs", call=call("HSIL", 0.9, 0.8)),
        "c.svs": stored_result("c.svs", call=call(None, 0.5)),
        "d.svs": None,
    }
    write_results(tmp_path / "out", results)
    Path("t.csv").write_text("slide,case,truth\na,1,NILM\nb,2,HSIL\nc,3,NILM\nd,3,HSIL\n")
    options = ("--truth", "t.csv", "--order", "NILM,LSIL,HSIL", "--positive", "LSIL,HSIL")
    assert say("out", *options, "-o", "report")[0] == 0
    document = read("report")
    assert {one["slide"]: one["why"] for one in document["unanswered"]} == {
        "c": "blurred",
        "d": "failed: the file is cut off",
    }
    found, counted = figures(document), figures(document, "counting_unanswered")
    assert (found["accuracy"], counted["accuracy"]) == (1, 0.5)
    assert (found["AUC"], counted["AUC"]) == (1, 0.5)
    # of the confidence of the calls: 0.9 and 0.8, both right
    assert found["expected calibration error"] == pytest.approx(0.15)
    assert say("out")[0] == 2
    write_results(
        tmp_path / "none",
        {id: result and result.model_copy(update={"call": None}) for id, result in results.items()},
    )
    code, _, err = say("none", "--truth", "t.csv")
    assert code == 2
    assert "a workflow that calls slides" in err


def test_a_result_that_is_gone_is_a_slide_not_answered(say, tmp_path: Path) -> None:
    results = {
        id: stored_result(id, call=call(category, 0.5))
        for id, category in (("a", "x"), ("b", "y"), ("c", "x"))
    }
    write_results(tmp_path / "out", {**results})
    Path("out/slides/b/result.json").unlink()
    Path("t.csv").write_text("slide,truth\na,x\nb,y\nc,x\n")
    code, out, _ = say("out", "--truth", "t.csv")
    assert code == 0
    assert "not answered: b (y): failed: its result has no result.json" in out


# FROC


def squares(path: str, *places: tuple[int, int, int]) -> None:
    """GeoJSON squares by left, top and side in level-0 pixels."""
    rings = [[[x, y], [x + s, y], [x + s, y + s], [x, y + s], [x, y]] for x, y, s in places]
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings]
    Path(path).write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def mask(*places: tuple[int, int, int]) -> np.ndarray:
    """The same at level 5 of a slide of 20,480 pixels."""
    pixels = np.zeros((640, 640), np.uint8)
    for x, y, side in places:
        pixels[y // 32 : (y + side) // 32, x // 32 : (x + side) // 32] = 255
    return pixels


LESIONS = (3200, 3200, 1920), (12800, 12800, 1920)
GOLDEN = (
    "slide,x,y,score\nt.tif,4000,4000,0.9\nt.tif,13000,13000,0.6\nt.tif,16000,3000,0.7\nn.tif,500,500,0.8\n"
)


@pytest.mark.parametrize("form", ["geojson", "png", "tif"])
def test_froc_has_the_reference_values_whatever_marks_the_lesions(say, form: str) -> None:
    if form == "geojson":
        squares("t.geojson", *LESIONS)
    elif form == "png":
        Image.fromarray(mask(*LESIONS)).save("t.png")
    else:
        with tifffile.TiffWriter("t.tif") as file:
            full = np.kron(mask(*LESIONS), np.ones((8, 8), np.uint8))
            options: dict[str, Any] = {"compression": "deflate", "tile": (256, 256)}
            file.write(full, subifds=2, **options)
            file.write(full[::4, ::4], subfiletype=1, **options)
            file.write(full[::8, ::8], subfiletype=1, **options)
    Path("l.csv").write_text(f"slide,lesions\nt,t.{form}\nn,\n")
    Path("d.csv").write_text(GOLDEN)
    scale = {"geojson": (), "png": ("--mask-downsample", 32), "tif": ("--mask-downsample", 8)}[form]
    if form == "tif":
        # The levels say how much smaller they are: here the slide is a quarter as wide at 4 times the µm/px.
        lines = [line.split(",") for line in GOLDEN.splitlines()[1:]]
        small = [f"{slide},{int(x) // 4},{int(y) // 4},{score}" for slide, x, y, score in lines]
        Path("d.csv").write_text("\n".join(["slide,x,y,score", *small]) + "\n")
    mpp = 0.243 * (4 if form == "tif" else 1)
    code, out, _ = say("d.csv", "--lesions", "l.csv", "--mpp", mpp, *scale, "-o", "report")
    assert code == 0
    document = read("report")
    assert figures(document)["FROC score"] == pytest.approx(0.5)
    assert document["evaluator"].startswith("CAMELYON16, as the official script")
    assert document["evaluator"] in out
    assert document["detections"][0] == {
        "slide": "t",
        "group": "t",
        "answered": True,
        "lesions": 2,
        "found": 2,
        "isolated": 0,
        "false_positives": 1,
    }
    assert (document["slides"], document["answered"]) == (2, 2)
    page = Path("report/evaluation.html").read_text()
    assert document["evaluator"] in page
    assert page.count("<circle") == 6


def test_froc_with_the_lowest_threshold_says_so(say) -> None:
    squares("t.geojson", *LESIONS)
    Path("l.csv").write_text("slide,lesions\nt,t.geojson\nn,\n")
    Path("d.csv").write_text(GOLDEN)
    assert say("d.csv", "--lesions", "l.csv", "--mpp", 0.243, "--lowest-threshold", "-o", "report")[0] == 0
    document = read("report")
    assert figures(document)["FROC score"] == pytest.approx(5 / 6)
    assert (
        document["evaluator"] == "CAMELYON16 with the lowest threshold, which the official script leaves out"
    )


def test_froc_of_camelyons_files_and_a_slide_without_one(say) -> None:
    """Lines of score,x,y; an empty file is a slide in which nothing was found, none is one not answered."""
    squares("t.geojson", *LESIONS)
    Path("l.csv").write_text("slide,lesions\nt.tif,t.geojson\nn.tif,\nempty.tif,\ngone.tif,t.geojson\n")
    Path("found").mkdir()
    Path("found/t.csv").write_text("0.9,4000,4000\n0.6,13000,13000\n0.7,16000,3000\n")
    Path("found/n.csv").write_text("0.8,500,500\n")
    Path("found/empty.csv").write_text("")
    code, out, _ = say("found", "--lesions", "l.csv", "--mpp", 0.243, "-o", "report")
    assert code == 0
    document = read("report")
    assert [one["slide"] for one in document["unanswered"]] == ["gone.tif"]
    assert "gone.tif (2 lesions)" in out
    name = "sensitivity at 8 false positives per slide"
    assert figures(document)[name] == 0.5
    # All four slides have four lesions; two more that were missed bring the threshold 0, which is left out.
    assert figures(document, "counting_unanswered")[name] == 0.5
    assert figures(document, "counting_unanswered")["sensitivity at 0.25 false positives per slide"] == 0.25


def test_froc_of_results_takes_the_tiles_of_a_finding(say, tmp_path: Path) -> None:
    def finding(name: str, *places: tuple[int, int, float]) -> Finding:
        tiles = tuple(TileReference(x=x, y=y, width=256, height=256, score=score) for x, y, score in places)
        return Finding(name=name, text="", tiles=tiles)

    shown = finding("tumour", (4000, 4000, 0.9), (13000, 13000, 0.6), (16000, 3000, 0.7))
    results = {
        "t.svs": stored_result("t.svs", findings=(shown, finding("other", (0, 0, 1.0)))),
        "n.svs": stored_result("n.svs", findings=(finding("tumour", (500, 500, 0.8)),)),
        "failed.svs": None,
    }
    write_results(tmp_path / "out", results)
    squares("t.geojson", *LESIONS)
    Path("l.csv").write_text("slide,lesions\nt,t.geojson\nn,\nfailed,t.geojson\n")
    options = ("out", "--lesions", "l.csv", "--mpp", 0.243, "--finding", "tumour")
    assert say(*options, "-o", "report")[0] == 0
    document = read("report")
    assert figures(document)["FROC score"] == pytest.approx(0.5)
    assert figures(document, "counting_unanswered")["FROC score"] < 0.5
    assert document["unanswered"][0]["why"] == "failed: the file is cut off"


# what is refused


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("slide,truth,prediction\n", (), "has no rows"),
        ("", (), "has no rows"),
        ("name,truth\na,b\n", (), "lacks the column slide"),
        ("slide,prediction\na,b\n", (), "lacks the column truth"),
        ("slide,truth,prediction\na,x\n", (), "line 2 has 2 cells"),
        ("slide,truth,truth\na,x,y\n", (), "has the column truth twice"),
        ("slide,truth,prediction\na,x,x\na,y,y\n", (), "names a twice"),
        ("slide,truth,prediction\n,x,x\n", (), "a row without a slide"),
        ("slide,truth,score\na,0,high\nb,1,inf\n", (), "line 2: 'high'; line 3: 'inf'"),
        ("slide,truth,x\na,x,0.5\nb,y,0.5\n", (), "none for y"),
        ("slide,truth,prediction\na,x,x\nb,y,y\n", ("--group", "hospital"), "no column hospital"),
        ("slide,patient,truth,prediction\na,,x,x\nb,p,y,y\n", (), "has no patient for a"),
        ("slide,truth,prediction\na,x,x\nb,y,y\n", ("--mpp", "0.5"), "needs --lesions"),
        ("slide,truth,prediction\na,x,x\nb,y,y\n", ("--lesions", "a.csv"), "needs --mpp"),
        ("slide,x,y,score\na,1,1,-0.5\n", ("--lesions", "l.csv", "--mpp", "0.5"), "the score -0.5"),
        ("slide,x,y,score\na,1,,0.5\n", ("--lesions", "l.csv", "--mpp", "0.5"), "line 2 lacks"),
        ("slide,x,y,score\nz,1,1,0.5\n", ("--lesions", "l.csv", "--mpp", "0.5"), "none of the slides"),
        ("slide,x,y,score\na,1,1,0.5\n", ("--lesions", "no-file.csv", "--mpp", "0.5"), "cannot be read"),
        ("slide,x,y,score\na,1,1,0.5\n", ("--lesions", "no-scale.csv", "--mpp", "0.5"), "--mask-downsample"),
        ("slide,x,y,score\na,1,1,0.5\n", ("--lesions", "no-mask.csv", "--mpp", "0.5"), "cannot be read"),
        ("slide,x,y,score\na,1,1,0.5\n", ("--lesions", "no-json.csv", "--mpp", "0.5"), "is no GeoJSON"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(say, text: str, options, problem: str) -> None:
    Path("a.csv").write_text(text)
    Path("l.csv").write_text("slide,lesions\na,\n")
    for name, file in (
        ("no-file", "x.png"),
        ("no-scale", "m.png"),
        ("no-mask", "l.csv"),
        ("no-json", "j.json"),
    ):
        Path(f"{name}.csv").write_text(f"slide,lesions\na,{file}\n")
    Image.new("L", (8, 8)).save("m.png")
    Path("j.json").write_text("{}")
    code, out, err = say("a.csv", *options, "-o", "report")
    assert (code, out) == (2, "")
    assert problem in err
    assert "Traceback" not in err
    assert not Path("report").exists() or not any(Path("report").iterdir())


def test_a_folder_that_is_no_result_and_files_that_are_no_tables_are_refused(say, tmp_path: Path) -> None:
    Path("empty").mkdir()
    Path("binary.csv").write_bytes(b"\xff\xfe\0\x01")
    Path("binary.parquet").write_bytes(b"\xff\xfe\0\x01")
    for path in ("empty", "binary.csv", "binary.parquet"):
        code, _, err = say(path)
        assert code == 2
        assert path in err
