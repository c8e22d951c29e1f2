"""What `model.json` says: every fact about a model that somebody must know before trusting it.

The records are frozen, refuse keys they do not know, and hold no path: the weights lie beside the document
under one fixed name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from coverslip.models.doubt import Energy, Mahalanobis, PredictionSets, Reliability
from coverslip.models.pooling import Pooling
from coverslip.models.record import Count, Record, Share
from coverslip.models.tint import ColourStatistics
from coverslip.ruo import RUO

SCHEMA_NAME = "coverslip.model"
SCHEMA_VERSION = 1

# No control characters but tabs and new lines: a terminal would obey them.
Text = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=4000,
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$",
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
# No colon and no slash: timm would read "hf-hub:…" and "local-dir:…" as places to load from.
NetworkName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Rgb01 = tuple[Share, Share, Share]
Positive3 = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=65536)]


class TileFit(Record):
    """The tile the model wants: `size` px square at `mpp` µm/px, up to `tolerance` × mpp off either way."""

    size: int = Field(ge=16, le=4096)
    mpp: float = Field(gt=0, le=100)
    tolerance: Share


class Normalisation(Record):
    """(x / 255 − mean) / std, per channel R, G, B."""

    mean: Rgb01
    std: Positive3


class NetworkArguments(Record):
    """The arguments of `timm.create_model` a package may set; none of them can name a file or an address."""

    img_size: int | None = Field(default=None, ge=16, le=4096)
    patch_size: int | None = Field(default=None, ge=1, le=256)
    init_values: float | None = None
    dynamic_img_size: bool | None = None
    global_pool: Literal["avg", "max", "avgmax", "token", "map"] | None = None
    drop_rate: Share | None = None
    drop_path_rate: Share | None = None
    channels: tuple[Count, Count, Count, Count] | None = None


class Architecture(Record):
    """A network of timm, by name."""

    library: Literal["timm"] = "timm"
    name: NetworkName
    arguments: NetworkArguments = NetworkArguments()


ProbeMethod: TypeAlias = Literal["linear", "simpleshot", "prototypes", "knn"]


class Probe(Record):
    """An encoder as it was published, and a fitted estimator of `coverslip.models.probes` after it.

    `encoder`: its name in `coverslip.models.encoders`; `version` and `sha256`: of its weights, which the
    package holds under `encoder.`, and the estimator's arrays under `head.`. `features`: of each tile.
    `shots`: tiles of each class it learnt from, None for the whole training part. `neighbours` and
    `temperature` are those of `knn`, `penalty` is C of `linear`; None for the others.
    """

    encoder: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,199}$")]
    version: Text
    sha256: Sha256
    pooling: Pooling
    features: int = Field(ge=1, le=65536)
    method: ProbeMethod
    shots: int | None = Field(default=None, ge=1)
    neighbours: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, gt=0)
    penalty: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _neighbours_of_knn(self) -> Probe:
        if (self.method == "knn") != (self.neighbours is not None and self.temperature is not None):
            raise ValueError("neighbours and temperature must be given for knn, and for nothing else")
        return self


class Parts(Record):
    """Tiles in each part of the split."""

    train: Count
    validation: Count
    test: Count


class CurvePoint(Record):
    """After one epoch: mean `loss` over the training part, balanced accuracy on the validation part."""

    loss: float
    validation: Share


class Corrections(Record):
    """Labels that reviewers gave to what a model had said of slides, among those learnt from.

    `labels`: how many; `changed`: of these, the ones of another class than the machine's, the others confirm
    it. `disagreed`, `excluded`: objects left out since reviewers gave them different classes, or said that
    nothing counts there. `reviewers`: how many people, `names`: theirs, where that was asked for. `signed`:
    whether all reviews were. `results`: digests of the results. `learnt_only`: whether none of them was
    measured on: they were chosen for being hard, so a figure on them would be of no slides there are.
    """

    labels: Count
    changed: Count
    disagreed: Count
    excluded: Count
    reviewers: Count
    names: tuple[Text, ...] = ()
    signed: bool
    results: tuple[Sha256, ...] = Field(min_length=1)
    learnt_only: bool


class Training(Record):
    """What the model learnt from. `labels_sha256`: of the labels file; `initialisation`: start weights;
    `curve`: epoch by epoch; `corrections`: what of the labels came from reviews of results."""

    data: Text
    tiles: Count
    groups: Count
    parts: Parts
    labels_sha256: Sha256
    initialisation: Text
    seed: int
    epochs: Count
    curve: tuple[CurvePoint, ...] = ()
    corrections: Corrections | None = None


class ClassAccuracy(Record):
    """Share of the `n` tiles of one class that were called so (recall); None where n is 0."""

    name: Text
    n: Count
    accuracy: Share | None


class Metrics(Record):
    """Figures on tiles kept out of every choice.

    `confusion`: rows are the true class, columns the called one, in the order of `classes`.
    `interval`: bootstrap percentile interval of `balanced_accuracy` at `level`, resampling groups.
    """

    data: Text
    classes: tuple[ClassAccuracy, ...] = Field(min_length=2)
    n: Count
    groups: Count
    balanced_accuracy: Share
    interval: tuple[Share, Share]
    level: Share
    resamples: Count
    confusion: tuple[tuple[Count, ...], ...]

    @model_validator(mode="after")
    def _confusion_is_square(self) -> Metrics:
        k = len(self.classes)
        if len(self.confusion) != k or any(len(row) != k for row in self.confusion):
            raise ValueError(f"confusion must be {k} × {k}, as there are {k} classes")
        return self


class ChangedFigure(Record):
    """The same figure as of the metrics, balanced accuracy or mean F1, on the test part changed in one way.

    The changes are those of `coverslip.models.stain_change`.
    """

    change: Text
    figure: Share


class Calibration(Record):
    """Probabilities are softmax(logits / temperature); fitted on `n` tiles of the validation part."""

    temperature: float = Field(gt=0)
    fitted_on: Literal["validation"] = "validation"
    n: Count


class OutOfDistribution(Record):
    """Where the features before the classifier lay in training: mean and standard deviation of each.

    A tile's distance is the root mean square of its standardised features. `limit` is the `quantile` of
    that distance over the validation part: by construction 1 − quantile of tiles like these lie beyond.
    """

    method: Literal["standardised"] = "standardised"
    mean: Channels
    std: Channels
    limit: float = Field(gt=0)
    quantile: Share

    @model_validator(mode="after")
    def _same_length(self) -> OutOfDistribution:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError("mean and std must have the same length, and every std be above 0")
        return self


def _method(known: Any) -> str | None:
    """Packages made before there was a choice do not name it."""
    found = known.get("method", "standardised") if isinstance(known, dict) else getattr(known, "method", None)
    return found if isinstance(found, str) else None


# How a tile's distance from the training tiles is told; the arithmetic is in `coverslip.models.familiarity`.
Familiarity: TypeAlias = Annotated[
    Annotated[OutOfDistribution, Tag("standardised")]
    | Annotated[Mahalanobis, Tag("mahalanobis")]
    | Annotated[Energy, Tag("energy")],
    Discriminator(_method),
]


class Stated(Record):
    """What the maker of a model says of it, before anything is computed."""

    name: Name
    version: Name
    tile: TileFit
    stain: Text | None
    architecture: Architecture
    licence: Text
    intended_use: Text


class Packed(Record):
    """What every package's document says, whatever the model does."""

    research_use: str = RUO
    weights_sha256: Sha256
    created_with: dict[Name, Text]

    @field_validator("research_use")
    @classmethod
    def _says_research_use(cls, sentence: str) -> str:
        if sentence != RUO:
            raise ValueError(f"must read: {RUO}")
        return sentence


class Sealed(Packed):
    """What the document of every model that tells classes says. None means "not measured"."""

    classes: tuple[Text, ...] = Field(min_length=2, max_length=10000)
    metrics: Metrics | None
    calibration: Calibration | None
    reliability: Reliability | None = None
    prediction_sets: PredictionSets | None = None

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("names a class twice")
        return classes

    @model_validator(mode="after")
    def _metrics_name_the_classes(self) -> Self:
        if self.metrics and tuple(entry.name for entry in self.metrics.classes) != self.classes:
            raise ValueError("metrics.classes are not the model's classes in their order")
        return self

    @model_validator(mode="after")
    def _sets_are_of_the_classes(self) -> Self:
        if self.prediction_sets and len(self.prediction_sets.thresholds) != len(self.classes):
            raise ValueError("prediction_sets.thresholds are not one per class")
        return self


class ModelDocument(Sealed, Stated):
    """The content of `model.json`. None in an optional field means "not known" or "not measured".

    With a `probe`, `architecture` names its encoder's network, and the probe says how it is built.
    """

    schema_name: Literal["coverslip.model"] = SCHEMA_NAME
    schema_version: Literal[1] = SCHEMA_VERSION
    task: Literal["tile-classification"] = "tile-classification"
    normalisation: Normalisation
    training: Training | None
    out_of_distribution: Familiarity | None
    colour: ColourStatistics | None = None
    stain_change: tuple[ChangedFigure, ...] = ()
    probe: Probe | None = None
