"""The keys of the desk, one table for the window, its help and the documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from coverslip.workflows.napari_plugin import ROLE


@dataclass(frozen=True, slots=True)
class Key:
    """`sequences`: as Qt writes them. `action`: of the desk's, which is given `what`."""

    sequences: tuple[str, ...]
    text: str
    action: str
    what: str = ""


KEYS: tuple[Key, ...] = (
    *(Key((str(n),), f"class {n}", "class", str(n)) for n in range(1, 10)),
    Key(("N", "PgDown"), "next slide, or suggestion", "step", "1"),
    Key(("P", "PgUp"), "previous slide, or suggestion", "step", "-1"),
    Key(("F",), "findings", "findings"),
    Key(("G",), "gallery: walk with the arrow keys", "gallery"),
    Key(("L",), "lasso cells, or tiles", "tool", "lasso"),
    Key(("R",), "draw a region", "tool", "region"),
    Key(("X",), "exclude an area", "tool", "exclude"),
    Key(("E",), "edit areas", "tool", "edit"),
    Key(("Esc",), "no tool: look", "look"),
    Key(("Ctrl+Z",), "undo", "undo"),
    Key(("Ctrl+Shift+Z",), "redo", "redo"),
    Key(("S",), "sign", "sign"),
    Key(("C",), "cells", "toggle", "cells"),
    Key(("T",), "tissue and quality", "toggle", "mask"),
    Key(("M",), "class map", "toggle", "classes"),
    Key(("H",), "heat maps", "toggle", "heat"),
    Key(("D",), "stains alone", "toggle", "stain"),
    Key(("0",), "the whole slide", "times", "0"),
    Key(("B",), "second slide beside, or away", "beside"),
    Key(("K",), "link its camera, or let it go", "link"),
    Key(("?",), "these keys", "keys"),
)


def layer_of(layer: Any) -> str:
    """The role of a layer; "" for one that is none of ours."""
    return str(layer.metadata.get(ROLE, ""))


def layer_keys(layers: Iterable[Any]) -> dict[str, str]:
    """Layer name → the key that toggles it."""
    keys = {key.what: key.sequences[0] for key in KEYS if key.action == "toggle"}
    return {layer.name: keys[layer_of(layer)] for layer in layers if layer_of(layer) in keys}
