"""Workflow `embed`: an encoder's figures for every tile, for slide-level models and for search."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.embedder import Embedder
from coverslip.models.encoders import Encoder, count_features, find_encoder
from coverslip.models.licence import refuse_other_than_commercial
from coverslip.models.weights import Weights, find_weights, random_weights
from coverslip.tiling.coords import is_square
from coverslip.tiling.plan import MIN_TISSUE, TilePlan, check_tiles
from coverslip.tiling.supply import SupplySettings, supply
from coverslip.tiling.tissue import TissueMask
from coverslip.workflows.outputs import FEATURES_H5
from coverslip.workflows.result import Abstention, Measurement, ModelIdentity
from coverslip.workflows.tile_classes import threads_per_task
from coverslip.workflows.workflow import (
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

# Tiles read at once: what a core works on for a second or two, and what keeps a GPU busy.
BATCH, BATCH_FOR_CUDA = 16, 128


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """`mpp`: µm per pixel of the tiles, and `size`: their side in pixels; None for the encoder's own. What is
    given is used, whatever the encoder was made for. `overlap`: pixels shared by neighbours. `min_tissue`:
    smallest share of tissue a tile needs. `batch`: tiles read and computed at once, None for what the device
    likes. `exact`: decode the slide's stored tiles in full.
    """

    mpp: float | None = None
    size: int | None = None
    overlap: int = 0
    min_tissue: float = MIN_TISSUE
    batch: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise RequestError(f"batch {self.batch}", "is empty", "give at least 1")


@dataclass(frozen=True, slots=True)
class Embedding:
    """An encoder applied to every tile with enough tissue. Make one with `embedding`."""

    encoder: str
    weights: Weights
    model: ModelIdentity
    grid: Grid
    vectors: Vectors
    choices: EmbedSettings

    name = "embed"
    expects: tuple[StainKind, ...] = ()
    canvas: Canvas | None = None

    def settings(self) -> dict[str, Any]:
        encoder = find_encoder(self.encoder)
        return {
            **asdict(self.choices),
            "mpp": self.grid.mpp,
            "size": self.grid.size,
            "encoder": encoder.name,
            "encoder_mpp": encoder.mpp,
            "pooling": encoder.pooling,
            "features": self.vectors.width,
            "normalisation": encoder.normalisation.model_dump(),
            "weights": self.weights.version,
        }

    def device(self) -> dict[str, str]:
        compute = asdict(self._embedder().compute)
        return {key: str(value) for key, value in sorted(compute.items())}

    def check(self, slide: Slide) -> None:
        """Loads the network: one that cannot be had fails before anything is read."""
        self._embedder()

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        embedder, damaged = self._embedder(), 0

        def tiles() -> Iterator[NDArray[np.uint8]]:
            nonlocal damaged
            for batch in supply(slide, plan, rows, self._reading(embedder)):
                damaged += batch.damaged_pixels
                yield batch.pixels

        found = np.concatenate(list(embedder.run(tiles())))
        index = np.arange(rows.start, rows.stop)
        table = pa.table({"x": plan.x[index], "y": plan.y[index], "tissue": plan.tissue[index]})
        return Scored(table, damaged, vectors=found)

    def _reading(self, embedder: Embedder) -> SupplySettings:
        """On a GPU all of this task's cores decode; on a CPU they compute, and decoding is a small part."""
        on_cuda = embedder.compute.device.startswith("cuda")
        batch = self.choices.batch or (BATCH_FOR_CUDA if on_cuda else BATCH)
        threads = threads_per_task() if on_cuda else 1
        return SupplySettings(batch=batch, exact=self.choices.exact, threads=threads)

    def derive(self, slide: Slide, plan: TilePlan, tissue: TissueMask) -> Derived:
        return Derived()

    @property
    def judge(self) -> None:
        """There is nothing to correct."""
        return

    def conclude(self, grounds: Grounds, table: pa.Table) -> Conclusion:
        plan = grounds.plan
        width, method = self.vectors.width, f"encoder {self.model.name}, {self.weights.version}"
        tiles = Measurement(name="tiles embedded", value=len(plan), unit="1", method=method, n=len(plan))
        why = "the slide's pixels are not square, which CLAM and TRIDENT files cannot say"
        left_out = () if is_square(plan.slide_mpp) else (Abstention(what=FEATURES_H5, why=why),)
        return Conclusion(
            summary=f"{len(plan)} tiles, {width} figures each by {self.model.name}{self._caveat()}",
            measurements=(tiles,),
            abstentions=left_out,
            tables={"tiles.parquet": table},
        )

    def _caveat(self) -> str:
        return "" if self.weights.path else ", of random weights: they mean nothing"

    def _embedder(self) -> Embedder:
        return embedder_of(self.encoder, self.weights, self.grid.size, self.choices.batch)


_LOADING = threading.Lock()


def embedder_of(encoder: str, weights: Weights, size: int, batch: int | None) -> Embedder:
    """This process's network with these weights: loaded once, shared by its worker threads."""
    with _LOADING:
        return _embedder(encoder, weights, size, batch, threads_per_task())


@lru_cache(maxsize=1)
def _embedder(encoder: str, weights: Weights, size: int, batch: int | None, threads: int) -> Embedder:
    return Embedder(find_encoder(encoder), weights, size, threads=threads, batch=batch)


def embedding(
    name: str,
    choices: EmbedSettings | None = None,
    *,
    weights: str | Path | None = None,
    random: bool = False,
    commercial_only: bool = False,
) -> Embedding:
    """The workflow for an encoder by name, as for `find_encoder`.

    `weights`: a safetensors file; None for the local Hugging Face cache. `random`: draw them, for trying out.
    Raises ModelUnavailableError when the weights cannot be had, or the licence is not known to allow what
    `commercial_only` says; RequestError for tiles that the encoder cannot take or that lack a µm/px.
    """
    encoder, choices = find_encoder(name), choices or EmbedSettings()
    if commercial_only:
        refuse_other_than_commercial(encoder.name, encoder.licence)
    if random and weights is not None:
        raise RequestError("weights", "are named, and random ones asked for", "choose one of both")
    grid = _grid(encoder, choices)
    found = None if random else find_weights(encoder, weights)
    width = count_features(encoder, grid.size)
    found = found or random_weights(encoder)
    return Embedding(
        encoder=encoder.name,
        weights=found,
        model=ModelIdentity(
            name=encoder.name, version=found.version, sha256=found.sha256, licence=encoder.licence
        ),
        grid=grid,
        vectors=Vectors(width, encoder.name, found.sha256),
        choices=choices,
    )


def _grid(encoder: Encoder, choices: EmbedSettings) -> Grid:
    mpp, size = choices.mpp or encoder.mpp, choices.size or encoder.size
    if mpp is None:
        raise RequestError(
            f"the encoder {encoder.name}",
            "was not made for slides and has no µm/px of its own",
            "say which the tiles shall have, such as --mpp 0.5",
        )
    check_tiles(mpp, size, choices.overlap, choices.min_tissue)
    return Grid(mpp, size, choices.min_tissue, overlap=choices.overlap, exact=choices.exact)
