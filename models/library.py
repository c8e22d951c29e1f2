"""The models somebody can name: those that came with Coverslip or another package, and those added here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path

import platformdirs

from coverslip.atomic import discard
from coverslip.errors import ModelUnavailableError, RequestError
from coverslip.models.hub import PREFIX, fetch_repository, parse_repository
from coverslip.models.kinds import AnyDocument, read_any
from coverslip.models.package import DOCUMENT, PICKLES, ModelPackage, load_package, read_weights, write_files
from coverslip.models.wsinfer import is_wsinfer, read_wsinfer

# A Python package that brings a model names it here: `NAME = "importable.package"`, whose folder it is.
GROUP = "coverslip.models"
FOLDER_VARIABLE = "COVERSLIP_MODELS"
ADDED = "added"


@dataclass(frozen=True, slots=True)
class Known:
    """A model by name. `origin`: "added", or the distribution that brought it."""

    name: str
    folder: Path
    origin: str


def library_folder() -> Path:
    """Where added models lie: `COVERSLIP_MODELS`, or this user's folder for data."""
    stated = os.environ.get(FOLDER_VARIABLE)
    return Path(stated) if stated else platformdirs.user_data_path("coverslip", appauthor=False) / "models"


def known_models() -> Mapping[str, Known]:
    """By name, in its order. One that was added hides one of the same name that came with a package."""
    found = {entry.name: entry for entry in map(_brought, entry_points(group=GROUP))}
    folder = library_folder()
    if folder.is_dir():
        names = [path.name for path in folder.iterdir() if (path / DOCUMENT).is_file()]
        found |= {name: Known(name, folder / name, ADDED) for name in names if not name.startswith(".")}
    return dict(sorted(found.items()))


def find_model(model: str | os.PathLike[str]) -> ModelPackage:
    """A model of tiles, by what `locate_model` takes. Raises ModelUnavailableError, RequestError."""
    return load_package(locate_model(model))


def describe_model(model: str | os.PathLike[str]) -> AnyDocument:
    """What a model of any kind says of itself; as `find_model` else."""
    return read_any(locate_model(model))


def locate_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a package, from that, the name it is known by, or `hf:OWNER/NAME@REVISION`.

    Raises ModelUnavailableError, or RequestError for what names no repository.
    """
    text = os.fspath(model)
    if text.startswith(PREFIX):
        folder = fetch_repository(parse_repository(text))
        if is_wsinfer(folder):
            raise ModelUnavailableError(
                text, "is in WSInfer's format", f"take it over: coverslip models add {text}"
            )
        return folder
    path = Path(text)
    if path.name != text or path.suffix.lower() in PICKLES or (path / DOCUMENT).is_file():
        return path
    # A folder that is no package, such as one's results, does not hide a model of its name.
    return path if path.exists() and text not in known_models() else known_model(text).folder


def known_model(name: str) -> Known:
    """Raises ModelUnavailableError, naming those there are."""
    models = known_models()
    if name not in models:
        raise ModelUnavailableError(
            name,
            f"is no folder here and no known model; known are {', '.join(models)}",
            "add one with: coverslip models add SOURCE",
        )
    return models[name]


def add_model(source: str, name: str | None = None, licence: str | None = None) -> Known:
    """Verify and copy a model into the library, under `name` or its own.

    `source`: the folder of a package, one in WSInfer's format, or `hf:OWNER/NAME@REVISION` of either.
    `licence`: what to state for a model in WSInfer's format, instead of what its README does.
    Raises ModelUnavailableError for a source that is no sound model, RequestError when the name is taken.
    """
    folder, revision = _source(source)
    if is_wsinfer(folder):
        own = _as_name(
            parse_repository(source).name.split("/")[1]
            if source.startswith(PREFIX)
            else folder.resolve().name
        )
        document, weights = read_wsinfer(folder, name or own, revision or "1", licence)
    elif licence is not None:
        raise RequestError("--licence", "is stated by the package itself", "leave it out")
    else:
        document = read_any(folder)
        weights = read_weights(folder, document)
    target = library_folder() / _as_name(name or document.name)
    if target.exists():
        raise RequestError(
            target.name,
            "is already the name of an added model",
            "give another with --name, or remove that one",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_files(target, document, weights)
    return Known(target.name, target, ADDED)


def remove_model(name: str) -> None:
    """Delete an added model. Raises ModelUnavailableError for an unknown one, RequestError for one that came
    with a package."""
    model = known_model(name)
    if model.origin != ADDED:
        raise RequestError(name, f"came with {model.origin}", f"pip uninstall {model.origin} removes it")
    gone = model.folder.with_name(f".{name}.{os.getpid()}.removed")
    os.replace(model.folder, gone)
    discard(gone)


def _brought(entry: EntryPoint) -> Known:
    distribution = entry.dist.name if entry.dist else "an installed package"
    return Known(entry.name, Path(str(files(entry.value))), distribution)


def _source(source: str) -> tuple[Path, str | None]:
    if not source.startswith(PREFIX):
        return Path(source), None
    repository = parse_repository(source)
    folder = fetch_repository(repository)
    # The folder in the cache is named by the commit: what was taken, whatever the branch says tomorrow.
    return folder, repository.revision or folder.name[:12]


def _as_name(text: str) -> str:
    """What a package may be called: letters, digits, and . _ + - after the first."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", text).lstrip("._+-")[:100] or "model"
