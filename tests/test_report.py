"""The report: a view of the result that says the same, needs nothing else, and trusts no text."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slides import corrupt_tiles, tissue, write_tiff

import coverslip
from coverslip.ruo import RUO
from coverslip.workflows.ihc import Ihc
from coverslip.workflows.outputs import read_result
from coverslip.workflows.pictures import GALLERY_PX, LONGEST, _at_most
from coverslip.workflows.report import Picture, format_interval, format_value, render_report
from coverslip.workflows.result import Interval, Measurement, SlideResult

STORED = Path(__file__).with_name("stored")
VOID = {"meta", "img", "br", "link", "input", "hr", "base", "source", "embed"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"


@dataclass
class Page(HTMLParser):
    """A page walked from end to end: every element closed in turn, its attributes and its text."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> Iterator[Image.Image]:
        for tag, name, value in self.attributes:
            if (tag, name) == ("img", "src"):
                yield Image.open(io.BytesIO(base64.b64decode(value.removeprefix("data:image/jpeg;base64,"))))


def walk(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == [], "elements are left open"
    return page


def stored(name: str) -> SlideResult:
    return SlideResult.model_validate_json((STORED / f"slide-result-1-{name}.json").read_text())


NAME = "\"><img src=x onerror=alert(1)><script>alert('2')<script>.tif"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideResult, str]:
    """A real run over a slide with a hostile name, case and stain, and a damaged tile."""
    folder = tmp_path_factory.mktemp("report")
    path = write_tiff(folder / NAME, tissue(1400, 1100), 0.5, tile=128)
    corrupt_tiles(path, [40])
    (folder / "s.csv").write_text(
        f'wsi,mpp,case,stain\n"{NAME.replace(chr(34), chr(34) * 2)}",0.5,<b>C</b>,<i>Ki\n'
    )
    report = coverslip.run([str(path)], folder / "out", Ihc(), slides_csv=folder / "s.csv", workers=1)
    assert report.failures == ()
    (home,) = (folder / "out" / "slides").iterdir()
    return read_result(home), (home / "report.html").read_text(encoding="utf-8")


def safe(html: str) -> Page:
    """Walked; and nothing in it runs, and nothing is fetched."""
    page = walk(html)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "action", "data", "srcset"}:
            assert value.startswith("data:image/jpeg;base64,"), (tag, name, value[:60])
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"url\(|@import|https?://", outside)
    return page


def test_a_real_report_is_one_sound_page_that_needs_nothing(done: tuple[SlideResult, str]) -> None:
    page = safe(done[1])
    assert done[1].startswith("<!doctype html>")
    assert page.tags.count("html") == page.tags.count("body") == page.tags.count("h1") == 1
    assert page.text.count(RUO) == 2


def test_a_hostile_name_is_shown_as_the_text_it_is(done: tuple[SlideResult, str]) -> None:
    result, html = done
    page = safe(html)
    assert NAME in page.text
    assert "<b>C</b>" in page.text
    assert "<i>Ki" in page.text
    assert not {"b", "i"} & set(page.tags)
    assert result.slide.path.endswith(NAME)


@pytest.mark.parametrize("name", ["ihc", "tiles"])
def test_no_text_of_a_result_becomes_markup(name: str) -> None:
    """Every string of the document is hostile, wherever it is from."""

    def poison(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {inner: poison(item, inner) for inner, item in value.items()}
        if isinstance(value, list):
            return [poison(item, key) for item in value]
        return value + EVIL if isinstance(value, str) and key not in {"schema_name", "status"} else value

    document = json.loads((STORED / f"slide-result-1-{name}.json").read_text())
    result = SlideResult.model_validate(poison(document))
    picture = Picture(np.zeros((4, 4, 3), np.uint8), EVIL)
    galleries = {finding.name: [picture] for finding in result.findings}
    page = safe(render_report(result, [picture], galleries))
    assert EVIL in page.text


def test_the_numbers_are_those_of_the_result(done: tuple[SlideResult, str]) -> None:
    result, html = done
    page = walk(html)
    assert result.summary in page.text
    for measurement in result.measurements:
        line = f"{measurement.name} {format_value(measurement)} {format_interval(measurement)}".strip()
        assert line in page.text
        assert measurement.value is not None
        shown = float(format_value(measurement).split()[0])
        assert shown == pytest.approx(measurement.value, rel=0.005)
    quality = result.quality
    assert f"{quality.tissue_area_mm2:.3g} mm²" in page.text
    assert f"{quality.tiles} tiles looked at" in page.text
    assert 0 < quality.damaged_slide_fraction < 0.05
    assert (
        f"{100 * quality.damaged_slide_fraction:.2f} % of the whole slide are missing or corrupt" in page.text
    )
    for fact in (result.slide.digest, result.provenance.request, f"{result.slide.bytes} bytes"):
        assert fact in page.text


def test_pictures_are_no_larger_than_stated(done: tuple[SlideResult, str]) -> None:
    sizes = [picture.size for picture in walk(done[1]).images]
    assert sizes
    assert max(max(size) for size in sizes) <= LONGEST
    assert len(done[1]) < 4_000_000


def test_the_tiles_of_a_finding_are_shown(tmp_path: Path) -> None:
    result = stored("tiles")
    galleries = {
        finding.name: [
            Picture(np.zeros((GALLERY_PX, GALLERY_PX, 3), np.uint8), f"{tile.score:.2f}")
            for tile in finding.tiles
        ]
        for finding in result.findings
    }
    page = walk(render_report(result, [], galleries))
    assert len(list(page.images)) == sum(len(finding.tiles) for finding in result.findings) > 0
    assert all(picture.size == (GALLERY_PX, GALLERY_PX) for picture in page.images)
    for finding in result.findings:
        assert f"{finding.name} : {finding.text}" in page.text


def test_what_is_not_evaluable_is_said_and_is_no_number(tmp_path: Path) -> None:
    rgb = np.full((800, 800, 3), 245, np.uint8)
    rgb[200:600, 200:600] = (225, 215, 205)  # evenly stained, faint: nothing stands out
    report = coverslip.run(
        [str(write_tiff(tmp_path / "even.tif", rgb, 0.5))], tmp_path / "out", Ihc(), workers=1
    )
    page = walk((tmp_path / "out/slides/even.tif/report.html").read_text())
    assert "positive nuclei not evaluable" in page.text
    assert "H-score not evaluable" in page.text
    (abstention,) = report.results[0].abstentions
    assert f"{abstention.what} : {abstention.why}" in page.text
    assert "None" not in page.text.split("Provenance")[0]


def test_blank_glass_has_a_report_without_measurements(tmp_path: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (600, 600, 3)).clip(0, 255).astype(np.uint8)
    coverslip.run([str(write_tiff(tmp_path / "b.tif", glass, 0.5))], tmp_path / "out", Ihc(), workers=1)
    page = safe((tmp_path / "out/slides/b.tif/report.html").read_text())
    assert "no tissue" in page.text
    assert "Measurements" not in page.text


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((1, 3000), (1, LONGEST)),
        ((3000, 1), (LONGEST, 1)),
        ((2000, 1000), (1000, 500)),
        ((40, 30), (40, 30)),
    ],
)
def test_pictures_are_made_small_but_never_nothing(shape: tuple[int, int], small: tuple[int, int]) -> None:
    assert _at_most(np.zeros((*shape, 3), np.uint8)).shape == (*small, 3)


@given(st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-12))
def test_a_shown_number_is_the_number_to_one_in_a_hundred(value: float) -> None:
    shown = format_value(Measurement(name="a", value=value, unit="%", method="m"))
    number, unit = shown.split(" ")
    assert unit == "%"
    assert float(number) == pytest.approx(value, rel=0.06 if abs(value) < 0.001 else 0.05)
    assert (float(number) == 0) == (value == 0)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "%", "not evaluable"),
        (0.0, "%", "0 %"),
        (17.966, "%", "17.97 %"),
        (182.04, "1", "182.0"),
        (7982.05, "/mm2", "7982.1 per mm²"),
        (0.0271, "mm2", "0.0271 mm²"),
        (0.0000271, "mm2", "2.7e-05 mm²"),
        (1180, "1", "1180"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float | None, unit: str, shown: str) -> None:
    assert format_value(Measurement(name="a", value=value, unit=unit, method="m")) == shown


def test_an_interval_says_its_level_and_method() -> None:
    interval = Interval(low=15.88, high=20.26, level=0.95, method="Wilson")
    measurement = Measurement(name="a", value=18, unit="%", method="m", interval=interval)
    assert format_interval(measurement) == "15.9 to 20.3 (95 % Wilson)"
    assert format_interval(measurement.model_copy(update={"interval": None})) == ""
