"""What `model.json` says of the colours of the tiles a model learnt from."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from coverslip.models.record import Count, Record, Share

Positive: TypeAlias = Annotated[float, Field(gt=0)]


class ColourStatistics(Record):
    """Mean and standard deviation, over `n` training tiles, of four figures of their stained pixels.

    The figures are those of `coverslip.models.colour.tile_colours`. A tile's distance is the root mean square
    of its standardised figures. `limit` is the `quantile` of that distance over the validation part.
    """

    figures: Literal["hsd"] = "hsd"
    mean: tuple[float, float, float, float]
    std: tuple[Positive, Positive, Positive, Positive]
    limit: Positive
    quantile: Share
    n: Count
