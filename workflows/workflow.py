"""The seam between the batch and what it does to a slide.

A workflow is a frozen value that crosses processes: its settings, and the path of its model. The batch
opens slides, finds tissue, plans, cuts the plan into shards, runs `score` on each anywhere, calls `derive`
once, and `conclude` with all rows. A workflow must not keep anything between calls but caches of its own
making.

What it concludes by can be a `Judge`: a value without pixels and networks, which is kept with the result. A
review that corrects rows or areas has the same judge conclude again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.tiling.geojson import Feature
from coverslip.tiling.geojson_reader import Regions
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.stain_kind import StainKind as StainKind
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.result import (
    Abstention,
    Call,
    Finding,
    GuidelineUse,
    Measurement,
    ModelIdentity,
    Urgency,
)
from coverslip.workflows.revision import Objects, Revision
from coverslip.wsi import Box, Mpp, Slide

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
class Derived:
    """What is found on a slide once, beside its rows: all that the rules need of pixels and of other files.

    `values`: such as the glass's colour, as JSON has them (lists, names as keys); they go into provenance.
    `regions`: areas by name, level-0 pixels, kept with the slide's layout.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    regions: Mapping[str, Regions] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Grounds:
    """What a conclusion rests on beside the rows. All of it is kept with a result."""

    plan: TilePlan
    tissue: TissueMask
    derived: Derived = field(default_factory=Derived)

    @property
    def mpp(self) -> Mpp:
        """Of level 0."""
        return self.plan.slide_mpp

    @property
    def scanned(self) -> Box:
        """The scanned part of the slide, level-0 pixels."""
        return self.tissue.bounds


@dataclass(frozen=True, slots=True, eq=False)
class Conclusion:
    """What the rows of all shards come to. `tables`: file name → table, written beside the result."""

    summary: str
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...] = ()
    abstentions: tuple[Abstention, ...] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    class_map: ClassMap | None = None
    features: tuple[Feature, ...] = ()
    call: Call | None = None
    guidelines: tuple[GuidelineUse, ...] = ()


class Judge(Protocol):
    """What a workflow makes of rows: a frozen dataclass of plain values (settings, guidelines, names of
    classes), with pydantic's types where those are nested. It is written to `rules.yaml` beside the result,
    and read from there by a review as the type that the `WorkflowKind` names. It opens no slide and no model,
    and equal grounds and rows give equal conclusions, whatever the process."""

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        """From the rows of all shards, in the plan's order, to findings and measurements."""
        ...

    def labels(self, of: Objects) -> tuple[str, ...]:
        """The classes that a person can give to a row; () where rows have none."""
        ...

    def standing(self, of: Objects, table: pa.Table) -> NDArray[np.int32]:
        """What each row of the written table was called: number in `labels`, -1 for none of them."""
        ...

    def revise(self, grounds: Grounds, tables: Mapping[str, pa.Table], revision: Revision) -> Conclusion:
        """`conclude` on the rows of the written tables after what a person changed.

        `tables`: by file name, as `Conclusion.tables` was written. `grounds`: tissue that was excluded is
        gone from it, tiles are not. A revision without changes gives what `conclude` gave, exactly.
        """
        ...

    def urgency_of(self, category: str) -> Urgency | None:
        """The place in the worklist of a category that a person gives; None for one the rules do not know."""
        ...


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

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        """What `conclude` needs of the slide beside the rows; called where the slide has tiles."""
        ...

    @property
    def judge(self) -> Judge | None:
        """What `conclude` concludes by; None where that needs more than rows, such as a network: then a
        review can reject findings, draw areas and change the call, and no row."""
        ...

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        """From the rows of all shards, in the plan's order, to findings and measurements."""
        ...


def grounds_of(workflow: Workflow, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Grounds:
    """What the workflow concludes on, its derived values as they are read back from JSON."""
    found = workflow.derive(slide, plan, tissue)
    return Grounds(plan, tissue, Derived(json.loads(json.dumps(found.values)), found.regions))
