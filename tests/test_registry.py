"""Workflows by name and as files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from slides import tissue, write_tiff

from coverslip.errors import RequestError
from coverslip.workflows.cli import run as command
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.outputs import read_result
from coverslip.workflows.registry import Asked, build_workflow, find_workflow, known_workflows
from coverslip.workflows.rules.codes import code_of
from coverslip.workflows.rules.guideline import known_guidelines, load_guideline
from coverslip.workflows.workflow_file import read_workflow, show_workflow


@pytest.mark.parametrize("name", sorted(known_workflows()))
def test_what_show_writes_asks_for_the_defaults(name: str, tmp_path: Path) -> None:
    kind = find_workflow(name)
    assert kind.name == name
    path = tmp_path / "mine.yaml"
    path.write_text(show_workflow(kind), encoding="utf-8")
    file = read_workflow(str(path))
    assert file.kind is kind
    from coverslip.workflows.registry import read_settings

    assert read_settings(kind.settings, file.settings, name) == kind.settings()


def test_a_setting_that_is_edited_is_used_and_the_rest_stays() -> None:
    workflow = build_workflow(find_workflow("ihc"), {"score": {"enough_nuclei": 7}})
    assert isinstance(workflow, Ihc)
    assert workflow.choices.score.enough_nuclei == 7
    assert workflow.choices.score.thresholds == (0.2, 0.4, 0.6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"score": {"enugh": 7}}, r"score\.enugh"),
        ({"colour": 1}, "colour"),
        ({"mpp": "coarse"}, "mpp"),
        ({"score": {"thresholds": [0.4, 0.2, 0.6]}}, "do not rise"),
    ],
)
def test_a_setting_that_is_wrong_is_named(settings: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        build_workflow(find_workflow("ihc"), settings)


def test_what_a_workflow_does_not_use_is_refused() -> None:
    with pytest.raises(RequestError, match="--random-weights: is not used by the workflow ihc"):
        build_workflow(find_workflow("ihc"), {}, Asked(random_weights=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workflow: ihc", "schema"),
        ("schema: coverslip.workflow/1\nworkflow: ihc\ncolour: red", "colour"),
        ("schema: [", "cannot be read"),
        ("schema: coverslip.workflow/1\nworkflow: none", "no workflow"),
        ("- a", "the file"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        read_workflow(str(path))


def test_the_command_lists_and_shows(capsys) -> None:
    assert command(["workflows", "list"]) == 0
    assert "ihc" in capsys.readouterr().out
    assert command(["workflows", "show", "ihc"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["workflow"] == "ihc"
    assert command(["workflows", "show", "nothing"]) == 2


@pytest.mark.parametrize("name", known_guidelines())
def test_a_guideline_says_where_it_is_from_and_marks_only_what_it_has(name: str) -> None:
    guideline = load_guideline(name)
    assert guideline.source
    assert set(guideline.unverified) <= set(guideline.values)
    assert guideline.use().cut_offs == guideline.values


def test_a_laboratorys_own_guideline_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text('name: Ours\nversion: "2"\nsource: our validation\nvalues: {low: 5}\nunverified: [low]\n')
    use = load_guideline(str(path)).use("low")
    assert (use.name, use.version, use.cut_offs, use.unverified) == ("Ours", "2", {"low": 5}, ("low",))
    path.write_text("name: Ours\nvalues: 3\n")
    with pytest.raises(RequestError, match="version"):
        load_guideline(str(path))
    with pytest.raises(RequestError, match="no guideline"):
        load_guideline("none-such")


def test_a_code_is_known_or_there_is_none() -> None:
    assert code_of("TPS") == "LOINC 83053-9"
    assert code_of("nothing of the kind") is None


MODULE = """
from coverslip.workflows.ihc.markers import Marker
from coverslip.workflows.ihc.settings import IhcSettings
from coverslip.workflows.ihc.workflow import Ihc
from coverslip.workflows.registry import WorkflowKind

PHH3 = Marker("PHH3", "nucleus", "receptor", "phh3-ours")


def build(settings, asked):
    return Ihc(settings)


KIND = WorkflowKind("proliferation", "Ki-67 as we read it.", IhcSettings, build)
"""
RULE = """
name: Ours
version: "1"
source: our validation
values:
  categories: [{name: quiet, below: 10}, {name: busy, urgency: attention}]
  least_cells: 20
  controls_at_most: 1
"""
ENTRIES = """
[coverslip.workflows]
proliferation = our_lab.reading:KIND
[coverslip.markers]
phh3 = our_lab.reading:PHH3
[coverslip.guidelines]
ours = our_lab.rules
"""


def test_a_laboratorys_package_brings_workflow_marker_and_rule(tmp_path: Path) -> None:
    """A real installed distribution, and the command line in a process that finds it."""
    site = tmp_path / "site"
    for folder in (site / "our_lab-1.dist-info", site / "our_lab/rules"):
        folder.mkdir(parents=True)
    (site / "our_lab-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: our-lab\nVersion: 1\n")
    (site / "our_lab-1.dist-info/entry_points.txt").write_text(ENTRIES)
    for package in (site / "our_lab", site / "our_lab/rules"):
        (package / "__init__.py").touch()
    (site / "our_lab/reading.py").write_text(MODULE)
    (site / "our_lab/rules/phh3-ours.yaml").write_text(RULE)
    write_tiff(tmp_path / "a.tif", tissue(512, 512), 0.5)
    arguments = ["run", "a.tif", "-o", "out", "--workflow", "proliferation", "--marker", "phh3"]
    done = subprocess.run(
        [sys.executable, "-m", "coverslip", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "out/slides/a.tif")
    assert result.call is not None
    assert result.call.category in {"quiet", "busy"}
    assert "PHH3" in result.call.text
    assert result.guidelines[0].name == "Ours"
    assert result.guidelines[0].cut_offs["least_cells"] == 20
