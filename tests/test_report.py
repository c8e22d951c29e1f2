"""The report: a view of the result that says the same, needs nothing else, and trusts no text."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from browser import Tab, chromium
from hypothesis import given
from hypothesis import strategies as st
from pages import EVIL, safe_page, walk
from PIL import ImageFile
from slides import corrupt_tiles, tissue, write_tiff

import coverslip
from coverslip.errors import MissingExtraError, RequestError
from coverslip.ruo import RUO
from coverslip.tiling.geojson import Feature, write_geojson
from coverslip.workflows import cli, pictures
from coverslip.workflows import deep_zoom as zooming
from coverslip.workflows.deep_zoom import DeepZoom, Layer, Outline, Place, deep_zoom
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.outputs import is_done, read_result, result_folders
from coverslip.workflows.pdf import write_pdf
from coverslip.workflows.report import format_interval, format_value, render_report, write_report_again
from coverslip.workflows.result import (
    Abstention,
    Call,
    Finding,
    GuidelineUse,
    Interval,
    Measurement,
    SlideResult,
    TileReference,
)
from coverslip.wsi import open_slide

STORED = Path(__file__).with_name("stored")


def stored(name: str) -> SlideResult:
    return SlideResult.model_validate_json((STORED / f"slide-result-1-{name}.json").read_text())


NAME = "\"><img src=x onerror=alert(1)><script>alert('2')<script>.tif"
SIZE = (1400, 1100)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run over a slide with a hostile name, case and stain, and a damaged tile."""
    folder = tmp_path_factory.mktemp("report")
    path = write_tiff(folder / NAME, tissue(*SIZE), 0.5, tile=128)
    corrupt_tiles(path, [40])
    (folder / "s.csv").write_text(
        f'wsi,mpp,case,stain\n"{NAME.replace(chr(34), chr(34) * 2)}",0.5,<b>C</b>,<i>Ki\n'
    )
    report = coverslip.run([str(path)], folder / "out", Ihc(), slides_csv=folder / "s.csv", workers=1)
    assert report.failures == ()
    (home,) = (folder / "out" / "slides").iterdir()
    return home


@pytest.fixture
def done(home: Path) -> tuple[SlideResult, str]:
    return read_result(home), (home / "report.html").read_text(encoding="utf-8")


# Where the slide has tissue; the last is at its rim.
TILES = ((300, 300, 128), (700, 400, 128), (350, 800, 40), (1380, 1080, 64))


def called(home: Path) -> SlideResult:
    """The real result, with a call, findings with places, and a guideline as a workflow would give them."""
    tiles = [TileReference(x=x, y=y, width=w, height=w, score=0.9) for x, y, w in TILES]
    return read_result(home).model_copy(
        update={
            "call": Call(category="HSIL", text="seen", confidence=0.83, triage=0.91, urgency="urgent"),
            "findings": (
                Finding(name="HSIL", text="three cells", confidence=0.8, tiles=tuple(tiles[:3])),
                Finding(name="rim", text="one cell", tiles=tuple(tiles[3:])),
                Finding(name="nowhere", text="no cell"),
            ),
            "guidelines": (
                GuidelineUse(
                    name="Bethesda",
                    version="2014",
                    source="a book",
                    cut_offs={"least_cells": 5000, "share": [0.1, 0.2]},
                    unverified=("least_cells",),
                ),
            ),
            "abstentions": (Abstention(what="adequacy", why="scant"),),
        }
    )


def zoom_of(home: Path, result: SlideResult) -> DeepZoom:
    store = home / "slide.ome.zarr"
    with open_slide(store) as slide:
        return deep_zoom(result, slide, store, home / "annotations.geojson")


@pytest.fixture(scope="module")
def shown(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `called`."""
    result = called(home)
    page = tmp_path_factory.mktemp("shown") / "report.html"
    page.write_text(render_report(result, zoom_of(home, result)), encoding="utf-8")
    return page


def test_a_real_report_is_one_sound_page_that_needs_nothing(done: tuple[SlideResult, str]) -> None:
    page = safe_page(done[1])
    assert done[1].startswith("<!doctype html>")
    assert page.tags.count("html") == page.tags.count("body") == page.tags.count("h1") == 1
    assert page.text.count(RUO) == 2


def test_a_hostile_name_is_shown_as_the_text_it_is(done: tuple[SlideResult, str]) -> None:
    result, html = done
    page = safe_page(html)
    assert NAME in page.text
    assert "<b>C</b>" in page.text
    assert "<i>Ki" in page.text
    assert not {"b", "i"} & set(page.tags)
    assert result.slide.path.endswith(NAME)


@pytest.mark.parametrize("name", ["ihc", "tiles"])
def test_no_text_of_a_result_becomes_markup(name: str) -> None:
    """Every string of the document is hostile, wherever it is from."""

    def poison(value: object, key: str = "") -> object:
        if key == "derived" and isinstance(value, dict):
            value = {**value, EVIL: EVIL}
        if isinstance(value, dict):
            return {inner: poison(item, inner) for inner, item in value.items()}
        if isinstance(value, list):
            return [poison(item, key) for item in value]
        return (
            value + EVIL
            if isinstance(value, str) and key not in {"schema_name", "status", "urgency"}
            else value
        )

    document = json.loads((STORED / f"slide-result-1-{name}.json").read_text())
    document["guidelines"] = [called_guideline()]
    document["call"] = {"category": "a", "text": "b", "code": "c"}
    document["abstentions"] = [{"what": "d", "why": "e"}]
    result = SlideResult.model_validate(poison(document))
    frame = (0.0, 0.0, 1.0, 1.0)
    address = pictures.data_uri(pictures.jpeg(np.zeros((4, 4, 3), np.uint8), 80))
    tile = TileReference(x=0, y=0, width=1, height=1, score=1)
    zoom = DeepZoom(
        width=4,
        height=4,
        um=(1, 1),
        address=address,
        layers=(Layer(EVIL, EVIL, address, frame, True, 1, ((EVIL, "#000000"),)),),
        outlines=(Outline(EVIL, "#000000", "M0 0z"),),
        places=tuple(Place(n + 1, n, tile, frame, frame, address) for n in range(len(result.findings))),
    )
    page = safe_page(render_report(result, zoom))
    assert page.text.count(EVIL) > 20
    assert page.tags.count("script") == 2


def called_guideline() -> dict:
    return {"name": "n", "version": "v", "source": "s", "cut_offs": {"a": "b"}, "unverified": ["a"]}


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


def test_pictures_are_no_larger_than_stated(home: Path) -> None:
    sizes = [picture.size for picture in walk((home / "report.html").read_text()).images]
    assert sizes
    assert max(max(size) for size in sizes) <= pictures.LONGEST


def test_the_page_stays_small_whatever_is_on_the_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of noise, which does not compress: less quality, then fewer pictures, never more bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    monkeypatch.setattr(pictures, "_read", lambda slide, box: noise)
    for most in (400_000, 120_000, 30_000):
        monkeypatch.setattr(pictures, "CROPS_BYTES", most)
        made = pictures.crop_pictures(None, [(0, 0, 256, 256)] * 5)  # pyright: ignore[reportArgumentType]
        assert 0 < sum(map(len, made)) <= most
        assert (len(made) == 5) == (most > 30_000)
    whole, crops = pictures.WHOLE_BYTES, 1_900_000
    assert (whole + crops) * 4 / 3 + 10 * zooming.MOST_POINTS < 6_000_000


def test_outlines_are_drawn_roughly_where_there_are_too_many_points(tmp_path: Path) -> None:
    turns = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = np.stack([500 + 400 * np.cos(turns), 500 + 400 * np.sin(turns) + 9 * np.sin(40 * turns)], axis=1)
    file = tmp_path / "a.geojson"
    write_geojson(file, [Feature(((ring,),), "Tumour", (200, 0, 0))])
    (fine,) = zooming._outlines(zooming.read_annotations(file), (1.0, 1.0))
    assert (fine.name, fine.colour) == ("Tumour", "#c80000")
    limit = zooming.MOST_POINTS
    try:
        zooming.MOST_POINTS = 30
        (rough,) = zooming._outlines(zooming.read_annotations(file), (1.0, 1.0))
    finally:
        zooming.MOST_POINTS = limit
    assert rough.path.count(" ") < 31 < 100 < fine.path.count(" ")


def test_places_lie_where_the_tiles_are(home: Path) -> None:
    result = called(home)
    zoom = zoom_of(home, result)
    assert (zoom.width, zoom.height) == SIZE
    assert [place.number for place in zoom.places] == [1, 2, 3, 4]
    assert [place.finding for place in zoom.places] == [0, 0, 0, 1]
    assert [place.frame for place in zoom.places] == [(x, y, w, w) for x, y, w in TILES]
    # 64 µm of glass at least, around the middle of the tile
    assert zoom.places[2].crop == (370 - 64, 820 - 64, 128, 128)
    page = walk(render_report(result, zoom))
    crops = [picture for picture in page.images if picture.size == (128, 128)]
    assert len(crops) == 4
    whole = next(page.images)
    x, y, side, _ = (int(v) for v in zoom.places[0].crop)
    expected = np.asarray(whole.crop((x, y, x + side, y + side)).convert("RGB"), float)
    assert np.abs(np.asarray(crops[0].convert("RGB"), float) - expected).mean() < 6


def test_a_small_picture_of_a_large_slide_keeps_places_in_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LONGEST", 350)
    zoom = zoom_of(home, called(home))
    assert (zoom.width, zoom.height) == (350, 275)
    assert zoom.um == (2.0, 2.0)
    assert zoom.places[0].frame == (75, 75, 32, 32)
    label = next(layer for layer in zoom.layers if layer.name == "nuclei")
    assert label.frame == pytest.approx((0, 0, 512, 256))


def test_the_call_the_guideline_and_what_is_unverified_are_said(shown: Path) -> None:
    page = safe_page(shown.read_text(encoding="utf-8"))
    for said in (
        "HSIL seen",
        "Confidence 83 %",
        "Triage score (0 to 1) 0.91",
        "adequacy : scant",
        "Bethesda (2014)",
        "least cells 5000 unverified",
        "share 0.1, 0.2 Unverified means",
        "three cells (confidence 80 %)",
    ):
        assert said in page.text, said


def test_rendered_again_a_report_has_the_same_bytes(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    written, document = (copy / "report.html").read_bytes(), (copy / "result.json").read_bytes()
    (copy / "report.html").unlink()
    assert cli.run(["report", str(copy)]) == 0
    assert RUO in capsys.readouterr().err
    assert (copy / "report.html").read_bytes() == written
    assert (copy / "result.json").read_bytes() == document


def test_without_any_pixels_a_report_has_the_numbers(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("slide.ome.zarr"))
    document = json.loads((copy / "result.json").read_text())
    document["slide"]["path"] = "/nowhere/slide.tif"
    document["outputs"].pop("slide.ome.zarr")
    (copy / "result.json").write_text(json.dumps(document))
    result = write_report_again(copy)
    page = safe_page((copy / "report.html").read_text())
    assert result.summary in page.text
    assert not {"img", "image", "script"} & set(page.tags)
    assert is_done(copy, result.provenance.request), "the report's digest follows"


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no result"):
        result_folders(tmp_path)


def test_what_is_not_evaluable_is_said_and_is_no_number(tmp_path: Path) -> None:
    rgb = np.full((800, 800, 3), 245, np.uint8)
    rgb[200:600, 200:600] = (225, 215, 205)  # evenly stained, faint: nothing stands out
    report = coverslip.run(
        [str(write_tiff(tmp_path / "even.tif", rgb, 0.5))], tmp_path / "out", Ihc(), workers=1
    )
    page = walk((tmp_path / "out/slides/even.tif/report.html").read_text())
    assert "positive nuclei not evaluable" in page.text
    assert "H-score not evaluable" in page.text
    abstentions = report.results[0].abstentions
    assert abstentions
    for abstention in abstentions:
        assert f"{abstention.what} : {abstention.why}" in page.text
    assert "None" not in page.text.split("Provenance")[0]


def test_blank_glass_has_a_report_without_measurements(tmp_path: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (600, 600, 3)).clip(0, 255).astype(np.uint8)
    coverslip.run([str(write_tiff(tmp_path / "b.tif", glass, 0.5))], tmp_path / "out", Ihc(), workers=1)
    page = safe_page((tmp_path / "out/slides/b.tif/report.html").read_text())
    assert "no tissue" in page.text
    assert "Measurements" not in page.text


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


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


def seen(tab: Tab) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what the viewer shows, in pixels of the slide's picture."""
    x, y, width, height = map(
        float, tab.run("document.getElementById('view').getAttribute('viewBox')").split()
    )
    return x, y, x + width, y + height


def holds(view: tuple[float, float, float, float], frame: tuple[float, float, float, float]) -> bool:
    x, y, width, height = frame
    return view[0] <= x and view[1] <= y and view[2] >= x + width and view[3] >= y + height


@pytest.fixture
def opened(tab: Tab, shown: Path) -> Tab:
    tab.size(1280, 900)
    # the page scrolls smoothly otherwise, and a test would have to wait
    tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    tab.open(shown)
    return tab


def test_in_a_browser_a_click_shows_the_place(opened: Tab, home: Path) -> None:
    places = zoom_of(home, called(home)).places
    whole = seen(opened)
    assert holds(whole, (0, 0, *SIZE))
    opened.click(".gallery a[data-place='2'] img")
    view = seen(opened)
    assert holds(view, places[1].frame)
    assert view[2] - view[0] < (whole[2] - whole[0]) / 3
    assert opened.run("location.hash") == "#place=2"
    assert opened.run("document.querySelector('.where').textContent") == "HSIL, place 2"
    assert 0 <= opened.run("document.getElementById('view').getBoundingClientRect().top") < 900
    opened.click("a[href='#finding=0']")
    assert all(holds(seen(opened), place.frame) for place in places[:3])
    opened.click(".pin[data-place='3']")
    assert holds(seen(opened), places[2].frame)
    assert opened.run("document.querySelectorAll('#frame rect.frame').length") == 2
    opened.click("[data-do=fit]")
    assert seen(opened) == pytest.approx(whole)
    assert opened.said == []


def test_in_a_browser_one_moves_by_drag_wheel_and_keys(opened: Tab) -> None:
    x, y = opened.place_of("#view")
    opened.wheel(x, y, -300)
    assert seen(opened) == pytest.approx(whole := seen(opened)), "the page scrolls until the slide is clicked"
    x, y = opened.place_of("#view")
    opened.press(x, y)
    opened.wheel(x, y, -300)
    near = seen(opened)
    assert near[2] - near[0] < (whole[2] - whole[0]) / 2
    opened.drag(x, y, x + 60, y + 30)
    moved = seen(opened)
    unit = (near[2] - near[0]) / opened.run("document.getElementById('view').clientWidth")
    assert moved[0] == pytest.approx(near[0] - 60 * unit)
    assert moved[1] == pytest.approx(near[1] - 30 * unit)
    opened.key("0")
    assert seen(opened) == pytest.approx(whole)
    opened.key("+")
    assert seen(opened)[2] < whole[2]
    opened.key("n")
    assert opened.run("location.hash") == "#place=1"
    assert opened.said == []


def test_in_a_browser_the_scale_bar_is_as_long_as_it_says(opened: Tab) -> None:
    for _ in range(2):
        said, width = opened.run(
            "[document.querySelector('.rule').textContent, document.querySelector('.rule span').offsetWidth]"
        )
        number, unit = said.split()
        left, _, right, _ = seen(opened)
        px = (right - left) / opened.run("document.getElementById('view').clientWidth")
        assert unit == "µm"
        assert float(number) == pytest.approx(width * px * 0.5, rel=0.03)
        opened.click("[data-do=in]")


def test_in_a_browser_overlays_are_switched_off_and_on(opened: Tab) -> None:
    opened.place_of("#view")
    full = np.asarray(opened.picture(), int)
    opened.run("document.querySelector('[data-layer=outlines]').click()")
    opened.run("document.querySelector('[data-layer=pins]').click()")
    opened.place_of("#view")
    bare = np.asarray(opened.picture(), int)
    green = (np.abs(full - (0, 160, 80)).sum(axis=2) < 12).sum()
    assert green > 300
    assert (np.abs(bare - (0, 160, 80)).sum(axis=2) < 12).sum() < green / 20


def test_in_a_browser_nothing_hostile_runs_and_nothing_is_fetched(tab: Tab, home: Path) -> None:
    tab.size(1280, 900)
    tab.open(home / "report.html", "#place=1")
    assert "onerror" in tab.run("document.title")
    assert tab.run("typeof window.evil") == "undefined"
    assert tab.said == []
    assert tab.fetched[0].startswith("file:")
    assert all(address.startswith("data:image/") for address in tab.fetched[1:])


def test_a_link_with_a_place_opens_there(tab: Tab, shown: Path, home: Path) -> None:
    tab.size(1280, 900)
    tab.open(shown, "#place=3")
    assert holds(seen(tab), zoom_of(home, called(home)).places[2].crop)
    tab.open(shown, "#place=99")
    assert holds(seen(tab), (0, 0, *SIZE))
    assert tab.said == []


def test_without_scripts_and_on_paper_the_page_shows_everything(tab: Tab, shown: Path) -> None:
    tab.size(1280, 900)
    tab.open(shown, script=False)
    assert not tab.run("document.documentElement.classList.contains('live')")
    assert tab.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    tab.place_of("#view")
    assert np.asarray(tab.picture()).std() > 20
    assert tab.pdf().startswith(b"%PDF")
    tab.open(shown, "#place=1")
    tab.ask("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert seen(tab) == (0, 0, *SIZE)
    tab.ask("Emulation.setEmulatedMedia", media="")


def test_on_a_phone_nothing_lies_beside_the_screen(tab: Tab, shown: Path) -> None:
    tab.size(390, 844, phone=True)
    tab.open(shown)
    assert tab.run("document.documentElement.scrollWidth") <= 390


def unpacked(pdf: bytes) -> bytes:
    """What its compressed streams hold."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    found = []
    for stream in streams:
        with suppress(zlib.error):
            found.append(zlib.decompress(stream))
    return b"\n".join(found)


def test_a_report_becomes_a_pdf_of_the_same_bytes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pictures, "LONGEST", 350)
    result = called(home)
    page = tmp_path / "report.html"
    page.write_text(render_report(result, zoom_of(home, result)), encoding="utf-8")
    try:
        write_pdf(page, tmp_path / "a.pdf")
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert not [said for said in caplog.messages if "No anchor" in said], "every link leads somewhere"
    assert not caplog.messages, "nothing of what is for screens alone"
    write_pdf(page, tmp_path / "b.pdf")
    first = (tmp_path / "a.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    assert first == (tmp_path / "b.pdf").read_bytes()
    assert len(first) > 30_000, "pictures are in it"
    links = re.findall(rb"/Link\b.{0,200}?/Dest \((.*?)\)", unpacked(first), re.DOTALL)
    assert len(links) >= 2, "places and findings are links"
    assert set(links) == {b"slide"}
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a damaged image would pass from now on"
    with pytest.raises(RequestError, match="no folder"):
        write_pdf(page, tmp_path / "nowhere" / "a.pdf")
