"""Files of a batch: a part is taken only when it is whole and answers the same request."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from coverslip.atomic import clear_temporaries, replacing
from coverslip.workflows.files import Part, output_digest, read_part, write_json, write_part

PART = Part(pa.table({"x": [1, 2, 3], "p": [0.5, 0.25, 1.0]}), {"damaged": 7})


def test_a_part_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_part(tmp_path / "a.parquet", PART, "request")
    back = read_part(tmp_path / "a.parquet", "request")
    assert back is not None
    assert back.table.equals(PART.table)
    assert back.numbers == {"damaged": 7}


def test_the_same_part_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_part(tmp_path / name, PART, "request")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_part_of_another_request_is_not_taken(tmp_path: Path) -> None:
    write_part(tmp_path / "a.parquet", PART, "request")
    assert read_part(tmp_path / "a.parquet", "another") is None


def test_a_missing_part_is_not_taken(tmp_path: Path) -> None:
    assert read_part(tmp_path / "a.parquet", "request") is None


def test_a_part_cut_off_anywhere_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_part(path, PART, "request")
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert read_part(path, "request") is None, length


def test_a_part_with_another_content_is_not_taken(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    write_part(path, PART, "request")
    marks = pq.read_schema(path).metadata
    pq.write_table(pa.table({"x": [1, 2, 4], "p": [0.5, 0.25, 1.0]}).replace_schema_metadata(marks), path)
    assert read_part(path, "request") is None


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / ".a.parquet.1.tmp").write_text("half")
    (tmp_path / "store" / "0.8f3b.partial").write_text("half")
    (tmp_path / "a.parquet").write_text("whole")
    clear_temporaries(tmp_path)
    assert [file.name for file in sorted(tmp_path.rglob("*")) if file.is_file()] == ["a.parquet"]


def test_a_folder_with_a_file_cut_off_has_another_digest(tmp_path: Path) -> None:
    store = tmp_path / "slide.ome.zarr"
    (store / "0").mkdir(parents=True)
    (store / "0" / "chunk").write_bytes(b"12345")
    before = output_digest(store)
    (store / "0" / "chunk").write_bytes(b"123")
    assert output_digest(store) != before
