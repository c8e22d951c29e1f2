"""The antibodies that `ihc` knows: where each stains, by which rule it is read. One table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from coverslip.errors import RequestError

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


MARKERS: Mapping[str, Marker] = MappingProxyType(
    {
        "generic": Marker("nuclei", "nucleus", "intensity", None),
        "ki67": Marker("Ki-67", "nucleus", "Ki-67", "ki67-ikwg-2021"),
        "er": Marker("ER", "nucleus", "receptor", "er-asco-cap-2020"),
        "pr": Marker("PR", "nucleus", "receptor", "pr-asco-cap-2020"),
        "her2": Marker("HER2", "membrane", "HER2", "her2-asco-cap-2023"),
        "pdl1": Marker("PD-L1", "membrane", "PD-L1", "pdl1-22c3-nsclc"),
    }
)


def marker_of(name: str) -> Marker:
    """Raises RequestError, naming those there are."""
    if name not in MARKERS:
        raise RequestError(f"marker {name!r}", "is not known", f"name one of {', '.join(MARKERS)}")
    return MARKERS[name]
