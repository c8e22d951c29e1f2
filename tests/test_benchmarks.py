"""The benchmarks run, judge rows rightly, and the documentation says what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    """The package `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.fleet
    import benchmarks.plot
    import benchmarks.report
    import benchmarks.rows

    return benchmarks


def samples(bench, cpu_s: list[float], units: float = 10, **more: float):
    from benchmarks.process import Sample

    return [Sample(cpu, 2 * cpu, more.get("peak_mb", 100), units) for cpu in cpu_s]


def test_every_row_names_probes_that_exist_and_every_probe_is_used(bench):
    from benchmarks.probes import PROBES

    used = {probe for spec in bench.rows.ROWS.values() for probe in spec.probes}
    assert used == set(PROBES)


def test_a_side_is_the_median_per_unit_of_work(bench):
    side = bench.rows.side("supply-256", samples(bench, [1, 5, 2]))
    assert (side.cpu_s, side.cpu_ms_per_unit, side.times, side.unit) == (2, 200, 3, "tile")


@pytest.mark.parametrize(("peer_s", "met"), [(70, True), (69, False)])
def test_a_row_is_met_when_the_peer_takes_that_many_times_more(bench, peer_s, met):
    ours = bench.rows.side("supply-256", samples(bench, [10]))
    peer = bench.rows.side("openslide-256", samples(bench, [peer_s]))
    row = bench.rows.judge("tiles-256", {"supply-256": ours, "openslide-256": peer}, {})
    assert (row.value, row.limit, row.met) == (peer_s / 10, 7, met)


def test_a_run_may_take_a_tenth_more_than_forward_and_decode_together(bench):
    costs = {"run": 11.1, "engine-resnet18": 7, "supply-224": 3}
    sides = {name: bench.rows.side(name, samples(bench, [cpu])) for name, cpu in costs.items()}
    row = bench.rows.judge("run-limit", sides, {})
    assert row.value == pytest.approx(1.11)
    assert row.met is False
    assert row.peer == sides["engine-resnet18"]


def test_memory_of_a_run_is_held_to_that_of_an_idle_process(bench):
    sides = {
        "run-large": bench.rows.side("run-large", samples(bench, [1], peak_mb=1300)),
        "idle": bench.rows.side("idle", samples(bench, [1], peak_mb=800)),
    }
    assert bench.rows.judge("memory-run-large", sides, {}).met is True
    sides["idle"] = replace(sides["idle"], peak_mb=799)
    assert bench.rows.judge("memory-run-large", sides, {}).met is False


def test_a_row_without_its_peer_says_why(bench):
    ours = bench.rows.side("run", samples(bench, [10]))
    row = bench.rows.judge("run-trident", {"run": ours}, {"trident": "not on the package index"})
    assert (row.value, row.met, row.note) == (None, None, "not on the package index")
    assert "not measured" in bench.report.line(row)


def test_a_failed_process_says_what_it_said(bench):
    from benchmarks.process import Failed, run

    with pytest.raises(Failed, match="too bad"):
        run([sys.executable, "-c", "raise SystemExit('too bad')"])


def test_a_process_is_charged_with_its_own_work_and_memory():
    work = "import time\nkept = b'x' * 300_000_000\nwhile time.process_time() < 0.5: pass"
    # In a process of its own: a child starts with its parent's peak on its account, and the tests' is large.
    measure = (
        "import json, sys; from dataclasses import asdict; from benchmarks.process import run; "
        f"print(json.dumps(asdict(run([sys.executable, '-c', {work!r}]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure], cwd=ROOT, check=True, capture_output=True, text=True
    )
    sample = json.loads(done.stdout)
    assert 0.5 <= sample["cpu_s"] < 1.5
    assert 286 <= sample["peak_mb"] < 420


@pytest.mark.slow
def test_the_quick_form_measures_a_small_slide_and_writes_what_it_found(shared, tmp_path):
    composer = shared.parent / "tools/make_slide.py"
    if not composer.is_file():
        pytest.skip("the slide composer is not here")
    source = shared / "wsi/aperio-svs/CMU-1-Small-Region.svs"
    slide, out = tmp_path / "small.svs", tmp_path / "found.json"
    composing = [sys.executable, composer, "tissue", source, slide, "--size", "2048x2816"]
    subprocess.run(composing, check=True, stdout=subprocess.DEVNULL)
    rows = ("import", "tiles-256", "pyramid-size", "memory-convert-growth")
    only = [word for row in rows for word in ("--only", row)]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--no-peers", *only]
    places = ["--slide", slide, "--cache", tmp_path / "cache", "--out", out]
    subprocess.run([*command, *places], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    document = json.loads(out.read_text())
    assert document["schema"] == "coverslip.benchmarks/2"
    found = {row["row"]: row for row in document["rows"]}
    assert list(found) == list(rows)
    assert 0 < found["import"]["ours"]["cpu_s"] < 30
    assert found["tiles-256"]["note"] == "peers were left out"
    assert found["tiles-256"]["ours"]["units"] > 1
    assert 0.5 < found["pyramid-size"]["value"] < 2
    assert found["memory-convert-growth"]["ours"]["peak_mb"] > 20
    assert out.with_suffix(".png").stat().st_size > 1000


def test_the_documentation_shows_what_was_measured(bench):
    rows = bench.report.read_rows(ROOT / "docs/benchmarks.json")
    assert bench.report.table(rows) in (ROOT / "docs/scale.md").read_text()
    assert [row.row for row in rows] == list(bench.rows.ROWS)


def test_the_documentation_shows_the_fleet_that_was_played(bench):
    document = json.loads((ROOT / "docs/fleet.json").read_text())
    page = (ROOT / "docs/scale.md").read_text()
    assert all(bench.fleet.table(played) in page for played in document["played"])
    assert document["schema"] == "coverslip.fleet/1"


def test_a_page_without_the_markers_is_left_alone(bench, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- here -->\nold\n<!-- /here -->\nafter\n")
    bench.report.put(page, "here", "new")
    assert page.read_text() == "before\n<!-- here -->\nnew\n<!-- /here -->\nafter\n"
    with pytest.raises(SystemExit, match="there"):
        bench.report.put(page, "there", "new")
    assert "new" in page.read_text()


def test_the_picture_has_a_bar_for_every_row_that_was_measured(bench):
    rows = bench.report.read_rows(ROOT / "docs/benchmarks.json")
    drawn = bench.plot.draw(rows)
    fewer = bench.plot.draw([row for row in rows if row.value is not None][1:])
    assert drawn.height - fewer.height == bench.plot.LINE


def costs(bench, **changed):
    line = bench.fleet.Line
    given = {
        "start": 5.0,
        "prepare": line(1.0, 1e-4),
        "finish": line(0.5, 1e-4),
        "tile": 0.03,
        "copy": 0.2,
        "tiles_per_copy": 1000,
        "central": 0.001,
    }
    return bench.fleet.Costs(**given | changed)


def test_the_folder_of_the_fleet_holds_slides_of_many_sizes(bench):
    folder = bench.fleet.folder(1000)
    assert folder == sorted(folder, reverse=True)
    assert folder[500] == pytest.approx(bench.fleet.MEDIAN_TILES, rel=0.01)
    assert folder[0] / folder[-1] > 30


def test_one_worker_takes_as_long_as_all_tasks_together(bench):
    known = costs(bench, central=0.0)
    folder = [5000, 1100, 40]
    seconds, _ = bench.fleet.Simulation(folder, known, 1).run()
    copies = 5 + 1 + 1
    slides = sum(known.prepare.at(tiles) + known.finish.at(tiles) for tiles in folder)
    assert seconds == pytest.approx(known.start + slides + sum(folder) * known.tile + copies * known.copy)


def test_workers_share_the_folder_until_the_last_slide_bounds_them(bench):
    folder, known = bench.fleet.folder(200), costs(bench, central=0.0)
    found = bench.fleet.fleets(folder, known, (1, 2, 8, 32))
    assert all(0.9 < fleet.efficiency <= 1.001 for fleet in found)
    assert [fleet.hours for fleet in found] == sorted((fleet.hours for fleet in found), reverse=True)


def test_throughput_ends_where_client_and_scheduler_are_busy(bench):
    folder, known = [512] * 2000, costs(bench, central=0.05)
    found = bench.fleet.fleets(folder, known, (1, 1024))
    assert found[1].central_busy > 0.5
    # Each slide is one task here, and no more than one per 0.05 s can be handled.
    assert found[1].slides_per_hour < 3600 / 0.05
    assert bench.fleet.stops(found, 0.9) == 1024


def test_the_fleet_is_the_same_every_time(bench):
    folder, known = bench.fleet.folder(100), costs(bench)
    assert bench.fleet.fleets(folder, known, (7,)) == bench.fleet.fleets(folder, known, (7,))


def test_costs_come_from_two_slides(bench):
    small = {"tiles": 1000, "prepare_s": 1.0, "finish_s": 0.5, "score_s": [30.0], "copy_s": [0.1]}
    large = {"tiles": 3000, "prepare_s": 2.0, "finish_s": 0.4, "score_s": [50.0, 40.0], "copy_s": [0.1, 0.4]}
    more = {"start_s": 5.0, "decode_s": 1.0}
    found = bench.fleet.costs(small | more, large | more, 0.002)
    assert found.prepare == bench.fleet.Line(0.5, 0.0005)
    assert found.finish == bench.fleet.Line(0.4, 0.0)
    assert found.tile == pytest.approx(0.03)
    assert found.copy == pytest.approx(0.2)
    assert bench.fleet.without_forward(found, small | more, large | more).tile == pytest.approx(0.0005)
