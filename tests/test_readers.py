"""Each reader keeps the contract, decodes what its formats can hold, and survives damage tile by tile."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
from contract import check_reader
from numpy.typing import NDArray
from PIL import Image
from slides import corrupt_tiles, halve, tissue, truncate, write_svs, write_tiff, zero_tiles
from spawned import mean_of

from coverslip.errors import NotBrightfieldError, RequestError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi import Box, Slide, open_slide

REAL = (
    "wsi/derived/cmu1_crop_v05.ome.zarr",
    "wsi/aperio-svs/CMU-1-Small-Region.svs",
    "wsi/derived/cmu1_generic_pyramid.tif",
    "wsi/derived/cmu1_dicom_wsm",
    "wsi/hamamatsu-ndpi/test3-DAPI-2-(387).ndpi",
    "wsi/derived/cmu1_subifd_pyramid.ome.tif",
    "wsi/ome-tiff/cells.ome.tif",
    "wsi/ome-tiff/cells-2c.ome.tif",
    "wsi/tiff/test_orient6.tif",
    "wsi/dicom/highdicom-sm/sm_image_jpegls.dcm",
    "wsi/dicom/highdicom-sm/sm_image_grayscale.dcm",
    "malformed/derived/corrupt_tiles.svs",
    "malformed/derived/sparse_zero_tiles.svs",
    "malformed/derived/rgba_tiled.tif",
)


@pytest.mark.parametrize("file", REAL, ids=lambda file: Path(file).name)
def test_every_reader_keeps_the_contract(shared, file):
    with open_slide(shared / file) as slide:
        check_reader(slide)


@pytest.mark.parametrize(
    "file", ["wsi/aperio-svs/CMU-1-Small-Region.svs", "malformed/derived/rgba_tiled.tif"]
)
def test_tiffslides_reader_keeps_the_contract_with_openslides_files(shared, file):
    with open_slide(shared / file, reader="tiffslide") as slide:
        check_reader(slide)


def test_wsidicoms_reader_keeps_the_contract_with_openslides_files(shared):
    with open_slide(shared / "wsi/derived/cmu1_dicom_wsm", reader="wsidicom") as slide:
        check_reader(slide)


def read_all(slide: Slide) -> NDArray[np.uint8]:
    return slide.read(0, slide.size.box).rgb


# --- TIFF that OpenSlide does not take ---------------------------------------------------------------


def write_plain(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    tifffile.imwrite(path, pixels, metadata=None, **options)  # pyright: ignore[reportArgumentType]
    return path


@pytest.mark.parametrize(
    "compression", [None, "lzw", "deflate", "packbits", "zstd", "lzma", "jpeg2000", "webp"]
)
@pytest.mark.parametrize("strips", [16, 61])
def test_striped_tiff_in_every_codec(tmp_path, compression, strips):
    rgb = tissue(300, 200)
    options = {"level": 0, "reversible": True} if compression == "jpeg2000" else None
    options = {"lossless": True} if compression == "webp" else options
    path = write_plain(
        tmp_path / "a.tif",
        rgb,
        photometric="rgb",
        rowsperstrip=strips,
        compression=compression,
        compressionargs=options,
    )
    with open_slide(path) as slide:
        assert slide.reader == "tiffslide"
        assert (read_all(slide) == rgb).all()
        check_reader(slide)


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_planes_stored_apart_are_put_together(tmp_path, tile):
    rgb = tissue(300, 200)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    path = write_plain(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", tile=tile)
    with open_slide(path, reader="tiffslide") as slide:
        assert (read_all(slide) == rgb).all()


def test_16_bits_are_rounded_to_8(tmp_path):
    values = np.arange(0, 65536, 11, dtype=np.uint16)[:5700].reshape(19, 100, 3)
    path = write_plain(tmp_path / "a.tif", values, photometric="rgb")
    with open_slide(path) as slide:
        assert (read_all(slide) == np.round(values * (255 / 65535))).all()


def test_grey_and_inverted_grey(tmp_path):
    grey = tissue(100, 80)[..., 0]
    for photometric, seen in (("minisblack", grey), ("miniswhite", 255 - grey)):
        path = write_plain(tmp_path / f"{photometric}.tif", grey, photometric=photometric)
        with open_slide(path) as slide:
            assert (read_all(slide) == seen[..., None]).all()


def test_a_palette_shows_its_colours(tmp_path):
    image = Image.fromarray(tissue(120, 90)).quantize(64)
    image.save(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as slide:
        assert (read_all(slide) == np.asarray(image.convert("RGB"))).all()


def test_declared_transparency_is_laid_over_white_and_is_no_damage(tmp_path):
    rgba = np.dstack([tissue(100, 80), np.full((80, 100), 255, np.uint8)])
    rgba[:40, :, 3] = 0
    path = write_plain(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        pixels = slide.read(0, slide.size.box)
    assert (pixels.rgb[:40] == 255).all()
    assert (pixels.rgb[40:] == rgba[40:, :, :3]).all()
    assert not pixels.valid[:40].any()
    assert not pixels.damaged.any()


@pytest.mark.parametrize(
    ("samples", "extra", "kind"),
    [(4, ["unspecified"], "rgb"), (5, ["unspecified"] * 2, "rgb"), (2, ["unspecified"], "minisblack")],
)
def test_samples_of_no_stated_meaning_are_not_taken_for_a_stained_slide(tmp_path, samples, extra, kind):
    pixels = np.zeros((40, 50, samples), np.uint8)
    path = write_plain(
        tmp_path / "a.tif", pixels, photometric=kind, planarconfig="contig", extrasamples=extra
    )
    with open_slide(path) as slide, pytest.raises(NotBrightfieldError, match=f"sample {samples}"):
        read_all(slide)


def test_16_bit_grey_is_not_taken_for_a_stained_slide(tmp_path):
    path = write_plain(tmp_path / "a.tif", np.zeros((40, 50), np.uint16))
    with open_slide(path) as slide, pytest.raises(NotBrightfieldError, match="uint16"):
        read_all(slide)


def test_cmyk_is_refused_with_the_way_to_convert_it(tmp_path):
    path = write_plain(tmp_path / "a.tif", np.zeros((40, 50, 4), np.uint8), photometric="separated")
    with pytest.raises(UnsupportedSlideError, match=r"SEPARATED colours.*vips"):
        open_slide(path)


def test_a_single_large_strip_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.tif"
    write_plain(path, np.zeros((16, 16, 3), np.uint8), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].aspage().tags
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tags[tag].overwrite(60_000)
    with pytest.raises(UnsupportedSlideError, match=r"60000×60000.*vips"):
        open_slide(path)


# --- OME-TIFF ------------------------------------------------------------------------------------------


def write_ome(
    path: Path, pixels: NDArray[np.generic], axes: str, levels: int = 1, **metadata: object
) -> Path:
    """OME-TIFF with its pyramid in SubIFDs."""
    options = {"photometric": "rgb" if axes.endswith("S") else "minisblack", "tile": (64, 64)}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, subifds=levels - 1, metadata={"axes": axes, **metadata}, **options)  # pyright: ignore
        for level in range(1, levels):
            small = pixels[..., :: 2**level, :: 2**level, :] if axes.endswith("S") else pixels
            tiff.write(small, subfiletype=1, **options)  # pyright: ignore
    return path


def test_an_ome_pyramid_in_subifds_has_all_its_levels(tmp_path):
    rgb = tissue(512, 384)
    path = write_ome(tmp_path / "a.ome.tif", rgb, "YXS", 3, PhysicalSizeX=0.5, PhysicalSizeY=0.25)
    with open_slide(path) as slide:
        assert slide.facts.format == "ome-tiff"
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.5, 0.25, "ome PhysicalSize")
        assert len(slide.levels) == 3
        for number, level in enumerate(slide.levels):
            step = 2**number
            assert (slide.read(number, level.size.box).rgb == rgb[::step, ::step]).all()


@pytest.mark.parametrize(
    ("size", "unit", "um"), [(250, "nm", 0.25), (0.00025, "mm", 0.25), (0.25, "µm", 0.25), (2500, "Å", 0.25)]
)
def test_ome_units_are_converted(tmp_path, size, unit, um):
    path = write_ome(
        tmp_path / "a.ome.tif",
        tissue(128, 128),
        "YXS",
        PhysicalSizeX=size,
        PhysicalSizeY=size,
        PhysicalSizeXUnit=unit,
        PhysicalSizeYUnit=unit,
    )
    with open_slide(path) as slide:
        assert slide.mpp.x == slide.mpp.y == pytest.approx(um)


def test_an_ome_size_in_pixels_is_no_resolution(tmp_path):
    path = write_ome(
        tmp_path / "a.ome.tif",
        tissue(128, 128),
        "YXS",
        PhysicalSizeX=1.0,
        PhysicalSizeY=1.0,
        PhysicalSizeXUnit="pixel",
        PhysicalSizeYUnit="pixel",
    )
    with open_slide(path) as slide:
        assert slide.facts.mpp is None


def test_the_middle_focal_plane_is_read_unless_another_is_asked_for(tmp_path):
    stack = np.stack([np.full((96, 96, 3), 10 * n, np.uint8) for n in range(5)])
    path = write_ome(tmp_path / "a.ome.tif", stack, "ZYXS")
    with open_slide(path) as slide:
        assert (slide.facts.z_planes, slide.facts.z_plane) == (5, 2)
        assert (read_all(slide) == 20).all()
    for plane in range(5):
        with open_slide(path, z=plane) as slide:
            assert (read_all(slide) == 10 * plane).all()
            with slide.ref.open() as again:
                assert again.facts.z_plane == plane
    with pytest.raises(RequestError, match="focal planes 0 to 4"):
        open_slide(path, z=5)


def test_channels_are_named(tmp_path):
    path = write_ome(
        tmp_path / "a.ome.tif", np.zeros((2, 96, 96), np.uint16), "CYX", Channel={"Name": ["DAPI", "Ki-67"]}
    )
    with open_slide(path) as slide:
        assert (slide.facts.kind, slide.facts.channels) == ("multichannel", ("DAPI", "Ki-67"))
        with pytest.raises(NotBrightfieldError, match="DAPI, Ki-67"):
            read_all(slide)


# --- remote --------------------------------------------------------------------------------------------


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that answers byte ranges, as object stores do."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        wanted = self.headers.get("Range", f"bytes=0-{size - 1}").removeprefix("bytes=")
        first, last = (int(part) for part in wanted.split("-"))
        last = min(last, size - 1)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_a_slide_is_read_over_http_as_from_disk(server):
    folder, address = server
    path = write_svs(folder / "a.svs", tissue(), 0.25, 40)
    with open_slide(f"{address}/a.svs") as slide, open_slide(path) as local:
        assert (slide.reader, local.reader) == ("tiffslide", "openslide")
        assert (slide.name, slide.mpp, slide.size) == ("a.svs", local.mpp, local.size)
        assert slide.levels == local.levels
        assert (read_all(slide) == read_all(local)).all()
        assert (slide.read_associated("label") == local.read_associated("label")).all()
        assert slide.bytes is None
        assert slide.digest.startswith("remote:")
        check_reader(slide)


def test_what_is_not_there_remotely_is_unreadable(server):
    _, address = server
    with pytest.raises(UnreadableSlideError, match="cannot be opened"):
        open_slide(f"{address}/nothing.svs")


def test_a_slide_is_read_from_any_store_fsspec_knows(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue())
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/store/a.tiff", path.read_bytes())
    with open_slide("memory://store/a.tiff") as slide, open_slide(path) as local:
        assert (read_all(slide) == read_all(local)).all()
    memory.rm("/store/a.tiff")


# --- images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
def test_an_image_is_one_level_without_a_resolution(tmp_path, suffix):
    image = Image.fromarray(tissue(200, 150))
    image.save(tmp_path / f"a.{suffix}", dpi=(72, 72))
    with open_slide(tmp_path / f"a.{suffix}") as slide:
        assert slide.reader == "image"
        assert slide.facts.mpp is None
        assert (read_all(slide) == np.asarray(Image.open(tmp_path / f"a.{suffix}"))).all()
        check_reader(slide)
    with open_slide(tmp_path / f"a.{suffix}", mpp=0.5) as slide:
        assert slide.mpp.source == "given"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    rgb = tissue(60, 40)
    if mode == "I;16":
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
        seen = np.repeat(rgb[..., :1], 3, axis=2)
    else:
        image = Image.fromarray(rgb).convert(mode)
        seen = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert (read_all(slide) == seen).all()


def test_a_transparent_image_is_laid_over_white(tmp_path):
    rgba = np.dstack([tissue(60, 40), np.zeros((40, 60), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read(0, slide.size.box)
    assert (pixels.rgb == 255).all()
    assert not pixels.valid.any()
    assert not pixels.damaged.any()


def test_the_frame_is_that_of_the_stored_rows_whatever_exif_says(tmp_path):
    image = Image.fromarray(tissue(200, 150))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    with open_slide(tmp_path / "a.jpg") as slide:
        assert (slide.size.width, slide.size.height) == (200, 150)


# --- damage --------------------------------------------------------------------------------------------

TILE = 128


@pytest.fixture(params=["openslide", "tiffslide"])
def reader(request) -> str:
    return request.param


def tiles_mask(width: int, height: int, indexes: tuple[int, ...]) -> NDArray[np.bool_]:
    """True on the pixels of those tiles, counted row by row."""
    mask = np.zeros((height, width), bool)
    across = -(-width // TILE)
    for index in indexes:
        row, column = divmod(index, across)
        mask[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = True
    return mask


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", "zstd"])
@pytest.mark.parametrize("how", [zero_tiles, corrupt_tiles], ids=["sparse", "corrupt"])
def test_exactly_the_damaged_tiles_are_lost(tmp_path, reader, compression, how):
    rgb, hit = tissue(700, 520), (0, 7, 8, 29)
    whole = write_tiff(tmp_path / "whole.tiff", rgb, tile=TILE, levels=2, compression=compression)
    path = tmp_path / "damaged.tiff"
    shutil.copy(whole, path)
    how(path, hit)
    expected = tiles_mask(700, 520, hit)
    with open_slide(path, reader=reader) as slide, open_slide(whole, reader=reader) as sound:
        pixels, right = slide.read(0, slide.size.box), sound.read(0, sound.size.box)
        assert (pixels.damaged == expected).all()
        assert (pixels.valid == ~expected).all()
        assert (pixels.rgb[expected] == slide.background).all()
        assert (pixels.rgb[~expected] == right.rgb[~expected]).all()
        assert not slide.read(1, slide.levels[1].size.box).damaged.any()
        share = slide.facts.missing_fraction
        assert share == (pytest.approx(4 / 30) if how is zero_tiles else 0)


def test_of_a_cut_off_slide_the_rest_can_be_read_when_asked_for(tmp_path):
    """A TIFF whose index comes first, as some scanners write it."""
    rgb = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    path = write_tiff(tmp_path / "a.tiff", rgb, tile=TILE, compression="deflate")
    truncate(path, 0.6)
    with pytest.raises(UnreadableSlideError, match="cut off"):
        open_slide(path)
    with open_slide(path, reader="tiffslide") as slide:
        pixels = slide.read(0, slide.size.box)
    assert 0.3 < pixels.damaged.mean() < 0.5
    assert pixels.damaged.mean() == pytest.approx(slide.facts.missing_fraction)
    assert (pixels.rgb[pixels.valid] == rgb[pixels.valid]).all()


def test_a_jpeg_tile_cut_in_the_middle_is_damage_not_grey(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(512, 512), tile=TILE)
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    with path.open("r+b") as file:
        file.seek(at + count // 2)
        file.write(bytes(count - count // 2))
    with open_slide(path, reader="tiffslide") as slide:
        assert (slide.read(0, slide.size.box).damaged == tiles_mask(512, 512, (5,))).all()


@pytest.mark.parametrize("tile", [(40_000, 40_000), (16, 4096)])
def test_a_tile_that_decodes_larger_than_it_says_is_corrupt(tmp_path, tile):
    """A bomb: the JPEG inside claims a size of its own."""
    path = write_tiff(tmp_path / "a.tiff", tissue(512, 512), tile=TILE)
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    with path.open("r+b") as file:
        file.seek(at)
        data = bytearray(file.read(count))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = tile[1].to_bytes(2) + tile[0].to_bytes(2)
        file.seek(at)
        file.write(data)
    with open_slide(path, reader="tiffslide") as slide:
        assert slide.read(0, slide.size.box).damaged.any()


def test_eight_threads_read_around_corrupt_tiles(tmp_path, reader):
    """OpenSlide's handle fails for every thread once it met an error; no sound tile may be lost by that."""
    rgb, hit = tissue(1024, 1024), (3, 9, 17, 18, 33, 40, 63)
    whole = write_tiff(tmp_path / "whole.tiff", rgb, tile=TILE)
    path = tmp_path / "damaged.tiff"
    shutil.copy(whole, path)
    corrupt_tiles(path, hit)
    with open_slide(whole) as sound:
        right = read_all(sound)
    expected = tiles_mask(1024, 1024, hit)
    random = np.random.default_rng(5)
    wanted = [Box(int(x), int(y), 90, 90) for x, y in random.integers(0, 1024 - 90, (400, 2))]
    for _ in range(3):
        with open_slide(path, reader=reader) as slide, ThreadPoolExecutor(8) as pool:
            for box, pixels in zip(wanted, pool.map(lambda box: slide.read(0, box), wanted), strict=True):
                at = box.within(slide.size.box)
                assert (pixels.damaged == expected[at]).all()
                assert (pixels.rgb[pixels.valid] == right[at][pixels.valid]).all()


def test_reading_many_corrupt_tiles_leaves_few_files_open(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(1024, 1024), tile=64)
    corrupt_tiles(path, range(0, 256, 2))
    with open_slide(path) as slide:
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert slide.read(0, slide.size.box).damaged.mean() == 0.5
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


@pytest.mark.parametrize("file", ["a.svs", "b.ome.tif"])
def test_a_slide_is_opened_again_in_a_spawned_process(tmp_path, file):
    path = tmp_path / file
    rgb = tissue(512, 512)
    if file == "a.svs":
        write_svs(path, rgb)
    else:
        write_ome(path, rgb, "YXS")
    spawn = multiprocessing.get_context("spawn")
    with open_slide(path, mpp=0.3) as slide, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert slide.ref.mpp is not None
        assert pool.submit(mean_of, slide.ref).result() == mean_of(slide.ref)


def test_an_svs_gap_in_a_coarser_level_is_filled_from_the_finer_one_as_openslide_does(tmp_path):
    rgb = tissue()
    path = write_svs(tmp_path / "a.svs", rgb, tile=128)
    zero_tiles(path, [0], page=2)
    with open_slide(path) as slide:
        pixels = slide.read(1, slide.levels[1].size.box)
        assert not pixels.damaged.any()
        assert np.abs(pixels.rgb - halve(halve(rgb)).astype(int)).mean() < 12
