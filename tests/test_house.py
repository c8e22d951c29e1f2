"""The shape of the house: layout, public names, what may be imported where, and how light the door is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import coverslip

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("wsi", "tiling", "models", "workflows")
SOURCES = sorted(
    path
    for room in ("coverslip", *ROOMS)
    for path in (ROOT / room).rglob("*.py")
    if "__pycache__" not in path.parts
)
HEAVY = ("torch", "torchvision", "timm", "napari", "qtpy")
# Widgets are subclasses of Qt's; nothing imports this folder before there is a window.
WIDGETS = ROOT / "workflows" / "desk"
# A class that is a widget needs its base: these modules are imported when a window is opened, and not before.
WIDGETS = ROOT / "workflows" / "desk"
LIMIT_IMPORT_S, LIMIT_HELP_S = 0.3, 0.5


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> dict[str, str]:
    """Every folder with an `__init__.py`, by the name it is imported under."""
    folders = {"coverslip": "coverslip"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            folder = init.parent.relative_to(ROOT)
            folders[".".join(("coverslip", *folder.parts))] = folder.as_posix()
    return folders


def test_every_package_is_declared_where_it_lies():
    setuptools = project()["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(package_folders())
    assert setuptools["package-dir"] == package_folders()


def test_every_folder_with_code_is_a_package():
    assert {path.parent.relative_to(ROOT).as_posix() for path in SOURCES} == set(package_folders().values())


@pytest.mark.parametrize("room", ROOMS)
def test_the_import_name_links_to_the_room(room):
    link = ROOT / "coverslip" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../{room}"


def test_constraints_name_exact_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines]
    assert all(
        len(pair) == 2 and pair[0].strip("abcdefghijklmnopqrstuvwxyz0123456789-") == "" for pair in pairs
    )
    names = [name for name, _ in pairs]
    assert names == sorted(set(names))
    assert "coverslip" not in names


def test_every_extra_is_pinned():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    table = project()["project"]
    asked = [
        *table["dependencies"],
        *(one for extra in table["optional-dependencies"].values() for one in extra),
    ]
    names = {one.partition(">")[0].partition("[")[0].strip() for one in asked} - {"coverslip"}
    assert names <= pinned


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is_for_and_imports_nothing_heavy(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    heavy = set(HEAVY) - {"qtpy"} if path.parent == WIDGETS else set(HEAVY)
    assert [name for name in imported_at_module_level(tree.body) if name.partition(".")[0] in heavy] == []


def imported_at_module_level(body: list[ast.stmt]) -> list[str]:
    """Modules that importing runs: not those inside functions, nor those for type checkers only."""
    names: list[str] = []
    for node in body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.If):
            only_types = "TYPE_CHECKING" in ast.unparse(node.test)
            names += imported_at_module_level(node.orelse if only_types else node.body + node.orelse)
        elif isinstance(node, (ast.Try, ast.With, ast.ClassDef)):
            names += imported_at_module_level(node.body)
    return names


def test_the_search_for_heavy_imports_finds_them():
    source = """
if TYPE_CHECKING:
    import torch
else:
    import timm
try:
    from napari.layers import Labels
except ImportError:
    pass
def late():
    import torch
"""
    assert imported_at_module_level(ast.parse(source).body) == ["timm", "napari.layers"]


def test_every_public_name_is_there():
    assert coverslip.__all__
    assert list(coverslip.__all__) == sorted(set(coverslip.__all__))
    assert [name for name in coverslip.__all__ if not hasattr(coverslip, name)] == []


def cpu_seconds(*command: str) -> float:
    """User and system time of the quickest of three runs: what else the machine does counts little."""
    resource = pytest.importorskip("resource")

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        times.append(spent() - before)
    return min(times)


def test_importing_is_quick():
    assert cpu_seconds(sys.executable, "-c", "import coverslip") < LIMIT_IMPORT_S


def test_help_is_quick():
    command = Path(sys.executable).with_name("coverslip")
    assert cpu_seconds(str(command), "--help") < LIMIT_HELP_S


@pytest.mark.parametrize("statement", ["import coverslip", "import coverslip.workflows.cli"])
def test_importing_brings_nothing_heavy(statement):
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = json.loads(done.stdout)
    assert "coverslip" in loaded
    assert [name for name in (*HEAVY, "dask.distributed", "distributed") if name in loaded] == []


def test_the_arrows_only_point_down():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
