"""The result of one slide: one document, of which every report and export is a view.

JSON with a schema of its own name and version (`coverslip.slide-result`, 2; files of version 1, which had
no call and no guidelines, are read). The JSON schema is `docs/schema/slide-result-2.json`, written by
`python -m coverslip.workflows.result`. Positions are level-0
pixels, (x, y).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

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
    """What was seen, how sure (0 to 1, None where there is no calibrated confidence), which tiles show it.

    `rejected`: why a reviewer says that it does not hold; None where nobody does.
    """

    name: str
    text: str
    confidence: Share | None = None
    tiles: tuple[TileReference, ...] = ()
    rejected: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent_rejection(self, write: SerializerFunctionWrapHandler):
        """As `SlideResult` leaves out an absent review."""
        document = write(self)
        if self.rejected is None:
            document.pop("rejected", None)
        return document


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
    as out of focus or folded; `evaluable_area_mm2`: tissue without them. `stain`: whether the colours are of
    a stain the workflow is made for; "doubtful" where they do not tell. None where it takes any.
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
    stain: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent_stain(self, write: SerializerFunctionWrapHandler):
        """What was not looked at is not said, as in results of earlier days."""
        document = write(self)
        if self.stain is None:
            document.pop("stain", None)
        return document


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


class Review(Value):
    """What a person signed, and what the machine had said before.

    `at`: UTC, ISO 8601. `corrections`: how many stand. `supersedes`: the folder of the same reviewer's
    earlier signature. `notes`: what the signature leaves open. `machine`: digest of the machine's result,
    times and report apart; `machine_measurements`: those of it that differ from the signed ones or are gone.
    `trail_entries` and `trail_sha256`: where the audit trail ended before this signature.
    """

    status: Literal["final", "amended"]
    signed_by: str
    role: str
    at: str
    comment: str
    corrections: int
    supersedes: str | None = None
    notes: tuple[str, ...] = ()
    machine: str
    machine_summary: str
    machine_call: Call | None = None
    machine_measurements: tuple[Measurement, ...] = ()
    trail_entries: int
    trail_sha256: str


class SlideResult(Value):
    """All that is known of one slide after a workflow. `outputs`: sha256 of each file or folder beside it.

    `review`: of a signed result only, whose figures are those after the reviewer's corrections.
    """

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
    review: Review | None = None

    @model_serializer(mode="wrap")
    def _without_absent_review(self, write: SerializerFunctionWrapHandler):
        """What nobody signed says nothing of signing, as results of earlier days do not."""
        document = write(self)
        if self.review is None:
            document.pop("review", None)
        return document


def schema_text() -> str:
    """The JSON schema of `SlideResult` (draft 2020-12), sorted keys, newline at the end."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SlideResult.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
