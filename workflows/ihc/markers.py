"""The antibodies that `ihc` knows: where each stains, by which rule it is read.

A Python package that brings one names it in the entry point group `coverslip.markers`:
`NAME = "importable.module:MARKER"`, where MARKER is a `Marker`; ours go through the same door.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from coverslip.errors import RequestError

GROUP = "coverslip.markers"
Site = Literal["nucleus", "cytoplasm", "membrane"]
Reading = Literal["intensity", "Ki-67", "receptor", "HER2", "PD-L1"]


@dataclass(frozen=True, slots=True)
class Marker:
    """`name`: as reports write it. `site`: where it stains; DAB in a nucleus hides the haematoxylin, so both
    are looked at there, elsewhere haematoxylin alone. `reading`: how cells are put together. `guideline`: the
    id of the rule that holds unless another is named, None without one."""

    name: str
    site: Site
    reading: Reading
    guideline: str | None

    @property
    def in_membrane(self) -> bool:
        """Whether cells are scored by their membrane; otherwise by the stain over their nucleus."""
        return self.site == "membrane"


GENERIC = Marker("nuclei", "nucleus", "intensity", None)
KI67 = Marker("Ki-67", "nucleus", "Ki-67", "ki67-ikwg-2021")
ER = Marker("ER", "nucleus", "receptor", "er-asco-cap-2020")
PR = Marker("PR", "nucleus", "receptor", "pr-asco-cap-2020")
HER2 = Marker("HER2", "membrane", "HER2", "her2-asco-cap-2023")
PDL1 = Marker("PD-L1", "membrane", "PD-L1", "pdl1-22c3-nsclc")


@cache
def known_markers() -> tuple[str, ...]:
    """Their names, in order; nothing is imported."""
    return tuple(sorted(entry.name for entry in entry_points(group=GROUP)))


@cache
def marker_of(name: str) -> Marker:
    """Raises RequestError, naming those there are."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(known_markers())
        raise RequestError(f"marker {name!r}", "is not known", f"name one of {known}")
    return next(iter(found)).load()
