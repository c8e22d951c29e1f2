"""The review queue: doubtful rows and not alike ones, none that a person has seen, the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coverslip.errors import RequestError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.workflows.cli import run as command
from coverslip.workflows.files import output_digest, write_json, write_table
from coverslip.workflows.result import (
    Measurement,
    MppValue,
    Provenance,
    Quality,
    SlideIdentity,
    SlideResult,
    Times,
)
from coverslip.workflows.review.chain import Draft, Person
from coverslip.workflows.review.corrections import Exclude, Relabel, write_correction
from coverslip.workflows.review.diversity import farthest_first, standardised
from coverslip.workflows.review.machine import machine_digest
from coverslip.workflows.review.queue import read_queue, write_queue
from coverslip.workflows.review.suggest import suggest
from coverslip.workflows.review.trail import Trail
from coverslip.workflows.review.uncertainty import Beyond, CutOff, Flag, Margin, SeveralOrNone, joined

MPP, TILE = 0.5, 100
ANNA = Person(name="Anna", role="")


def made(home: Path, columns: dict, of: str = "cells", workflow: str = "cytology", **said) -> SlideResult:
    """A result folder with one table, as far as a queue is made of it."""
    home.mkdir(parents=True)
    write_table(home / f"{of}.parquet", pa.table(columns), f"coverslip.{of}/1")
    quality = dict.fromkeys(("damaged_fraction", "damaged_slide_fraction", "damaged_tiles_fraction"), 0.0)
    result = SlideResult(
        slide=SlideIdentity(
            id=home.name,
            path=f"{home.name}.svs",
            digest=home.name * 8,
            bytes=None,
            format="made",
            reader="made",
            reader_version="1",
            size=(10_000, 10_000),
            mpp=MppValue(x=MPP, y=MPP, source="made"),
        ),
        workflow=workflow,
        status="done",
        summary="made",
        measurements=said.get("measurements", ()),
        quality=Quality(
            tissue_fraction=1, tissue_area_mm2=1, tiles=1, missing_fraction=None, pen_fraction=0, **quality
        ),
        provenance=Provenance(
            coverslip="",
            request="",
            workflow=workflow,
            settings={"workflow": said.get("settings", {}), "grid": {"size": TILE, "mpp": MPP, "overlap": 0}},
            derived={},
            model=None,
            device={},
            supply="",
            seed=0,
            packages={},
        ),
        outputs={f"{of}.parquet": output_digest(home / f"{of}.parquet")},
        times=Times(started="", finished=""),
    )
    write_json(home / "result.json", result.model_dump(mode="json"))
    return result


def cells(n: int = 200, seed: int = 0) -> dict:
    """Like those of a smear: two classes, the first rows the most doubtful."""
    rng = np.random.default_rng(seed)
    first = np.linspace(0.5, 1, n)
    return {
        "x": rng.uniform(0, 1e4, n),
        "y": rng.uniform(0, 1e4, n),
        "area_um2": np.full(n, 100 * np.pi),
        "class": pa.array(["HSIL"] * n),
        "strange": np.zeros(n, bool),
        "undecided": np.zeros(n, bool),
        "p_HSIL": first,
        "p_NILM": 1 - first,
    }


def corrected(home: Path, result: SlideResult, *corrections) -> None:
    """As a review leaves them: entries of the trail."""
    trail = Trail(home)
    with trail.held():
        trail.refresh()
        trail.add(Draft("open", ANNA, "opened", details={"result": machine_digest(result)}))
        for one in corrections:
            trail.add(Draft("correct", ANNA, "corrected", corrections=(write_correction(one),)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made(tmp_path / "out" / "slides" / "a", cells(seed=1))
    made(tmp_path / "out" / "slides" / "b", cells(seed=2))
    return tmp_path / "out"


def test_doubtful_rows_of_all_slides_are_listed_with_their_reasons_and_places(out):
    queue = suggest(out, 20)
    assert len(queue.suggestions) == 20
    assert {one.slide for one in queue.suggestions} == {"a", "b"}
    assert queue.candidates == 400
    first = queue.suggestions[0]
    assert (first.row, first.score, first.why) == (0, 1.0, "NILM 0.50 or HSIL 0.50")
    table = cells(seed=1 if first.slide == "a" else 2)
    assert (first.x, first.y) == (table["x"][0], table["y"][0])
    # 100 π µm² is a disc of 20 µm, 40 pixels of 0.5 µm.
    assert (first.width, first.height) == pytest.approx((40, 40))
    assert all(one.score > 0.4 for one in queue.suggestions)


def test_the_same_results_give_the_same_file(out, tmp_path):
    for name in ("one.json", "two.json"):
        write_queue(suggest(out, 20), tmp_path / name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text())["notice"] == RUO
    assert read_queue(tmp_path / "one.json", out) == suggest(out, 20).suggestions


def test_not_all_are_alike(tmp_path):
    """A crowd of the most doubtful, of one look, and a few others that are a little less so."""
    n, crowd = 120, 100
    first = np.where(np.arange(n) < crowd, 0.5, 0.52)
    table = cells(n) | {"p_HSIL": first, "p_NILM": 1 - first}
    table["x"] = table["y"] = np.zeros(n)
    table["area_um2"] = np.where(np.arange(n) < crowd, 50.0, 50 + 10.0 * np.arange(n))
    made(tmp_path / "slides" / "a", table)
    queue = suggest(tmp_path, 12)
    assert sum(one.row >= crowd for one in queue.suggestions) >= 10


def test_what_was_reviewed_or_excluded_is_left_out(out):
    home = out / "slides" / "a"
    before = suggest(out, 40)
    rows = tuple(sorted(one.row for one in before.suggestions if one.slide == "a"))[:5]
    hidden = next(one for one in before.suggestions if one.slide == "a" and one.row not in rows)
    ring = [[hidden.x + dx, hidden.y + dy] for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    corrected(
        home,
        made_result(home),
        Relabel(of="cells", rows=rows, label="NILM"),
        Exclude(id="e", geometry={"type": "Polygon", "coordinates": [ring]}, why="blood"),
    )
    after = suggest(out, 40)
    listed = {one.row for one in after.suggestions if one.slide == "a"}
    assert not listed & {*rows, hidden.row}
    assert (after.reviewed, after.candidates) == (5, 394)


def made_result(home: Path) -> SlideResult:
    return SlideResult.model_validate_json((home / "result.json").read_text())


def test_corrections_of_an_earlier_run_do_not_count(out):
    home = out / "slides" / "a"
    earlier = made_result(home).model_copy(update={"summary": "another outcome"})
    corrected(home, earlier, Relabel(of="cells", rows=(0, 1), label="NILM"))
    assert suggest(out, 5).reviewed == 0


def test_sets_and_distances_raise_the_doubt_of_tiles_and_features_tell_them_apart(tmp_path):
    n = 60
    table = {
        "x": np.arange(n) * TILE,
        "y": np.zeros(n, int),
        "class": pa.array(["tumour"] * n),
        "p_tumour": np.full(n, 0.9),
        "p_stroma": np.full(n, 0.1),
        "set_size": np.where(np.arange(n) % 2, 1, 2),
        "distance": np.where(np.arange(n) < 6, 5.0, 1.0),
    }
    share = Measurement(name="unfamiliar tiles", value=10.0, unit="%", method="", n=n)
    home = tmp_path / "slides" / "a"
    made(home, table, "tiles", "tiles", measurements=(share,))
    queue = suggest(tmp_path, 3)
    assert [one.row % 2 for one in queue.suggestions] == [0, 0, 0]
    first = queue.suggestions[0]
    assert first.why == (
        "tumour 0.90 or stroma 0.10; 2 classes in its prediction set; unlike what the model learnt from"
    )
    assert first.score == pytest.approx(1 - 0.8 * 0.5 * 0.5)
    # A tile's place is its middle, though the table has its corner.
    assert (first.x, first.y, first.width) == (table["x"][first.row] + TILE / 2, TILE / 2, TILE)

    group = zarr.open_group(str(home / "features.zarr"), mode="w")
    features = np.zeros((n, 4), np.float32)
    features[30] = 9
    group.create_array("features", data=features)
    assert 30 in [one.row for one in suggest(tmp_path, 2).suggestions]


def test_densities_near_a_cut_off_and_scores_near_even_odds_are_doubtful(tmp_path):
    density = np.array([0.0, 0.19, 0.3, 0.41, 0.8])
    table = {"x": density, "y": density, "area_um2": density + 1, "dab_od_mean": density}
    table |= {"haematoxylin_od_mean": density, "tumour": np.array([1, 1, 1, 0, 1], bool)}
    table["class"] = pa.array(["negative", "negative", "1+", "2+", "3+"])
    score = {"score": {"thresholds": [0.2, 0.4, 0.6]}}
    made(tmp_path / "ihc" / "slides" / "a", table, "cells", "ihc", settings=score)
    found = suggest(tmp_path / "ihc", 5).suggestions
    assert [one.row for one in found] == [1]
    assert found[0].why == "density 0.19, near the cut-off 0.2"
    found_with = {"x": density, "y": density, "score": [1, 0.9, 0.5, 0.0, np.nan]}
    made(tmp_path / "cells" / "slides" / "a", found_with, "cells", "cells")
    assert [one.row for one in suggest(tmp_path / "cells", 5).suggestions] == [2, 1]


def test_a_result_that_says_nothing_of_doubt_is_refused(tmp_path):
    made(tmp_path / "slides" / "a", {"x": [1], "y": [1], "tissue": [1.0]}, "tiles", "embed")
    with pytest.raises(RequestError, match="no table says how sure"):
        suggest(tmp_path)


def test_the_command_writes_a_queue(out, tmp_path, capsys):
    assert command(["suggest", str(out), "-n", "7", "-o", str(tmp_path / "queue.json")]) == 0
    said = capsys.readouterr()
    assert "7 suggested of 400 judged" in said.out
    assert RUO in said.err
    assert len(read_queue(tmp_path / "queue.json")) == 7


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schema_name": "other"}, RequestError),
        ({"schema_version": 2}, StoreVersionError),
        ({"results": {}}, RequestError),
        ({"suggestions": [{"row": -1}]}, RequestError),
    ],
)
def test_a_file_that_is_no_queue_is_refused(out, tmp_path, change, error):
    path = tmp_path / "queue.json"
    write_queue(suggest(out, 3), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error):
        read_queue(path)


def test_a_queue_of_another_run_is_refused(out, tmp_path):
    path = tmp_path / "queue.json"
    write_queue(suggest(out, 3), path)
    changed = made_result(out / "slides" / "b").model_copy(update={"summary": "another outcome"})
    write_json(out / "slides" / "b" / "result.json", changed.model_dump(mode="json"))
    assert len(read_queue(path)) == 3
    with pytest.raises(RequestError, match=r"other results than those in .*: b"):
        read_queue(path, out)


def test_doubts_join_as_independent_chances():
    table = {
        "p_a": np.array([0.6, 0.6, 1.0]),
        "p_b": np.array([0.4, 0.4, 0.0]),
        "set_size": np.array([1, 2, 0]),
        "strange": np.array([False, True, False]),
        "distance": np.array([0.0, 9.0, np.nan]),
    }
    evidence = (Margin(("a", "b")), SeveralOrNone(), Flag("strange", ""), Beyond(3.0))
    np.testing.assert_allclose(joined(evidence, table), [0.8, 1 - 0.2 / 8, 0.5])
    assert np.isnan(joined(evidence[:1], {"p_a": np.array([np.nan]), "p_b": np.array([np.nan])})).all()


def test_the_doubt_of_a_bin_ends_half_a_bin_from_its_cut_off():
    doubt = CutOff("d", (0.2, 0.4, 0.6)).doubt({"d": np.array([0.0, 0.15, 0.2, 0.3, 0.6, 2.0])})
    np.testing.assert_allclose(doubt, [0, 0.5, 1, 0, 1, 0], atol=1e-9)


VECTORS = arrays.arrays(np.float32, (12, 3), elements=st.floats(-5, 5, width=32))


@settings(max_examples=40, deadline=None)
@given(vectors=VECTORS, count=st.integers(1, 12))
def test_farthest_first_is_within_twice_the_best_radius(vectors, count):
    """Gonzalez 1985: greedy k-centre covers all within twice the least possible radius, which is at least
    half the least distance between k + 1 rows of it."""
    taken = farthest_first(vectors, np.ones(12), 12)
    assert sorted(taken.tolist()) == list(range(12))
    assert farthest_first(vectors, np.ones(12), count).tolist() == taken[:count].tolist()
    between = np.linalg.norm(vectors[:, None].astype(float) - vectors[None].astype(float), axis=2)
    reach = [between[:, taken[:k]].min(axis=1).max() for k in range(1, 12)]
    for k, radius in enumerate(reach, 1):
        among = between[np.ix_(taken[: k + 1], taken[: k + 1])]
        assert among[np.triu_indices(k + 1, 1)].min() >= radius - 1e-4


def test_rows_like_settled_ones_come_last():
    vectors = np.array([[0, 0], [1, 0], [5, 0]], np.float32)
    settled = np.array([[5, 0.1]], np.float32)
    assert farthest_first(vectors, np.ones(3), 3, settled).tolist()[-1] == 2


def test_columns_are_made_alike_and_constant_or_missing_figures_say_nothing():
    figures = np.array([[1.0, 7.0, np.nan], [3.0, 7.0, 2.0], [5.0, 7.0, 4.0]])
    found = standardised(figures) * np.sqrt(3)
    np.testing.assert_allclose(found[:, 0], [-1.2247, 0, 1.2247], atol=1e-4)
    np.testing.assert_allclose(found[:, 1], 0)
    np.testing.assert_allclose(found[:, 2], [0, -1, 1], atol=1e-6)
