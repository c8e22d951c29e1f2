"""What can be chosen for the workflow `blood`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from coverslip.errors import RequestError
from coverslip.workflows.blood.fields import FieldSettings
from coverslip.workflows.finders import CLASSICAL, WHITE_CELLS
from coverslip.workflows.rules.differential import DIFFERENTIAL, NAMES, Counting
from coverslip.workflows.rules.schistocytes import SCHISTOCYTES

Found = Literal["classical", "finder"]


@dataclass(frozen=True, slots=True)
class BloodSettings:
    """How a smear is looked at.

    `finder`: of red cells, platelets and, with `white_cells` "finder", of white cells: a name as for the
    workflow cells, or "classical", which finds white cells only. `white_cells`: "classical" finds them by
    their purple nuclei, which found more of them in two laboratories' stains than the finder that comes with
    Coverslip. `classifier`: the model that calls them; --model names it too.

    `guideline`, `schistocytes`, `names`: ids of guidelines, or YAML files of your own: parts, ranges and
    flags; fragments of red cells; what classes are reported as. `counting`: `least_cells` below which the
    differential is not evaluable, by default the guideline's; intervals hold at `confidence`, each by itself
    or all `simultaneous`. `unsure_share`: more unsure white cells than this leave nothing to call. `fields`:
    of view, `area_mm2` each, 0.038 as a 100× objective shows them, of which cells `cover` at least so much.

    `examples`: cells shown per class. `tile`: pixels a side looked at together, without the halo; `shard`:
    tiles per task. `exact`: decode the slide's stored tiles in full.
    """

    finder: str = "smear-cells"
    white_cells: Found = "classical"
    classifier: str = "blood-cells"
    guideline: str = DIFFERENTIAL
    schistocytes: str = SCHISTOCYTES
    names: str = NAMES
    counting: Counting = field(default_factory=Counting)
    unsure_share: float = 0.3
    fields: FieldSettings = field(default_factory=FieldSettings)
    examples: int = 12
    tile: int = 1024
    shard: int = 4
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.unsure_share <= 1 or self.examples < 0:
            raise RequestError(
                "blood settings", "are out of range", "give a share of 0 to 1, examples of 0 or more"
            )
        if self.white_cells not in get_args(Found):
            raise RequestError(
                f"white_cells {self.white_cells!r}", "is not known", f"name one of {get_args(Found)}"
            )

    @property
    def finder_name(self) -> str:
        """As `open_finder` takes it."""
        if self.finder in (CLASSICAL, WHITE_CELLS):
            return WHITE_CELLS
        return f"{WHITE_CELLS}+{self.finder}" if self.white_cells == "classical" else self.finder
