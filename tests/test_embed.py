"""`coverslip embed`: an encoder's figures of every tile on tissue, as Zarr and as HDF5."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import commands
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from commands import coverslip, start
from slides import tissue, write_tiff
from trees import contents

from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.tiling.plan import TilePlan
from coverslip.workflows.cli import run as command
from coverslip.workflows.outputs import read_result
from coverslip.workflows.vectors import VectorStore, write_h5
from coverslip.wsi import Mpp, Size, open_slide

torch = pytest.importorskip("torch", reason="torch is not installed")
timm = pytest.importorskip("timm", reason="timm is not installed")
from coverslip.workflows.embedding import EmbedSettings, embedding  # noqa: E402

SIDE = 64
TILES = ("--mpp", "0.5", "--size", SIDE)
SEED = int(os.environ.get("COVERSLIP_KILL_SEED", "20260101"))
PICTURE = tissue(1024, 768)


def network_of(name: str = "resnet10t"):
    """Random weights, the norms having seen tiles: fresh ones do nothing and would hide mistakes."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = timm.create_model(name, num_classes=0)
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`case.tif`, losslessly, at 0.5 µm/px, and `weights.safetensors` for resnet10t."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("embed")
    write_tiff(folder / "case.tif", PICTURE, 0.5, compression="deflate")
    save_file(network_of().state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> tuple[Path, str]:
    """The result's folder, and what was printed."""
    out = folder / "out"
    said = coverslip(
        *("embed", folder / "case.tif", "-o", out, "--encoder", "resnet10t"),
        *("--weights", folder / "weights.safetensors", *TILES, "--workers", 2),
    )
    assert said.returncode == 0, said.stderr
    return out / "slides" / "case.tif", said.stdout


def by_hand(coords: np.ndarray) -> np.ndarray:
    """The features of these tiles, cut out of the picture itself and sent through timm's network."""
    tiles = np.stack([PICTURE[y : y + SIDE, x : x + SIDE] for x, y in coords]).astype(np.float64)
    normal = (tiles / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.inference_mode():
        return network_of()(torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def inside(coords: np.ndarray) -> np.ndarray:
    """Tiles that lie in the slide as a whole."""
    return (coords[:, 0] <= PICTURE.shape[1] - SIDE) & (coords[:, 1] <= PICTURE.shape[0] - SIDE)


def test_features_are_those_of_the_network_on_the_slides_own_pixels(done) -> None:
    home, _ = done
    store = zarr.open_group(home / "features.zarr", mode="r")
    features, coords = store["features"][:], store["coords"][:]
    assert (features.dtype, coords.dtype) == (np.float32, np.int64)
    assert features.shape == (len(coords), 512)
    whole = inside(coords)
    assert whole.sum() > 60
    expected = by_hand(coords[whole])
    assert expected.std(axis=0).max() > 0.01, "the tiles are all alike to the network: it shows nothing"
    np.testing.assert_allclose(features[whole], expected, atol=1e-4)


def test_hdf5_holds_the_same_in_the_layout_of_clam_and_trident(done) -> None:
    home, _ = done
    store = zarr.open_group(home / "features.zarr", mode="r")
    with h5py.File(home / "features.h5") as file:
        assert set(file) == {"features", "coords"}
        features, coords = file["features"], file["coords"]
        np.testing.assert_array_equal(features[:], store["features"][:])
        np.testing.assert_array_equal(coords[:], store["coords"][:])
        assert (features.dtype, coords.dtype) == (np.float32, np.int64)
        assert (features.maxshape, coords.maxshape) == ((None, 512), (None, 2))
        said = dict(coords.attrs)
    expected = {"patch_size": SIDE, "patch_size_level0": SIDE, "overlap": 0, "name": "case"}
    expected |= {"level0_magnification": 20, "target_magnification": 20, "savetodir": "case.tif"}
    expected |= {"level0_width": 1024, "level0_height": 768, "patch_level": 0}
    assert {name: said[name] for name in expected} == expected


def test_hdf5_is_a_bag_for_a_slide_level_model(done) -> None:
    from coverslip.models.bag import read_bag

    home, _ = done
    store = zarr.open_group(home / "features.zarr", mode="r")
    bag = read_bag(home / "features.h5")
    np.testing.assert_array_equal(bag.features, store["features"][:])
    assert bag.coords is not None
    np.testing.assert_array_equal(bag.coords, store["coords"][:])


def test_tiles_are_listed_in_the_same_order(done) -> None:
    home, _ = done
    tiles = pq.read_table(home / "tiles.parquet")
    coords = zarr.open_array(home / "features.zarr", path="coords", mode="r")[:]
    np.testing.assert_array_equal(np.stack([tiles["x"], tiles["y"]], axis=1), coords)


def test_the_result_names_the_encoder_its_weights_and_their_licence(done, folder: Path) -> None:
    import hashlib

    home, printed = done
    result = read_result(home)
    model = result.provenance.model
    assert model is not None
    assert (model.name, model.version, model.licence) == ("resnet10t", "weights.safetensors", "apache-2.0")
    assert model.sha256 == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert "licence: apache-2.0" in printed
    assert result.quality.tiles == result.measurements[0].value == len(pq.read_table(home / "tiles.parquet"))
    assert {"features.zarr", "features.h5", "tiles.parquet"} <= set(result.outputs)
    run = json.loads((home.parents[1] / "run.json").read_text())
    assert run["model"]["licence"] == "apache-2.0"


def test_the_slide_is_not_copied(done) -> None:
    home, _ = done
    assert not (home / "slide.ome.zarr").exists()
    assert "slide.ome.zarr" not in read_result(home).outputs
    assert not (home / ".parts").exists()


def test_running_again_does_nothing_and_other_weights_are_refused(done, folder: Path) -> None:
    home, _ = done
    before = contents(home)
    marks = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    arguments = ["embed", str(folder / "case.tif"), "-o", str(home.parents[1]), "--encoder", "resnet10t"]
    arguments += list(map(str, TILES))
    assert command([*arguments, "--weights", str(folder / "weights.safetensors")]) == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == marks
    assert contents(home) == before
    assert command([*arguments, "--random-weights"]) == 2


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tiff(slides / "a.tif", tissue(2560, 2048), 0.5, levels=2)
    write_tiff(slides / "b.tif", tissue(2048, 2048), 0.25)
    arguments = ("embed", slides, "--encoder", "resnet10t", "--weights", folder / "weights.safetensors")
    undisturbed = coverslip(*arguments, *TILES, "--workers", 2, "-o", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    out, chance = tmp_path / "out", random.Random(SEED)
    for kill in range(2):
        process = start(*arguments, *TILES, "--workers", 2, "-o", out)
        while process.poll() is None and len(list(out.rglob("shard-*.parquet"))) <= kill:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        assert process.poll() is None, "it ended before it could be killed: that shows nothing"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = coverslip(*arguments, *TILES, "--workers", 2, "-o", out)
    assert finished.returncode == 0, finished.stderr
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_a_store_that_was_altered_is_made_again(done, folder: Path, tmp_path: Path) -> None:
    home, _ = done
    arguments = ["embed", str(folder / "case.tif"), "-o", str(tmp_path / "out"), "--encoder", "resnet10t"]
    arguments += [*map(str, TILES), "--weights", str(folder / "weights.safetensors"), "--workers", "2"]
    assert command(arguments) == 0
    again = tmp_path / "out" / "slides" / "case.tif"
    assert contents(again) == contents(home)
    (again / "features.zarr" / "features" / "c" / "0" / "0").unlink()
    assert command(arguments) == 0
    assert contents(again) == contents(home)


def no_slide(folder: Path) -> Path:
    """Whoever opens it says so."""
    path = folder / "broken.tif"
    path.write_bytes(b"no slide")
    return path


def test_missing_weights_end_it_before_a_slide_is_opened(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(commands.ENVIRONMENT, "HF_HUB_CACHE", str(tmp_path / "cache"))
    said = coverslip("embed", no_slide(tmp_path), "-o", tmp_path / "out", "--encoder", "virchow2", anew=True)
    assert said.returncode == 2
    assert said.stderr.splitlines() == [
        "Error: virchow2: its weights are not in the local Hugging Face cache; accept its licence "
        "(CC-BY-NC-ND-4.0) at https://huggingface.co/paige-ai/Virchow2, then where there is a connection: "
        "hf auth login; hf download paige-ai/Virchow2 model.safetensors config.json"
    ]
    assert not (tmp_path / "out").exists()


def test_weights_in_the_users_cache_are_used(folder: Path, done, tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "cache" / "models--timm--resnet10t.c3_in1k"
    (home / "snapshots" / "c0ffee").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    (home / "snapshots" / "c0ffee" / "model.safetensors").symlink_to(folder / "weights.safetensors")
    monkeypatch.setitem(commands.ENVIRONMENT, "HF_HUB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    said = coverslip("embed", folder / "case.tif", "-o", out, "--encoder", "resnet10t", *TILES, anew=True)
    assert said.returncode == 0, said.stderr
    result = read_result(out / "slides" / "case.tif")
    assert result.provenance.model is not None
    assert result.provenance.model.version == "c0ffee"
    assert result.outputs["features.h5"] == read_result(done[0]).outputs["features.h5"]


def test_a_licence_that_forbids_commercial_use_is_refused_by_name() -> None:
    with pytest.raises(ModelUnavailableError, match=r"CC-BY-NC-ND-4\.0, does not allow commercial use"):
        embedding("uni", commercial_only=True, random=True)
    with pytest.raises(ModelUnavailableError, match="research use only"):
        embedding("prov-gigapath", commercial_only=True, random=True)
    allowed = embedding("test_resnet", EmbedSettings(mpp=0.5), commercial_only=True, random=True)
    assert allowed.model.licence == "apache-2.0"


def test_the_command_refuses_it_too(tmp_path: Path, capsys) -> None:
    arguments = ["--encoder", "uni2-h", "--commercial-only", "-o", str(tmp_path / "out")]
    assert command(["embed", str(no_slide(tmp_path)), *arguments]) == 2
    assert "CC-BY-NC-ND-4.0" in capsys.readouterr().err


def test_random_weights_are_called_so_in_the_result(folder: Path, tmp_path: Path) -> None:
    arguments = ["--encoder", "test_resnet", "--random-weights", "-o", str(tmp_path / "out")]
    assert command(["embed", str(folder / "case.tif"), *arguments, *map(str, TILES)]) == 0
    result = read_result(tmp_path / "out" / "slides" / "case.tif")
    assert result.provenance.model is not None
    assert result.provenance.model.version == "random weights"
    assert "they mean nothing" in result.summary
    with pytest.raises(RequestError, match="choose one of both"):
        embedding("test_resnet", EmbedSettings(mpp=0.5), weights="w.safetensors", random=True)


def test_an_encoder_that_never_saw_a_slide_needs_a_resolution() -> None:
    with pytest.raises(RequestError, match="--mpp"):
        embedding("resnet10t", random=True)


def test_tiles_are_the_encoders_unless_others_are_asked_for() -> None:
    own = embedding("kaiko-vits16", random=True).grid
    assert (own.size, own.mpp) == (224, 0.5)
    other = embedding("kaiko-vits16", EmbedSettings(mpp=1.0, size=64, overlap=8), random=True)
    assert (other.grid.size, other.grid.mpp, other.grid.overlap) == (64, 1.0, 8)
    assert other.settings()["encoder_mpp"] == 0.5
    with pytest.raises(RequestError, match="--size"):
        embedding("kaiko-vits16", EmbedSettings(size=65), random=True)


def test_a_slide_too_coarse_for_the_encoder_fails_unless_that_was_asked_for(tmp_path: Path, capsys) -> None:
    write_tiff(tmp_path / "coarse.tif", tissue(512, 512), 1.0)
    arguments = ["embed", str(tmp_path / "coarse.tif"), "--encoder", "kaiko-vits16", "--random-weights"]
    arguments += ["--size", "64"]
    assert command([*arguments, "-o", str(tmp_path / "refused")]) == 3
    failure = json.loads((tmp_path / "refused" / "failures.json").read_text())["failures"][0]
    assert failure["error"] == "SlideInformationError"
    assert command([*arguments, "--mpp", "1", "-o", str(tmp_path / "asked")]) == 0
    assert "was made for 0.5 µm/px" in capsys.readouterr().out
    features = zarr.open_array(tmp_path / "asked/slides/coarse.tif/features.zarr", path="features", mode="r")
    assert features.shape[1] == 384


def test_glass_gives_an_empty_store_and_no_failure(tmp_path: Path) -> None:
    glass = np.random.default_rng(0).normal(243, 1.5, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    write_tiff(tmp_path / "glass.tif", glass, 0.5)
    arguments = ["--encoder", "test_resnet", "--random-weights", "-o", str(tmp_path / "out")]
    assert command(["embed", str(tmp_path / "glass.tif"), *arguments, *map(str, TILES)]) == 0
    home = tmp_path / "out" / "slides" / "glass.tif"
    assert read_result(home).status == "no tissue"
    assert zarr.open_array(home / "features.zarr", path="features", mode="r").shape[0] == 0
    with h5py.File(home / "features.h5") as file:
        assert (file["features"].shape[0], file["coords"].shape) == (0, (0, 2))


def test_pixels_that_are_not_square_leave_hdf5_out_with_the_reason(tmp_path: Path) -> None:
    write_tiff(tmp_path / "flat.tif", tissue(512, 512), (0.5, 0.25))
    arguments = ["--encoder", "test_resnet", "--random-weights", "-o", str(tmp_path / "out")]
    assert command(["embed", str(tmp_path / "flat.tif"), *arguments, *map(str, TILES)]) == 0
    result = read_result(tmp_path / "out" / "slides" / "flat.tif")
    assert [gap.what for gap in result.abstentions] == ["features.h5"]
    assert not (tmp_path / "out" / "slides" / "flat.tif" / "features.h5").exists()


def test_the_list_shows_every_encoder_with_its_licence(capsys) -> None:
    from coverslip.models.encoders import TABLE

    assert command(["embed", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for encoder in TABLE:
        line = next(line for line in lines if line.split()[:1] == [encoder.name])
        assert encoder.licence in line
        assert str(encoder.features) in line


def plan_of(tiles: int) -> TilePlan:
    x = np.arange(tiles, dtype=np.int64)
    return TilePlan(
        *("case.tif", "digest", Size(1024, 768), Mpp(0.5, 0.5, "test"), 0.5, SIDE, 0, x, x),
        np.ones(tiles, np.float32),
    )


def test_a_store_is_filled_and_written_out_holding_no_more_than_a_chunk(folder: Path, tmp_path: Path) -> None:
    """20,000 tiles of 512 figures are 41 MB."""
    plan, rows, width = plan_of(20_000), 128, 512
    store = VectorStore(width, tmp_path / "features.zarr", plan, rows)
    store.create()
    values = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    with open_slide(folder / "case.tif") as slide:
        tracemalloc.start()
        for start_row in range(0, len(plan), rows):
            part = range(start_row, min(start_row + rows, len(plan)))
            store.put(part, values[: len(part)] + start_row)
        write_h5(tmp_path / "features.zarr", plan, slide, tmp_path / "features.h5")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8e6
    with h5py.File(tmp_path / "features.h5") as file:
        np.testing.assert_array_equal(file["features"][128:256], values + 128)
        np.testing.assert_array_equal(file["features"][-32:], values[:32] + 19_968)


def test_parts_of_a_store_written_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    plan, values = plan_of(300), np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    parts = [range(0, 128), range(128, 256), range(256, 300)]
    for name, order in (("a", parts), ("b", parts[::-1])):
        store = VectorStore(8, tmp_path / name, plan, 128)
        store.create()
        for part in order:
            store.put(part, values[part.start : part.stop])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = replace(store, folder=tmp_path / "c", plan=replace(plan, x=plan.x + 1))
    other.create()
    assert contents(tmp_path / "c") != contents(tmp_path / "a")
