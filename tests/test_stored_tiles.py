"""Stored tiles show what OpenSlide shows, to the byte; damage costs what it costs the reader alone."""

from __future__ import annotations

import functools
import shutil
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
import tifffile
from contract import check_reader
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from slides import corrupt_tiles, tissue, truncate, write_svs, write_tiff, zero_tiles
from test_parity import by_openslide, is_whole
from vendors import write_bif, write_dicom, write_ndpi, write_philips, write_scn

from coverslip.wsi import Box, Pixels, Size, Slide, open_slide
from coverslip.wsi.dicom_stored import stored_level
from coverslip.wsi.jpeg import decode_jpeg, jpeg_frame, make_whole, segments, stated_colour
from coverslip.wsi.pixels import composite, place
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import decode, is_worth_it, read_box, scales_of

# File, and for each level what shows it: the (s)tored tiles, those of an area (o)ffset on the slide where a
# box lies inside it, or the (r)eader alone with the reason.
REAL = {
    "wsi/aperio-svs/CMU-1-Small-Region.svs": "s",
    "wsi/derived/cmu1_generic_pyramid.tif": "ssss",
    "wsi/derived/cmu1_jp2k_nompp.svs": "ss",
    "wsi/derived/cmu1_dicom_wsm/volume_2220x2967.dcm": "ssss",
    "wsi/dicom/openslide-boxes/boxes_0.dcm": "s",
    "wsi/dicom/wsi2dcm_jpeg.dcm": "s",
    "wsi/dicom/wsi2dcm_raw.dcm": "r",  # not compressed
    "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi": "ssssrrr",  # OpenSlide makes the last three from the fourth
    "wsi/tiff/boxes.tiff": "rrrr",  # deflate
    "wsi/tiff/test_orient1.tif": "rrr",  # grey
    "malformed/derived/gray8_tiled.tif": "rrr",
    "malformed/derived/rgba_tiled.tif": "rr",
    "malformed/derived/rgb16_tiled.tif": "r",
    "malformed/derived/planar_separate.tif": "r",
}
RGB = tissue(1100, 900)
EVEN = tissue(1024, 768)
MADE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "svs": (lambda folder: write_svs(folder / "a.svs", RGB), "ss"),
    "tiff": (lambda folder: write_tiff(folder / "a.tiff", RGB, levels=3), "sss"),
    "tiff-240": (lambda folder: write_tiff(folder / "a.tiff", RGB, levels=2, tile=240), "ss"),
    "deflate": (lambda folder: write_tiff(folder / "a.tiff", RGB, compression="deflate"), "r"),
    "philips": (lambda folder: write_philips(folder / "a.tiff", RGB, tile=512), "sss"),
    "philips-odd": (lambda folder: write_philips(folder / "a.tiff", RGB, tile=144, levels=4), "ssss"),
    "ndpi-422": (lambda folder: write_ndpi(folder / "a.ndpi", EVEN), "ssrrr"),
    "ndpi-444": (lambda folder: write_ndpi(folder / "a.ndpi", EVEN, subsampling=0, across=1), "ssrrr"),
    "ventana-tiff": (lambda folder: write_bif(folder / "a.tif", EVEN), "ss"),
    "bif": (lambda folder: write_bif(folder / "a.bif", EVEN, overlap=6), "rr"),  # tiles overlap
    "scn": (lambda folder: write_scn(folder / "a.scn", [(RGB, (100, 131))]), "oo"),
    "scn-odd": (lambda folder: write_scn(folder / "a.scn", [(RGB, (101, 333))], 487, levels=3), "ooo"),
    "scn-two": (
        lambda folder: write_scn(folder / "a.scn", [(EVEN, (100, 131)), (EVEN, (900, 1100))]),
        "rr",  # two areas
    ),
    "dicom": (lambda folder: write_dicom(folder, RGB), "ss"),
    "dicom-extended": (lambda folder: write_dicom(folder, RGB, offsets="extended"), "ss"),
    "dicom-unlisted": (lambda folder: write_dicom(folder, RGB, offsets="none"), "ss"),
    "dicom-jpeg2000": (lambda folder: write_dicom(folder, RGB, codec="jpeg2000"), "ss"),
    "dicom-fragments": (lambda folder: write_dicom(folder, RGB, fragments=2), "rr"),
}


def check_parity(path: Path, expected: str) -> None:
    """Of aligned and arbitrary boxes of every level, inside and at its edges."""
    with open_slide(path) as slide, openslide.OpenSlide(slide.facts.files[0]) as handle:
        shown = ["r" if slide.stored(n) is None else "s" for n in range(len(slide.levels))]
        assert "".join(shown) == expected.replace("o", "r")
        for number, level in enumerate(slide.levels):
            whole = Box(0, 0, min(level.size.width, 2300), min(level.size.height, 3000))
            # From a level's own corner OpenSlide never smooths; elsewhere it may, see test_parity.
            right = by_openslide(handle, number, whole)
            for box in (whole, *boxes(whole.size, level.tile or Size(256, 256), number)):
                if expected[number] == "s":
                    assert (from_tiles(slide, number, box) == right[box.within(whole)]).all()
                if expected[number] == "s" or is_whole(handle, number):
                    assert (slide.read(number, box).rgb == right[box.within(whole)]).all()


def from_tiles(slide: Slide, level: int, box: Box) -> NDArray[np.uint8] | None:
    stored = slide._stored(level)
    assert stored is not None
    return read_box(stored, slide._files.of(stored.path), box)


def boxes(size: Size, tile: Size, seed: int) -> list[Box]:
    random = np.random.default_rng(seed)
    found = [tile.box.clip(size), Box(size.width - 1, size.height - 1, 1, 1)]
    while len(found) < 14:
        x, y = int(random.integers(0, size.width)), int(random.integers(0, size.height))
        found.append(Box(x, y, int(random.integers(1, 400)), int(random.integers(1, 400))).clip(size))
    return [box for box in found if box is not None]


@pytest.mark.parametrize(("file", "expected"), REAL.items(), ids=lambda value: Path(value).name)
def test_real_slides_show_what_openslide_shows(shared, file, expected):
    check_parity(shared / file, expected)


@pytest.mark.parametrize("name", MADE)
def test_slides_of_every_kind_show_what_openslide_shows(tmp_path, name):
    write, expected = MADE[name]
    check_parity(write(tmp_path), expected)


@pytest.mark.parametrize("name", ["philips", "ndpi-422", "ventana-tiff", "bif", "scn", "dicom-extended"])
def test_readers_keep_the_contract_with_slides_of_every_scanner(tmp_path, name):
    with open_slide(MADE[name][0](tmp_path)) as slide:
        check_reader(slide)


def test_frames_in_several_fragments_are_left_to_the_reader(tmp_path):
    """Without an offset table OpenSlide cannot tell them apart either."""
    folder = write_dicom(tmp_path, RGB, fragments=2, offsets="none")
    with open_slide(folder) as slide:
        assert slide.stored(0) is None


def test_an_area_on_an_scn_slide_is_shown_by_its_stored_tiles(tmp_path):
    path = write_scn(tmp_path / "a.scn", [(RGB, (101, 333))], 487)
    with open_slide(path) as slide, openslide.OpenSlide(path) as handle:
        assert slide.bounds == Box(101, 333, 1100, 900)
        for number, area in enumerate((slide.bounds, Box(50, 166, 550, 450))):
            assert (from_tiles(slide, number, area) == by_openslide(handle, number, area)).all()
            for over in (Box(area.x - 1, area.y, 9, 9), Box(area.x, area.bottom, 9, 9), Box(0, 0, 2000, 900)):
                assert from_tiles(slide, number, over) is None


# --- readers other than OpenSlide's ------------------------------------------------------------------


def by_reader(slide: Slide, level: int, box: Box) -> Pixels:
    """What `Slide.read` would show were there no stored tiles. `box` may reach outside."""
    inside = box.clip(slide.levels[level].size)
    assert inside is not None
    raw = slide._reader.read(level, inside)
    pixels = composite(raw, slide.background, sparse_by_design=slide.facts.sparse_by_design)
    return place(pixels, inside, box, slide.background)


def check_against_reader(slide: Slide, expected: str | None = None) -> None:
    if expected is not None:
        shown = ["r" if slide.stored(n) is None else "s" for n in range(len(slide.levels))]
        assert "".join(shown) == expected
    for number, level in enumerate(slide.levels):
        size = Size(min(level.size.width, 1500), min(level.size.height, 1500))
        over = Box(-7, -5, size.width + 20, size.height + 20)
        for box in (over, *boxes(size, level.tile or Size(256, 256), number)):
            one, two = slide.read(number, box), by_reader(slide, number, box)
            assert (one.rgb == two.rgb).all()
            assert (one.valid == two.valid).all()
            assert (one.damaged == two.damaged).all()


@pytest.mark.parametrize(
    ("file", "reader", "expected"),
    [
        ("wsi/aperio-svs/CMU-1-Small-Region.svs", "tiffslide", "s"),
        ("wsi/derived/cmu1_generic_pyramid.tif", "tiffslide", "ssss"),
        ("wsi/derived/cmu1_jp2k_nompp.svs", "tiffslide", "ss"),
        ("wsi/derived/cmu1_subifd_pyramid.ome.tif", "tiffslide", "ssss"),
        ("wsi/ome-tiff/OS-1-detail.ome.tif", "tiffslide", "s"),
        ("ihc/OS-2-ndpi_Ki67.ome.tif", "tiffslide", "s"),
        ("wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi", "tiffslide", "ssss"),
        ("wsi/tiff/test_orient6.tif", "tiffslide", "rrr"),
        ("wsi/derived/cmu1_dicom_wsm", "wsidicom", "ssss"),
        ("wsi/dicom/wsi2dcm_jpeg.dcm", "wsidicom", "s"),
        ("wsi/dicom/openslide-boxes/boxes_0.dcm", "wsidicom", "s"),
        ("wsi/dicom/highdicom-sm/sm_image_jpegls.dcm", "wsidicom", "r"),
    ],
    ids=lambda value: Path(value).name,
)
def test_stored_tiles_show_what_each_reader_shows(shared, file, reader, expected):
    with open_slide(shared / file, reader=reader) as slide:
        check_against_reader(slide, expected)


def test_dicom_frames_have_the_colours_their_file_states(tmp_path):
    folder = write_dicom(tmp_path, RGB, levels=1)
    data = pydicom.dcmread(folder / "level0.dcm")
    data.PhotometricInterpretation = "RGB"
    data.save_as(folder / "level0.dcm")
    check_parity(folder, "s")
    with open_slide(folder, reader="wsidicom") as slide:
        check_against_reader(slide, "s")


def test_dicom_frames_that_say_they_are_rgb_in_a_file_that_does_not_are_left_to_wsidicom(tmp_path):
    """It goes by the frame, OpenSlide by the file."""
    folder = write_dicom(tmp_path, RGB, levels=1)
    data = pydicom.dcmread(folder / "level0.dcm")
    data.PixelData = encapsulate([encoded(RGB[:256, :256], keep_rgb=True)] * 20)
    data["PixelData"].is_undefined_length = True
    data.save_as(folder / "level0.dcm")
    check_parity(folder, "s")
    with open_slide(folder, reader="wsidicom") as slide:
        check_against_reader(slide, "r")


# --- damage ------------------------------------------------------------------------------------------


def spans_of(path: Path) -> list[tuple[int, int]]:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def replace_tile(path: Path, index: int, change: Callable[[bytes], bytes]) -> None:
    """Other bytes in the tile's place, which may be fewer; zeros fill the rest."""
    offset, count = spans_of(path)[index]
    with path.open("r+b") as file:
        file.seek(offset)
        new = change(file.read(count))
        assert len(new) <= count
        file.seek(offset)
        file.write(new.ljust(count, b"\0"))


def encoded(rgb: NDArray[np.generic], mode: str | None = None, **options: object) -> bytes:
    data = BytesIO()
    Image.fromarray(rgb).convert(mode).save(data, "JPEG", quality=20, **options)
    return data.getvalue()


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_tables(data: bytes) -> bytes:
    parts = [data[start:stop] for marker, start, stop in segments(data) if marker not in (0xDB, 0xC4)]
    return data[:2] + b"".join(parts) + data[max(stop for _, _, stop in segments(data)) :]


def of_size(width: int, height: int) -> Callable[[bytes], bytes]:
    def claim(data: bytes) -> bytes:
        at = next(start for marker, start, _ in segments(data) if marker == 0xC0)
        return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]

    return claim


def with_marker(old: int, new: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = next(start for marker, start, _ in segments(data) if marker == old)
        return data[: at + 1] + bytes([new]) + data[at + 2 :]

    return change


SMALL = tissue(2048, 2048)[900:1028, 900:1028]
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: b"\xa5" * len(data),
    "nothing but zeros": lambda data: bytes(len(data)),
    "cut off": cut_off,
    "cut off in its header": lambda data: data[:100],
    "no tables": without_tables,
    "smaller than the tile": lambda _: encoded(SMALL[:96, :112]),
    "claims to be wider": of_size(256, 128),
    "claims to be huge": of_size(65500, 65500),
    "claims to be empty": of_size(0, 128),
    "progressive": lambda _: encoded(SMALL, progressive=True),
    "grey": lambda _: encoded(SMALL[..., 0]),
    "four samples": lambda _: encoded(SMALL, "CMYK"),
    "arithmetic": with_marker(0xC0, 0xC9),
    "12 bits": lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", 1),
    "lossless": lambda _: bytes(imagecodecs.ljpeg_encode(np.full((128, 128), 9, np.uint8))),
    "a scan with an error": lambda data: data[:-200] + b"\xff\xd3" + data[-198:],
    "a PNG": lambda data: b"\x89PNG\r\n\x1a\n" + data[8:],
}


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_tile_costs_what_it_costs_through_the_reader(tmp_path, change, reader):
    path = write_tiff(tmp_path / "a.tiff", tissue(2048, 2048)[700:1212, 700:1212], tile=128)
    replace_tile(path, 5, CHANGES[change])
    with open_slide(path, reader=reader) as slide:
        assert slide.stored(0) is not None
        check_against_reader(slide)


def with_byte(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([value]) + data[at + 1 :]


WAVELETS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: b"\xa5" * len(data),
    "cut off": cut_off,
    "cut off near its end": lambda data: data[:-300],
    "cut off in its header": lambda data: data[:60],
    "noise inside": lambda data: data[:3000] + bytes(range(256)) * 4 + data[4024:],
    "wider": with_byte(10, 2),
    "huge": with_byte(8, 0x7F),
    "offset": with_byte(19, 8),
    "12 bits": with_byte(42, 11),
    "signed": with_byte(42, 0x87),
    "subsampled": with_byte(46, 2),
    "four samples": with_byte(41, 4),
    "a JPEG": lambda _: encoded(SMALL),
}


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
@pytest.mark.parametrize("change", WAVELETS)
def test_a_damaged_jpeg_2000_tile_costs_what_it_costs_through_the_reader(shared, tmp_path, change, reader):
    path = tmp_path / "a.svs"
    shutil.copy(shared / "wsi/derived/cmu1_jp2k_nompp.svs", path)
    replace_tile(path, 5, WAVELETS[change])
    with open_slide(path, reader=reader) as slide:
        assert slide.stored(0) is not None
        box = Box(200, 200, 400, 400)
        one, two = slide.read(0, box), by_reader(slide, 0, box)
        assert (one.rgb == two.rgb).all()
        assert (one.valid == two.valid).all()
        assert (one.damaged == two.damaged).all()


def test_aperios_ycbcr_jpeg_2000_is_left_to_the_reader(shared, tmp_path):
    """The tag alone says which colours the samples are of."""
    path = tmp_path / "a.svs"
    shutil.copy(shared / "wsi/derived/cmu1_jp2k_nompp.svs", path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            if page.compression == 33005:
                page.aspage().tags["Compression"].overwrite(33003)
    check_parity(path, "rr")


@pytest.mark.parametrize("how", [zero_tiles, corrupt_tiles], ids=["sparse", "corrupt"])
@pytest.mark.parametrize("name", ["svs", "tiff", "philips", "philips-odd", "ventana-tiff"])
def test_lost_tiles_cost_what_they_cost_through_the_reader(tmp_path, name, how):
    path = MADE[name][0](tmp_path)
    how(path, [1, 4], page=1 if name == "ventana-tiff" else 0)
    with open_slide(path) as slide:
        assert slide.stored(0) is not None
        check_against_reader(slide)
        assert not slide.read(0, slide.size.box).valid.all()


@pytest.mark.parametrize("name", ["scn", "bif"])
@pytest.mark.parametrize("how", [zero_tiles, corrupt_tiles], ids=["sparse", "corrupt"])
def test_lost_tiles_of_what_only_the_reader_shows(tmp_path, name, how):
    path = MADE[name][0](tmp_path)
    how(path, [2], page=1 if name == "bif" else 0)
    with open_slide(path) as slide:
        pixels = slide.read(0, slide.size.box)
        assert (pixels.damaged <= ~pixels.valid).all()
        assert pixels.damaged.any()  # OpenSlide has no gaps in these formats: they cannot be decoded


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_of_a_cut_off_file_the_same_is_lost(tmp_path, share):
    """OpenSlide does not open it."""
    path = write_tiff(tmp_path / "a.tiff", tissue(1024, 1024), tile=128)
    truncate(path, share)
    with open_slide(path, reader="tiffslide") as slide:
        check_against_reader(slide)
        assert slide.read(0, slide.size.box).damaged.any()


def test_ndpi_intervals_that_are_not_where_the_index_says_are_left_to_the_reader(tmp_path):
    path = write_ndpi(tmp_path / "a.ndpi", EVEN, levels=1)
    with open_slide(path) as slide:
        stored = slide.stored(0)
        assert stored is not None
        starts = [int(n) for n in stored.offsets[2, :3]]
    with path.open("r+b") as file:  # the marker before one interval is lost
        file.seek(starts[1] - 2)
        file.write(b"\x12\x34")
    with open_slide(path) as slide:
        assert [len(data) > 0 for data in slide.fetch(0, [(2, 0), (2, 1), (2, 2)])] == [True, False, True]
        assert decode(stored, slide.fetch(0, [(2, 0)])[0]) is None
        check_against_reader(slide)


@pytest.mark.parametrize("offsets", ["basic", "extended", "none"])
def test_dicom_frames_that_are_not_where_the_table_says_are_left_to_the_reader(tmp_path, offsets):
    folder = write_dicom(tmp_path, RGB, levels=1, offsets=offsets)
    with open_slide(folder) as slide:
        stored = slide.stored(0)
        assert stored is not None
        with open(stored.path, "r+b") as file:
            file.seek(int(stored.offsets[1, 1]) - 4)
            file.write(b"\x10\0\0\0")  # the item says it has 16 bytes
        assert [len(data) > 0 for data in slide.fetch(0, [(1, 0), (1, 1), (1, 2)])] == [True, False, True]
        whole = slide.read(0, slide.size.box)
        alone = by_reader(slide, 0, slide.size.box)
        assert (whole.rgb == alone.rgb).all()


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_dicom_header_never_ends_badly(tmp_path_factory, data):
    whole = dicom_bytes(str(tmp_path_factory.getbasetemp()))
    at = data.draw(st.integers(0, len(whole) - 1))
    keep = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    new = data.draw(st.binary(max_size=16))
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes((whole[:at] + new + whole[at + len(new) :])[:keep])
    level = stored_level(str(path), SERIES)
    if level is not None:
        assert level.offsets.shape == level.counts.shape
        assert (level.counts >= 0).all()


SERIES = "1.2.3"


@functools.cache
def dicom_bytes(folder: str) -> bytes:
    """A small slide of the series SERIES."""
    path = write_dicom(Path(folder) / "whole", tissue(128, 128), tile=64, levels=1) / "level0.dcm"
    data = pydicom.dcmread(path)
    data.SeriesInstanceUID = SERIES
    data.save_as(path)
    assert stored_level(str(path), SERIES) is not None
    return path.read_bytes()


# --- streams -----------------------------------------------------------------------------------------


def jpeg_like() -> st.SearchStrategy[bytes]:
    """Bytes that begin and go on as a JPEG may."""
    segment = st.builds(
        lambda marker, body, length: (
            bytes([0xFF, marker]) + struct.pack(">H", length or len(body) + 2) + body
        ),
        st.sampled_from([0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE, 0xFF, 0x00]),
        st.binary(max_size=40),
        st.one_of(st.none(), st.integers(0, 65535)),
    )
    return st.builds(
        lambda begin, parts, end: begin + b"".join(parts) + end,
        st.sampled_from([b"\xff\xd8", b"", b"\xff"]),
        st.lists(st.one_of(segment, st.binary(max_size=20)), max_size=8),
        st.sampled_from([b"\xff\xd9", b"", b"\xff\xd9" + bytes(30)]),
    )


@given(stream=st.one_of(st.binary(max_size=300), jpeg_like()))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_jpeg_or_a_value_error(stream):
    for call in (
        lambda: list(segments(stream)),
        lambda: jpeg_frame(stream),
        lambda: stated_colour(stream),
        lambda: make_whole(memoryview(stream), b"", "marked"),
        lambda: make_whole(memoryview(stream), b"", "rgb"),
        lambda: make_whole(memoryview(stream), b"", "rgb", b"\xff\xd8"),
        lambda: decode_jpeg(make_whole(memoryview(stream), b"", "ycbcr"), Size(16, 16)),
    ):
        try:
            call()
        except ValueError:
            continue


@given(at=st.integers(0, 2000), new=st.binary(min_size=1, max_size=8), cut=st.integers(0, 3000))
@settings(max_examples=300, deadline=None)
def test_a_jpeg_with_any_bytes_changed_decodes_or_is_none(at, new, cut):
    whole = encoded(SMALL)
    changed = (whole[:at] + new + whole[at + len(new) :])[: max(cut, 10)] if cut < 2000 else whole
    level = StoredLevel(
        "", Size(128, 128), Size(128, 128), "jpeg", "ycbcr", np.zeros((1, 1), int), np.ones((1, 1), int)
    )
    for scale in scales_of(level):
        rgb = decode(level, memoryview(changed), scale)
        assert rgb is None or rgb.shape == (128 // scale, 128 // scale, 3)


@pytest.mark.parametrize(
    ("options", "colour"),
    [
        ({}, "ycbcr"),
        ({"subsampling": 0}, "ycbcr"),
        ({"keep_rgb": True}, "rgb"),
    ],
)
def test_a_stream_says_its_colours_as_libjpeg_takes_them(options, colour):
    stream = encoded(SMALL, **options)
    assert stated_colour(stream) == colour
    bare = make_whole(memoryview(stream), b"", colour)
    assert stated_colour(bare) == colour
    assert (decode_jpeg(bare, Size(128, 128)) == np.asarray(Image.open(BytesIO(stream)))).all()


def test_narrow_boxes_of_wide_intervals_are_left_to_a_reader_that_keeps_them(tmp_path):
    with open_slide(write_ndpi(tmp_path / "a.ndpi", EVEN, across=1)) as slide:
        stored = slide.stored(0)
        assert stored is not None
        assert not is_worth_it(stored, Box(0, 0, 511, 500))
        assert is_worth_it(stored, Box(0, 0, 512, 1))
    with open_slide(write_svs(tmp_path / "a.svs", RGB)) as slide:
        stored = slide.stored(0)
        assert stored is not None
        assert is_worth_it(stored, Box(0, 0, 1, 1))


# --- scaled ------------------------------------------------------------------------------------------


def psnr(slide: Slide, level: int, scale: int) -> float:
    """In dB, of tiles decoded `scale` times smaller against the mean of their pixels; glass is left out."""
    stored = slide.stored(level)
    assert stored is not None
    places = [(int(row), int(column)) for row, column in np.argwhere(stored.counts > 0)]
    errors = []
    for data in slide.fetch(level, places):
        full, small = decode(stored, data), decode(stored, data, scale)
        assert full is not None
        assert small is not None
        if full.std() < 8:
            continue
        mean = full.reshape(small.shape[0], scale, small.shape[1], scale, 3).mean(axis=(1, 3))
        errors.append(np.mean((small - mean) ** 2))
    return float(10 * np.log10(255**2 / np.mean(errors)))


# (file, dB at 1/2, 1/4, 1/8): measured, rounded down.
SCALED = [
    ("wsi/aperio-svs/CMU-1-Small-Region.svs", (52, 55, 57)),
    ("wsi/derived/cmu1_generic_pyramid.tif", (42, 47, 52)),
    ("wsi/derived/cmu1_dicom_wsm", (42, 47, 52)),
    ("wsi/ome-tiff/OS-1-detail.ome.tif", (50, 51, 54)),
    ("ihc/OS-2-ndpi_Ki67.ome.tif", (40, 40, 40)),
]


@pytest.mark.parametrize(
    ("file", "least"), SCALED, ids=lambda value: Path(value).name if isinstance(value, str) else ""
)
def test_scaled_decodes_are_within_40_db_of_the_mean(shared, file, least):
    with open_slide(shared / file) as slide:
        stored = slide.stored(0)
        assert stored is not None
        assert scales_of(stored) == (1, 2, 4, 8)
        for scale, known in zip((2, 4, 8), least, strict=True):
            assert psnr(slide, 0, scale) >= known >= 40


def test_jpeg_2000_is_decoded_in_full_only(shared):
    with open_slide(shared / "wsi/derived/cmu1_jp2k_nompp.svs") as slide:
        stored = slide.stored(0)
        assert stored is not None
        assert scales_of(stored) == (1,)


def test_a_tile_is_not_decoded_smaller_than_its_sides_allow(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", RGB, tile=144)
    with open_slide(path) as slide:
        stored = slide.stored(0)
        assert stored is not None
        assert scales_of(stored) == (1, 2, 4, 8)
    odd = StoredLevel("", Size(9, 9), Size(20, 28), "jpeg", "rgb", stored.offsets, stored.counts)
    assert scales_of(odd) == (1, 2, 4)
