"""Models of any kind: which document a package holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from coverslip.models.document import ModelDocument
from coverslip.models.package import DOCUMENT, DOCUMENT_BYTES, read_document
from coverslip.models.slide_document import SlideModelDocument
from coverslip.models.star_document import FinderDocument

# Of models that tell classes.
ClassDocument: TypeAlias = ModelDocument | SlideModelDocument
AnyDocument: TypeAlias = ClassDocument | FinderDocument
# By the schema their file names.
KINDS: Mapping[str, type[AnyDocument]] = MappingProxyType(
    {
        kind.model_fields["schema_name"].default: kind
        for kind in (ModelDocument, SlideModelDocument, FinderDocument)
    }
)


def read_any(folder: str | Path) -> AnyDocument:
    """The document of a verified package of any kind. Raises ModelUnavailableError."""
    return read_document(folder, KINDS.get(_schema(Path(folder)), ModelDocument))[0]


def _schema(folder: Path) -> str:
    """What the file says it is; "" for one that says nothing, which `read_document` will refuse."""
    try:
        with (folder / DOCUMENT).open("rb") as file:
            found = json.loads(file.read(DOCUMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    name = found.get("schema_name") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""
