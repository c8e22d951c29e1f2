"""The workflows somebody can name: ours and those of other packages go through the same door.

A Python package that brings one names it in the entry point group `coverslip.workflows`:
`NAME = "importable.module:KIND"`, where KIND is a `WorkflowKind`. Names are known without importing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from coverslip.errors import RequestError
from coverslip.workflows.workflow import Workflow

GROUP = "coverslip.workflows"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for besides settings. `model`: as `coverslip.models.library.locate_model` takes it;
    `encoder`, `weights`, `random_weights` as in `coverslip.workflows.embedding.embedding`."""

    model: str | None = None
    encoder: str | None = None
    weights: Path | None = None
    random_weights: bool = False
    commercial_only: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowKind:
    """A workflow by name.

    `purpose`: one line. `settings`: a frozen dataclass, each field with a default (nested ones too); its
    docstring is what `coverslip workflows show` prints above them. `build(settings, asked)` gives the
    workflow; it raises RequestError or ModelUnavailableError. `uses`: the fields of `Asked` that mean
    something to it. `needs_model`: how to come by one, where it cannot do without. `judge`: the type of
    `Workflow.judge`, which a review reads back; None for a workflow whose rows nobody can correct.
    """

    name: str
    purpose: str
    settings: type[Any]
    build: Callable[[Any, Asked], Workflow]
    uses: frozenset[str] = frozenset()
    needs_model: str | None = None
    judge: type[Any] | None = None


def known_workflows() -> Mapping[str, EntryPoint]:
    """By name, in its order; nothing is imported."""
    return dict(sorted((entry.name, entry) for entry in entry_points(group=GROUP)))


@cache
def find_workflow(name: str) -> WorkflowKind:
    """Raises RequestError, naming those there are."""
    known = known_workflows()
    if name not in known:
        raise RequestError(
            name, f"is no workflow; known are {', '.join(known)}", "name one of them, or a file"
        )
    return known[name].load()


def build_workflow(
    kind: WorkflowKind, settings: Mapping[str, Any] | None = None, asked: Asked | None = None
) -> Workflow:
    """The workflow with these settings over its defaults.

    `settings`: nested mappings of plain values, as in a workflow file. Raises RequestError with every setting
    that is unknown or out of range, or for what is asked and means nothing to this workflow.
    """
    asked = asked or Asked()
    refuse_unused(kind, asked)
    if kind.needs_model and asked.model is None:
        raise RequestError(
            f"--workflow {kind.name}", "needs a model", f"name one with --model: {kind.needs_model}"
        )
    return kind.build(read_settings(kind.settings, settings or {}, kind.name), asked)


def refuse_unused(kind: WorkflowKind, asked: Asked) -> None:
    for field in fields(Asked):
        if field.name not in kind.uses and getattr(asked, field.name) != field.default:
            option = "--" + field.name.replace("_", "-")
            raise RequestError(option, f"is not used by the workflow {kind.name}", "leave it out")


def read_settings(record: type[Any], given: Mapping[str, Any], subject: str) -> Any:
    """A settings record from plain values; what is not given keeps its default. Raises RequestError."""
    unknown = sorted(_unknown(record, given))
    if unknown:
        known = ", ".join(field.name for field in fields(record))
        raise RequestError(subject, f"has no setting {', '.join(unknown)}", f"its settings are {known}")
    try:
        return TypeAdapter(record).validate_python(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False)
        for entry in found:
            refused = entry.get("ctx", {}).get("error")
            if isinstance(refused, RequestError):
                raise refused from error
        listed = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['input']!r}: {e['msg']}" for e in found)
        raise RequestError(subject, listed, "change these settings") from error


def _unknown(record: type[Any], given: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted names of what the record lacks; pydantic leaves them out without a word."""
    defaults = record()
    found = []
    for name, value in given.items():
        if not hasattr(defaults, name):
            found.append(above + name)
        elif isinstance(value, Mapping) and hasattr(getattr(defaults, name), "__dataclass_fields__"):
            found += _unknown(type(getattr(defaults, name)), value, f"{above}{name}.")
    return found
