"""Slides become OME-Zarr pyramids: right pixels, valid metadata, whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import zarr
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from numpy.typing import NDArray

from coverslip.errors import RequestError, SlideInformationError, StoreIncompleteError
from coverslip.ruo import RUO
from coverslip.tiling.cascade import halve, write_region
from coverslip.tiling.ome_zarr import create_store
from coverslip.tiling.pyramid import PyramidSettings, plan_pyramid, shards
from coverslip.workflows.convert import convert
from coverslip.wsi import Box, Mpp, Size, Slide, open_slide

PASSING = PyramidSettings(chunk=64, shard=128, smallest=100)
SMALL = PyramidSettings(chunk=64, shard=128, smallest=100, portable=True)
OLD = PyramidSettings(chunk=64, shard=128, smallest=100, ngff="0.4")
LOSSLESS = pytest.mark.parametrize("settings", [SMALL, OLD], ids=["0.5", "0.4"])
EVERY = pytest.mark.parametrize("settings", [PASSING, SMALL, OLD], ids=["passing", "0.5", "0.4"])


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    """Two levels, the second odd, pixels that are not square.

    Level 0 is even: where a downsample is not whole, OpenSlide's frame of level-0 pixels shifts what it reads
    of level 1 by a fraction of a pixel that depends on the box, and no two ways of reading it are equal.
    """
    return slides.write_tiff(tmp_path / "s.tif", slides.tissue(334, 252), (0.25, 0.5), tile=64, levels=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def attributes(store: Path) -> dict[str, Any]:
    found = zarr.open_group(store, mode="r").attrs.asdict()
    return {**found, **dict(found.get("ome", {}))}  # type: ignore[arg-type]


def pixels(store: Path, level: int) -> NDArray[np.uint8]:
    """As stock zarr reads them, (y, x, c)."""
    array = zarr.open_array(store, path=str(level), mode="r")
    return np.moveaxis(np.asarray(array[:]), 0, -1)


def mean_of_four(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Written independently of OpenCV: halves rounded up, an odd last row or column counted twice."""
    rgb = np.concatenate([rgb, rgb[-1:]]) if rgb.shape[0] % 2 else rgb
    rgb = np.concatenate([rgb, rgb[:, -1:]], axis=1) if rgb.shape[1] % 2 else rgb
    wide = rgb.astype(np.uint32)
    total = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 15))
def test_regions_cover_a_level_once(width: int, height: int, side: int):
    seen = np.zeros((height, width), int)
    for box in shards(Size(width, height), Size(side, side)):
        assert box.x % side == box.y % side == 0
        seen[box.y : box.bottom, box.x : box.right] += 1
    assert (seen == 1).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_halving_is_the_mean_rounded_up(width: int, height: int, seed: int):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(halve(rgb), mean_of_four(rgb))


def test_plan_takes_stored_levels_then_halves_the_last(tmp_path: Path):
    path = slides.write_svs(tmp_path / "s.svs", slides.tissue(1024, 768), 0.25, 40, levels=2)
    with open_slide(path) as slide:
        plan = plan_pyramid(slide, SMALL)
        assert [level.stored for level in plan.levels] == [0, 1, None, None]
        assert [level.downsample_x for level in plan.levels] == [1, 4, 8, 16]
        assert plan.levels[-1].size == Size(64, 48)
        assert plan.scale_um(1) == (1.0, 1.0)
        assert plan.translation_um(1) == (0.375, 0.375)
        assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301


def test_plan_of_halvings_takes_the_stored_level_where_there_is_one(tmp_path: Path):
    path = slides.write_svs(tmp_path / "s.svs", slides.tissue(1024, 768), 0.25, 40, levels=2)
    with open_slide(path) as slide:
        plan = plan_pyramid(slide, PyramidSettings(chunk=64, shard=128, smallest=100, halvings=True))
    assert [level.stored for level in plan.levels] == [0, None, 1, None, None]
    assert [level.downsample_y for level in plan.levels] == [1, 2, 4, 8, 16]


def test_plan_needs_the_resolution(tmp_path: Path):
    path = slides.write_tiff(tmp_path / "s.tif", slides.tissue(64, 64), None, tile=64)
    with open_slide(path) as slide, pytest.raises(SlideInformationError):
        convert(slide, tmp_path / "s.ome.zarr", SMALL)
    assert not list(tmp_path.glob("*zarr*"))


@pytest.mark.parametrize(
    "wrong", [{"chunk": 8}, {"chunk": 65}, {"shard": 100}, {"ngff": "0.6"}, {"smallest": 0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]):
    with pytest.raises(RequestError):
        PyramidSettings(**{"chunk": 64, "shard": 128, **wrong})


@LOSSLESS
def test_pixels_are_those_of_the_slide_and_their_halvings(
    tmp_path: Path, slide_path: Path, settings: PyramidSettings
):
    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        done = convert(slide, out, settings)
        assert [level.stored for level in done.plan.levels] == [0, 1, None]
        for number in (0, 1):
            whole = slide.read(number, slide.levels[number].size.box).rgb
            np.testing.assert_array_equal(pixels(out, number), whole)
    np.testing.assert_array_equal(pixels(out, 2), mean_of_four(pixels(out, 1)))
    assert done.damaged == (0, 0, 0)


@EVERY
def test_our_reader_gives_back_slide_and_frame(tmp_path: Path, slide_path: Path, settings: PyramidSettings):
    with open_slide(slide_path) as slide, slide_levels(tmp_path, slide_path, settings) as copy:
        assert copy.mpp == Mpp(0.25, 0.5, "ome-zarr scale")
        assert [level.size for level in copy.levels[:2]] == [level.size for level in slide.levels]
        assert [level.downsample_x for level in copy.levels] == [1, 2, 4]
        box = Box(-3, 100, 300, 200)
        np.testing.assert_array_equal(copy.read(0, box).rgb, slide.read(0, box).rgb)


def slide_levels(tmp_path: Path, path: Path, settings: PyramidSettings):
    with open_slide(path) as slide:
        return open_slide(convert(slide, tmp_path / "copy.ome.zarr", settings).path)


@EVERY
def test_metadata_state_scale_centre_and_provenance(
    tmp_path: Path, slide_path: Path, settings: PyramidSettings
):
    out = tmp_path / "case.ome.zarr"
    with open_slide(slide_path) as slide:
        convert(slide, out, settings)
        digest = slide.digest
    found = attributes(out)
    image = found["multiscales"][0]
    transforms = image["datasets"][1]["coordinateTransformations"]
    assert transforms[0] == {"type": "scale", "scale": [1.0, 1.0, 0.5]}
    assert transforms[1] == {"type": "translation", "translation": [0.0, 0.25, 0.125]}
    assert image["name"] == "case"
    assert [axis.get("unit") for axis in image["axes"]] == [None, "micrometer", "micrometer"]
    ours = found["coverslip"]
    assert ours["schema"] == "coverslip.pyramid/1"
    assert ours["use"] == RUO
    assert ours["source"]["digest"] == digest
    assert ours["damaged_pixels"] == [0, 0, 0]
    assert "s.tif" not in json.dumps(found)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 64), (1, 300), (333, 251)])
@EVERY
def test_slides_smaller_than_a_chunk_and_of_odd_size(
    tmp_path: Path, size: tuple[int, int], settings: PyramidSettings
):
    rgb = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path = slides.write_tiff(tmp_path / "s.tif", rgb, 0.5, tile=16, compression="deflate")
    with open_slide(path) as slide:
        convert(slide, tmp_path / "s.ome.zarr", settings)
    np.testing.assert_array_equal(pixels(tmp_path / "s.ome.zarr", 0), rgb)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slide, Slide]]:
    """A slide and its conversion."""
    folder = tmp_path_factory.mktemp("pair")
    path = slides.write_tiff(folder / "s.tif", slides.tissue(334, 252), 0.5, tile=64, levels=2)
    with open_slide(path) as slide, open_slide(convert(slide, folder / "s.ome.zarr", SMALL).path) as copy:
        yield slide, copy


@given(data=st.data())
@limits(deadline=None)
def test_any_region_of_the_store_equals_the_slide(pair: tuple[Slide, Slide], data: st.DataObject):
    slide, copy = pair
    number = data.draw(st.integers(0, 1))
    size = slide.levels[number].size
    x, y = data.draw(st.integers(-9, size.width)), data.draw(st.integers(-9, size.height))
    box = Box(x, y, data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200)))
    ours, theirs = copy.read(number, box), slide.read(number, box)
    np.testing.assert_array_equal(ours.rgb, theirs.rgb)
    np.testing.assert_array_equal(ours.valid, theirs.valid)


@EVERY
def test_same_slide_same_bytes_whatever_the_workers(
    tmp_path: Path, slide_path: Path, settings: PyramidSettings
):
    def elsewhere(write: Callable[[Box], int], boxes: Sequence[Box]) -> list[int]:
        sent = pickle.loads(pickle.dumps(write))  # noqa: S301
        return [sent(box) for box in reversed(boxes)]

    with open_slide(slide_path) as slide:
        made = [
            convert(slide, tmp_path / "1" / "s.ome.zarr", settings, workers=1),
            convert(slide, tmp_path / "2" / "s.ome.zarr", settings, workers=4),
            convert(slide, tmp_path / "3" / "s.ome.zarr", settings, run=elsewhere),
        ]
    first, *others = (contents(Path(one.path)) for one in made)
    assert all(other == first for other in others)


@EVERY
def test_writing_a_region_again_changes_no_byte(tmp_path: Path, slide_path: Path, settings: PyramidSettings):
    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        plan = convert(slide, out, settings).plan
        before = contents(out)
        for level in range(3):
            for box in reversed(plan.regions(level)):
                write_region(slide, plan, out, level, box)
    assert contents(out) == before


def test_a_box_that_is_no_region_is_refused(tmp_path: Path, slide_path: Path):
    with open_slide(slide_path) as slide:
        plan = plan_pyramid(slide, SMALL)
        create_store(tmp_path / "s.ome.zarr", plan, slide)
        with pytest.raises(RequestError):
            write_region(slide, plan, tmp_path / "s.ome.zarr", 0, Box(1, 0, 128, 128))
        with pytest.raises(StoreIncompleteError):
            write_region(slide, plan, tmp_path / "none.ome.zarr", 0, plan.regions(0)[0])


@EVERY
def test_empty_glass_takes_no_space(tmp_path: Path, settings: PyramidSettings):
    rgb = np.full((512, 512, 3), 255, np.uint8)
    rgb[:40, :40] = 7
    path = slides.write_tiff(tmp_path / "s.tif", rgb, 0.5, tile=64, compression="deflate")
    with open_slide(path) as slide:
        convert(slide, tmp_path / "s.ome.zarr", settings)
    chunks = [p for p in (tmp_path / "s.ome.zarr" / "0").rglob("*") if p.is_file() and p.name.isdigit()]
    assert len(chunks) == 1
    np.testing.assert_array_equal(pixels(tmp_path / "s.ome.zarr", 0), rgb)


def test_damage_is_counted_and_written_down(tmp_path: Path):
    path = slides.write_tiff(tmp_path / "s.tif", slides.tissue(256, 256), 0.5, tile=64)
    slides.corrupt_tiles(path, [5, 6])
    with open_slide(path) as slide:
        done = convert(slide, tmp_path / "s.ome.zarr", SMALL)
        assert (pixels(tmp_path / "s.ome.zarr", 0)[64:128, 64:192] == slide.background).all()
    assert done.damaged == (2 * 64 * 64, 0, 0)
    assert done.damaged_fraction == 0.125
    assert attributes(tmp_path / "s.ome.zarr")["coverslip"]["damaged_pixels"] == [2 * 64 * 64, 0, 0]


def test_a_flipped_bit_is_damage_and_not_another_pixel(tmp_path: Path, slide_path: Path):
    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        convert(slide, out, SMALL)
    shard = out / "0/c/0/0/0"
    stored = bytearray(shard.read_bytes())
    stored[len(stored) // 2] ^= 1
    shard.write_bytes(bytes(stored))
    with open_slide(out) as copy:
        assert copy.read(0, Box(0, 0, 128, 128)).damaged.sum() == 64 * 64


def test_progress_counts_to_the_end(tmp_path: Path, slide_path: Path):
    seen: list[tuple[int, int]] = []
    with open_slide(slide_path) as slide:
        convert(slide, tmp_path / "s.ome.zarr", SMALL, progress=lambda *told: seen.append(told))
    assert seen == [(n, len(seen)) for n in range(1, len(seen) + 1)]


def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path, slide_path: Path):
    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        convert(slide, out, SMALL)
        (out / "mine.txt").write_text("note")
        with pytest.raises(RequestError, match="already there"):
            convert(slide, out, SMALL)
        assert (out / "mine.txt").exists()
        convert(slide, out, SMALL, overwrite=True)
    assert not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir() if "zarr" in path.name] == ["s.ome.zarr"]


def test_a_folder_that_is_no_store_is_never_overwritten(tmp_path: Path, slide_path: Path):
    out = tmp_path / "mine.zarr"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with open_slide(slide_path) as slide, pytest.raises(RequestError, match="not a Zarr store"):
        convert(slide, out, SMALL, overwrite=True)
    assert (out / "letter.txt").exists()


def test_a_store_is_not_converted_onto_or_into_itself(tmp_path: Path, slide_path: Path):
    with open_slide(slide_path) as slide:
        store = convert(slide, tmp_path / "s.ome.zarr", SMALL).path
        with pytest.raises(RequestError, match=r"end in \.zarr"):
            convert(slide, tmp_path / "s.tiff", SMALL)
    with open_slide(store) as again:
        for out in (store, f"{store}/inner.zarr"):
            with pytest.raises(RequestError, match="slide itself"):
                convert(again, out, SMALL, overwrite=True)


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, slide_path: Path):
    def full(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with open_slide(slide_path) as slide, pytest.raises(StoreIncompleteError, match="No space left"):
        convert(slide, tmp_path / "s.ome.zarr", SMALL, progress=full)
    assert not list(tmp_path.glob("*zarr*"))
    assert not list(tmp_path.glob(".*"))


KILLED = """
import sys, time
from coverslip.tiling.pyramid import PyramidSettings
from coverslip.workflows.convert import convert
from coverslip.wsi import open_slide

def progress(done, total):
    if done == 4:
        print("four", flush=True)
        time.sleep(300)

with open_slide(sys.argv[1]) as slide:
    convert(slide, sys.argv[2], PyramidSettings(chunk=64, shard=128, smallest=100), progress=progress)
"""


def test_a_killed_conversion_leaves_no_target_and_the_next_completes_it(tmp_path: Path, slide_path: Path):
    out, calm = tmp_path / "killed" / "s.ome.zarr", tmp_path / "calm" / "s.ome.zarr"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(slide_path), str(out)], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "four\n"
        os.kill(child.pid, signal.SIGKILL)
    left = list(out.parent.iterdir())
    assert not out.exists()
    assert len(left) == 1
    assert list((left[0] / "0").rglob("c/*"))
    with open_slide(slide_path) as slide:
        convert(slide, out, SMALL)
        convert(slide, calm, SMALL)
    assert contents(out) == contents(calm)
    assert list(out.parent.iterdir()) == [out]


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path, slide_path: Path):
    from socket import gethostname

    other = tmp_path / f".s.ome.zarr.{gethostname()}.{os.getppid()}.tmp"
    other.mkdir()
    with open_slide(slide_path) as slide:
        convert(slide, tmp_path / "s.ome.zarr", SMALL)
    assert other.exists()


# pydantic-zarr still states `json_encoders`, which pydantic 2 calls deprecated when a model is built.
FOREIGN = pytest.mark.filterwarnings("ignore:`json_encoders` is deprecated")


@FOREIGN
@EVERY
def test_metadata_are_valid_by_ome_zarr_models(tmp_path: Path, slide_path: Path, settings: PyramidSettings):
    import ome_zarr_models

    with open_slide(slide_path) as slide:
        convert(slide, tmp_path / "s.ome.zarr", settings)
    found = ome_zarr_models.open_ome_zarr(zarr.open_group(tmp_path / "s.ome.zarr", mode="r"))
    assert type(found).__module__ == f"ome_zarr_models.v{settings.ngff.replace('.', '')}.image"


@EVERY
def test_ome_zarr_py_reads_every_level(tmp_path: Path, slide_path: Path, settings: PyramidSettings):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        convert(slide, out, settings)
    location = parse_url(out)
    assert location is not None
    (node,) = Reader(location)()
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    for number, level in enumerate(node.data):
        np.testing.assert_array_equal(np.moveaxis(level.compute(), 0, -1), pixels(out, number))


@EVERY
def test_napari_reads_it_to_scale(tmp_path: Path, slide_path: Path, settings: PyramidSettings):
    from napari_ome_zarr import napari_get_reader

    out = tmp_path / "s.ome.zarr"
    with open_slide(slide_path) as slide:
        convert(slide, out, settings)
    read = napari_get_reader(str(out))
    assert read is not None
    ((data, about, kind),) = read(str(out))
    assert kind == "image"
    assert about["channel_axis"] == 0
    assert [level.shape for level in data] == [(3, 252, 334), (3, 126, 167), (3, 63, 84)]
    np.testing.assert_allclose(about["scale"], [0.5, 0.25])


def test_a_real_slide_keeps_every_pixel(tmp_path: Path, shared: Path):
    out = tmp_path / "cmu.ome.zarr"
    with open_slide(shared / "wsi/aperio-svs/CMU-1-Small-Region.svs") as slide:
        done = convert(slide, out, PyramidSettings(portable=True))
        whole = slide.read(0, slide.size.box).rgb
    assert [level.size for level in done.plan.levels] == [Size(2220, 2967), Size(1110, 1484), Size(555, 742)]
    np.testing.assert_array_equal(pixels(out, 0), whole)
    np.testing.assert_array_equal(pixels(out, 1), mean_of_four(whole))
    with open_slide(out) as copy:
        assert copy.facts.objective == 20


def test_zarr_and_its_friends_warn_of_nothing(tmp_path: Path, slide_path: Path):
    with warnings.catch_warnings(), open_slide(slide_path) as slide:
        warnings.simplefilter("error")
        convert(slide, tmp_path / "s.ome.zarr", OLD)
