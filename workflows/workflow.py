"""The seam between the batch and what it does to a slide.

A workflow is a frozen value that crosses processes: its settings, and the path of its model. The batch
opens slides, finds tissue, plans, cuts the plan into shards, runs `score` on each anywhere, and calls
`conclude` once with all rows. A workflow must not keep anything between calls but caches of its own making.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.geojson import Feature
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.stain_kind import StainKind as StainKind
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.result import Abstention, Call, Finding, GuidelineUse, Measurement, ModelIdentity
from coverslip.wsi import Slide

Rgba = tuple[int, int, int, int]
VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Grid:
    """Which tiles a workflow looks at. `size`, `overlap`: pixels at `mpp` µm/px; `shard`: tiles per task on a
    slide of up to some 16,000, on a CPU; `min_tissue`: smallest share of tissue a tile needs. `exact`: decode
    stored tiles in full, see `coverslip.tiling.route.choose_route`."""

    mpp: float
    size: int
    min_tissue: float
    overlap: int = 0
    shard: int = 128
    exact: bool = False

    @classmethod
    def of_objects(cls, mpp: float, tile: int, shard: int, *, exact: bool) -> Grid:
        """All tiles with any tissue at all: a cell in the corner of a tile counts as one in its middle."""
        return cls(mpp, tile, min_tissue=1e-6, shard=shard, exact=exact)


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """A label image (uint8) that shards paint while they score: grid.size² pixels per tile, at grid.mpp.

    `colours`: value → (name, RGBA); 0 is nothing.
    """

    name: str
    colours: Mapping[int, tuple[str, Rgba]]


@dataclass(frozen=True, slots=True)
class Vectors:
    """`width` figures (float32) per tile that shards store while they score: too many to be held at once.

    `encoder`, `weights_sha256`: what makes them, as their files say. `concluded`: `conclude` looks at all of
    a slide's at once, and gets them as the column `VECTOR` of its table, a list of `width` per row.
    """

    width: int
    encoder: str = ""
    weights_sha256: str = ""
    concluded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What one shard says.

    `table`: rows about tiles or objects, positions in level-0 pixels. `damaged_pixels`: of the tiles'
    own pixels. `blocks`: row of the plan → uint8 block for the canvas (height, width). `vectors`: float32
    (tiles, width), where the workflow says that there are any.
    """

    table: pa.Table
    damaged_pixels: int
    blocks: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    vectors: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """A label image with one pixel per tile step; value 0 is "not looked at".

    `caption`: what it shows, for the report; "" names the values.
    """

    name: str
    values: NDArray[np.uint8]
    colours: Mapping[int, tuple[str, Rgba]]
    scale_um: float
    caption: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Conclusion:
    """What the rows of all shards come to.

    `tables`: file name → table, written beside the result. `derived`: settings that were found on this
    slide (such as its glass colour), for provenance.
    """

    summary: str
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...] = ()
    abstentions: tuple[Abstention, ...] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    class_map: ClassMap | None = None
    features: tuple[Feature, ...] = ()
    derived: Mapping[str, Any] = field(default_factory=dict)
    call: Call | None = None
    guidelines: tuple[GuidelineUse, ...] = ()


class Workflow(Protocol):
    """See the module's docstring. Instances are picklable and equal settings give equal results."""

    @property
    def name(self) -> str: ...

    @property
    def grid(self) -> Grid: ...

    @property
    def canvas(self) -> Canvas | None: ...

    @property
    def vectors(self) -> Vectors | None: ...

    @property
    def model(self) -> ModelIdentity | None: ...

    @property
    def expects(self) -> tuple[StainKind, ...]:
        """Kinds of stain it is made for; () for any."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that changes the result, as JSON values; goes into provenance and the request's digest."""
        ...

    def device(self) -> dict[str, str]:
        """What computed it: device, precision."""
        ...

    def check(self, slide: Slide) -> None:
        """Raises ModelMismatchError or another SlideError before anything is read."""
        ...

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        """Look at the tiles of `rows`. Called from worker threads and processes."""
        ...

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        """From the rows of all shards, in the plan's order, to findings and measurements."""
        ...
