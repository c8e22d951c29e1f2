"""The result document: what it may hold, that its schema is the published one, and that old ones are read."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coverslip.errors import StoreIncompleteError, StoreVersionError
from coverslip.ruo import RUO
from coverslip.workflows.files import write_json
from coverslip.workflows.outputs import digests, is_done, read_result
from coverslip.workflows.result import SCHEMA_VERSION, Interval, Measurement, SlideResult, schema_text

ROOT = Path(__file__).resolve().parents[1]
STORED = sorted((ROOT / "tests" / "stored").glob("slide-result-*.json"))


def document(path: Path = STORED[0]) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def home_of(tmp_path: Path, content: object) -> Path:
    """A result folder that holds just this document."""
    write_json(tmp_path / "result.json", content)
    return tmp_path


def test_the_published_schema_is_that_of_the_model() -> None:
    """Write it anew with: python -m coverslip.workflows.result > docs/schema/slide-result-2.json"""
    published = ROOT / "docs" / "schema" / f"slide-result-{SCHEMA_VERSION}.json"
    assert published.read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_one() -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema_name"]["const"] == "coverslip.slide-result"
    assert schema["properties"]["schema_version"]["enum"] == [1, SCHEMA_VERSION]


def test_there_is_a_stored_result_of_every_version() -> None:
    assert {path.name.split("-")[2] for path in STORED} == {str(n + 1) for n in range(SCHEMA_VERSION)}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_result_is_read_and_written_again_as_it_was(path: Path, tmp_path: Path) -> None:
    """They are from real runs: their measurements must not change under whoever kept them."""
    shutil.copy(path, tmp_path / "result.json")
    result = read_result(tmp_path)
    assert result.notice == RUO
    assert result.slide.case == "C-17"
    assert result.measurements
    # Version 1 had none of the fields that came with 2.
    written = result.model_dump(mode="json", exclude_unset=result.schema_version < SCHEMA_VERSION)
    write_json(tmp_path / "again.json", written)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert SlideResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_result_fits_the_published_schema(path: Path) -> None:
    jsonschema.validate(document(path), json.loads(schema_text()), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "place",
    [(), ("slide",), ("slide", "mpp"), ("quality",), ("provenance",), ("times",), ("measurements", 0)],
)
def test_unknown_keys_are_refused_wherever_they_are(place: tuple, tmp_path: Path) -> None:
    content = document()
    where = content
    for key in place:
        where = where[key]
    where["tumor_fraction"] = 0.5
    with pytest.raises(StoreVersionError, match="tumor_fraction"):
        read_result(home_of(tmp_path, content))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads(schema_text()), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "change",
    [{"schema_version": 3}, {"schema_version": "1"}, {"schema_name": "other"}, {"schema_version": None}],
)
def test_other_versions_are_refused_with_what_reads_them(change: dict, tmp_path: Path) -> None:
    with pytest.raises(StoreVersionError) as refused:
        read_result(home_of(tmp_path, document() | change))
    assert refused.value.remedy == "run again with --overwrite"


@pytest.mark.parametrize("content", [[], "text", 3, None, {}])
def test_json_that_is_no_result_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(StoreVersionError):
        read_result(home_of(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff\xfe", b"\0" * 10])
def test_a_result_cut_off_is_incomplete(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(StoreIncompleteError):
        read_result(tmp_path)


def test_no_result_is_incomplete(tmp_path: Path) -> None:
    for home in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreIncompleteError, match=r"has no result\.json"):
            read_result(home)
    (tmp_path / "result.json").mkdir()
    with pytest.raises(StoreIncompleteError):
        read_result(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("tissue_fraction", 1.01), ("damaged_fraction", -0.01)])
def test_shares_outside_0_to_1_are_refused(key: str, value: float, tmp_path: Path) -> None:
    content = document()
    content["quality"][key] = value
    with pytest.raises(StoreVersionError, match=key):
        read_result(home_of(tmp_path, content))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        Measurement(name="a", value=value, unit="%", method="m")
    with pytest.raises(ValidationError):
        Interval(low=value, high=1, level=0.95, method="m")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_survives_being_written(value: float) -> None:
    measurement = Measurement(name="a", value=value, unit="%", method="m")
    assert Measurement.model_validate_json(measurement.model_dump_json()) == measurement
    assert (
        Measurement.model_validate(json.loads(json.dumps(measurement.model_dump(mode="json")))) == measurement
    )


def test_a_result_cannot_be_changed_in_place() -> None:
    result = SlideResult.model_validate(document())
    with pytest.raises(ValidationError):
        result.summary = "all is well"  # type: ignore[misc]


def test_done_means_this_request_and_every_output_whole(tmp_path: Path) -> None:
    (tmp_path / "cells.parquet").write_bytes(b"cells")
    (tmp_path / "slide.ome.zarr").mkdir()
    (tmp_path / "slide.ome.zarr" / "zarr.json").write_text("{}")
    content = document() | {"outputs": digests(tmp_path, ["slide.ome.zarr", "cells.parquet"])}
    request = content["provenance"]["request"]
    write_json(tmp_path / "result.json", content)
    assert is_done(tmp_path, request)
    assert not is_done(tmp_path, "another")
    (tmp_path / "cells.parquet").write_bytes(b"cell")
    assert not is_done(tmp_path, request)
    (tmp_path / "cells.parquet").write_bytes(b"cells")
    assert is_done(tmp_path, request)
    (tmp_path / "slide.ome.zarr" / "zarr.json").unlink()
    assert not is_done(tmp_path, request)
