"""The result of one slide: one document, of which every report and export is a view.

JSON with a schema of its own name and version (`coverslip.slide-result`, 2; files of version 1, which had
no call and no guidelines, are read). The JSON schema is `docs/schema/slide-result-2.json`, written by
`python -m coverslip.workflows.result`. Positions are level-0
pixels, (x, y).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from coverslip.ruo import RUO

SCHEMA = "coverslip.slide-result"
SCHEMA_VERSION = 2
READ_VERSIONS = (1, SCHEMA_VERSION)
Share = Annotated[float, Field(ge=0, le=1)]
# In the order of a worklist: what may be malignant, what nobody could evaluate, what wants a look, the rest.
Urgency = Literal["urgent", "unevaluable", "attention", "routine"]


class Value(BaseModel):
    """Frozen; unknown keys are an error, so that a misspelt one is not lost; no NaN or infinity, which JSON
    does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(Value):
    """A confidence interval: both ends in the measurement's unit, `level` such as 0.95."""

    low: float
    high: float
    level: Share
    method: str


class Measurement(Value):
    """One number. `value` None means not evaluable, and `note` says why. `unit` is UCUM."""

    name: str
    value: float | None
    unit: str
    method: str
    n: int | None = None
    interval: Interval | None = None
    code: str | None = None
    note: str | None = None


class TileReference(Value):
    """A tile that shows a finding: top-left corner and extent in level-0 pixels, the score it has."""

    x: int
    y: int
    width: float
    height: float
    score: float


class Finding(Value):
    """What was seen, how sure (0 to 1, None where there is no calibrated confidence), which tiles show it."""

    name: str
    text: str
    confidence: Share | None = None
    tiles: tuple[TileReference, ...] = ()


class Abstention(Value):
    """What was not answered, and why."""

    what: str
    why: str


class GuidelineUse(Value):
    """A published rule that was applied: its name and version, where it is from, and the cut-offs used.

    `unverified`: names of cut-offs that no source confirmed.
    """

    name: str
    version: str
    source: str
    cut_offs: dict[str, Any]
    unverified: tuple[str, ...] = ()


class Call(Value):
    """What the slide is called.

    `category`: in the words of the rule or model; None where none is given, and `text` says why.
    `confidence`: how sure, None where that is not calibrated. `triage`: 0 to 1, how soon somebody should
    look; not a probability, and not the category. `urgency`: its place in the worklist.
    """

    category: str | None
    text: str
    confidence: Share | None = None
    triage: Share | None = None
    urgency: Urgency = "routine"
    code: str | None = None


class Quality(Value):
    """What the pixels allow.

    `damaged_slide_fraction`: damaged share of the scanned part of level 0; `damaged_tiles_fraction`: of the
    tiles that were looked at; `damaged_fraction`: the larger of both. `missing_fraction`: share of the
    stored tiles whose bytes the file's index says are absent. `artefacts`: shares of the tissue by kind, such
    as out of focus or folded; `evaluable_area_mm2`: tissue without them.
    """

    tissue_fraction: Share
    tissue_area_mm2: float
    tiles: int
    damaged_fraction: Share
    damaged_slide_fraction: Share
    damaged_tiles_fraction: Share
    missing_fraction: Share | None
    pen_fraction: Share
    artefacts: dict[str, Share] = {}
    evaluable_area_mm2: float | None = None


class MppValue(Value):
    x: float
    y: float
    source: str


class SlideIdentity(Value):
    """Which file this is about.

    `size`: level-0 width and height in pixels. `mpp`: what was used; `mpp_declared`: what the file states,
    where another figure was given.
    """

    id: str
    path: str
    digest: str
    bytes: int | None
    format: str
    reader: str
    reader_version: str
    size: tuple[int, int]
    mpp: MppValue
    mpp_declared: MppValue | None = None
    case: str | None = None
    stain: str | None = None


class ModelIdentity(Value):
    name: str
    version: str
    sha256: str
    licence: str


class Provenance(Value):
    """Enough to run again.

    `request` identifies input, settings and model; `derived` is what was found on the slide and used as a
    setting; `supply` is how pixels were read.
    """

    coverslip: str
    request: str
    workflow: str
    settings: dict[str, Any]
    derived: dict[str, Any]
    model: ModelIdentity | None
    device: dict[str, str]
    supply: str
    seed: int
    packages: dict[str, str]


class Times(Value):
    """UTC, ISO 8601; the only part of a result that differs when it is computed again."""

    started: str
    finished: str


class SlideResult(Value):
    """All that is known of one slide after a workflow. `outputs`: sha256 of each file or folder beside it."""

    schema_name: Literal["coverslip.slide-result"] = SCHEMA
    schema_version: Literal[1, 2] = SCHEMA_VERSION
    notice: str = RUO
    slide: SlideIdentity
    workflow: str
    status: Literal["done", "no tissue"]
    summary: str
    call: Call | None = None
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    guidelines: tuple[GuidelineUse, ...] = ()
    quality: Quality
    abstentions: tuple[Abstention, ...] = ()
    provenance: Provenance
    outputs: dict[str, str]
    times: Times


def schema_text() -> str:
    """The JSON schema of `SlideResult` (draft 2020-12), sorted keys, newline at the end."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SlideResult.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
