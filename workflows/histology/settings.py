"""Settings of the workflow `histology`, and the rules it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from coverslip.errors import RequestError
from coverslip.workflows.histology.roles import RoleSettings
from coverslip.workflows.rules.gleason import GLEASON
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.rules.mitoses import MITOSES
from coverslip.workflows.rules.nodes import NODES
from coverslip.workflows.rules.stroma import STIL, TSR
from coverslip.workflows.slide_calls import SlideCallSettings
from coverslip.workflows.tile_classes import TileClassSettings

Specimen = Literal["any", "lymph node", "breast"]


@dataclass(frozen=True, slots=True)
class HistologyGuidelines:
    """Rules by id, or by the path of a file of one's own; `classes`: usual names of classes."""

    classes: str = "histology-classes"
    nodes: str = NODES
    gleason: str = GLEASON
    mitoses: str = MITOSES
    til: str = STIL
    stroma: str = TSR


@dataclass(frozen=True, slots=True)
class HistologySettings:
    """`specimen`: "lymph node" names the size category of the largest deposit, "breast" scores mitoses.
    `roles`: which classes are tumour, stroma and so on, names of the model; null recognises usual names.
    `least_tiles`: smaller foci of tumour are left out. `gleason_share`: of the area of all patterns for the
    second; null for the rule's. `bed_mm`: tumour closer than twice this encloses what lies between, for
    lymphocytes and stroma; `least_mm2`: of it, or no figure. `mitosis_finder`: a finder of cells as for the
    workflow cells, run on the tiles of tumour; `mitosis_classes`: those of its classes that are mitoses, null
    recognises usual names. `hot_spot_mm2`: area of the square of most mitoses; `field_mm`: diameter of a
    microscope's field, to count per ten of. `guidelines`: rules by id or file. `tiles`, `slide`: as of the
    workflows tiles and slide, whichever fits the model. `exact`: decode the slide's stored tiles in full.
    """

    specimen: Specimen = "any"
    roles: RoleSettings = field(default_factory=RoleSettings)
    least_tiles: int = 1
    gleason_share: float | None = None
    bed_mm: float = 0.5
    least_mm2: float = 0.5
    mitosis_finder: str | None = None
    mitosis_classes: tuple[str, ...] | None = None
    hot_spot_mm2: float = 2.0
    field_mm: float | None = None
    guidelines: HistologyGuidelines = field(default_factory=HistologyGuidelines)
    tiles: TileClassSettings = field(default_factory=TileClassSettings)
    slide: SlideCallSettings = field(default_factory=SlideCallSettings)
    exact: bool = False

    def __post_init__(self) -> None:
        if self.specimen not in get_args(Specimen):
            raise RequestError(
                f"specimen {self.specimen!r}", "is not known", f"name one of {get_args(Specimen)}"
            )
        low = [
            *["least_tiles is below 1"] * (self.least_tiles < 1),
            *["gleason_share is no share"] * (not 0 <= (self.gleason_share or 0) <= 1),
            *["bed_mm or least_mm2 is below 0"] * (min(self.bed_mm, self.least_mm2) < 0),
            *["hot_spot_mm2 is not above 0"] * (not self.hot_spot_mm2 > 0),
            *["field_mm is not above 0"] * (self.field_mm is not None and not self.field_mm > 0),
        ]
        if low:
            raise RequestError("histology settings", "; ".join(low), "give other figures")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules themselves, so that all workers use what was read at the start."""

    nodes: Guideline
    gleason: Guideline
    mitoses: Guideline
    til: Guideline
    stroma: Guideline


def load_rules(chosen: HistologyGuidelines) -> Rules:
    """Raises RequestError for one that is not known or not readable."""
    return Rules(
        load_guideline(chosen.nodes),
        load_guideline(chosen.gleason),
        load_guideline(chosen.mitoses),
        load_guideline(chosen.til),
        load_guideline(chosen.stroma),
    )
