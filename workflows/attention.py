"""What a slide-level model weighed most: ranks, a map, and the tiles themselves.

Attention says where the model looked, not that what is there is the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.tiling.plan import TilePlan
from coverslip.workflows.canvas import cells_of
from coverslip.workflows.heat import LAYER, MEANING, STEPS, heat_colours
from coverslip.workflows.result import Finding, TileReference
from coverslip.workflows.workflow import ClassMap

CAPTION = (
    f"attention, by rank: each tile is coloured by the share of the others that counted less, from dark blue "
    f"(none) to yellow (all); {MEANING}"
)


def ranks(attention: NDArray[np.floating]) -> NDArray[np.float32]:
    """Share of the other tiles that counted less, 0 to 1, (n,); of equals, each is before half of the others.

    As Lu (2021, Nature Biomedical Engineering 5:555) shows attention. The weights add up to 1 over the slide,
    and some are thousands of times others: on a scale from the least to the most one tile would be seen, and
    all else be dark. Ranks show the order everywhere, and not how much: for that see `effective_tiles`.

    >>> ranks(np.array([0.9, 0.02, 0.02, 0.06])).round(2).tolist()
    [1.0, 0.17000000178813934, 0.17000000178813934, 0.6700000166893005]
    """
    others = len(attention) - 1
    if not others:
        return np.full(1, 0.5, np.float32)
    _, place, times = np.unique(attention, return_inverse=True, return_counts=True)
    below = np.cumsum(times) - (times + 1) / 2
    return (below[place] / others).astype(np.float32)


def effective_tiles(attention: NDArray[np.floating]) -> float:
    """1 / Σ weight² of weights that add up to 1 (Kish 1965, "Survey sampling"): n when all tiles count alike,
    1 when one alone counts.

    >>> effective_tiles(np.array([0.25, 0.25, 0.25, 0.25]))
    4.0
    """
    weights = np.asarray(attention, np.float64)
    return float(weights.sum() ** 2 / (weights**2).sum())


def attention_map(plan: TilePlan, rank: NDArray[np.floating]) -> ClassMap:
    """One pixel per tile: 0 where no tile was looked at, else 1 (rank 0) to 255 (rank 1)."""
    cells = cells_of(plan)
    values = np.zeros(cells.shape, np.uint8)
    values[cells.rows, cells.columns] = 1 + np.rint((STEPS - 1) * rank).astype(np.uint8)
    names = (f"counted more than {100 * step / (STEPS - 1):.1f} % of the tiles" for step in range(STEPS))
    colours = dict(enumerate(zip(names, heat_colours(STEPS), strict=True), 1))
    return ClassMap(LAYER, values, colours, (plan.size - plan.overlap) * plan.mpp, CAPTION)


def top_tiles(plan: TilePlan, attention: NDArray[np.floating], count: int) -> Finding:
    """The tiles that counted most, most first, each scored by its weight; of equals the plan's first."""
    order = np.argsort(-attention, kind="stable")[:count]
    width, height = plan.extent
    tiles = tuple(
        TileReference(
            x=int(plan.x[row]),
            y=int(plan.y[row]),
            width=width,
            height=height,
            score=float(attention[row]),
        )
        for row in order
    )
    share = min(float(attention[order].sum(dtype=np.float64)), 1.0)
    text = f"{len(order)} of {len(plan)} tiles hold {share:.0%} of the attention: {MEANING}"
    return Finding(name="tiles that counted most", text=text, tiles=tiles)
