"""Workflow `slide`: a slide-level model's call from the features of all tiles, and the tiles it looked at."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import ModelMismatchError, ModelUnavailableError, RequestError
from coverslip.extras import require
from coverslip.models.conformal import members
from coverslip.models.encoders import find_encoder
from coverslip.models.kinds import read_any
from coverslip.models.library import locate_model
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.package import read_document
from coverslip.models.slide_document import SlideModelDocument
from coverslip.models.slide_model import SlideCall, SlideModel
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.attention import attention_map, effective_tiles, ranks, top_tiles
from coverslip.workflows.embedding import Embedding, EmbedSettings, embedding
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import Abstention, Finding, Measurement, ModelIdentity
from coverslip.workflows.shift import Shift, feature_shift
from coverslip.workflows.tile_judge import CALL
from coverslip.workflows.workflow import (
    VECTOR,
    Canvas,
    Conclusion,
    Derived,
    Grid,
    Grounds,
    Scored,
    StainKind,
    Vectors,
)
from coverslip.wsi import Slide

NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class SlideCallSettings:
    """`mpp`: µm per pixel of the tiles, and `size`: their side in pixels; None for what the package says, or
    else the encoder's own. `call_probability`: no call when the likeliest class is less probable than this;
    below half the others together are likelier. `strange_share`: no call when more tiles than this are unlike
    those the model learnt from. `examples`: tiles shown. `batch`, `exact`: as in `EmbedSettings`.
    """

    mpp: float | None = None
    size: int | None = None
    call_probability: float = 0.5
    strange_share: float = 0.5
    examples: int = 8
    batch: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        shares = (self.call_probability, self.strange_share)
        if not all(0 <= share <= 1 for share in shares) or self.examples < 0:
            raise RequestError("slide call settings", "are out of range", "give shares of 0 to 1")


@dataclass(frozen=True, slots=True)
class SlideCalls:
    """A slide-level package applied to the features of all tiles. Make one with `slide_calls`.

    `embedding` makes the features as `coverslip embed` does. `document_sha256`: of the bytes of `model.json`.
    """

    folder: str
    model: ModelIdentity
    document_sha256: str
    aggregator: str
    classes: tuple[str, ...]
    embedding: Embedding
    choices: SlideCallSettings

    name = "slide"
    canvas: Canvas | None = None

    @property
    def grid(self) -> Grid:
        return self.embedding.grid

    @property
    def expects(self) -> tuple[StainKind, ...]:
        return ()

    @property
    def vectors(self) -> Vectors:
        return replace(self.embedding.vectors, concluded=True)

    def settings(self) -> dict[str, Any]:
        choices = asdict(self.choices)
        return {
            **self.embedding.settings(),
            **{name: choices[name] for name in ("call_probability", "strange_share", "examples")},
            "encoder_model": self.embedding.model.model_dump(),
            "aggregator": self.aggregator,
            "classes": list(self.classes),
            "model_document": self.document_sha256,
        }

    def device(self) -> dict[str, str]:
        return self.embedding.device()

    def check(self, slide: Slide) -> None:
        """Loads both networks: one that cannot be had fails before anything is read."""
        self._model()
        self.embedding.check(slide)

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        return self.embedding.score(slide, plan, tissue, rows)

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return Derived()

    @property
    def judge(self) -> None:
        """What a slide is called needs the network: no row of it can be corrected."""
        return

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        """`table` has the features, too: the aggregator weighs all tiles of a slide against each other."""
        plan = grounds.plan
        features = _features(table, self.vectors.width, plan.slide)
        model = self._model()
        with _one_thread():
            call, distances = model.predict(features), model.distances(features)
        known = self.document.out_of_distribution
        shift = feature_shift(distances, known.limit if known else None)
        found, abstentions = self._call(call, shift)
        rank = ranks(call.attention)
        left_out = tuple(self.embedding.conclude(grounds, table).abstentions)
        return Conclusion(
            summary=found.text if found else f"no call: {abstentions[0].why}",
            measurements=(*self._probabilities(call, len(plan)), *self._doubts(call, shift)),
            findings=(*((found,) if found else ()), top_tiles(plan, call.attention, self.choices.examples)),
            abstentions=(*abstentions, *left_out),
            tables={"tiles.parquet": _tiles(table, call, rank, distances)},
            class_map=attention_map(plan, rank),
        )

    @property
    def document(self) -> SlideModelDocument:
        """From this process's copy of the model: its statistics are too large to travel with every task."""
        return self._model().document

    def _model(self) -> SlideModel:
        return slide_model_of(self.folder, self.document_sha256)

    def _call(self, call: SlideCall, shift: Shift) -> tuple[Finding | None, tuple[Abstention, ...]]:
        top = int(call.probabilities.argmax())
        why = self._why_not(call, shift, top)
        if why:
            return None, (Abstention(what=CALL, why=why),)
        probability, calibrated = float(call.probabilities[top]), self.document.calibration is not None
        word = "" if calibrated else ", not calibrated"
        caveat = "" if self.embedding.weights.path else "; of features by random weights"
        text = f"{self.classes[top]}, probability {probability:.2f}{word}{caveat}"
        confidence = min(probability, 1.0) if calibrated else None
        return Finding(name=CALL, text=text, confidence=confidence), ()

    def _why_not(self, call: SlideCall, shift: Shift, top: int) -> str:
        """The reason for no call; "" where there is none."""
        if (shift.strange or 0) > self.choices.strange_share:
            return f"{shift.strange:.0%} of the tiles are unlike those the model learnt from"
        inside = self._set(call)
        if inside is not None and len(inside) != 1:
            held = f"holds {', '.join(inside)}" if inside else "is empty: no class is probable enough"
            return f"the slide's prediction set {held}"
        probability, name = float(call.probabilities[top]), self.classes[top]
        if probability < self.choices.call_probability:
            least = f"no class reaches a probability of {self.choices.call_probability:.2f}"
            return f"{least}; the likeliest is {name}, {probability:.2f}"
        return ""

    def _set(self, call: SlideCall) -> tuple[str, ...] | None:
        """The classes that cannot be ruled out; None where the package gives no sets."""
        known = self.document.prediction_sets
        if known is None:
            return None
        inside = members(known, call.probabilities[None])[0]
        return tuple(name for name, held in zip(self.classes, inside, strict=True) if held)

    def _probabilities(self, call: SlideCall, tiles: int) -> tuple[Measurement, ...]:
        calibration = self.document.calibration
        how = "not calibrated"
        if calibration:
            how = f"temperature {calibration.temperature:.3g} fitted on {calibration.n} slides"
        method = f"{self.aggregator} on features by {self.embedding.model.name}, {how}"
        return tuple(
            Measurement(
                name=f"{name}, probability", value=float(probability), unit="1", method=method, n=tiles
            )
            for name, probability in zip(self.classes, call.probabilities, strict=True)
        )

    def _doubts(self, call: SlideCall, shift: Shift) -> tuple[Measurement, ...]:
        tiles = len(call.attention)
        counted = Measurement(
            name="tiles that counted",
            value=effective_tiles(call.attention),
            unit="1",
            method="1 / Σ weight²: all tiles where they count alike, 1 where one alone does",
            n=tiles,
        )
        inside, known = self._set(call), self.document.prediction_sets
        if inside is None or known is None:
            return counted, shift.measurement()
        held = Measurement(
            name="classes in the slide's prediction set",
            value=len(inside),
            unit="1",
            method=f"prediction sets ({known.method}) that hold the true class on {known.coverage:.0%} of "
            "slides like those the model was calibrated on",
            note=", ".join(inside) or "none is probable enough",
        )
        return counted, shift.measurement(), held


def _features(table: pa.Table, width: int, slide: str) -> NDArray[np.float32]:
    """(tiles, width), from the table's column."""
    flat = table[VECTOR].combine_chunks().flatten()
    features = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    if not np.isfinite(features).all():
        raise ModelMismatchError(
            slide, "the encoder gives figures that are not finite for it", "choose another encoder"
        )
    return features


def _tiles(
    table: pa.Table, call: SlideCall, rank: NDArray[np.float32], distances: NDArray[np.float32] | None
) -> pa.Table:
    named = table.drop_columns([VECTOR]).append_column("attention", pa.array(call.attention))
    named = named.append_column("attention_rank", pa.array(rank))
    return named if distances is None else named.append_column("distance", pa.array(distances))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over tiles come out the same whichever of a worker's threads does them."""
    torch = require("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_LOADING = threading.Lock()


def slide_model_of(folder: str, document_sha256: str) -> SlideModel:
    """This process's model of a package: loaded once, shared by its worker threads.

    Raises ModelUnavailableError when the package is no longer the one that was asked for.
    """
    with _LOADING:
        return _slide_model(folder, document_sha256)


@lru_cache(maxsize=2)
def _slide_model(folder: str, document_sha256: str) -> SlideModel:
    model = SlideModel.load(folder)
    if read_document(folder, SlideModelDocument)[1] != document_sha256:
        raise ModelUnavailableError(
            folder, "was replaced by another model during the run", "run again, into another folder"
        )
    return model


def slide_calls(
    model: str | Path,
    choices: SlideCallSettings | None = None,
    *,
    encoder: str | None = None,
    weights: str | Path | None = None,
    random: bool = False,
    commercial_only: bool = False,
) -> SlideCalls:
    """The workflow for a slide-level package, by folder or name as for `find_model`; verifies it.

    `encoder`: None for the one that the package names. `weights`, `random`, `commercial_only`: as for
    `coverslip.workflows.embedding.embedding`; the licence of the package counts, too.

    Raises ModelUnavailableError; ModelMismatchError when the encoder, its weights, or the tiles are not those
    the package was made with, as far as it says; RequestError where it does not say and nor does the request.
    """
    folder, choices = locate_model(model), choices or SlideCallSettings()
    _refuse_other_kind(folder)
    document, digest = read_document(folder, SlideModelDocument)
    if commercial_only:
        refuse_other_than_commercial(document.name, document.licence)
    name = choose_encoder(document, encoder)
    tiles = choose_tiles(document, name, choices)
    made = embedding(name, tiles, weights=weights, random=random, commercial_only=commercial_only)
    _check_features(document, made)
    return SlideCalls(
        folder=os.path.abspath(folder),
        model=ModelIdentity(
            name=document.name,
            version=document.version,
            sha256=document.weights_sha256,
            licence=document.licence,
        ),
        document_sha256=digest,
        aggregator=document.aggregator,
        classes=tuple(document.classes),
        embedding=made,
        choices=choices,
    )


def _refuse_other_kind(folder: Path) -> None:
    found = read_any(folder)
    if not isinstance(found, SlideModelDocument):
        raise ModelMismatchError(
            found.name,
            f"is no slide-level model, but one for {found.task}",
            "use another workflow, or a model made with coverslip train mil",
        )


def choose_encoder(document: SlideModelDocument, wanted: str | None) -> str:
    """The name of the encoder to use: what is wanted must be what the package names, where that is known.

    Raises ModelMismatchError, or RequestError where nobody says.
    """
    stated = None if document.encoder == NOT_STATED else document.encoder
    known = stated if stated and _is_encoder(stated) else None
    if wanted is None:
        if known is None:
            raise RequestError(
                f"the model {document.name}",
                f"names its encoder {stated!r}, which is none known here"
                if stated
                else "does not say which encoder made its features",
                "say which with --encoder: see coverslip embed --list",
            )
        return known
    if known and find_encoder(known).name != find_encoder(wanted).name:
        raise ModelMismatchError(
            f"the model {document.name}",
            f"was made from features by {known}, not by {wanted}",
            f"leave out --encoder, or say --encoder {known}",
        )
    return wanted


def _is_encoder(name: str) -> bool:
    try:
        find_encoder(name)
    except ModelUnavailableError:
        return False
    return True


def choose_tiles(document: SlideModelDocument, encoder: str, choices: SlideCallSettings) -> EmbedSettings:
    """The tiles of the package, of the request, or of the encoder.

    Raises ModelMismatchError for others than the package's, RequestError where nobody says their µm/px.
    """
    tile = document.tile
    mpp = choices.mpp or (tile.mpp if tile else find_encoder(encoder).mpp)
    if mpp is None:
        raise RequestError(
            f"the model {document.name}",
            "does not say the µm/px of its tiles, and its encoder has none of its own",
            "say which they had, such as --tile-mpp 0.5",
        )
    size = choices.size or (tile.size if tile else None)
    if tile is not None and size != tile.size:
        raise ModelMismatchError(
            f"tiles of {size} px",
            f"do not fit the model {document.name}, made for {tile.size} px",
            f"leave out --tile-size, or say --tile-size {tile.size}",
        )
    # The tolerance is inclusive although 0.55 / 0.5 − 1 is a little more than 0.1 in binary.
    if tile is not None and not abs(mpp / tile.mpp - 1) <= tile.tolerance + 1e-9:
        low, high = tile.mpp * (1 - tile.tolerance), tile.mpp * (1 + tile.tolerance)
        raise ModelMismatchError(
            f"tiles at {mpp:g} µm/px",
            f"do not fit the model {document.name}, made for {low:g} to {high:g} µm/px",
            f"leave out --tile-mpp, or say --tile-mpp {tile.mpp:g}",
        )
    return EmbedSettings(mpp=mpp, size=size, batch=choices.batch, exact=choices.exact)


def _check_features(document: SlideModelDocument, made: Embedding) -> None:
    """Raises ModelMismatchError for features of another width, or by other weights."""
    if made.vectors.width != document.features:
        raise ModelMismatchError(
            f"the model {document.name}",
            f"takes {document.features} features of each tile, and {made.encoder} gives {made.vectors.width}",
            f"name the encoder that made its features; it calls that: {document.encoder}",
        )
    wanted, given = document.encoder_sha256, made.weights.sha256
    if wanted is not None and wanted != given:
        raise ModelMismatchError(
            f"the model {document.name}",
            f"was made with other weights of {made.encoder} ({made.weights.version} has the sha256 "
            f"{given[:12]}…)",
            f"name with --weights those whose sha256 is {wanted[:12]}…",
        )


def _build(settings: SlideCallSettings, asked: Asked) -> SlideCalls:
    assert asked.model is not None
    return slide_calls(
        asked.model,
        settings,
        encoder=asked.encoder,
        weights=asked.weights,
        random=asked.random_weights,
        commercial_only=asked.commercial_only,
    )


KIND = WorkflowKind(
    "slide",
    "A slide-level model's call from the features of all tiles, with its attention.",
    SlideCallSettings,
    _build,
    frozenset({"model", "encoder", "weights", "random_weights", "commercial_only"}),
    "coverslip train mil makes one",
)
