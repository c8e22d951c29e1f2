"""OME-Zarr stores of any make are read as they mean to be, and hostile ones refused in words."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import TransposeCodec

from coverslip.errors import (
    NotBrightfieldError,
    RequestError,
    SlideError,
    SlideInformationError,
    UnreadableSlideError,
    UnsupportedSlideError,
)
from coverslip.wsi import Box, Mpp, open_slide

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
RGB = ["FF0000", "00FF00", "0000FF"]


def picture(height: int = 90, width: int = 70) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def arranged(rgb: NDArray[Any], axes: str, planes: int = 1) -> NDArray[Any]:
    """(y, x, c) in the order of `axes`; plane z is the picture plus z."""
    stack = np.stack([rgb + np.asarray(z, rgb.dtype) for z in range(planes)])[None]
    kept = stack if "z" in axes else stack[:, :1]
    order = [n for n, axis in enumerate("tzyxc") if axis in axes]
    squeezed = kept.squeeze(tuple(n for n, axis in enumerate("tzyxc") if axis not in axes))
    names = ["tzyxc"[n] for n in order]
    return squeezed.transpose([names.index(axis) for axis in axes])


def attributes(axes: str, scale: Sequence[float], **changes: Any) -> dict[str, Any]:
    unit = changes.pop("unit", "micrometer")
    space = {"unit": unit} if unit else {}
    image = {
        "axes": [{"name": a, "type": KINDS[a], **(space if a in "zyx" else {})} for a in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}],
    }
    return {"multiscales": [{**image, **changes}]}


def write(
    folder: Path,
    data: NDArray[Any],
    axes: str,
    said: dict[str, Any] | None = None,
    version: int = 3,
    **how: Any,
) -> Path:
    """A store of one level as any program might write it."""
    root = zarr.open_group(folder, mode="w", zarr_format=version)  # type: ignore[arg-type]
    said = said or attributes(axes, [0.5 if axis in "zyx" else 1.0 for axis in axes])
    root.attrs.put({"ome": {"version": "0.5", **said}} if version == 3 else said)
    chunks = tuple(3 if axis == "c" else min(32, size) for axis, size in zip(axes, data.shape, strict=True))
    if version == 2:
        how["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    array = root.create_array("0", shape=data.shape, dtype=data.dtype, **{"chunks": chunks, **how})
    array[...] = data
    return folder


def edit(store: Path, change: Any) -> None:
    """Change the JSON of the root group."""
    file = store / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["cmu1_crop_v04", "cmu1_crop_v05"])
def test_stores_of_other_programs_equal_their_source(shared: Path, name: str):
    source = open_slide(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs")
    with source, open_slide(shared / f"wsi/derived/{name}.ome.zarr") as slide:
        assert slide.reader == "ome-zarr"
        assert slide.mpp == Mpp(0.499, 0.499, "ome-zarr scale")
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        whole = slide.read(0, slide.size.box)
        np.testing.assert_array_equal(whole.rgb, source.read(0, Box(700, 1000, 1024, 1024)).rgb)
        assert whole.valid.all()
        assert slide.facts.files == tuple(sorted(slide.facts.files))
        assert len(slide.facts.files) > 60


@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx", "xyc", "zcyx", "tyxc"])
@pytest.mark.parametrize("version", [2, 3])
def test_axes_come_in_any_order(tmp_path: Path, axes: str, version: int):
    said = attributes(axes, [0.25 if axis == "x" else 0.5 for axis in axes])
    store = write(tmp_path / "s.zarr", arranged(picture(), axes), axes, said, version)
    with open_slide(store) as slide:
        assert slide.mpp == Mpp(0.25, 0.5, "ome-zarr scale")
        assert slide.size.shape == (90, 70)
        np.testing.assert_array_equal(slide.read(0, slide.size.box).rgb, picture())
        tile = slide.levels[0].tile
        assert tile is not None
        assert tile.shape == (32, 32)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codecs: dict[str, Any] = {"shards": (3, 64, 64), "filters": [TransposeCodec(order=(1, 2, 0))]}
    folder = tmp_path_factory.mktemp("sharded") / "s.zarr"
    return write(folder, arranged(picture(), "cyx"), "cyx", **codecs)


@given(x=st.integers(-20, 90), y=st.integers(-20, 110), width=st.integers(1, 99), height=st.integers(1, 99))
@limits(deadline=None, max_examples=40)
def test_any_box_is_the_picture_there_and_glass_outside(
    sharded: Path, x: int, y: int, width: int, height: int
):
    box = Box(x, y, width, height)
    expected = np.full((height, width, 3), 255, np.uint8)
    valid = np.zeros((height, width), bool)
    inside = box.clip(Box(0, 0, 70, 90).size)
    if inside is not None:
        expected[inside.within(box)] = picture()[inside.within(Box(0, 0, 1, 1))]
        valid[inside.within(box)] = True
    with open_slide(sharded) as slide:
        found = slide.read(0, box)
    np.testing.assert_array_equal(found.rgb, expected)
    np.testing.assert_array_equal(found.valid, valid)
    assert not found.damaged.any()


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", 250.0), ("millimeter", 2.5e-4), ("micrometer", 0.25), ("meter", 2.5e-7)]
)
def test_lengths_become_micrometres(tmp_path: Path, unit: str, mpp: float):
    said = attributes("cyx", [1, mpp, mpp], unit=unit)
    with open_slide(write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)) as slide:
        assert slide.mpp.x == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize("unit", [None, "parsec", 7])
def test_a_length_without_a_known_unit_is_no_resolution(tmp_path: Path, unit: Any):
    said = attributes("cyx", [1, 0.5, 0.5], unit=unit)
    with open_slide(write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)) as slide:
        assert slide.facts.mpp is None
        with pytest.raises(SlideInformationError, match="does not state"):
            _ = slide.mpp


def test_the_scale_of_the_whole_image_counts(tmp_path: Path):
    whole = [{"type": "scale", "scale": [1, 2, 4]}]
    said = attributes("cyx", [1, 0.25, 0.25], coordinateTransformations=whole)
    with open_slide(write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)) as slide:
        assert (slide.mpp.y, slide.mpp.x) == (0.5, 1.0)


@pytest.mark.parametrize(("z", "plane"), [(None, 2), (0, 0), (4, 4)])
def test_the_middle_plane_or_the_one_asked_for(tmp_path: Path, z: int | None, plane: int):
    rgb = picture() // 2
    store = write(tmp_path / "s.zarr", arranged(rgb, "czyx", 5), "czyx")
    with open_slide(store, z=z) as slide:
        assert (slide.facts.z_planes, slide.facts.z_plane) == (5, plane)
        np.testing.assert_array_equal(slide.read(0, slide.size.box).rgb, rgb + plane)


def test_a_plane_that_is_not_there_is_refused(tmp_path: Path):
    store = write(tmp_path / "s.zarr", arranged(picture(), "czyx", 5), "czyx")
    with pytest.raises(RequestError, match="0 to 4"):
        open_slide(store, z=5)


def omero(names: Sequence[str], colors: Sequence[str]) -> dict[str, Any]:
    return {"channels": [{"label": n, "color": c} for n, c in zip(names, colors, strict=True)]}


@pytest.mark.parametrize(
    ("data", "colors", "kind"),
    [
        (picture(), RGB, "brightfield"),
        (picture(), ["0000FF", "00FF00", "FF0000"], "multichannel"),
        (picture().astype(np.uint16), RGB, "multichannel"),
        (picture()[..., :2], RGB[:2], "multichannel"),
    ],
)
def test_only_red_green_and_blue_bytes_are_brightfield(
    tmp_path: Path, data: NDArray[Any], colors: list[str], kind: str
):
    said = {**attributes("cyx", [1, 0.5, 0.5]), "omero": omero(["a", "b", "c"][: len(colors)], colors)}
    with open_slide(write(tmp_path / "s.zarr", arranged(data, "cyx"), "cyx", said)) as slide:
        assert slide.facts.kind == kind
        if kind == "multichannel":
            assert slide.facts.channels == ("a", "b", "c")[: len(colors)]
            with pytest.raises(NotBrightfieldError):
                slide.read(0, slide.size.box)


def test_a_picture_without_channels_is_not_brightfield(tmp_path: Path):
    with open_slide(write(tmp_path / "s.zarr", picture()[..., 0], "yx")) as slide:
        assert slide.facts.kind == "multichannel"


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_left_out_is_the_fill_value_and_valid(tmp_path: Path, version: int):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", version=version, fill_value=9)
    (chunk,) = (p for p in (store / "0").rglob("1") if p.is_file() and p.parent.name == "0")
    chunk.unlink()
    with open_slide(store) as slide:
        found = slide.read(0, slide.size.box)
    expected = picture()
    expected[:32, 32:64] = 9
    np.testing.assert_array_equal(found.rgb, expected)
    assert found.valid.all()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("wreck", [b"", b"\xa5" * 300])
def test_a_corrupt_chunk_is_damage_and_the_rest_is_read(tmp_path: Path, version: int, wreck: bytes):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", version=version)
    (chunk,) = (p for p in (store / "0").rglob("1") if p.is_file() and p.parent.name == "0")
    chunk.write_bytes(wreck)
    with open_slide(store) as slide:
        found = slide.read(0, Box(-10, 0, 90, 90))
    where = np.zeros((90, 90), bool)
    where[:32, 42:74] = True
    np.testing.assert_array_equal(found.damaged, where)
    np.testing.assert_array_equal(found.rgb[:, 10:80][~where[:, 10:80]], picture()[~where[:, 10:80]])
    assert (found.rgb[where] == 255).all()


@pytest.mark.parametrize("cut", [0, 8, 200])
def test_a_cut_off_shard_is_damage(tmp_path: Path, cut: int):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", shards=(3, 64, 64))
    file = store / "0/c/0/0/0"
    file.write_bytes(file.read_bytes()[:cut])
    with open_slide(store) as slide:
        found = slide.read(0, slide.size.box)
    assert found.damaged[:64, :64].all()
    assert not found.damaged[64:].any()
    np.testing.assert_array_equal(found.rgb[64:], picture()[64:])


def test_levels_and_factors_are_those_of_the_arrays(tmp_path: Path):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx")
    root = zarr.open_group(store, mode="r+")
    root.create_array("1", data=arranged(picture()[::2, ::2], "cyx"))
    step = [{"type": "scale", "scale": [1, 1, 1]}]

    def add(document: Any) -> None:
        document["attributes"]["ome"]["multiscales"][0]["datasets"].append(
            {"path": "1", "coordinateTransformations": step}
        )

    edit(store, add)
    with open_slide(store) as slide:
        assert [level.size.shape for level in slide.levels] == [(90, 70), (45, 35)]
        assert slide.levels[1].downsample == 2
        np.testing.assert_array_equal(slide.read(1, slide.levels[1].size.box).rgb, picture()[::2, ::2])

    def turn(document: Any) -> None:
        document["attributes"]["ome"]["multiscales"][0]["datasets"].reverse()

    edit(store, turn)
    with pytest.raises(UnreadableSlideError, match="belong together"):
        open_slide(store)


def test_the_first_series_of_bioformats2raw_is_taken(tmp_path: Path):
    root = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "s.zarr/0", arranged(picture(), "cyx"), "cyx", version=2)
    with open_slide(tmp_path / "s.zarr") as slide:
        np.testing.assert_array_equal(slide.read(0, slide.size.box).rgb, picture())


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"plate": {"wells": []}}, "plate"),
        ({"hello": 1}, "without an OME-Zarr image"),
        ({"version": "0.6", **attributes("cyx", [1, 1, 1])}, r"0\.6"),
    ],
)
def test_what_is_no_image_of_a_known_version_is_refused(tmp_path: Path, said: dict[str, Any], word: str):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)
    with pytest.raises(UnsupportedSlideError, match=word):
        open_slide(store)


def test_an_old_version_is_refused(tmp_path: Path):
    said = attributes("cyx", [1, 1, 1], version="0.3")
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said, 2)
    with pytest.raises(UnsupportedSlideError, match=r"0\.3 on Zarr v2"):
        open_slide(store)


@pytest.mark.parametrize(
    "path", ["../other", "/etc", "a/../../b", "", None, "c:\\x", "file:x", "http://host/x", 3, "a\0b"]
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: Any):
    said = attributes("cyx", [1, 1, 1])
    said["multiscales"][0]["datasets"][0]["path"] = path
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)
    with pytest.raises(UnreadableSlideError, match="leads out"):
        open_slide(store)


@pytest.mark.parametrize(
    "change",
    [
        {"axes": None},
        {"axes": ["c", "y", "x"]},
        {"axes": [{"name": "c"}, {"name": "y"}, {"name": "y"}]},
        {"axes": [{"name": "q"}, {"name": "y"}, {"name": "x"}]},
        {"axes": [{"name": "y"}, {"name": "x"}]},
        {"datasets": []},
        {"datasets": {"path": "0"}},
        {"datasets": [{"path": "absent"}]},
        {"datasets": [{"path": "0"}] * 65},
    ],
)
def test_metadata_that_contradict_the_specification_are_refused(tmp_path: Path, change: dict[str, Any]):
    said = {"multiscales": [{**attributes("cyx", [1, 1, 1])["multiscales"][0], **change}]}
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)
    with pytest.raises(UnreadableSlideError):
        open_slide(store)


@pytest.mark.parametrize(
    "scale", [[1, 0.5], [1, -1, 1], [1, 0, 1], [1, "a", 1], "abc", None, [1, 1e300, 1], [1, True, 1]]
)
def test_scales_that_cannot_be_are_refused(tmp_path: Path, scale: Any):
    said = attributes("cyx", [1, 1, 1])
    said["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = scale
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)
    with pytest.raises(UnreadableSlideError, match="transformation"):
        open_slide(store)


def test_no_scale_at_all_is_no_resolution(tmp_path: Path):
    said = attributes("cyx", [1, 1, 1])
    said["multiscales"][0]["datasets"][0].pop("coordinateTransformations")
    with open_slide(write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", said)) as slide:
        assert slide.facts.mpp is None


def array_json(store: Path, change: Any) -> None:
    file = store / "0/zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(shape=[3, 10**12, 10**12]),
        lambda d: d.update(shape=[3, 0, 70]),
        lambda d: d.update(shape=[3, -5, 70]),
        lambda d: d.update(shape="x"),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[3, 10**6, 10**6]),
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[3, 32]),
        lambda d: d.update(data_type="float99"),
        lambda d: d.pop("codecs"),
    ],
)
def test_absurd_arrays_are_refused_before_memory_is_taken(tmp_path: Path, change: Any):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx")
    array_json(store, change)
    with pytest.raises(UnreadableSlideError):
        open_slide(store)


@pytest.mark.parametrize("text", ["{", "[]", "\0", '{"zarr_format": 9}', "[" * 100_000])
def test_json_that_is_none_is_refused(tmp_path: Path, text: str):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx")
    (store / "zarr.json").write_text(text)
    with pytest.raises(UnreadableSlideError, match="Zarr store"):
        open_slide(store)


@pytest.mark.parametrize(
    ("compressor", "filters"),
    [
        ({"id": "pickle", "protocol": 5}, None),
        (None, [{"id": "zlib", "level": 1}, {"id": "pickle", "protocol": 5}]),
    ],
)
def test_a_codec_that_runs_what_it_reads_is_refused(tmp_path: Path, compressor: Any, filters: Any):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", version=2)
    file = store / "0/.zarray"
    document = {**json.loads(file.read_text()), "compressor": compressor, "filters": filters}
    file.write_text(json.dumps(document))
    with pytest.raises(SlideError, match="pickle"):
        open_slide(store)


def test_a_codec_that_is_not_known_to_be_harmless_is_refused(tmp_path: Path):
    store = write(
        tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", version=2, filters=[numcodecs.PackBits()]
    )
    with pytest.raises(UnsupportedSlideError, match="packbits"):
        open_slide(store)


def test_an_unreadable_array_names_the_level(tmp_path: Path):
    store = write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx")
    shutil.rmtree(store / "0")
    with pytest.raises(UnreadableSlideError, match="level 0"):
        open_slide(store)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_on_a_web_server_is_read(tmp_path: Path, server: str, version: int):
    write(tmp_path / "s.zarr", arranged(picture(), "cyx"), "cyx", version=version)
    with open_slide(f"{server}/s.zarr") as slide:
        assert slide.reader == "ome-zarr"
        np.testing.assert_array_equal(slide.read(0, slide.size.box).rgb, picture())


def test_a_store_that_is_not_on_the_server_is_unreadable(server: str):
    with pytest.raises(UnreadableSlideError):
        open_slide(f"{server}/none.zarr")


def test_several_threads_read_at_once(sharded: Path):
    from concurrent.futures import ThreadPoolExecutor

    with open_slide(sharded) as slide, ThreadPoolExecutor(4) as pool:
        boxes = [Box(x, y, 30, 30) for x in range(0, 40, 7) for y in range(0, 60, 7)]
        for box, found in zip(boxes, pool.map(lambda box: slide.read(0, box).rgb, boxes), strict=True):
            np.testing.assert_array_equal(found, picture()[box.y : box.bottom, box.x : box.right])
