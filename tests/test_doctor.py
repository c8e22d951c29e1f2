"""Faults are made for real: modules taken away, folders that are not there, displays nobody serves."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from coverslip.ruo import RUO
from coverslip.workflows import doctor
from coverslip.workflows.doctor import Check, diagnose, render

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = ["Python", "OpenSlide", "codecs", "Zarr", "Dask", "disk", "memory"]
OPTIONAL = ["torch", "timm", "OpenVINO", "napari", "DICOM"]


@pytest.mark.slow
def test_every_part_is_tried_once_and_the_required_ones_work_here():
    checks = diagnose()
    assert [check.name for check in checks] == REQUIRED + OPTIONAL
    assert [check for check in checks if not check.ok] == []
    assert all(check.detail for check in checks)
    assert all(bool(check.mend) == (check.state != "ok") for check in checks)


@pytest.mark.parametrize(
    ("module", "look"),
    [("openslide", "_openslide"), ("imagecodecs", "_codecs"), ("zarr", "_zarr"), ("distributed", "_dask")],
)
def test_a_required_part_that_cannot_be_imported_is_a_fault(monkeypatch, module, look):
    monkeypatch.setitem(sys.modules, module, None)
    check = doctor._check("part", getattr(doctor, look), "pip install part")
    assert (check.state, check.mend) == ("fault", "pip install part")
    assert module in check.detail


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "torch"),
        ("timm", "torch"),
        ("openvino", "openvino"),
        ("napari", "napari"),
        ("wsidicom", "dicom"),
    ],
)
def test_a_missing_extra_is_absent_and_says_how_to_get_it(monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    check = doctor._check("part", lambda: "it works", "", module)
    assert (check.ok, check.state) == (True, "absent")
    assert module in check.detail
    assert check.mend == f"pip install 'coverslip[{extra}]'"


def test_an_optional_part_that_is_there_but_broken_is_a_fault(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    check = doctor._check("timm", doctor._timm, "pip install timm", "timm")
    assert check.state == "fault"
    assert "libtorch.so" in check.detail


def test_a_folder_that_is_not_there_is_a_fault(tmp_path):
    disk = doctor._check("disk", lambda: doctor._disk(tmp_path / "nowhere"), "name another")
    assert (disk.state, disk.mend) == ("fault", "name another")
    assert "nowhere" in disk.detail


def test_too_little_disk_or_memory_is_a_fault_that_says_how_much_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "LEAST_MEMORY_GB", 1e9)
    disk = doctor._check("disk", lambda: doctor._disk(tmp_path), "")
    memory = doctor._check("memory", doctor._memory, "")
    assert (disk.state, memory.state) == ("fault", "fault")
    assert "1e+09 GB" in disk.mend
    assert "1e+09 GB" in memory.mend


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_a_display_that_nobody_serves_is_a_fault_not_a_crash(monkeypatch):
    pytest.importorskip("napari")
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    check = doctor._napari()
    assert check.state == "fault"
    assert check.mend.startswith("apt-get install xvfb ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_no_display_and_no_xvfb_is_no_fault(monkeypatch, tmp_path):
    pytest.importorskip("napari")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor._napari()
    assert (check.ok, check.state) == (True, "absent")
    assert check.mend == doctor.INSTALL_WINDOW_PACKAGES


def test_the_rendering_shows_fault_mend_verdict_and_intended_use():
    text = render([Check("Zarr", "ok", "zarr 3"), Check("Dask", "fault", "no cluster", "pip install dask")])
    assert re.search(r"^ok +Zarr +zarr 3$", text, re.M)
    assert re.search(r"^FAULT +Dask +no cluster\n +→ pip install dask$", text, re.M)
    assert "\n1 fault found\n" in text
    assert text.endswith(RUO)


def test_absent_parts_do_not_spoil_the_verdict():
    text = render([Check("torch", "absent", "is optional", "pip install 'coverslip[torch]'")])
    assert "not installed" in text
    assert "all that is required works" in text


def test_setup_installs_the_packages_the_doctor_names():
    setup = (ROOT / "tools/setup").read_text()
    parts = re.search(r"^WINDOW_PARTS='\n(.*?)'$", setup, re.M | re.S)
    assert parts is not None
    assert tuple(line.split()[1] for line in parts[1].splitlines()) == doctor.WINDOW_PACKAGES
