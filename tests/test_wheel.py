"""The wheel as others get it: in a clean environment with what its core needs, every module imported there.

What it needs is taken from the environment of the tests, by the requirements that the wheel itself states:
installing it all anew would take a minute and show no more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("wsi", "tiling", "models", "workflows")
IMPORT_ALL = """
import importlib, json, pkgutil, coverslip
names = [found.name for found in pkgutil.walk_packages(coverslip.__path__, "coverslip.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "qtpy" or not name.startswith("coverslip.workflows.desk."):
            raise
print(json.dumps({"file": coverslip.__file__, "names": names}))
"""

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """Run in an environment that knows nothing of this checkout; return what it prints."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing left over from an earlier build gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in ("coverslip", *ROOMS):
        shutil.copytree(
            ROOT / room, source / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, source, cwd=out)
    (built,) = out.glob("coverslip-*.whl")
    return built


def needed(distribution: Distribution) -> Iterator[Distribution]:
    """What a distribution needs without extras, as it is installed for the tests."""
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found = Distribution.from_name(requirement.name)
            assert requirement.specifier.contains(found.version, prereleases=True), line
            yield found


def link(distribution: Distribution, site: Path) -> None:
    """Every file and folder of a distribution, as a link among the packages in `site`."""
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(str(distribution.locate_file(top)))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of a clean environment that holds the wheel and what its core needs."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
    run(*pip, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (installed,) = Distribution.discover(name="coverslip", path=[str(site)])
    waiting, seen = list(needed(installed)), set()
    while waiting:
        one = waiting.pop()
        if one.name not in seen:
            seen.add(one.name)
            link(one, site)
            waiting += needed(one)
    return python


def test_the_wheel_holds_every_file_of_the_packages_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {f"coverslip/{path.name}" for path in (ROOT / "coverslip").iterdir() if path.is_file()}
    for room in ROOMS:
        paths = [
            path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        files |= {f"coverslip/{path.relative_to(ROOT).as_posix()}" for path in paths}
    assert sorted(packed) == sorted(files)
    assert {"coverslip/py.typed", "coverslip/napari.yaml"} <= packed


@pytest.mark.timeout(1800)
def test_every_module_is_importable_with_the_core_alone(python, tmp_path):
    found = json.loads(run(python, "-c", IMPORT_ALL, cwd=tmp_path).splitlines()[-1])
    assert Path(found["file"]).is_relative_to(python.parents[1])
    assert {f"coverslip.{room}" for room in ROOMS} <= set(found["names"])


def test_it_takes_no_name_of_others_in_site_packages(python):
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    assert (site / "coverslip").is_dir()
    assert [room for room in ROOMS if (site / room).exists() or (site / f"{room}.py").exists()] == []
    assert [name for name in ("torch", "napari") if (site / name).exists()] == []


def test_the_command_runs(python, tmp_path):
    assert "Usage: coverslip" in run(python.with_name("coverslip"), "--help", cwd=tmp_path)
