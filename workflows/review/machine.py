"""What the machine said, as a digest: whether the result under review is still the one it was begun on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from coverslip.errors import StoreIncompleteError
from coverslip.workflows.files import output_digest
from coverslip.workflows.outputs import REPORT
from coverslip.workflows.result import SlideResult

TABLES = ("cells.parquet", "tiles.parquet")


def machine_digest(result: SlideResult) -> str:
    """sha256 over the result, its times and its report apart.

    Those two differ when the same is computed, or the same report rendered, again. The digests of the tables
    are part of the result.
    """
    document = result.model_dump(mode="json", exclude={"times"})
    document["outputs"].pop(REPORT, None)
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def refuse_altered(home: Path, result: SlideResult, names: tuple[str, ...] | None = None) -> None:
    """Raises StoreIncompleteError where an output is missing, or not as it was written.

    `names`: of those to look at; None for all.
    """
    for name, digest in result.outputs.items():
        if names is not None and name not in names:
            continue
        problem = _problem(home / name, digest)
        if problem:
            raise StoreIncompleteError(
                str(home / name), problem, "run again with the same output folder: it makes what is not whole"
            )


def _problem(path: Path, digest: str) -> str | None:
    if not path.exists():
        return "is missing"
    return None if output_digest(path) == digest else "is not as it was written"
