"""A run: every good slide done, every bad one listed, the others untouched by it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import coverslip
from slides import corrupt_tiles, tissue, truncate, write_tiff, zero_tiles
from trees import contents

from coverslip.ruo import RUO
from coverslip.workflows.outputs import read_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of all sorts: two good ones, one a little damaged, and six that cannot be done."""
    slides = tmp_path_factory.mktemp("slides")
    write_tiff(slides / "good.tif", tissue(768, 640), 0.5, levels=2)
    write_tiff(slides / "ünïcode (копия).tif", tissue(512, 512), (0.5, 0.25))
    write_tiff(slides / "scratched.tif", tissue(2048, 2048), 0.5, tile=128)
    corrupt_tiles(slides / "scratched.tif", [100, 101])
    write_tiff(slides / "torn.tif", tissue(1024, 1024), 0.5)
    zero_tiles(slides / "torn.tif", [5, 6, 9])
    write_tiff(slides / "no-mpp.tif", tissue(512, 512), None)
    write_tiff(slides / "72dpi.tif", tissue(512, 512), 352.8)
    write_tiff(slides / "cut-off.tif", tissue(512, 512), 0.5)
    truncate(slides / "cut-off.tif", 0.3)
    (slides / "empty.svs").write_bytes(b"")
    (slides / "page.svs").write_text("<html><body>404</body></html>")
    (slides / "notes.txt").write_text("no slide")
    return slides


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    out = tmp_path_factory.mktemp("run") / "out"
    result = coverslip("run", folder, "-o", out, "--workflow", "ihc", "--site", "cytoplasm")
    return out, result.returncode, result.stdout + result.stderr


BAD = {
    "torn.tif": "DamagedSlideError",
    "no-mpp.tif": "SlideInformationError",
    "72dpi.tif": "SlideInformationError",
    "cut-off.tif": "UnreadableSlideError",
    "empty.svs": "UnreadableSlideError",
    "page.svs": "UnreadableSlideError",
}
GOOD = {"good.tif", "ünïcode (копия).tif", "scratched.tif"}


def test_every_bad_slide_is_listed_with_its_reason_and_the_exit_code_is_3(done) -> None:
    out, code, _ = done
    assert code == 3
    failures = json.loads((out / "failures.json").read_text())["failures"]
    assert {Path(failure["path"]).name: failure["error"] for failure in failures} == BAD
    assert all(failure["message"] and failure["remedy"] for failure in failures)


def test_every_good_slide_is_done(done) -> None:
    out, _, _ = done
    assert {folder.name for folder in (out / "slides").iterdir() if (folder / "result.json").exists()} == GOOD
    for name in GOOD:
        result = read_result(out / "slides" / name)
        assert result.status == "done"
        assert result.notice == RUO
        for output in result.outputs:
            assert (out / "slides" / name / output).exists()


def test_a_failed_slide_leaves_no_half_result(done) -> None:
    out, _, _ = done
    for name in BAD:
        assert not list((out / "slides" / name).rglob("*")) or not (out / "slides" / name).exists()


def test_damage_below_the_limit_is_measured_and_reported(done) -> None:
    out, _, _ = done
    result = read_result(out / "slides" / "scratched.tif")
    assert result.quality.damaged_fraction == pytest.approx(2 / 256, abs=0.004)
    assert "missing or corrupt" in (out / "slides" / "scratched.tif" / "report.html").read_text()


def test_the_summary_names_every_slide_and_the_research_use(done) -> None:
    _, _, text = done
    for name in (*GOOD, *BAD):
        assert name in text
    assert RUO in text
    assert "notes.txt" in text


def test_the_worklist_has_a_line_per_slide(done) -> None:
    out, _, _ = done
    rows = pq.read_table(out / "worklist.parquet").to_pylist()
    assert {row["id"]: row["status"] for row in rows} == dict.fromkeys(GOOD, "done") | dict.fromkeys(
        BAD, "failed"
    )


def test_the_slides_mpp_is_in_the_result_with_its_source(done) -> None:
    out, _, _ = done
    mpp = read_result(out / "slides" / "ünïcode (копия).tif").slide.mpp
    assert (mpp.x, mpp.y) == pytest.approx((0.5, 0.25), rel=1e-3)
    assert mpp.source == "tiff.XResolution"


def test_running_again_does_nothing_and_changes_nothing(folder: Path, done) -> None:
    out, _, _ = done
    before = contents(out)
    marks = {path: path.stat().st_mtime_ns for path in (out / "slides" / "good.tif").iterdir()}
    again = coverslip("run", folder, "-o", out, "--workflow", "ihc", "--site", "cytoplasm")
    assert again.returncode == 3
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in (out / "slides" / "good.tif").iterdir()} == marks


def test_other_settings_in_the_same_folder_are_refused(folder: Path, done) -> None:
    out, _, _ = done
    other = coverslip("run", folder, "-o", out, "--workflow", "ihc")
    assert other.returncode == 2
    assert "--overwrite" in other.stderr


def test_a_file_given_with_its_mpp_is_done_and_all_good_is_exit_code_0(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("wsi,mpp,case\nno-mpp,0.5,C-17\n72dpi.tif,0.5,C-18\n")
    out = tmp_path / "out"
    paths = folder / "no-mpp.tif", folder / "72dpi.tif"
    result = coverslip("run", *paths, "-o", out, "--workflow", "ihc", "--slides", table)
    assert result.returncode == 0, result.stderr
    slide = read_result(out / "slides" / "no-mpp.tif").slide
    assert (slide.mpp.x, slide.mpp.source, slide.case) == (0.5, "given by --slides", "C-17")


def test_more_damage_is_accepted_when_asked_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = coverslip("run", folder / "torn.tif", "-o", out, "--workflow", "ihc", "--max-damage", 0.5)
    assert result.returncode == 0, result.stderr
    assert read_result(out / "slides" / "torn.tif").quality.damaged_fraction == pytest.approx(
        3 / 16, abs=0.01
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workflow", "nothing"),
        ("--workflow", "tiles"),
        ("--workflow", "tiles", "--model", "/nowhere"),
        ("--workflow", "ihc", "--workers", "0"),
        ("--workflow", "ihc", "--mpp", "-1"),
        ("--workflow", "ihc", "--scheduler", "tcp://127.0.0.1:1"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_one_clear_line(folder: Path, tmp_path: Path, arguments) -> None:
    result = coverslip("run", folder / "good.tif", "-o", tmp_path / "out", *arguments)
    assert result.returncode == 2
    assert "Error" in result.stderr


def test_a_dry_run_counts_tiles_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    result = coverslip("run", folder / "good.tif", "-o", tmp_path / "out", "--workflow", "ihc", "--dry-run")
    assert result.returncode == 0
    assert "good.tif" in result.stdout
    assert not (tmp_path / "out").exists()


def test_blank_glass_is_no_tissue_and_no_failure(tmp_path: Path) -> None:
    import numpy as np

    glass = np.random.default_rng(0).normal(243, 1.5, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    write_tiff(tmp_path / "blank.tif", glass, 0.5, levels=2)
    result = coverslip("run", tmp_path / "blank.tif", "-o", tmp_path / "out", "--workflow", "ihc")
    assert result.returncode == 0, result.stderr
    blank = read_result(tmp_path / "out" / "slides" / "blank.tif")
    assert blank.status == "no tissue"
    assert blank.measurements == ()


@pytest.mark.slow
def test_all_shared_slides_good_ones_done_bad_ones_listed(shared: Path, tmp_path: Path) -> None:
    """The real folders: what fails, fails for the reason in the table of files."""
    out = tmp_path / "out"
    result = coverslip(
        "run",
        shared / "wsi",
        shared / "malformed",
        "-o",
        out,
        "--workflow",
        "ihc",
        "--accept-stain",
        timeout=850,
    )
    assert result.returncode == 3, result.stderr
    failures = json.loads((out / "failures.json").read_text())["failures"]
    faults = [failure for failure in failures if "fault in Coverslip" in failure["message"]]
    assert not faults
    done = {folder.name for folder in (out / "slides").iterdir() if (folder / "result.json").exists()}
    assert {
        "CMU-1-Small-Region.svs",
        "OS-1-detail.ome.tif",
        "cmu1_generic_pyramid.tif",
        "cmu1_dicom_wsm",
    } <= done
    assert "sparse_zero_tiles.svs" in {Path(failure["path"]).name for failure in failures}


def test_a_figure_given_against_the_files_own_is_used_and_said(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue(512, 512), 0.25)
    result = coverslip("run", tmp_path / "a.tif", "-o", tmp_path / "out", "--workflow", "ihc", "--mpp", 0.5)
    assert "the file states 0.25" in result.stdout
    slide = read_result(tmp_path / "out" / "slides" / "a.tif").slide
    assert (slide.mpp.x, slide.mpp_declared and slide.mpp_declared.x) == (0.5, pytest.approx(0.25))
    assert "the file states 0.25" in (tmp_path / "out" / "slides" / "a.tif" / "report.html").read_text()


def test_a_run_killed_while_it_wrote_its_first_record_continues(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", tissue(512, 512), 0.5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".run.json.17.0badcafe.tmp").write_text('{"half": ')
    done = coverslip("run", tmp_path / "a.tif", "-o", tmp_path / "out", "--workflow", "ihc")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").glob(".*.tmp"))
