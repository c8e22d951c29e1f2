"""The files that an evaluation was made of, by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coverslip.workflows.evaluation.answers import WORKLIST, is_results
from coverslip.workflows.evaluation.document import InputFile
from coverslip.workflows.files import output_digest
from coverslip.workflows.inputs import printable


def input_files(by_role: Mapping[str, Path | None]) -> tuple[InputFile, ...]:
    """Those that are given; of a folder of results the worklist's digest, of others that of all files."""
    found = []
    for role, path in by_role.items():
        if path is not None:
            file = path / WORKLIST if is_results(path) else path
            found.append(InputFile(role=role, path=printable(str(path)), sha256=output_digest(file)))
    return tuple(found)
