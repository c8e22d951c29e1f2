"""What a slide's result folder holds, and whether it is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from coverslip.atomic import discard
from coverslip.errors import RequestError, StoreIncompleteError, StoreVersionError
from coverslip.workflows.files import output_digest
from coverslip.workflows.result import READ_VERSIONS, SCHEMA, SlideResult

RESULT = "result.json"
STORE = "slide.ome.zarr"
FEATURES = "features.zarr"
FEATURES_H5 = "features.h5"
REPORT = "report.html"
ANNOTATIONS = "annotations.geojson"
# What people did with the result: no run touches it.
REVIEW = "review"
RULES = "rules.yaml"


def digests(home: Path, names: Sequence[str]) -> dict[str, str]:
    """File or folder name → digest, for `SlideResult.outputs`."""
    return {name: output_digest(home / name) for name in sorted(names)}


def read_result(folder: str | os.PathLike[str]) -> SlideResult:
    """The result in a folder `OUT/slides/<id>`.

    Raises StoreIncompleteError when there is none or it is cut off, StoreVersionError when another
    version's schema wrote it.
    """
    home = Path(folder)
    path = home / RESULT
    again = "run again with the same output folder: it continues"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreIncompleteError(str(home), f"has no {RESULT}", again) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StoreIncompleteError(str(path), f"cannot be read ({error})", again) from error
    known = [(SCHEMA, version) for version in READ_VERSIONS]
    written = (
        (document.get("schema_name"), document.get("schema_version")) if isinstance(document, dict) else None
    )
    if written not in known:
        raise StoreVersionError(
            str(path), f"has schema {written}, this version reads {known}", "run again with --overwrite"
        )
    try:
        return SlideResult.model_validate(document)
    except ValidationError as error:
        raise StoreVersionError(
            str(path), f"does not fit its schema ({error})", "run again with --overwrite"
        ) from error


def result_folders(path: Path) -> list[Path]:
    """The result folder that `path` is, or those of the run whose folder it is, in order.

    Raises RequestError where there are none.
    """
    if (path / RESULT).is_file():
        return [path]
    found = sorted(file.parent for file in path.glob(f"slides/*/{RESULT}"))
    if not found:
        raise RequestError(str(path), "holds no result", "name OUT/slides/ID, or the folder OUT of a run")
    return found


def discard_result(home: Path) -> None:
    """Remove a result, whole or not, but nothing of its review."""
    if (home / REVIEW).is_dir():
        for path in home.iterdir():
            if path.name != REVIEW:
                discard(path)
    else:
        discard(home)


def is_done(home: Path, request: str) -> bool:
    """Whether a whole result of this very request stands: every output is there with its digest."""
    try:
        result = read_result(home)
    except (StoreIncompleteError, StoreVersionError):
        return False
    if result.provenance.request != request:
        return False
    return all(
        (home / name).exists() and output_digest(home / name) == digest
        for name, digest in result.outputs.items()
    )
