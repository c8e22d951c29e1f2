"""Workflow `ihc`: stains apart, nuclei found, their DAB density scored. For nuclear markers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coverslip.errors import RequestError
from coverslip.models.nuclei import (
    WORKING_MPP,
    Nuclei,
    NucleiSettings,
    find_nuclei,
    margin_um,
    measure_nuclei,
)
from coverslip.tiling.plan import TilePlan
from coverslip.tiling.stain import H_DAB, estimate_background, residual_share, separate
from coverslip.tiling.supply import SupplySettings, TileBatch, supply
from coverslip.tiling.tissue import TissueMask, overview_mpp
from coverslip.workflows.ownership import owned
from coverslip.workflows.palette import INTENSITY
from coverslip.workflows.registry import Asked, WorkflowKind
from coverslip.workflows.result import Abstention, Interval, Measurement, ModelIdentity
from coverslip.workflows.scores import IhcScore, IhcScoreSettings, score_ihc
from coverslip.workflows.workflow import Canvas, Conclusion, Grid, Scored, StainKind, Vectors
from coverslip.wsi import Slide
from coverslip.wsi.pixels import Rgb

# Of 13 images looked at, those with DAB lay at 0.06 and above, those with eosin at -0.03 and below.
PINKEST = -0.02
# On white, as QuPath has them: its thresholds, used here, belong to that, and so do the settings of nuclei.
VECTORS = H_DAB
Site = Literal["nucleus", "cytoplasm"]


@dataclass(frozen=True, slots=True)
class IhcSettings:
    """`mpp`: resolution at which nuclei are looked for, µm/px. `tile`: pixels a side looked at together,
    without the halo; 1024 keeps a worker under 200 MB. `shard`: tiles per task, some ten seconds of work.
    `site`: where the marker stains. In "nucleus" (Ki-67, ER, PR) DAB hides the haematoxylin of positive
    nuclei, so both are looked at; in "cytoplasm" (and membrane) DAB would pass for nuclei, so haematoxylin
    alone is. What is scored is the DAB over the nucleus in either case. `exact`: decode the slide's stored
    tiles in full.
    """

    mpp: float = 0.5
    tile: int = 1024
    shard: int = 8
    exact: bool = False
    site: Site = "nucleus"
    nuclei: NucleiSettings = field(default_factory=NucleiSettings)
    score: IhcScoreSettings = field(default_factory=IhcScoreSettings)

    def __post_init__(self) -> None:
        low, high = WORKING_MPP
        if not low <= self.mpp <= high:
            raise RequestError(
                f"{self.mpp:g} µm/px", "is no resolution for nuclei", f"give {low:g} to {high:g}, best 0.5"
            )
        if self.tile < 1 or self.shard < 1:
            raise RequestError(
                f"tile {self.tile}, shard {self.shard}", "hold nothing", "give at least 1 of each"
            )
        if self.site not in get_args(Site):
            raise RequestError(f"site {self.site!r}", "is not known", f"name one of {get_args(Site)}")

    @property
    def found_by(self) -> NucleiSettings:
        """The settings nuclei are found with at this site."""
        return self.nuclei if self.site == "nucleus" else replace(self.nuclei, dab_weight=0.0)


@dataclass(frozen=True, slots=True)
class Ihc:
    """Haematoxylin and DAB apart, nuclei by classical means, intensity bins by mean nuclear DAB density."""

    choices: IhcSettings = field(default_factory=IhcSettings)
    name = "ihc"
    expects: tuple[StainKind, ...] = ("IHC",)
    model: ModelIdentity | None = None
    vectors: Vectors | None = None

    @property
    def grid(self) -> Grid:
        # Any tissue at all: a nucleus in the corner of a tile counts as one in its middle.
        choices = self.choices
        return Grid(choices.mpp, choices.tile, min_tissue=1e-6, shard=choices.shard, exact=choices.exact)

    @property
    def canvas(self) -> Canvas:
        return Canvas("nuclei", INTENSITY)

    def settings(self) -> dict[str, Any]:
        return {**asdict(self.choices), "stains": asdict(VECTORS)}

    def device(self) -> dict[str, str]:
        return {"device": "cpu", "precision": "float32"}

    def check(self, slide: Slide) -> None:
        """Everything it needs of a slide, tissue detection asks for."""

    def score(self, slide: Slide, plan: TilePlan, tissue: TissueMask, rows: range) -> Scored:
        tables, blocks, damaged = [], {}, 0
        for batch in supply(
            slide, plan, rows, SupplySettings(batch=1, halo=self._halo(), exact=self.choices.exact)
        ):
            table, block = self._look(batch, slide, plan, tissue)
            tables.append(table)
            blocks[int(batch.rows[0])] = block
            damaged += batch.damaged_pixels
        return Scored(pa.concat_tables(tables), damaged, blocks)

    def _halo(self) -> int:
        return ceil(margin_um(self.choices.found_by) / self.choices.mpp)

    def _look(
        self, batch: TileBatch, slide: Slide, plan: TilePlan, tissue: TissueMask
    ) -> tuple[pa.Table, NDArray[np.uint8]]:
        """One tile: the nuclei whose centroid lies in it, and its block of the class image.

        A nucleus that crosses the tile's edge is drawn on both sides, from the halo, in the same class.
        """
        stains = separate(batch.pixels[0], VECTORS)
        haematoxylin, dab = np.ascontiguousarray(stains[..., 0]), np.ascontiguousarray(stains[..., 1])
        labels = find_nuclei(haematoxylin, dab, self.choices.mpp, self.choices.found_by)
        nuclei = measure_nuclei(labels, haematoxylin, dab, self.choices.mpp)
        x = batch.x[0] + (nuclei.x - batch.halo) * self.choices.mpp / slide.mpp.x
        y = batch.y[0] + (nuclei.y - batch.halo) * self.choices.mpp / slide.mpp.y
        seen = tissue.contains(x, y)
        bins = np.searchsorted(np.asarray(self.choices.score.thresholds), nuclei.dab, side="right")
        value = np.concatenate([[0], np.where(seen, bins + 1, 0)]).astype(np.uint8)
        seen &= owned(x, y, plan, int(batch.rows[0]), slide.bounds)
        return _rows(nuclei, x, y, bins, seen), value[labels][batch.core]

    def conclude(self, slide: Slide, plan: TilePlan, tissue: TissueMask, table: pa.Table) -> Conclusion:
        score = score_ihc(table["dab_od_mean"].to_numpy(), self.choices.score)
        glass, off_plane = colours_of(slide, tissue)
        tiles = pa.table({"x": plan.x, "y": plan.y, "tissue": plan.tissue})
        return Conclusion(
            summary=_summary(score) + _doubt(off_plane),
            measurements=self._measurements(score, tissue),
            abstentions=_abstentions(score, self.choices.score, off_plane),
            tables={"tiles.parquet": tiles, "cells.parquet": table},
            derived={
                "glass_colour": list(glass),
                "stain_off_plane": off_plane,
            },
        )

    def _measurements(self, score: IhcScore, tissue: TissueMask) -> tuple[Measurement, ...]:
        one, two, three = self.choices.score.thresholds
        bins = f"nuclear DAB OD mean (log10) ≥ {one:g} / {two:g} / {three:g} for 1+ / 2+ / 3+"
        note = None if score.sufficient else f"fewer than {self.choices.score.enough_nuclei} nuclei"
        share, n = score.positive_fraction, score.total
        interval = share and Interval(
            low=100 * share.low, high=100 * share.high, level=self.choices.score.confidence, method="Wilson"
        )
        per_mm2 = n / tissue.area_mm2 if tissue.area_mm2 else None
        counted = tuple(
            Measurement(name=f"nuclei {name}", value=count, unit="1", method=bins)
            for (name, _), count in zip(INTENSITY.values(), score.counts, strict=True)
        )
        return (
            Measurement(
                name="positive nuclei",
                value=share and 100 * share.value,
                unit="%",
                method=bins,
                n=n,
                interval=interval,
                note=note,
            ),
            Measurement(
                name="H-score",
                value=score.h_score,
                unit="1",
                method=f"1·%1+ + 2·%2+ + 3·%3+; {bins}",
                n=n,
                note=note,
            ),
            Measurement(
                name="nuclei",
                value=n,
                unit="1",
                method="all nuclei found in tissue; not only those of tumour",
            ),
            Measurement(
                name="nuclear density", value=per_mm2, unit="/mm2", method="nuclei per area of tissue", n=n
            ),
            *counted,
        )


def _rows(nuclei: Nuclei, x: NDArray, y: NDArray, bins: NDArray, keep: NDArray[np.bool_]) -> pa.Table:
    names = pa.array([name for name, _ in INTENSITY.values()])
    return pa.table(
        {
            "x": x[keep],
            "y": y[keep],
            "area_um2": nuclei.area_um2[keep],
            "haematoxylin_od_mean": nuclei.haematoxylin[keep],
            "dab_od_mean": nuclei.dab[keep],
            "class": names.take(pa.array(bins[keep], pa.int64())),
        }
    )


def _summary(score: IhcScore) -> str:
    if score.positive_fraction is None or score.h_score is None:
        return "no nuclei found"
    doubt = "" if score.sufficient else " (few nuclei)"
    share = 100 * score.positive_fraction.value
    return f"{share:.1f} % of {score.total} nuclei positive, H-score {score.h_score:.0f}{doubt}"


def _doubt(off_plane: float | None) -> str:
    return " (stain doubtful)" if off_plane is not None and off_plane < PINKEST else ""


def _abstentions(
    score: IhcScore, settings: IhcScoreSettings, off_plane: float | None
) -> tuple[Abstention, ...]:
    if off_plane is not None and off_plane < PINKEST:
        why = "the tissue is pinker than these stains can make it; if it is H&E, the figures mean nothing"
        return (Abstention(what="whether this is haematoxylin and DAB", why=why),)
    if score.total == 0:
        return (
            Abstention(
                what="positive nuclei and H-score", why="there is tissue, but no nucleus was found in it"
            ),
        )
    if not score.sufficient:
        why = f"{score.total} nuclei were counted, fewer than the {settings.enough_nuclei} asked for"
        return (Abstention(what="reliability of the score", why=why),)
    return ()


def colours_of(slide: Slide, tissue: TissueMask) -> tuple[Rgb, float | None]:
    """The glass's colour, and `residual_share` of the tissue on it, in the picture tissue was found in."""
    pixels = slide.overview(overview_mpp(slide.size, slide.mpp, tissue.settings)).pixels
    glass = estimate_background(pixels.rgb, pixels.valid) or slide.background
    return glass, residual_share(pixels.rgb, tissue.mask, VECTORS.on(glass))


def _build(settings: IhcSettings, asked: Asked) -> Ihc:
    return Ihc(settings)


KIND = WorkflowKind("ihc", "Nuclei and cells by how strongly an antibody stains them.", IhcSettings, _build)
