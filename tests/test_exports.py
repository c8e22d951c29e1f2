"""Exports: views of a result that other programs read, the same rows at the same places."""

from __future__ import annotations

import csv
import json
import math
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slides import tissue, write_tiff

import coverslip
from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows import cli
from coverslip.workflows.cell_table import OUTLINE, pack_outlines, read_outlines
from coverslip.workflows.cells import cell_finding
from coverslip.workflows.exports import qupath, rows
from coverslip.workflows.exports.export import export
from coverslip.workflows.outputs import read_result

KINDS = {"annotation", "detection", "cell", "tile", "tmaCore", "root"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run: nuclei with outlines, in tiles."""
    folder = tmp_path_factory.mktemp("exports")
    slide = write_tiff(folder / "a.tif", tissue(1200, 700), 0.4)
    assert coverslip.run([str(slide)], folder / "out", cell_finding(), workers=1).failures == ()
    return folder / "out" / "slides" / "a.tif"


def as_qupath_reads(file: Path) -> list[dict[str, Any]]:
    """The features, held to what QuPath's `PathObjectTypeAdapters` and `ROITypeAdapters` demand."""
    whole = json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert whole["type"] == "FeatureCollection"
    assert whole["note"] == RUO
    features = whole["features"]
    for feature in features:
        assert feature["type"] == "Feature"
        uuid.UUID(feature["id"])
        properties = feature["properties"]
        assert properties["objectType"] in KINDS
        if "classification" in properties:
            assert isinstance(properties["classification"]["name"], str)
            colour = properties["classification"]["color"]
            assert len(colour) == 3
            assert all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        for value in properties.get("measurements", {}).values():
            assert isinstance(value, (int, float)) or value in {"NaN", "Infinity", "-Infinity"}
        check_geometry(feature["geometry"])
    assert len({feature["id"] for feature in features}) == len(features)
    return features


def check_geometry(geometry: dict[str, Any]) -> None:
    if geometry["type"] == "Point":
        points = [geometry["coordinates"]]
    else:
        assert geometry["type"] == "Polygon"
        (points,) = geometry["coordinates"]
        assert len(points) >= 4
        assert points[0] == points[-1]
    assert all(len(point) == 2 and round(v, 2) == v for point in points for v in point)


def test_cells_for_qupath_are_the_cells_of_the_result(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "cells.geojson"
    table = pq.read_table(home / "cells.parquet")
    assert export(home, file, "geojson") == len(table) > 50
    features = as_qupath_reads(file)
    for feature, outline, row in zip(features, read_outlines(table), table.to_pylist(), strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert np.allclose(ring[: len(outline)], outline, atol=0.0051)
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"] == {"name": "nucleus", "color": [0, 114, 178]}
        figures = {name: row[name] for name in row if name not in {"x", "y", "class", OUTLINE.name}}
        assert properties["measurements"] == {k: v for k, v in figures.items() if not math.isnan(v)}
    again = tmp_path / "again.geojson"
    export(home, again, "geojson")
    assert again.read_bytes() == file.read_bytes()


def test_tiles_for_qupath_cover_what_was_looked_at(home: Path, tmp_path: Path) -> None:
    table = pq.read_table(home / "tiles.parquet")
    assert export(home, tmp_path / "t.geojson", "geojson", "tiles") == len(table)
    for feature, row in zip(as_qupath_reads(tmp_path / "t.geojson"), table.to_pylist(), strict=True):
        ((first, _, opposite, *_),) = feature["geometry"]["coordinates"]
        assert first == [row["x"], row["y"]]
        assert opposite == [row["x"] + 1280, row["y"] + 1280]  # 1024 px at 0.5 µm/px on a slide of 0.4
        assert feature["properties"]["objectType"] == "tile"
        assert feature["properties"]["measurements"]["tissue"] == row["tissue"]


def test_regions_for_qupath_are_the_annotations(home: Path, tmp_path: Path) -> None:
    assert export(home, tmp_path / "r.geojson", "geojson", "regions") is None
    assert (tmp_path / "r.geojson").read_bytes() == (home / "annotations.geojson").read_bytes()


def test_tables_hold_every_row(home: Path, tmp_path: Path) -> None:
    table = pq.read_table(home / "cells.parquet")
    assert export(home, tmp_path / "c.csv", "csv") == len(table)
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["x"]) for line in lines] == table["x"].to_pylist()
    assert [line["class"] for line in lines] == table["class"].to_pylist()
    assert list(lines[0])[-1] == RUO
    assert export(home, tmp_path / "c.parquet", "parquet") == len(table)
    copied = pq.read_table(tmp_path / "c.parquet")
    assert str(copied.to_pylist()) == str(table.to_pylist()), "as text, since NaN is not NaN"
    assert copied.schema.equals(table.schema)
    assert copied.schema.metadata[b"notice"] == RUO.encode()
    assert copied.schema.metadata[b"digest"] == read_result(home).slide.digest.encode()
    assert copied.schema.metadata[b"schema"] == b"coverslip.cells/1"


def test_tiles_for_clam_and_trident(home: Path, tmp_path: Path) -> None:
    table = pq.read_table(home / "tiles.parquet")
    assert export(home, tmp_path / "t.h5", "h5") == len(table)
    with h5py.File(tmp_path / "t.h5") as file:
        assert file.attrs["notice"] == RUO
        coords = file["coords"]
        assert isinstance(coords, h5py.Dataset)
        assert coords[:].tolist() == [
            list(place) for place in zip(*(table[a].to_pylist() for a in "xy"), strict=True)
        ]
        assert (coords.attrs["patch_size"], coords.attrs["patch_size_level0"]) == (1024, 1280)
        assert coords.attrs["level0_magnification"] == 25


def test_features_go_as_they_are(home: Path, tmp_path: Path) -> None:
    (home / "features.h5").write_bytes(b"features of a slide workflow")
    try:
        export(home, tmp_path / "f.h5", "h5")
    finally:
        (home / "features.h5").unlink()
    assert (tmp_path / "f.h5").read_bytes() == b"features of a slide workflow"


def cells(path: Path, count: int) -> Path:
    """A table of cells on a grid, each a square of five points; the last three are odd."""
    place = np.arange(count, dtype=float)
    x, y = 20 * (place % 1000) + 0.123, 20 * (place // 1000) + 0.456
    squares = [np.array([[a, b], [a + 8, b], [a + 8, b + 8], [a, b + 8]]) for a, b in zip(x, y, strict=True)]
    squares[-1] = squares[-1][:2]
    score = np.where(place == count - 2, np.nan, place)
    score[-3] = -math.inf
    kinds = pa.array([None if n == count - 1 else "2+" if n % 2 else "new" for n in range(count)])
    columns = {"x": x, "y": y, "score": score, "class": kinds}
    table = pa.table(columns).append_column(OUTLINE, pack_outlines(squares, x, y))
    pq.write_table(table, path, row_group_size=500)
    return path


def test_odd_cells_are_written_as_qupath_can_read_them(tmp_path: Path) -> None:
    table = cells(tmp_path / "cells.parquet", 50)
    assert qupath.write_cells(table, tmp_path / "none", "key", tmp_path / "c.geojson") == 50
    features = as_qupath_reads(tmp_path / "c.geojson")
    assert [feature["geometry"]["type"] for feature in features] == ["Polygon"] * 49 + ["Point"]
    scores = [one["properties"]["measurements"].get("score") for one in features[-3:]]
    assert scores == ["-Infinity", None, 49]
    assert "classification" not in features[-1]["properties"]
    assert features[1]["properties"]["classification"] == {"name": "2+", "color": [230, 159, 0]}
    assert features[0]["geometry"]["coordinates"][0][0] == [0.12, 0.46]
    assert qupath.write_cells(table, tmp_path / "none", "other", tmp_path / "d.geojson") == 50
    others = as_qupath_reads(tmp_path / "d.geojson")
    assert not {one["id"] for one in features} & {one["id"] for one in others}


def test_memory_does_not_grow_with_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "AT_ONCE", 250)
    peaks = []
    for count in (1_000, 4_000):
        table = cells(tmp_path / f"{count}.parquet", count)
        tracemalloc.start()
        try:
            assert qupath.write_cells(table, tmp_path / "none", "", tmp_path / "c.geojson") == count
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


@pytest.mark.parametrize(
    ("to", "what", "said"),
    [
        ("csv", "regions", "cannot hold regions; use one of geojson"),
        ("h5", "cells", "cannot hold cells"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    home: Path, tmp_path: Path, to: Any, what: Any, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        export(home, tmp_path / "x", to, what)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_result_is_not_written_over(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the result's own folder"):
        export(home, home / "cells.parquet", "parquet")
    with pytest.raises(RequestError, match="no folder"):
        export(home, tmp_path / "nowhere" / "c.csv", "csv")


def test_the_command_says_what_it_wrote_and_what_it_lacks(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = home.parents[1]
    file = tmp_path / "t.csv"
    assert cli.run(["export", str(run), "-o", str(file), "--to", "csv", "--what", "tiles"]) == 0
    said = capsys.readouterr()
    assert f"{file}: {pq.read_metadata(home / 'tiles.parquet').num_rows} rows" in said.out
    assert RUO in said.err
    (home / "cells.parquet").rename(tmp_path / "cells.parquet")
    try:
        assert cli.run(["export", str(home), "-o", str(file), "--to", "csv", "--what", "cells"]) == 2
    finally:
        (tmp_path / "cells.parquet").rename(home / "cells.parquet")
    assert "has no cells; it has tiles" in capsys.readouterr().err
