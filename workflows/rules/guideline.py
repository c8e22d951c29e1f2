"""Cut-offs, categories and codes of a published rule, as data: one YAML file per guideline and version.

A Python package that brings some names the importable package whose folder holds them in the entry point
group `coverslip.guidelines`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from coverslip.errors import RequestError
from coverslip.workflows.result import GuidelineUse

FOLDER = files("coverslip.workflows.rules") / "guidelines"
SUFFIX = ".yaml"
GROUP = "coverslip.guidelines"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    source: str
    values: dict[str, Any]
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Guideline:
    """`id`: the file's name without its ending. `values`: cut-offs and categories by name; `unverified`:
    names of those that no source confirmed, which reports repeat with that word."""

    id: str
    name: str
    version: str
    source: str
    values: Mapping[str, Any]
    unverified: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        """Raises RequestError for a value the file lacks."""
        if name not in self.values:
            known = ", ".join(self.values)
            raise RequestError(self.id, f"states no {name}", f"add it to its values; it has {known}")
        return self.values[name]

    def use(self, *names: str) -> GuidelineUse:
        """What a report says of it; `names`: the values that were used, by default all."""
        used = {name: self[name] for name in names or self.values}
        return GuidelineUse(
            name=self.name,
            version=self.version,
            source=self.source,
            cut_offs=used,
            unverified=tuple(name for name in self.unverified if name in used),
        )


@cache
def _texts() -> Mapping[str, Traversable]:
    """Id → file, of ours and of other packages. Raises RequestError for an id that two bring."""
    folders = [FOLDER, *(files(entry.value) for entry in entry_points(group=GROUP))]
    found: dict[str, Traversable] = {}
    for entry in (entry for folder in folders for entry in folder.iterdir() if entry.name.endswith(SUFFIX)):
        name = entry.name.removesuffix(SUFFIX)
        if name in found:
            raise RequestError(name, f"is brought by {found[name]} and {entry}", "remove one of the packages")
        found[name] = entry
    return found


def known_guidelines() -> tuple[str, ...]:
    """The ids of those that come with Coverslip or another package, in order."""
    return tuple(sorted(_texts()))


def load_guideline(name: str) -> Guideline:
    """One that comes with Coverslip or another package, by id; or a laboratory's own, by its file's path.

    Raises RequestError, naming what is known, or what is wrong with the file.
    """
    if name in _texts():
        return _bundled(name)
    path = Path(name)
    if path.suffix != SUFFIX or not path.is_file():
        known = ", ".join(known_guidelines())
        raise RequestError(name, "is no guideline and no file", f"give a {SUFFIX} file, or one of {known}")
    return read_guideline(path.stem, path.read_text(encoding="utf-8"), os.fspath(path))


@cache
def _bundled(name: str) -> Guideline:
    return read_guideline(name, _texts()[name].read_text(encoding="utf-8"), name)


def read_guideline(id: str, text: str, subject: str) -> Guideline:
    """Raises RequestError, with every problem and its place."""
    try:
        document = _Document.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RequestError(subject, f"is no YAML ({error})", "correct it") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        listed = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
        raise RequestError(subject, listed, "correct the file") from error
    return Guideline(
        id, document.name, document.version, document.source, document.values, document.unverified
    )
