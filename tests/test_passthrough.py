"""Stored JPEG tiles go into OME-Zarr byte by byte, decode there as in the slide, and damage is counted."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs.numcodecs
import numcodecs
import numpy as np
import pytest
import slides
import tifffile
import zarr
from hypothesis import example, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray

from coverslip.errors import SlideError
from coverslip.tiling.chunk import MADE
from coverslip.tiling.passthrough import Inspector, chunk_of, codec_of, plain_tile
from coverslip.tiling.pyramid import PyramidSettings, plan_pyramid
from coverslip.workflows.convert import Conversion, convert
from coverslip.wsi import Box, Size, open_slide
from coverslip.wsi.jpeg_codec import JpegCodec, encode_jpeg
from coverslip.wsi.stored import StoredLevel
from coverslip.wsi.tiles import decode

# Shards of 2 × 2 tiles, so that small slides have several.
PASSING = PyramidSettings(chunk=64, shard=128, smallest=100)
HALVED = replace(PASSING, halvings=True)
LOSSLESS = replace(PASSING, portable=True)
ABSENT = 2**64 - 1
RGB = Callable[[Path], Path]


def ycbcr(path: Path, rgb: NDArray[np.uint8] | None = None) -> Path:
    """Like `slides.write_tiff`, but YCbCr with subsampled colour, as most scanners write."""
    rgb = slides.tissue(334, 252) if rgb is None else rgb
    height, width = rgb.shape[:2]
    whole = np.pad(rgb, ((0, -height % 64), (0, -width % 64), (0, 0)), mode="edge")
    tiles = (
        encode_jpeg(whole[y : y + 64, x : x + 64], 90, "420")
        for y in range(0, height, 64)
        for x in range(0, width, 64)
    )
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles,
            shape=rgb.shape,
            dtype=np.uint8,
            tile=(64, 64),
            photometric="ycbcr",
            compression="jpeg",
            subsampling=(2, 2),
            resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    return path


def rgb(path: Path) -> Path:
    return slides.write_tiff(path, slides.tissue(334, 252), 0.5, tile=64, levels=2)


def svs(path: Path) -> Path:
    return slides.write_svs(path, slides.tissue(1024, 768), 0.25, 40, tile=64, levels=3)


KINDS = pytest.mark.parametrize("make", [rgb, ycbcr, svs])


def chunks(store: str | Path, level: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """(row, column) and bytes of each chunk of a level, read from the shards by hand."""
    about = json.loads(Path(store, str(level), "zarr.json").read_text())
    outer, inner = (
        about["chunk_grid"]["configuration"]["chunk_shape"],
        about["codecs"][0]["configuration"]["chunk_shape"],
    )
    side = outer[1] // inner[1]
    for path in sorted(Path(store, str(level), "c", "0").glob("*/*")):
        data = path.read_bytes()
        index = np.frombuffer(data[-side * side * 16 - 4 : -4], "<u8").reshape(side, side, 2)
        for row, column in np.ndindex(side, side):
            start, count = (int(number) for number in index[row, column])
            if start != ABSENT:
                place = int(path.parent.name) * side + row, int(path.name) * side + column
                yield place, data[start : start + count]


def configuration(store: str | Path, level: int) -> dict[str, Any]:
    about = json.loads(Path(store, str(level), "zarr.json").read_text())
    (codec,) = (c for c in about["codecs"][0]["configuration"]["codecs"] if c["name"] == "imagecodecs_jpeg")
    return codec["configuration"]


def made(path: Path, out: Path, settings: PyramidSettings = PASSING) -> Conversion:
    with open_slide(path) as slide:
        return convert(slide, out, settings)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / (np.mean((a.astype(float) - b) ** 2) + 1e-3)))


@KINDS
def test_chunks_are_the_bytes_of_the_file(tmp_path: Path, make: RGB):
    path = make(tmp_path / "s.svs")
    out = made(path, tmp_path / "s.ome.zarr").path
    with open_slide(path) as slide:
        for number in range(len(slide.levels)):
            stored = slide.stored(number)
            assert stored is not None
            held = dict(chunks(out, number))
            places = [(int(row), int(column)) for row, column in np.argwhere(stored.counts)]
            assert sorted(held) == places
            for place, data in zip(places, slide.fetch(number, places), strict=True):
                assert held[place][:-4] == data


@KINDS
def test_numcodecs_own_codec_decodes_a_chunk_to_the_pixels_of_the_slide(tmp_path: Path, make: RGB):
    imagecodecs.numcodecs.register_codecs(verbose=False)
    path = make(tmp_path / "s.svs")
    out = made(path, tmp_path / "s.ome.zarr").path
    codec = numcodecs.get_codec({"id": "imagecodecs_jpeg", **configuration(out, 0)})
    with open_slide(path) as slide:
        stored = slide.stored(0)
        assert stored is not None
        for (row, column), data in chunks(out, 0):
            (bytes_in_slide,) = slide.fetch(0, [(row, column)])
            np.testing.assert_array_equal(codec.decode(data), decode(stored, bytes_in_slide))


STOCK = """
import sys, zarr
assert not any(name.split(".")[0] == "coverslip" for name in sys.modules if "finder" not in name)
for level in sys.argv[2:]:
    rgb = zarr.open_array(sys.argv[1], path=level, mode="r")[:].transpose(1, 2, 0)
    sys.stdout.buffer.write(rgb.tobytes())
"""


@KINDS
@pytest.mark.parametrize("settings", [PASSING, HALVED], ids=["stored", "halvings"])
def test_zarr_python_reads_what_the_slide_shows(tmp_path: Path, make: RGB, settings: PyramidSettings):
    path = make(tmp_path / "s.svs")
    out = made(path, tmp_path / "s.ome.zarr", settings)
    copied = [n for n, level in enumerate(out.plan.levels) if level.coding == "tiles"]
    command = [sys.executable, "-c", STOCK, out.path, *map(str, copied)]
    read = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout
    with open_slide(path) as slide:
        assert [out.plan.levels[n].stored for n in copied] == list(range(len(slide.levels)))
        expected = b"".join(
            slide.read(n, level.size.box).rgb.tobytes() for n, level in enumerate(slide.levels)
        )
    assert zlib.crc32(read) == zlib.crc32(expected)
    assert len(read) == len(expected)


@KINDS
@pytest.mark.parametrize("settings", [PASSING, HALVED], ids=["stored", "halvings"])
def test_our_reader_reads_what_the_slide_shows(tmp_path: Path, make: RGB, settings: PyramidSettings):
    path = make(tmp_path / "s.svs")
    with open_slide(path) as slide, open_slide(made(path, tmp_path / "s.ome.zarr", settings).path) as copy:
        box = Box(-5, 10, slide.size.width + 7, slide.size.height)
        ours, theirs = copy.read(0, box), slide.read(0, box)
    np.testing.assert_array_equal(ours.rgb, theirs.rgb)
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    assert not ours.damaged.any()


def test_a_slide_at_a_url_gives_the_same_store(tmp_path: Path):
    import fsspec

    path = ycbcr(tmp_path / "s.tif")
    fsspec.filesystem("memory").pipe("/pass/s.tif", path.read_bytes())
    here = made(path, tmp_path / "a.ome.zarr").path
    with open_slide("memory://pass/s.tif") as slide:
        there = convert(slide, tmp_path / "b.ome.zarr", PASSING)
    assert there.plan.passes
    assert list(chunks(here, 0)) == list(chunks(there.path, 0))


def test_factors_of_four_are_kept_and_halvings_fill_them(tmp_path: Path):
    with open_slide(svs(tmp_path / "s.svs")) as slide:
        stored, every = plan_pyramid(slide, PASSING), plan_pyramid(slide, HALVED)
    assert [level.downsample_x for level in stored.levels] == [1, 4, 16]
    assert [level.coding for level in stored.levels] == ["tiles"] * 3
    assert [level.coding for level in every.levels] == ["tiles", "jpeg", "tiles", "jpeg", "tiles"]
    assert [level.along for level in every.levels] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("how", "coding"),
    [
        ({"tile": 64}, "tiles"),
        ({"tile": 32}, "lossless"),
        ({"tile": 64, "compression": "deflate"}, "lossless"),
        ({"tile": 64, "compression": "jpeg2000"}, "lossless"),
    ],
)
def test_the_rule_takes_jpeg_tiles_of_a_chunks_size(tmp_path: Path, how: dict[str, Any], coding: str):
    with open_slide(slides.write_tiff(tmp_path / "s.tif", slides.tissue(256, 256), 0.5, **how)) as slide:
        plan = plan_pyramid(slide, PASSING)
        assert plan.levels[0].coding == coding
        assert plan.passes == (coding == "tiles")
        for other in (LOSSLESS, replace(PASSING, ngff="0.4")):
            assert not plan_pyramid(slide, other).passes


def test_a_slide_whose_every_tile_has_a_fault_is_not_passed_through(tmp_path: Path):
    """Otherwise each chunk would be one that readers refuse."""
    path = rgb(tmp_path / "s.tif")
    spoil(path, range(24), lambda data: data[:-40] + b"\xff\x00" * 19 + data[-2:])
    with open_slide(path) as slide:
        stored = slide.stored(0)
        assert stored is None or not plan_pyramid(slide, PASSING).passes


def test_what_is_written_says_how(tmp_path: Path):
    path = ycbcr(tmp_path / "s.tif")
    for settings, passes, word in ((PASSING, True, "JPEG tiles"), (LOSSLESS, False, "lossless")):
        done = made(path, tmp_path / f"{passes}.ome.zarr", settings)
        ours: Any = zarr.open_group(done.path, mode="r").attrs["coverslip"]
        assert (ours["pass_through"], ours["portable"]) == (passes, not passes)
        assert word in done.plan.text
        levels: Any = zarr.open_group(done.path, mode="r").attrs["ome"]
        said = levels["multiscales"][0]["metadata"]["levels"]
        assert word in said[0]
        assert "half size" in said[1] if passes else "2×2 mean" in said[1]


@pytest.mark.parametrize("size", [(512, 384), (333, 251), (65, 129), (1, 300), (64, 64)])
def test_a_halving_under_copied_tiles_is_near_the_mean_and_not_shifted(tmp_path: Path, size: tuple[int, int]):
    whole = slides.tissue(800, 600)[80 : 80 + size[1], 110 : 110 + size[0]]
    path = ycbcr(tmp_path / "s.tif", whole)
    settings = replace(HALVED, smallest=max(1, max(size) // 8))
    out, exact = (
        made(path, tmp_path / "a.ome.zarr", settings),
        made(path, tmp_path / "b.ome.zarr", replace(settings, portable=True)),
    )
    assert [level.size for level in out.plan.levels] == [level.size for level in exact.plan.levels]
    with open_slide(out.path) as ours, open_slide(exact.path) as theirs:
        for number in range(1, len(ours.levels)):
            box = ours.levels[number].size.box
            mine, mean = ours.read(number, box).rgb, theirs.read(number, box).rgb
            # Each level that is made from a made one adds its JPEG's loss.
            assert psnr(mine, mean) > psnr(encoded(mean), mean) - (1 if number == 1 else 4)
            if number == 1 and min(size) > 200:
                assert psnr(mine, mean) > psnr(mine[:, 1:], mean[:, :-1]) + 5


def encoded(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Through JPEG as levels that are made are: what is lost whatever they are made from."""
    whole = np.pad(rgb, ((0, -rgb.shape[0] % 64), (0, -rgb.shape[1] % 64), (0, 0)), mode="edge")
    decoded = MADE.decode_chunk(MADE.encode_chunk(whole), Size(whole.shape[1], whole.shape[0]))
    return decoded[: rgb.shape[0], : rgb.shape[1]]


def test_made_levels_are_jpeg_and_the_scaled_decode_is_within_40_db(shared: Path, tmp_path: Path):
    path = shared / "wsi/derived/cmu1_generic_pyramid.tif"
    done = made(path, tmp_path / "s.ome.zarr", PyramidSettings(halvings=True, smallest=256))
    assert "jpeg" in {level.coding for level in done.plan.levels}
    with open_slide(path) as slide:
        stored = slide.stored(0)
        assert stored is not None
        (data,) = slide.fetch(0, [(1, 1)])
        full, half = decode(stored, data), decode(stored, data, 2)
    assert full is not None
    assert half is not None
    mean = full.reshape(half.shape[0], 2, half.shape[1], 2, 3).mean(axis=(1, 3))
    assert psnr(half, np.round(mean).astype(np.uint8)) > 40


# damage


def spoil(path: Path, indexes: Any, change: Callable[[bytes], bytes], page: int = 0) -> None:
    """Change the bytes of stored tiles; as many as there were."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page]
        spans = [(found.dataoffsets[n], found.databytecounts[n]) for n in indexes]
    with path.open("r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            data = change(file.read(count))
            assert len(data) == count
            file.seek(offset)
            file.write(data)


def lost_sector(data: bytes) -> bytes:
    middle = len(data) // 3
    return data[:middle] + bytes(512) + data[middle + 512 :]


def overwritten(data: bytes) -> bytes:
    middle, noise = len(data) // 3, np.random.default_rng(0).integers(0, 256, 400, np.uint8).tobytes()
    return data[:middle] + noise + data[middle + 400 :]


DAMAGE: dict[str, Callable[[Path], None]] = {
    "another format": lambda path: slides.corrupt_tiles(path, [5, 6, 23]),
    "absent": lambda path: slides.zero_tiles(path, [5, 6, 23]),
    "no end": lambda path: spoil(path, [5, 11], lambda data: data[:-2] + b"\0\0"),
    "no head": lambda path: spoil(path, [5, 11], lambda data: b"\0\0" + data[2:]),
    "lost sector": lambda path: spoil(path, [8, 9], lost_sector),
    "overwritten": lambda path: spoil(path, [8, 9], overwritten),
    "another size": lambda path: spoil(
        path, [8], lambda data: data.replace(b"\x08\x00\x40\x00\x40", b"\x08\x00\x20\x00\x40")
    ),
    "coarser level": lambda path: slides.corrupt_tiles(path, [1, 2], page=1),
}


@pytest.mark.parametrize("settings", [PASSING, HALVED], ids=["stored", "halvings"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_counted_as_by_decoding_and_what_is_copied_decodes(
    tmp_path: Path, kind: str, settings: PyramidSettings
):
    path = rgb(tmp_path / "s.tif")
    DAMAGE[kind](path)
    passed = made(path, tmp_path / "a.ome.zarr", settings)
    exact = made(path, tmp_path / "b.ome.zarr", replace(settings, portable=True))
    assert passed.plan.passes
    assert passed.damaged == exact.damaged
    # OpenSlide shows a tile with lost sectors, if they make a valid scan.
    assert sum(passed.damaged) > 0 or kind == "lost sector"
    for number, level in enumerate(passed.plan.levels):
        there = zarr.open_array(passed.path, path=str(number), mode="r")[:]
        if level.coding == "tiles":
            shown = zarr.open_array(exact.path, path=str(number), mode="r")[:]
            # What OpenSlide shows of a tile with a fault is JPEG of quality 100 in the copy.
            near = 4 if kind == "lost sector" else 0
            np.testing.assert_allclose(np.asarray(there, int), np.asarray(shown, int), rtol=0, atol=near)


def test_the_counted_damage_is_that_of_the_tiles_inside_the_level(tmp_path: Path):
    """The slide is 334 × 252: the last tile of a row shows 14 columns, that of a column 60 rows."""
    path = rgb(tmp_path / "s.tif")
    slides.corrupt_tiles(path, [5, 23])
    assert made(path, tmp_path / "s.ome.zarr").damaged == (14 * 64 + 14 * 60, 0, 0)


def test_glass_that_is_not_stored_takes_no_space(tmp_path: Path):
    path = rgb(tmp_path / "s.tif")
    slides.zero_tiles(path, range(24))
    with open_slide(path) as slide:
        plan = replace(plan_pyramid(slide, PASSING))
    assert not plan.passes  # nothing there to decode, so nothing to pass through
    slides.write_tiff(path, slides.tissue(334, 252), 0.5, tile=64, levels=2)
    slides.zero_tiles(path, range(23))
    out = made(path, tmp_path / "s.ome.zarr").path
    assert [place for place, _ in chunks(out, 0)] == [(3, 5)]
    assert len(list(Path(out, "0", "c", "0").glob("*/*"))) == 1


def test_a_flipped_bit_in_the_store_is_damage_and_not_another_pixel(tmp_path: Path):
    out = Path(made(ycbcr(tmp_path / "s.tif"), tmp_path / "s.ome.zarr").path)
    shard = out / "0/c/0/0/0"
    stored = bytearray(shard.read_bytes())
    stored[len(stored) // 2] ^= 1
    shard.write_bytes(bytes(stored))
    with open_slide(out) as copy:
        assert copy.read(0, Box(0, 0, 128, 128)).damaged.sum() == 64 * 64


@pytest.fixture(scope="module")
def tile(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredLevel, bytes]:
    """A level and one of its tiles, of tissue."""
    with open_slide(ycbcr(tmp_path_factory.mktemp("tile") / "s.tif")) as slide:
        stored = slide.stored(0)
        assert stored is not None
        return stored, bytes(slide.fetch(0, [(1, 2)])[0])


@given(data=st.data())
@limits(deadline=None)
@example(data=None)
def test_the_inspector_says_what_a_decoder_says(tile: tuple[StoredLevel, bytes], data: st.DataObject | None):
    stored, good = tile
    inspector = Inspector(stored)
    assert inspector.accepts(good)
    assert not inspector.accepts(b"")
    if data is None:
        return
    kind = data.draw(st.sampled_from(["cut", "zeros", "ones", "head", "random"]))
    at = data.draw(st.integers(0, len(good) - 600))
    if kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 3))]
    elif kind == "head":
        bad = good[: at % 600] + bytes([data.draw(st.integers(0, 255))]) + good[at % 600 + 1 :]
    elif kind == "random":
        noise = np.random.default_rng(at).integers(0, 256, 600, np.uint8).tobytes()
        bad = good[:at] + noise + good[at + 600 :]
    else:
        bad = good[:at] + (b"\0" if kind == "zeros" else b"\xff") * 600 + good[at + 600 :]
    decodes = decode(stored, memoryview(bad)) is not None
    # A few hundred bytes at random may hold no marker by chance.
    assert inspector.accepts(bad) == decodes or (kind == "random" and not decodes)


@pytest.mark.parametrize("make", [rgb, ycbcr])
def test_a_tile_that_is_only_shown_is_stored_as_it_looks(tmp_path: Path, make: RGB):
    with open_slide(make(tmp_path / "s.tif")) as slide:
        stored = slide.stored(0)
        assert stored is not None
    shown = np.full((60, 14, 3), (200, 220, 240), np.uint8)
    pixels = codec_of(stored).decode_chunk(plain_tile(stored, shown), stored.tile)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - (200, 220, 240)).max() <= 2


def test_tiles_that_one_codec_cannot_decode_are_made_whole(tile: tuple[StoredLevel, bytes]):
    """Where only each tile's own JFIF marker says its colours, or tiles share their head."""
    stored, data = tile
    head = data.index(b"\xff\xda") + 14
    pixels = decode(stored, memoryview(data))
    assert pixels is not None
    marked = replace(stored, colour="marked")
    headless = replace(stored, header=data[:head])
    for level, bytes_in_slide in ((marked, data), (headless, data[head:])):
        assert Inspector(level).accepts(bytes_in_slide)
        chunk = chunk_of(level, bytes_in_slide)
        np.testing.assert_array_equal(codec_of(level).decode_chunk(chunk, stored.tile), pixels)
        codec = imagecodecs.numcodecs.Jpeg.from_config(codec_of(level).configuration)
        np.testing.assert_array_equal(codec.decode(chunk), pixels)


# the codec


def test_zarr_python_writes_and_reads_with_the_codec(tmp_path: Path):
    codec = JpegCodec("ycbcr", level=95, subsampling="444")
    how: dict[str, Any] = {"dtype": "uint8", "chunks": (64, 64, 3), "serializer": codec, "compressors": None}
    array = zarr.create_array(tmp_path / "a.zarr", shape=(100, 130, 3), **how)
    rgb = slides.tissue(130, 100)
    array[:] = rgb
    again = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert again.metadata.to_dict()["codecs"][0] == codec.to_dict()  # type: ignore[index]
    assert psnr(np.asarray(again[:]), rgb) > 35


NOT_INSTALLED = """
import sys
import zarr.registry
getattr(zarr.registry, "__codec_registries").pop("imagecodecs_jpeg")
from coverslip.wsi import Box, open_slide
with open_slide(sys.argv[1]) as slide:
    print(slide.read(0, Box(100, 100, 50, 50)).valid.all())
"""


def test_coverslip_reads_its_stores_where_its_entry_points_are_not_seen(tmp_path: Path):
    out = made(ycbcr(tmp_path / "s.tif"), tmp_path / "s.ome.zarr").path
    command = [sys.executable, "-c", NOT_INSTALLED, out]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"colorspace_jpeg": "cmyk"},
        {"colorspace_data": "gray"},
        {"tables": "not base64!"},
        {"header": 7},
        {"level": 101},
        {"subsampling": "999"},
    ],
)
def test_a_store_that_asks_for_other_jpeg_is_refused_in_words(tmp_path: Path, wrong: dict[str, Any]):
    out = Path(made(ycbcr(tmp_path / "s.tif"), tmp_path / "s.ome.zarr").path)
    about = json.loads((out / "0/zarr.json").read_text())
    (codec,) = (c for c in about["codecs"][0]["configuration"]["codecs"] if c["name"] == "imagecodecs_jpeg")
    codec["configuration"].update(wrong)
    (out / "0/zarr.json").write_text(json.dumps(about))
    with pytest.raises(SlideError):
        open_slide(out)


def test_a_chunk_that_says_it_is_larger_is_not_decoded(tile: tuple[StoredLevel, bytes]):
    stored, data = tile
    huge = data.replace(b"\x08\x00\x40\x00\x40", b"\x08\xff\xff\xff\xff")
    assert huge != data
    with pytest.raises(ValueError, match="64×64"):
        codec_of(stored).decode_chunk(huge, Size(64, 64))
