"""The commands as they are typed: what they write and say, and that no request ends in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import tifffile
import zarr
from commands import COVERSLIP, ENVIRONMENT
from PIL import Image
from slides import tissue, truncate, write_svs, write_tiff

from coverslip.ruo import RUO
from coverslip.tiling.plan import plan_tiles
from coverslip.tiling.planfile import read_plan
from coverslip.tiling.tissue import find_tissue
from coverslip.workflows import doctor
from coverslip.workflows.cli import COMMANDS, run
from coverslip.workflows.cluster import connected
from coverslip.wsi import open_slide

# pydantic-zarr still states `json_encoders`, which pydantic 2 calls deprecated when a model is built.
FOREIGN = pytest.mark.filterwarnings("ignore:`json_encoders` is deprecated")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of all sorts, and things that are none."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "slides").mkdir()
    write_tiff(desk / "slides/a.tif", tissue(768, 640), 0.5, levels=2)
    write_svs(desk / "slides/b [1].svs", tissue(512, 512), 0.25, 40)
    (desk / "bad").mkdir()
    write_tiff(desk / "bad/good.tif", tissue(512, 512), 0.5)
    write_tiff(desk / "bad/no-mpp.tif", tissue(512, 512), None)
    write_tiff(desk / "bad/coarse.tif", tissue(512, 512), 2.0)
    write_tiff(desk / "bad/cut.tif", tissue(512, 512), 0.5)
    truncate(desk / "bad/cut.tif", 0.3)
    (desk / "bad/page.svs").write_text("<html>404</html>")
    glass = np.random.default_rng(0).normal(243, 1.5, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    write_tiff(desk / "blank.tif", glass, 0.5)
    (desk / "file").write_text("no folder")
    (desk / "empty").mkdir()
    (desk / "latin.csv").write_bytes("wsi,case\na.tif,Müller\n".encode("latin-1"))
    (desk / "binary.csv").write_bytes(os.urandom(64) + b"\0\n\0")
    (desk / "stray.csv").write_text("wsi,mpp\nnobody.tif,0.5\n")
    (desk / "words.csv").write_text("wsi,mpp\na.tif,half\n")
    return desk


@pytest.fixture
def say(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command line in the desk's folder: exit code, standard output, standard error."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("COLUMNS", "200")

    def said(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return code, written.out, written.err

    return said


# info


def test_info_shows_a_line_per_slide(say) -> None:
    code, out, err = say("info", "slides")
    assert code == 0
    for text in ("a.tif", "768 × 640", "0.5", "tiff.XResolution", "b [1].svs", "aperio", "0.25", "40×"):
        assert text in out
    assert RUO in err


KEYS = {
    *("path", "format", "reader", "size", "levels", "mpp", "mpp_source", "mpp_problem", "objective"),
    *("z_planes", "kind", "channels", "associated", "icc_profile", "missing_fraction", "bytes", "digest"),
}


def strict(text: str) -> dict[str, Any]:
    """JSON as the standard has it: no NaN, no infinity."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_info_as_json_has_every_field(say, desk: Path) -> None:
    code, out, _ = say("info", "slides", "--json")
    document = strict(out)
    assert code == 0
    assert (document["schema"], document["notice"]) == ("coverslip.info/1", RUO)
    first, second = document["slides"]
    assert set(first) == set(second) == KEYS
    assert (first["size"], first["levels"]) == ([768, 640], [[768, 640, 1.0], [384, 320, 2.0]])
    assert (first["mpp"], first["mpp_problem"]) == ([0.5, 0.5], None)
    assert first["bytes"] == (desk / "slides/a.tif").stat().st_size
    assert first["digest"].startswith("sha256:")
    assert set(second["associated"]) == {"label", "macro", "thumbnail"}


def test_info_goes_on_past_bad_slides(say) -> None:
    code, out, err = say("info", "bad")
    assert code == 3
    assert "good.tif" in out
    assert "unknown" in out
    assert "no-mpp.tif: the file does not state its µm/px" in out
    assert "page.svs" in err
    assert "cut.tif" in err
    code, out, _ = say("info", "bad", "--json")
    rows = {Path(row["path"]).name: row for row in strict(out)["slides"]}
    assert code == 3
    assert {name for name, row in rows.items() if "error" in row} == {"page.svs", "cut.tif"}
    assert rows["no-mpp.tif"]["mpp"] is None
    assert all(rows["page.svs"][key] for key in ("error", "problem", "remedy"))


def test_info_takes_the_mpp_it_is_given(say) -> None:
    _, out, _ = say("info", "bad/no-mpp.tif", "--slide-mpp", "0.3", "--json")
    (row,) = strict(out)["slides"]
    assert (row["mpp"], row["mpp_source"], row["mpp_problem"]) == ([0.3, 0.3], "given", None)


def test_info_writes_thumbnails(say, tmp_path: Path) -> None:
    code, _, _ = say("info", "slides", "--thumbnail", tmp_path / "new" / "t")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "new/t").iterdir()) == ["a.tif.png", "b _1_.svs.png"]
    with Image.open(tmp_path / "new/t/a.tif.png") as picture:
        assert picture.size == (768, 640)


def test_info_tells_once_of_a_slide_whose_thumbnail_cannot_be_made(say, tmp_path: Path) -> None:
    path = tmp_path / "five.ome.tif"
    tifffile.imwrite(path, np.zeros((5, 512, 512), np.uint16), tile=(256, 256), metadata={"axes": "CYX"})
    code, out, _ = say("info", path, "--thumbnail", tmp_path / "t", "--json")
    (row,) = strict(out)["slides"]
    assert code == 3
    assert row["error"] == "NotBrightfieldError"
    assert row["kind"] == "multichannel"


# convert


def test_convert_writes_a_store_that_reads_as_the_slide(say, tmp_path: Path) -> None:
    code, out, err = say("convert", "slides/a.tif", "-o", tmp_path / "a.ome.zarr")
    assert code == 0
    assert "768×640" in out
    assert RUO in err
    with open_slide("slides/a.tif") as slide, open_slide(tmp_path / "a.ome.zarr") as copy:
        assert copy.mpp.x == pytest.approx(0.5)
        for level in range(len(copy.levels)):
            box = slide.levels[level].size.box
            assert np.array_equal(slide.read(level, box).rgb, copy.read(level, box).rgb)


@pytest.mark.parametrize(("ngff", "mark"), [("0.5", "zarr.json"), ("0.4", ".zgroup")])
def test_convert_writes_the_version_asked_for_one_store_per_slide(say, tmp_path: Path, ngff, mark) -> None:
    code, _, _ = say("convert", "slides", "-o", tmp_path / "out", "--ngff", ngff, "--halvings")
    assert code == 0
    for name in ("a.tif", "b _1_.svs"):
        assert (tmp_path / "out" / f"{name}.ome.zarr" / mark).is_file()


def test_convert_does_not_replace_unasked_and_says_so_before_it_begins(say, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert say("convert", "slides/b [1].svs", "-o", tmp_path / "out")[0] == 0
    code, out, err = say("convert", "slides", "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "b _1_.svs.ome.zarr" in err
    assert "--overwrite" in err
    assert not (tmp_path / "out/a.tif.ome.zarr").exists()
    assert say("convert", "slides", "-o", tmp_path / "out", "--overwrite")[0] == 0


def test_convert_refuses_several_slides_for_one_store_before_it_begins(say, tmp_path: Path) -> None:
    code, out, err = say("convert", "slides", "-o", tmp_path / "x.zarr")
    assert (code, out) == (2, "")
    assert "name a folder" in err
    assert not (tmp_path / "x.zarr").exists()


def test_convert_goes_on_past_bad_slides(say, tmp_path: Path) -> None:
    code, _, err = say("convert", "bad", "-o", tmp_path)
    assert code == 3
    assert {path.name for path in tmp_path.iterdir()} == {"coarse.tif.ome.zarr", "good.tif.ome.zarr"}
    assert "3 of 5 slides failed" in err


# tissue


@FOREIGN
def test_tissue_writes_mask_outlines_and_picture(say, tmp_path: Path) -> None:
    from ome_zarr_models import open_ome_zarr
    from ome_zarr_models.v05 import ImageLabel

    code, out, err = say("tissue", "slides/a.tif", "-o", tmp_path)
    assert code == 0
    assert "mm² of tissue" in out
    assert RUO in err
    home = tmp_path / "a.tif"
    assert {path.name for path in home.iterdir()} == {"tissue.ome.zarr", "tissue.geojson", "tissue.png"}
    features = strict((home / "tissue.geojson").read_text())["features"]
    assert features
    for x, y in features[0]["geometry"]["coordinates"][0]:
        assert -8 <= x <= 776
        assert -8 <= y <= 648
    with Image.open(home / "tissue.png") as picture:
        picture.load()
    group = zarr.open_group(home / "tissue.ome.zarr", mode="r")
    assert type(open_ome_zarr(group)).__module__ == "ome_zarr_models.v05.image"
    ImageLabel.from_zarr(zarr.open_group(home / "tissue.ome.zarr", path="labels/tissue", mode="r"))


def test_tissue_again_gives_the_same(say, tmp_path: Path) -> None:
    from trees import contents

    assert say("tissue", "slides/a.tif", "-o", tmp_path)[0] == 0
    before = contents(tmp_path)
    assert say("tissue", "slides/a.tif", "-o", tmp_path)[0] == 0
    assert contents(tmp_path) == before


def test_blank_glass_is_no_tissue_and_no_failure(say, tmp_path: Path) -> None:
    code, out, _ = say("tissue", "blank.tif", "-o", tmp_path)
    assert code == 0
    assert "no tissue" in out
    assert strict((tmp_path / "blank.tif/tissue.geojson").read_text())["features"] == []


# tile


def test_tile_writes_a_plan_that_is_read_again(say, tmp_path: Path) -> None:
    arguments = ("--mpp", 0.5, "--size", 96, "--overlap", 32, "--min-tissue", 0.5, "--h5")
    code, out, err = say("tile", "slides", "-o", tmp_path, *arguments)
    assert code == 0
    assert RUO in err
    for name, size in (("a.tif", (768, 640)), ("b _1_.svs", (512, 512))):
        plan = read_plan(tmp_path / name / "tiles.parquet")
        assert (plan.mpp, plan.size, plan.overlap) == (0.5, 96, 32)
        assert f"{len(plan)} tiles of 96 px" in out
        assert len(plan) > 5
        assert plan.tissue.min() >= 0.5
        assert (plan.x.max() < size[0], plan.y.max() < size[1]) == (True, True)
        with h5py.File(tmp_path / name / "coords.h5") as file:
            assert np.array_equal(np.asarray(file["coords"]), np.stack([plan.x, plan.y], axis=1))
        with Image.open(tmp_path / name / "tiles.png") as picture:
            picture.load()


def test_a_slide_too_coarse_for_the_tiles_stops_no_other(say, tmp_path: Path) -> None:
    code, out, err = say("tile", "bad", "-o", tmp_path, "--mpp", 0.5, "--size", 64)
    assert code == 3
    assert "good.tif: " in out
    assert "coarse.tif: was scanned at 2 µm/px, too coarse for tiles of 0.5 µm/px" in err
    assert [path.name for path in tmp_path.iterdir()] == ["good.tif"]


def test_tiles_larger_than_all_the_tissue_are_not_called_no_tissue(say, tmp_path: Path) -> None:
    code, out, _ = say("tile", "slides/a.tif", "-o", tmp_path, "--mpp", 0.5, "--size", 100_000)
    assert code == 0
    assert "no tiles, since none holds enough tissue" in out
    assert len(read_plan(tmp_path / "a.tif/tiles.parquet")) == 0


# all of them


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_is_for(say, name: str) -> None:
    code, out, _ = say(name, "--help")
    assert code == 0
    assert "Usage: coverslip " in out
    assert RUO in out
    assert COMMANDS[name] in say("--help")[1]


def test_train_has_help_of_its_own(say) -> None:
    code, out, _ = say("train", "tiles", "--help")
    assert (code, RUO in out) == (0, True)


def test_the_version_is_told(say) -> None:
    assert say("--version")[:2] == (0, "coverslip, version 0.1.0\n")


@pytest.mark.parametrize(("state", "expected"), [("ok", 0), ("absent", 0), ("fault", 2)])
def test_the_doctors_exit_code_is_that_of_the_worst_finding(say, monkeypatch, state, expected) -> None:
    """What it finds is tested elsewhere, and takes seconds."""
    found = (doctor.Check("python", "ok", "3.11"), doctor.Check("napari", state, "said", "mend it"))
    monkeypatch.setattr(doctor, "diagnose", lambda: found)
    code, out, err = say("doctor")
    assert code == expected
    assert RUO in out + err
    assert "napari" in out


GOOD = "slides/a.tif"
LONG = "x" * 300
NASTY = [
    # nothing, or nothing there
    ("bogus",),
    ("info",),
    ("info", "nowhere"),
    ("info", "nowhere/*.svs"),
    ("info", "empty"),
    ("info", LONG),
    ("tissue", GOOD),
    ("tile", GOOD, "-o", "{out}"),
    ("run", GOOD, "-o", "{out}"),
    # a folder for a file, a file for a folder
    ("info", GOOD, "--slides", "slides"),
    ("info", GOOD, "--thumbnail", "file"),
    ("tissue", GOOD, "-o", "file"),
    ("tissue", GOOD, "-o", "file/below"),
    ("tile", GOOD, "-o", "file", "--mpp", "0.5", "--size", "64"),
    ("convert", GOOD, "-o", "file"),
    ("convert", GOOD, "-o", "file/a.zarr"),
    ("run", GOOD, "-o", "file", "--workflow", "ihc"),
    ("run", GOOD, "-o", "file/below", "--workflow", "ihc"),
    ("train", "tiles", "slides", "-o", "{out}", "--mpp", "0.5"),
    # names no file system takes
    ("tissue", GOOD, "-o", LONG),
    ("convert", GOOD, "-o", LONG + ".zarr"),
    ("run", GOOD, "-o", LONG, "--workflow", "ihc"),
    ("info", GOOD, "--thumbnail", LONG),
    # a folder that may hold nothing
    ("tissue", GOOD, "-o", "/proc/1/below"),
    ("convert", GOOD, "-o", "/proc/below.zarr"),
    ("run", GOOD, "-o", "/proc/below", "--workflow", "ihc"),
    # the slides' own folder
    ("run", GOOD, "-o", "slides", "--workflow", "ihc"),
    ("convert", GOOD, "-o", "slides/a.tif/b.zarr"),
    # numbers that are none
    *(("info", GOOD, "--mpp", word) for word in ("0", "-1", "nan", "inf", "half", "")),
    *(("tile", GOOD, "-o", "{out}", "--mpp", word, "--size", "64") for word in ("0", "nan", "inf", "-1")),
    *(("tile", GOOD, "-o", "{out}", "--mpp", "0.5", "--size", word) for word in ("0", "-5", "1.5", "1e3")),
    ("tile", GOOD, "-o", "{out}", "--mpp", "0.5", "--size", "64", "--overlap", "64"),
    ("tile", GOOD, "-o", "{out}", "--mpp", "0.5", "--size", "64", "--min-tissue", "2"),
    ("run", GOOD, "-o", "{out}", "--workflow", "ihc", "--mpp", "nan"),
    ("run", GOOD, "-o", "{out}", "--workflow", "ihc", "--max-damage", "7"),
    ("run", GOOD, "-o", "{out}", "--workflow", "ihc", "--workers", "0"),
    ("run", GOOD, "-o", "{out}", "--workflow", "ihc", "--model", "slides"),
    ("convert", GOOD, "-o", "{out}", "--ngff", "0.3"),
    ("convert", GOOD, "-o", "{out}", "--chunk", "500"),
    # slides files that cannot be understood
    *(("info", "slides", "--slides", name) for name in ("latin.csv", "binary.csv", "stray.csv", "words.csv")),
    ("info", "slides", "--slides", "nowhere.csv"),
    ("train", "tiles", "latin.csv", "-o", "{out}", "--mpp", "0.5"),
    ("train", "tiles", "binary.csv", "-o", "{out}", "--mpp", "0.5"),
    ("view", "file", "--screenshot", "picture.jpg"),
]


@pytest.mark.parametrize("arguments", NASTY, ids=lambda arguments: " ".join(arguments)[:60])
def test_a_request_that_makes_no_sense_is_exit_code_2_and_writes_nothing(
    say, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Also, because it runs in this process: no exception of any kind gets out."""
    out = tmp_path / "out"
    code, _, err = say(*(argument.replace("{out}", str(out)) for argument in arguments))
    assert code == 2
    assert "Error: " in err
    assert "Traceback" not in err
    assert not out.exists()


def test_an_output_folder_without_room_is_said_in_one_line(say, tmp_path: Path) -> None:
    """The device that is always full."""
    (tmp_path / "a.tif").mkdir()
    (tmp_path / "a.tif/tissue.png").symlink_to("/dev/full")
    (tmp_path / "a.tif/tissue.geojson").mkdir()
    (tmp_path / "a.tif/tissue.geojson/kept").write_text("")
    code, _, err = say("tissue", GOOD, "-o", tmp_path)
    assert code == 2
    assert err.startswith("Error: ")
    assert "tissue.geojson" in err


def test_names_of_all_sorts_are_shown_and_used(say, tmp_path: Path) -> None:
    names = [
        "-dash.tif",
        "a b.tif",
        "ünï (копия) 切片.tif",
        "[bold]x[bold].tif",
        "100%.tif",
        "'q\".tif",
        "<b>.tif",
    ]
    for name in names:
        write_tiff(tmp_path / name, tissue(256, 256), 0.5)
    code, out, _ = say("info", tmp_path)
    assert code == 0
    for name in names:
        assert name in out
    assert say("tissue", tmp_path, "-o", tmp_path / "out")[0] == 0
    assert len(list((tmp_path / "out").glob("*/tissue.geojson"))) == len(names)


def process(*arguments: bytes | str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COVERSLIP, *arguments],
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_name_that_is_not_utf8_is_shown_and_fails_alone(tmp_path: Path) -> None:
    """As a folder copied from an old system holds them: Präparat.tif in Latin-1."""
    strange = os.fsencode(tmp_path) + b"/Pr\xe4parat.tif"
    os.rename(write_tiff(tmp_path / "x.tif", tissue(256, 256), 0.5), strange)
    write_tiff(tmp_path / "good.tif", tissue(256, 256), 0.5)
    shown = process("info", str(tmp_path))
    assert (shown.returncode, b"Pr\\udce4parat.tif" in shown.stdout) == (0, True)
    done = process("run", str(tmp_path), "-o", str(tmp_path / "out"), "--workflow", "ihc")
    assert b"Traceback" not in done.stderr
    assert done.returncode == 3
    (failure,) = strict((tmp_path / "out/failures.json").read_text())["failures"]
    assert os.fsencode(failure["path"]) == strange
    assert "rename it" in failure["remedy"]
    assert (tmp_path / "out/slides/good.tif/result.json").is_file()


def test_a_terminal_without_the_signs_is_written_to_all_the_same(desk: Path) -> None:
    shown = process("info", str(desk / "slides"), PYTHONIOENCODING="ascii")
    assert shown.returncode == 0
    assert b"\\xb5m/px" in shown.stdout


def test_the_module_runs_the_command_line(desk: Path) -> None:
    assert process("bogus").returncode == 2


def test_the_cluster_of_a_run_listens_on_this_machine_alone_and_beside_another() -> None:
    """Dask's own default is one port of the machine, open to the network."""
    with connected(None, 1) as one, connected(None, 1) as two:
        open_to = {
            at.laddr.ip for at in psutil.Process().net_connections() if at.status == psutil.CONN_LISTEN
        }
        assert open_to == {"127.0.0.1"}
        assert [client.submit(len, "abc", pure=False).result() for client in (one, two)] == [3, 3]


def test_tile_plans_what_python_plans(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", tissue(1024, 1024), 0.5)
    assert run(["tile", str(path), "-o", str(tmp_path / "out"), "--mpp", "0.5", "--size", "96"]) == 0
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), mpp=0.5, size=96)
    written = read_plan(tmp_path / "out" / "a.tif" / "tiles.parquet")
    assert (written.x.tolist(), written.y.tolist()) == (plan.x.tolist(), plan.y.tolist())
