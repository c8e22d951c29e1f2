"""What can be chosen for the workflow `ihc`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from coverslip.errors import RequestError
from coverslip.models.compartments import CellShape
from coverslip.models.nuclei import WORKING_MPP, NucleiSettings
from coverslip.tiling.stain import Vector
from coverslip.workflows.ihc.fields import FieldSettings
from coverslip.workflows.ihc.markers import Marker, Site, marker_of
from coverslip.workflows.rules.guideline import Guideline, load_guideline
from coverslip.workflows.scores import IhcScoreSettings
from coverslip.wsi.pixels import Rgb

Stains = Literal["default", "estimate", "aec"] | tuple[Vector, Vector]
Background = Literal["white", "estimate"] | Rgb
Method = Literal["global", "weighted", "hot-spot"]


@dataclass(frozen=True, slots=True)
class IhcSettings:
    """`marker`: generic, ki67, er, pr, her2, pdl1, or one of another package. `guideline`: id or file of the
    rule it is read by; null for the marker's own. `tumour`: which cells count: null for all in tissue, a
    GeoJSON file of the tumour (or a folder with one named after each slide, such as case-1.svs.geojson), or a
    tile model;
    `tumour_class`: the classification, or the model's class, that is tumour. `immune_class`: of PD-L1, the
    classification of areas in the same annotation in which all cells are lymphocytes or macrophages, within
    or beside the tumour: CPS and the area of SP142 need them. `stains`: default (haematoxylin
    and DAB as in QuPath), aec, estimate (from each slide, haematoxylin and DAB), or two vectors of optical
    density, [[R, G, B], [R, G, B]]. `background`: colour of glass, white (QuPath's thresholds belong to it),
    estimate (the slide's commonest bright colour) or [R, G, B]. `method`: which labelling index of Ki-67
    makes the category: global, weighted or hot-spot; all are reported. `compartments`: measure cytoplasm and
    membrane too; membrane markers always do. `mpp`: resolution at which nuclei are looked for, µm/px. `tile`:
    pixels a side looked at together, without the halo; 1024 keeps a worker under 200 MB. `shard`: tiles per
    task, some ten seconds of work. `site`: where the marker stains; null for the marker's own. In "nucleus"
    (Ki-67, ER, PR) DAB hides the haematoxylin of positive nuclei, so both are looked at; in "cytoplasm" DAB
    would pass for nuclei, so haematoxylin alone is. Of a generic marker the DAB over the nucleus is scored in
    either case. `exact`: decode the slide's stored tiles in full.
    """

    marker: str = "generic"
    guideline: str | None = None
    tumour: str | None = None
    tumour_class: str | None = None
    immune_class: str | None = None
    stains: Stains = "default"
    background: Background = "white"
    method: Method = "global"
    compartments: bool = False
    mpp: float = 0.5
    tile: int = 1024
    shard: int = 8
    exact: bool = False
    site: Site | None = None
    nuclei: NucleiSettings = field(default_factory=NucleiSettings)
    score: IhcScoreSettings = field(default_factory=IhcScoreSettings)
    cell: CellShape = field(default_factory=CellShape)
    fields: FieldSettings = field(default_factory=FieldSettings)

    def __post_init__(self) -> None:
        low, high = WORKING_MPP
        if not low <= self.mpp <= high:
            raise RequestError(
                f"{self.mpp:g} µm/px", "is no resolution for nuclei", f"give {low:g} to {high:g}, best 0.5"
            )
        if self.tile < 1 or self.shard < 1:
            raise RequestError(
                f"tile {self.tile}, shard {self.shard}", "hold nothing", "give at least 1 of each"
            )
        self._check_site()
        if self.tumour is None and self.tumour_class is not None:
            raise RequestError("tumour_class", "is of no use without tumour", "say where the tumour is")
        if self.immune_class is not None and (self.kind.reading != "PD-L1" or self.tumour is None):
            raise RequestError(
                "immune_class",
                "is of use to PD-L1 alone, with an annotation",
                "name the annotation as tumour, and its class for tumour as tumour_class",
            )
        if self.kind.guideline is None and self.guideline is not None:
            unruled = f"is of no use to the marker {self.marker}"
            raise RequestError("guideline", unruled, "name a marker that is read by a rule, such as ki67")

    def _check_site(self) -> None:
        own = marker_of(self.marker).site
        allowed = ("nucleus", "cytoplasm") if self.kind.reading == "intensity" else (own,)
        if self.site is not None and self.site not in allowed:
            raise RequestError(
                f"site {self.site!r}",
                f"is not where the marker {self.marker} stains",
                f"leave it out, or name {' or '.join(allowed)}",
            )

    @property
    def kind(self) -> Marker:
        return marker_of(self.marker)

    @property
    def stained_site(self) -> Site:
        return self.site or self.kind.site

    @property
    def whole_cells(self) -> bool:
        """Whether cells are measured beyond their nuclei."""
        return self.compartments or self.kind.in_membrane

    @property
    def found_by(self) -> NucleiSettings:
        """The settings nuclei are found with at this site."""
        return self.nuclei if self.stained_site == "nucleus" else replace(self.nuclei, dab_weight=0.0)

    @property
    def rule(self) -> Guideline | None:
        """Raises RequestError for a guideline that is not there."""
        name = self.guideline or self.kind.guideline
        return None if name is None else load_guideline(name)
