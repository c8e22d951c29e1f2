"""A workflow with its settings as a YAML file that people edit."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coverslip.errors import RequestError
from coverslip.ruo import RUO
from coverslip.workflows.registry import Asked, WorkflowKind, build_workflow, find_workflow
from coverslip.workflows.workflow import Workflow

SUFFIXES = (".yaml", ".yml")
SCHEMA = "coverslip.workflow/1"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_name: Literal["coverslip.workflow/1"] = Field(alias="schema")
    workflow: str
    model: str | None = None
    settings: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class WorkflowFile:
    """What a file, or a bare name, asks for."""

    kind: WorkflowKind
    model: str | None
    settings: dict[str, Any]


def read_workflow(name: str) -> WorkflowFile:
    """A workflow by its name, or by the path of a file as `show_workflow` writes it.

    Raises RequestError, with every problem and its place.
    """
    if not name.endswith(SUFFIXES):
        return WorkflowFile(find_workflow(name), None, {})
    try:
        document = _Document.model_validate(yaml.safe_load(Path(name).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(name, f"cannot be read ({error})", "see coverslip workflows show") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        listed = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in found)
        raise RequestError(name, listed, "see coverslip workflows show") from error
    return WorkflowFile(find_workflow(document.workflow), document.model, document.settings)


def workflow(name: str, settings: Mapping[str, Any] | None = None, asked: Asked | None = None) -> Workflow:
    """A workflow to give to `run`, by its name or file.

    `settings`: over those of the file, nested as there, or by dotted names such as `{"score.enough_nuclei":
    9}`. `asked`: its model, before the file's. Raises RequestError for what the workflow does not know,
    ModelUnavailableError.

    >>> workflow("ihc", {"marker": "ki67"}).name
    'ihc'
    """
    file, asked = read_workflow(name), asked or Asked()
    merged = file.settings
    for key, value in (settings or {}).items():
        merged = with_setting(merged, key, value)
    return build_workflow(file.kind, merged, replace(asked, model=asked.model or file.model))


def show_workflow(kind: WorkflowKind) -> str:
    """A file with all of its settings at their defaults, and what they mean as comments."""
    text = inspect.cleandoc(kind.settings.__doc__ or "")
    paragraphs = [kind.purpose, *(" ".join(part.split()) for part in text.split("\n\n")), RUO]
    comments = [line for paragraph in paragraphs for line in (*textwrap.wrap(paragraph, 100), "")]
    document: dict[str, Any] = {"schema": SCHEMA, "workflow": kind.name}
    if "model" in kind.uses:
        document["model"] = None
    document["settings"] = _plain(asdict(kind.settings()))
    header = "".join(f"# {line}".rstrip() + "\n" for line in comments[:-1])
    return header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def with_setting(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The settings with one of them, by its dotted name, set.

    >>> with_setting({"score": {"a": 1}}, "score.b", 2)
    {'score': {'a': 1, 'b': 2}}
    """
    first, _, rest = name.partition(".")
    if not rest:
        return {**settings, first: value}
    inner = settings.get(first, {})
    return {**settings, first: with_setting(inner if isinstance(inner, dict) else {}, rest, value)}
