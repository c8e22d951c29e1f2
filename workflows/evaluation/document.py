"""The document of an evaluation, of which the table, the page and the plots are views.

JSON with a schema of its own name and version (`coverslip.evaluation`, 1); the JSON schema is
`docs/schema/evaluation-1.json`, written by `python -m coverslip.workflows.evaluation.document`.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from coverslip.models.doubt import Miscalibration
from coverslip.ruo import RUO
from coverslip.workflows.result import Measurement, Value

SCHEMA = "coverslip.evaluation"
SCHEMA_VERSION = 1
NOT_ANSWERED = "not answered"


class InputFile(Value):
    """A file that was read, by what it was for. Of a folder of results it is that of its worklist."""

    role: str
    path: str
    sha256: str


class Unanswered(Value):
    """A slide of the truth that nothing, or not all, was said of, and why."""

    slide: str
    group: str
    truth: str
    why: str


class Curve(Value):
    """Points (x, y), ascending in x. ROC: false and true positive rate; FROC: false positives per slide and
    sensitivity."""

    name: str
    points: tuple[tuple[float, float], ...]


class Confusion(Value):
    """Slides by their true class (rows, `classes`) and what they were called (columns, `called`, the last of
    which is not answered)."""

    classes: tuple[str, ...]
    called: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class SlideDetections(Value):
    """Of one slide: lesions that count, those found at any score, false positives at any score; `isolated`:
    parts of isolated tumour cells, which do not count."""

    slide: str
    group: str
    answered: bool
    lesions: int
    found: int
    isolated: int
    false_positives: int


class Evaluation(Value):
    """`evaluator`: the rule by name, where more than one is in use. `unit`: what was resampled.

    `figures` are of the slides that were answered; `counting_unanswered`, in the same order, of all, those
    not answered taken as wrong in the worst way. `calibration` is of the answered ones only.
    """

    schema_name: Literal["coverslip.evaluation"] = SCHEMA
    schema_version: Literal[1] = SCHEMA_VERSION
    notice: str = RUO
    coverslip: str
    task: Literal["classification", "detection"]
    evaluator: str
    inputs: tuple[InputFile, ...]
    settings: dict[str, Any]
    unit: str
    groups: int
    slides: int
    answered: int
    unanswered: tuple[Unanswered, ...]
    without_truth: tuple[str, ...]
    notes: tuple[str, ...]
    figures: tuple[Measurement, ...]
    counting_unanswered: tuple[Measurement, ...]
    confusion: Confusion | None = None
    curves: tuple[Curve, ...] = ()
    calibration: Miscalibration | None = None
    detections: tuple[SlideDetections, ...] = ()


def schema_text() -> str:
    """The JSON schema of `Evaluation` (draft 2020-12), sorted keys, newline at the end."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Evaluation.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
