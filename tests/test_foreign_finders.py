"""Other packages' finders behind the same interface.

Those of packages that are not installed are skipped: continuous integration has none of them. Published
weights are tried nowhere here; each package's own code makes a small model and is asked for what was drawn.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import coverslip
from discs import discs, stained
from foreign_models import Picture, need, write_cellpose, write_instanseg, write_stardist
from slides import write_tiff

from coverslip.errors import MissingExtraError, ModelUnavailableError, RequestError
from coverslip.models.detection import label_iou
from coverslip.models.foreign_finder import ForeignFinder, objects_of
from coverslip.models.foreign_name import ForeignName, is_foreign, parse_foreign
from coverslip.models.licence import commercial_use
from coverslip.workflows.cells import CellSettings, cell_finding
from coverslip.workflows.finders import open_finder, settle_finder
from coverslip.workflows.job import RunSettings
from coverslip.workflows.progress import Silent
from coverslip.workflows.run import execute, plan_run

# The packages warn of their own and of torch's deprecations.
pytestmark = pytest.mark.filterwarnings("default")

FIRST = {"instanseg": "instanseg", "stardist": "tensorflow", "cellpose": "cellpose.models"}
PUBLISHED = {
    "instanseg:brightfield_nuclei": "github.com/instanseg",
    "stardist:2D_versatile_he": "github.com/stardist",
    "cellpose:cpsam": "huggingface.co/mouseland",
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    open_finder.cache_clear()
    yield
    open_finder.cache_clear()


def test_a_label_image_becomes_objects() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 3:9] = 4
    labels[10:14, 20:28] = 9
    found = objects_of(labels, np.arange(9) / 10)
    assert found.x == pytest.approx([6, 24], abs=1e-5)
    assert found.y == pytest.approx([4, 12], abs=1e-5)
    assert found.score == pytest.approx([0.3, 0.8])
    assert (found.kind == 0).all()
    assert found.labels.dtype == np.int32
    assert found.labels[3, 4] == 1
    assert found.labels[11, 21] == 2
    assert (found.labels > 0).sum() == (labels > 0).sum()
    assert np.isnan(objects_of(labels).score).all()
    assert len(objects_of(np.zeros((5, 6), np.int32))) == 0


def test_a_finder_asks_for_rgb_and_leaves_glass_alone() -> None:
    def all_of_it(rgb):
        return np.ones(rgb.shape[:2], np.int32), None

    finder = ForeignFinder("a", "1", "", "", "MIT", 0.5, 0, 1, {}, all_of_it)
    with pytest.raises(RequestError, match="not RGB"):
        finder.find(np.zeros((8, 8), np.uint8))
    assert len(finder.find(np.full((8, 8, 3), (230, 190, 215), np.uint8))) == 0
    assert len(finder.find(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))) == 1


def test_a_name_says_package_model_and_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert parse_foreign("cellpose:cpsam") == ForeignName("cellpose", "cpsam")
    assert parse_foreign("stardist:mine@0.25") == ForeignName("stardist", str(tmp_path / "mine"), 0.25)
    assert settle_finder("stardist:mine@0.25") == f"stardist:{tmp_path / 'mine'}@0.25"
    assert settle_finder(settle_finder("stardist:mine@0.25")) == f"stardist:{tmp_path / 'mine'}@0.25"
    assert parse_foreign("stardist:mine@0.25").public == "stardist:mine@0.25"
    assert not is_foreign("nuclei")
    for bad in ("stardist:", "stardist:2D_versatile_he@0", "stardist:2D_versatile_he@1.2.3"):
        with pytest.raises(RequestError):
            parse_foreign(bad)
    with pytest.raises(ModelUnavailableError, match="no known model"):
        settle_finder("nosuch:model")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_package_that_is_not_installed_is_named_with_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = name.partition(":")[0]
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, FIRST[package], None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'coverslip\[{package}\]'"):
        cell_finding(name)


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    """Without the package, or without its weights, before the slide is read."""
    slide = tmp_path / "no-slide.tif"
    slide.write_bytes(b"none")
    done = coverslip(
        "run", slide, "-o", tmp_path / "out", "--workflow", "cells", "--model", "stardist:nosuch"
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "coverslip[stardist]" in done.stderr or "published are" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_are_not_here_are_named_with_their_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = name.partition(":")[0]
    need(FIRST[package].partition(".")[0])
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("INSTANSEG_BIOIMAGEIO_PATH", str(tmp_path))
    if package == "cellpose":
        from cellpose import models

        monkeypatch.setattr(models, "MODEL_DIR", tmp_path)
    with pytest.raises(ModelUnavailableError, match=PUBLISHED[name]) as raised:
        cell_finding(name)
    assert str(tmp_path) in raised.value.problem
    with pytest.raises(ModelUnavailableError, match="neither"):
        cell_finding(f"{package}:nosuch")
    (tmp_path / "bad").write_text("no model")
    with pytest.raises(ModelUnavailableError):
        cell_finding(f"{package}:{tmp_path / 'bad'}@0.5")


def check_found(finder: object, picture: Picture) -> None:
    """All that was drawn, each about where it is, and outlines that fit the label image."""
    assert isinstance(finder, ForeignFinder)
    rgb, labels = picture
    before = rgb.copy()
    found = finder.find(rgb)
    assert (rgb == before).all()
    assert finder.margin % finder.step == 0
    iou = label_iou(found.labels, labels, len(found), int(labels.max()))
    assert len(found) == pytest.approx(labels.max(), abs=1)
    assert (iou.max(axis=0) > 0.5).mean() > 0.9
    again = finder.find(rgb)
    assert (again.labels == found.labels).all()
    for number, (x, y) in enumerate(zip(found.x, found.y, strict=True), 1):
        place = np.argwhere(found.labels == number)[:, ::-1].mean(axis=0) + 0.5
        assert [x, y] == pytest.approx(place, abs=1)


@pytest.fixture(scope="module")
def instanseg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Picture]:
    return write_instanseg(tmp_path_factory.mktemp("instanseg"))


@pytest.fixture(scope="module")
def stardist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Picture]:
    return write_stardist(tmp_path_factory.mktemp("stardist"))


@pytest.mark.slow
def test_instanseg_finds_what_was_drawn(instanseg: tuple[Path, Picture]) -> None:
    path, picture = instanseg
    finder = open_finder(f"instanseg:{path}")
    check_found(finder, picture)
    assert finder.mpp == pytest.approx(0.4)  # what the model states
    assert np.isnan(finder.find(picture[0]).score).all()
    assert open_finder(f"instanseg:{path.parent}").find(picture[0]).labels.any()


@pytest.mark.slow
def test_instanseg_published_is_looked_for_where_it_keeps_them(
    instanseg: tuple[Path, Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANSEG_BIOIMAGEIO_PATH", str(tmp_path))
    place = tmp_path / "brightfield_nuclei" / "0.1.1"
    place.mkdir(parents=True)
    shutil.copy(instanseg[0], place)
    model = cell_finding("instanseg:brightfield_nuclei", commercial_only=True).model
    assert model is not None
    assert (model.name, model.licence) == ("instanseg:brightfield_nuclei", "Apache-2.0")
    assert model.version.startswith("instanseg-torch 0.1.")
    assert len(model.sha256) == 64


@pytest.mark.slow
def test_stardist_finds_what_was_drawn(stardist: tuple[Path, Picture]) -> None:
    path, picture = stardist
    finder = open_finder(f"stardist:{path}@0.5")
    check_found(finder, picture)
    score = finder.find(picture[0]).score
    assert ((score > 0.5) & (score <= 1)).all()
    with pytest.raises(RequestError, match=r"@0\.5"):
        cell_finding(f"stardist:{path}")


@pytest.mark.slow
def test_stardist_published_is_looked_for_where_keras_keeps_them(
    stardist: tuple[Path, Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    place = tmp_path / "models" / "StarDist2D" / "2D_versatile_he" / "2D_versatile_he_extracted"
    shutil.copytree(stardist[0], place)
    finding = cell_finding("stardist:2D_versatile_he")
    assert finding.mpp == 0.5
    assert finding.model is not None
    assert finding.model.licence == "not stated"
    with pytest.raises(ModelUnavailableError, match="commercial"):
        cell_finding("stardist:2D_versatile_he", commercial_only=True)
    (place / "weights_best.h5").unlink()
    (place / "weights_last.h5").unlink()
    open_finder.cache_clear()
    with pytest.raises(ModelUnavailableError, match="weights"):
        cell_finding("stardist:2D_versatile_he")


@pytest.mark.slow
def test_cellpose_finds_what_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, picture = write_cellpose(tmp_path, monkeypatch)
    finder = open_finder(f"cellpose:{path}@0.5")
    check_found(finder, picture)
    assert np.isnan(finder.find(picture[0]).score).all()
    assert len(finder.find(picture[0][:50, :61])) >= 0
    from cellpose import models

    monkeypatch.setattr(models, "MODEL_DIR", tmp_path)
    path.rename(tmp_path / "cpsam")
    licence = open_finder("cellpose:cpsam").licence  # type: ignore[attr-defined]
    assert commercial_use(licence) is False


@pytest.mark.slow
def test_a_slide_is_looked_at_by_stardist(stardist: tuple[Path, Picture], tmp_path: Path) -> None:
    """In one piece and in many: the same."""
    rng = np.random.default_rng(11)
    labels = discs(500, 70, rng)
    slide = write_tiff(tmp_path / "a.tif", stained(labels, rng), 0.5, levels=1)
    places = []
    for tile in (1024, 128):
        out = tmp_path / str(tile)
        finding = cell_finding(f"stardist:{stardist[0]}@0.5", CellSettings(tile=tile))
        plan = plan_run([str(slide)], out, finding, RunSettings())
        report = execute(plan, 1, None, False, lambda slides: nullcontext(Silent()))
        assert report.exit_code == 0, report.failures
        table = pq.read_table(out / "slides" / "a.tif" / "cells.parquet")
        places.append(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1))
        assert set(table["class"].to_pylist()) == {"nucleus"}
    one, many = places
    assert len(one) == pytest.approx(labels.max(), abs=4)
    assert len(many) == len(one)
    near = np.hypot(*(one[:, None] - many[None]).transpose(2, 0, 1)).min(axis=1)
    assert (near < 0.5).all()
    result = json.loads((tmp_path / "128" / "slides" / "a.tif" / "result.json").read_text("utf-8"))
    assert result["provenance"]["model"]["name"] == "stardist:discs@0.5"
    assert "tensorflow" in result["provenance"]["device"]["runtime"]
