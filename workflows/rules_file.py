"""The rules as they were applied to a slide, beside its result: settings, guidelines, names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from coverslip.atomic import replacing
from coverslip.errors import StoreVersionError
from coverslip.workflows.workflow import Judge

SCHEMA = "coverslip.rules/1"


def write_rules(path: Path, judge: Judge) -> None:
    """As YAML, which keeps numbers as keys; equal rules are the same bytes."""
    document = {"schema": SCHEMA, "rules": plain(judge)}
    with replacing(path) as temporary:
        text = yaml.safe_dump(document, sort_keys=True, allow_unicode=True, width=100)
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Records as mappings, tuples as lists, all the way down."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value


def read_rules(path: Path, kind: type[Any]) -> Any:
    """What `write_rules` wrote, as this type. Raises StoreVersionError for what does not fit it."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"is no {SCHEMA}")
        return TypeAdapter(kind).validate_python(document["rules"])
    except (OSError, ValueError, KeyError, yaml.YAMLError, ValidationError) as error:
        again = "run again with --overwrite"
        raise StoreVersionError(str(path), f"cannot be read by this version ({error})", again) from error


# The C parser, where PyYAML was built with it, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
