"""Model packages: a folder with `model.json` and `weights.safetensors`, verified before it is used.

Nothing outside the folder is read, nothing is unpickled, and torch is not needed to load or verify.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from coverslip.atomic import replacing
from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.models.document import ModelDocument, Packed

DOCUMENT = "model.json"
WEIGHTS = "weights.safetensors"
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
# The largest list in it, feature statistics, is a few MB at 65,536 features.
DOCUMENT_BYTES = 16 * 2**20
CONVERT = (
    "a pickle can run code and is never opened: in a place you trust, write the same numbers with "
    'safetensors.torch.save_file(torch.load("FILE", weights_only=True), "weights.safetensors") '
    "and put model.json beside it"
)
# What a document says its model is for, and the workflow that uses it so.
TASKS = {"tile-classification": "tiles", "object-detection": "cells", "slide-classification": "slide"}
Document = TypeVar("Document", bound=Packed)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A verified package. `document_sha256` is of the bytes of `model.json`."""

    folder: Path
    document: ModelDocument
    document_sha256: str

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def check_fit(self, subject: str, mpp: float, stain: str | None = None) -> None:
        """Refuse tiles the model was not made for.

        `subject`: the slide's name, for the message; `mpp`: µm per tile pixel. A figure exactly at the
        tolerance fits. `stain` is compared without regard to case, where both sides state one.
        Raises ModelMismatchError.
        """
        tile, name = self.document.tile, self.document.name
        # The tolerance is inclusive although 0.55 / 0.5 − 1 is a little more than 0.1 in binary.
        if not abs(mpp / tile.mpp - 1) <= tile.tolerance + 1e-9:
            low, high = tile.mpp * (1 - tile.tolerance), tile.mpp * (1 + tile.tolerance)
            raise ModelMismatchError(
                subject,
                f"tiles at {mpp:g} µm/px do not fit the model {name}, made for {low:g} to {high:g} µm/px",
                f"cut the tiles at {tile.mpp:g} µm/px or choose a model made for {mpp:g}",
            )
        wanted = self.document.stain
        if stain and wanted and stain.casefold() != wanted.casefold():
            raise ModelMismatchError(
                subject,
                f"its stain is {stain}, and the model {name} was made for {wanted}",
                f"choose a model made for {stain}",
            )

    def read_weights(self) -> bytes:
        """The weights' bytes, verified again: what is used is what was checked.

        Raises ModelUnavailableError when they changed since the package was loaded.
        """
        return read_weights(self.folder, self.document)


_AGAIN = "get the package again from where it was made"


def load_package(folder: str | Path) -> ModelPackage:
    """Read and verify a package: the document's every field, and the sha256 of the weights.

    Raises ModelUnavailableError naming every problem of the document with its path in it.
    """
    return ModelPackage(Path(folder), *read_document(folder, ModelDocument))


def read_document(folder: str | Path, kind: type[Document]) -> tuple[Document, str]:
    """The document of a verified package, and the sha256 of the file it stands in.

    Raises ModelUnavailableError, also for a package of another kind.
    """
    folder = Path(folder)
    _check_folder(folder)
    content = _read_content(folder / DOCUMENT)
    document = _parse(folder / DOCUMENT, content, kind)
    _check_digest(folder / WEIGHTS, _file_digest(folder / WEIGHTS), document)
    return document, hashlib.sha256(content).hexdigest()


def read_weights(folder: Path, document: Packed) -> bytes:
    """The weights' bytes, verified. Raises ModelUnavailableError."""
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ModelUnavailableError(str(path), f"cannot be read ({error})", _AGAIN) from error
    _check_digest(path, hashlib.sha256(weights).hexdigest(), document)
    return weights


def write_package(folder: str | Path, document: ModelDocument, weights: bytes) -> ModelPackage:
    """Write a package and load it; see `write_files`."""
    write_files(Path(folder), document, weights)
    return load_package(folder)


def write_files(folder: Path, document: Packed, weights: bytes) -> None:
    """Write a package under a temporary name and rename it, so that it is whole or not there.

    `weights`: the bytes of a safetensors file, whose sha256 the document states. The same arguments give
    the same bytes. Raises RequestError when the folder exists and is not empty, or cannot be written.
    """
    if hashlib.sha256(weights).hexdigest() != document.weights_sha256:
        raise RequestError(
            str(folder), "the document states another sha256 than the weights have", "state it"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(str(folder), "is already there", "name another folder; no model is overwritten")
    try:
        with replacing(folder) as part:
            part.mkdir()
            (part / WEIGHTS).write_bytes(weights)
            (part / DOCUMENT).write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(
            str(folder), f"cannot be written ({error})", "name a folder you can write"
        ) from error


def _check_folder(folder: Path) -> None:
    if folder.suffix.lower() in PICKLES and not folder.is_dir():
        raise ModelUnavailableError(str(folder), "is a pickle, not a model package", CONVERT)
    if not folder.is_dir():
        raise ModelUnavailableError(str(folder), "is no folder", "name the folder that holds model.json")
    missing = [name for name in (DOCUMENT, WEIGHTS) if not (folder / name).is_file()]
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLES)
    if WEIGHTS in missing and pickles:
        raise ModelUnavailableError(
            str(folder), f"holds its weights as pickle ({', '.join(pickles)})", CONVERT
        )
    if missing:
        raise ModelUnavailableError(str(folder), f"lacks {' and '.join(missing)}", _AGAIN)
    check_files(folder, (DOCUMENT, WEIGHTS))


def check_files(folder: Path, names: Sequence[str]) -> None:
    """Refuse files that are links to elsewhere; those of Hugging Face's cache lie beside its folders.

    Raises ModelUnavailableError.
    """
    allowed = {folder.resolve()}
    if folder.resolve().parent.name == "snapshots":
        allowed.add(folder.resolve().parent.parent / "blobs")
    for name in names:
        if (folder / name).resolve().parent not in allowed:
            raise ModelUnavailableError(
                str(folder / name),
                "is a link that leaves the package",
                "copy the file itself into the folder",
            )


def _read_content(path: Path) -> bytes:
    if path.stat().st_size > DOCUMENT_BYTES:
        raise ModelUnavailableError(str(path), f"is larger than {DOCUMENT_BYTES} bytes", _AGAIN)
    return path.read_bytes()


def _parse(path: Path, content: bytes, kind: type[Document]) -> Document:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelUnavailableError(str(path), f"is not JSON ({error})", _AGAIN) from error
    schema = (
        (found.get("schema_name"), found.get("schema_version")) if isinstance(found, dict) else (None, None)
    )
    wanted = kind.model_fields["schema_name"].default, kind.model_fields["schema_version"].default
    task, asked = (found.get("task") if isinstance(found, dict) else None), kind.model_fields["task"].default
    if schema[0] != wanted[0] and task in TASKS and task != asked:
        raise ModelUnavailableError(
            str(path.parent),
            f"is a model for {task}, and one for {asked} is asked for",
            f"name another, or use it with coverslip run --workflow {TASKS[task]}",
        )
    if schema != wanted:
        raise ModelUnavailableError(
            str(path),
            f"has the schema {schema[0]} {schema[1]}, and this version reads {wanted[0]} {wanted[1]}",
            "use the version of Coverslip that wrote it, or make the package again",
        )
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise ModelUnavailableError(str(path), file_problems(error), "mend these fields") from error


def file_problems(error: ValidationError) -> str:
    """All that pydantic found, in one clause: each with its path in the file."""
    entries = error.errors(include_url=False, include_input=False, include_context=False)
    # A list one of whose items is wrong is reported a second time, as too short.
    entries = [
        entry for entry in entries if not any(_inside(other["loc"], entry["loc"]) for other in entries)
    ]
    paths = [".".join(map(str, entry["loc"])) or "document" for entry in entries]
    listed = "; ".join(f"{path}: {entry['msg']}" for path, entry in zip(paths, entries, strict=True))
    return f"has {len(entries)} problem{'s' * (len(entries) > 1)}: {listed}"


def _inside(path: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digest(path: Path, digest: str, document: Packed) -> None:
    if digest != document.weights_sha256:
        raise ModelUnavailableError(
            str(path),
            f"was altered: its sha256 is {digest[:12]}…, and model.json says {document.weights_sha256[:12]}…",
            _AGAIN,
        )
