"""What can be chosen for the workflow `cytology`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from coverslip.errors import RequestError
from coverslip.models.pap_finder import PapSettings
from coverslip.tiling.focus_stack import FusionSettings
from coverslip.workflows.cytology.look import Focus
from coverslip.workflows.rules.adequacy import Population, Preparation

PAPANICOLAOU = "papanicolaou"


@dataclass(frozen=True, slots=True)
class CytologySettings:
    """`preparation`: liquid-based or conventional; without it adequacy is not judged, and NILM not called.
    `population`: special where fewer cells are enough, as after hysterectomy or radiation.
    `guideline`: an id, or a YAML file of one's own. `points`: a file of operating points of the model; by
    default the one that comes with Coverslip for its weights, else the confusion that the model states.
    `focus`: for slides with focal planes. plane: the one that is open; fused: the sharpest part of each;
    best: cells are found in the fused picture, and each is called in the plane sharpest about it.
    `obscured`: share of the squamous cells hidden, 0 to 1, as a person judged it; by default measured.
    `squamous`: of what is counted as squamous cells, the share that are at least, for adequacy: on whole
    fields 76 of 106 were nuclei, leucocytes among them (docs/cytology.md).
    `gallery`: cells shown per category. `finder`: papanicolaou, or as for the workflow cells.
    `tile`: pixels a side looked at together, without the halo; `shard`: tiles per task. `exact`: decode the
    slide's stored tiles in full. `nuclei`: how papanicolaou finds them.
    """

    preparation: Preparation | None = None
    population: Population = "general"
    guideline: str = "bethesda-2014"
    points: str | None = None
    focus: Focus = "plane"
    obscured: float | None = None
    squamous: float = 2 / 3
    gallery: int = 6
    finder: str = PAPANICOLAOU
    tile: int = 2048
    shard: int = 2
    exact: bool = False
    nuclei: PapSettings = field(default_factory=PapSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)

    def __post_init__(self) -> None:
        if self.tile < 64 or self.tile % 16 or self.shard < 1 or self.gallery < 0:
            raise RequestError(
                f"tile {self.tile}, shard {self.shard}, gallery {self.gallery}",
                "do not fit",
                "give a multiple of 16, at least 64; at least 1; and 0 or more",
            )
        if self.obscured is not None and not 0 <= self.obscured <= 1:
            raise RequestError(f"obscured {self.obscured:g}", "is no share", "give 0 to 1")
        if not 0 < self.squamous <= 1:
            raise RequestError(f"squamous {self.squamous:g}", "is no share", "give above 0, to 1")
        for name, kind in (("preparation", Preparation), ("population", Population), ("focus", Focus)):
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise RequestError(f"{name} {value!r}", "is not known", f"name one of {get_args(kind)}")
