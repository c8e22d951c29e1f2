"""Files made to do harm: they cost no memory, open no other file, and end in a typed error."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slides import tissue, write_svs, write_tiff

from coverslip.errors import CoverslipError, UnreadableSlideError, UnsupportedSlideError
from coverslip.wsi import Box, open_slide

MEMORY = 4 << 30  # bytes of address space for a process that opens a hostile file
READ = """
import resource, sys
from coverslip.errors import CoverslipError
from coverslip.wsi import Box, open_slide
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
try:
    with open_slide(sys.argv[1], reader=sys.argv[2] or None) as slide:
        pixels = slide.read(0, Box(0, 0, 64, 64))
        print("damaged" if pixels.damaged.any() else "read")
except CoverslipError as error:
    print(type(error).__name__)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def outcome(path: Path, reader: str = "") -> tuple[str, float]:
    """What reading a corner gives in a process of its own, and its memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", READ.format(memory=MEMORY), str(path), reader],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, memory = done.stdout.split()
    return said, int(memory) / 1024


def overwrite(path: Path, **tags: int) -> Path:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        found = tiff.pages[0].aspage().tags
        for name, value in tags.items():
            found[name].overwrite(value)
    return path


@pytest.mark.parametrize("side", [1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("reader", ["", "tiffslide"])
def test_a_slide_that_claims_to_be_endless_takes_no_memory(tmp_path, side, reader):
    path = write_tiff(tmp_path / "a.tiff", tissue(256, 256), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].aspage().tags[name].overwrite(side, dtype="I")
    said, memory = outcome(path, reader)
    assert said in {"UnreadableSlideError", "UnsupportedSlideError"}
    assert memory < 600


@pytest.mark.parametrize("rows", [(1 << 31) - 1, 1 << 20])
def test_one_endless_strip_takes_no_memory(tmp_path, rows):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 16, 3), np.uint8), photometric="rgb", metadata=None)
    overwrite(path, ImageLength=rows, RowsPerStrip=rows, ImageWidth=1 << 16)
    said, memory = outcome(path)
    assert said in {"UnreadableSlideError", "UnsupportedSlideError"}
    assert memory < 600


@pytest.mark.parametrize("codec", ["deflate", "zstd"])
def test_a_tile_that_unpacks_to_gigabytes_is_cut_at_its_size(tmp_path, codec):
    import imagecodecs

    bomb = (
        zlib.compress(bytes(1 << 30), 9)
        if codec == "deflate"
        else imagecodecs.zstd_encode(bytes(1 << 30), level=3)
    )
    path = tmp_path / "a.tif"
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), np.uint8)
    tifffile.imwrite(path, noise, tile=(1024, 1024), photometric="rgb", compression=codec, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    assert len(bomb) <= count
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bomb)
    said, memory = outcome(path, "tiffslide")
    assert said in {"damaged", "read"}
    assert memory < 600


def test_a_jpeg_tile_that_claims_another_size_takes_no_memory(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", tissue(256, 256), tile=256)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0", at)
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(data)
    for reader in ("openslide", "tiffslide"):
        said, memory = outcome(path, reader)
        assert said == "damaged"
        assert memory < 600


def test_an_image_that_claims_to_be_huge_is_refused_unread(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 30_000, 2**31 - 1):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / "a.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
            + chunk(b"IEND", b"")
        )
        with pytest.raises(UnsupportedSlideError, match="pixels in one piece"):
            open_slide(path)


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c SYSTEM "file:///etc/passwd">]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    "<Image><Pixels>&b;&c;</Pixels></Image></OME>"
)


@pytest.mark.parametrize("reader", [None, "tiffslide"])
def test_entities_in_the_xml_are_refused(tmp_path, reader):
    path = write_tiff(tmp_path / "a.ome.tif", tissue(256, 256), description=LAUGHS)
    with pytest.raises(UnreadableSlideError, match="entities"):
        open_slide(path, reader=reader)


@pytest.mark.parametrize(
    "inner",
    ["", "<Image/>", "<Image><Pixels/></Image>", "<Image><Pixels SizeC='x'/></Image>", "<Image", "&#0;"],
)
def test_broken_ome_xml_is_a_typed_error(tmp_path, inner):
    text = (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{inner}</OME>'
    )
    path = write_tiff(tmp_path / "a.ome.tif", tissue(256, 256), description=text)
    with pytest.raises((UnreadableSlideError, UnsupportedSlideError)):
        open_slide(path)


def test_an_ome_tiff_that_names_another_file_does_not_open_it(tmp_path):
    """Pixels of a file the user did not give would be shown otherwise."""
    secret = write_tiff(tmp_path / "secret.tif", np.full((256, 256, 3), 7, np.uint8), compression="deflate")
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="256" '
        'SizeY="256" SizeC="3" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{secret.name}">urn:uuid:1</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    path = write_tiff(
        tmp_path / "a.ome.tif",
        np.full((256, 256, 3), 200, np.uint8),
        compression="deflate",
        description=text,
    )
    try:
        with open_slide(path) as slide:
            seen = slide.read(0, slide.size.box).rgb
    except CoverslipError:
        return
    assert (seen == 200).all()


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_flipped_bytes_end_in_pixels_or_in_a_typed_error(tmp_path, data):
    """Never another exception, whichever byte of the index or the pixels is wrong."""
    whole = tmp_path / "whole.svs"
    if not whole.exists():
        write_svs(whole, tissue(256, 256), tile=64, levels=1, label=False)
    content = bytearray(whole.read_bytes())
    with tifffile.TiffFile(whole) as tiff:
        index = [tag.offset for page in tiff.pages for tag in page.aspage().tags]
    for _ in range(data.draw(st.integers(1, 4), "flips")):
        near = data.draw(st.sampled_from(index), "tag") + data.draw(st.integers(0, 11), "byte")
        content[near] = data.draw(st.integers(0, 255), "value")
    path = tmp_path / "a.svs"
    path.write_bytes(content)
    for reader in (None, "tiffslide"):
        try:
            with open_slide(path, reader=reader) as slide:
                slide.read(0, Box(0, 0, 100, 100))
                for name in slide.facts.associated:
                    slide.read_associated(name)
        except CoverslipError:
            continue


@given(
    content=st.binary(min_size=1, max_size=600),
    magic=st.sampled_from(["tiff", "png", "jpeg", "bmp", "dicom", ""]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_are_a_typed_error(tmp_path, content, magic):
    heads = {
        "tiff": b"II*\0\x08\0\0\0",
        "png": b"\x89PNG\r\n\x1a\n",
        "jpeg": b"\xff\xd8\xff\xe0",
        "bmp": b"BM",
        "dicom": bytes(128) + b"DICM",
        "": b"",
    }
    path = tmp_path / "a.svs"
    path.write_bytes(heads[magic] + content)
    try:
        with open_slide(path) as slide:
            slide.size  # noqa: B018
    except CoverslipError:
        return


def test_no_memory_limit_leaks_into_the_tests():
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
