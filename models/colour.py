"""What colour a tile's stained part has, in four numbers, and how far that is from the tiles of training.

The figures are those of the HSD model, hue, saturation and density (van der Laak et al. 2000, Cytometry
39:275): how much stain and which hue come apart, so that a change of hue is not lost among strong and pale
tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coverslip.models.tint import ColourStatistics
from coverslip.wsi.colour import optical_density

# Macenko's β, 0.15 in natural logarithm: what absorbs less has no hue to speak of.
STAINED_DENSITY = 0.065
# A tile with a smaller share of stained pixels has no colour of its own.
LEAST_SHARE = 0.01
# Every n-th pixel is looked at, so that about this many remain along a side: enough for a mean.
SIDE = 64
# Half a step of 8 bits, as density: tiles of one colour all the same still differ by rounding.
LEAST_SPREAD = 0.001
QUANTILE = 0.99


def tile_colours(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours of RGB tiles, uint8 (n, h, w, 3): float32 (n, 4), of their stained pixels

    - mean density D, log10, of the three channels, and its standard deviation;
    - hue: c_x = D_red ÷ D − 1 and c_y = (D_green − D_blue) ÷ (√3 D), of the mean densities.

    Against white, since that is what a model sees; glass does not count. NaN for a tile without stain.
    """
    step = max(1, tiles.shape[1] // SIDE)
    thin = tiles[:, ::step, ::step]
    n, height, width = thin.shape[:3]
    density = optical_density(thin.reshape(n * height, width, 3)).reshape(n, height * width, 3)
    of_pixel = density.sum(axis=2) / 3
    stained = of_pixel >= STAINED_DENSITY
    count = stained.sum(axis=1)
    known = count >= max(1.0, LEAST_SHARE * height * width)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.einsum("npc,np->nc", density, stained) / count[:, None]
        level = mean.mean(axis=1)
        spread = np.sqrt((((of_pixel - level[:, None]) ** 2) * stained).sum(axis=1) / count)
        across, down = mean[:, 0] / level - 1, (mean[:, 1] - mean[:, 2]) / (np.sqrt(3) * level)
    figures = np.stack([level, spread, across, down], axis=1).astype(np.float32)
    return np.where(known[:, None], figures, np.float32(np.nan))


def fit_colours(train: NDArray[np.floating], validation: NDArray[np.floating]) -> ColourStatistics | None:
    """Statistics of the training part's colours (n, 4), and the distance that 99 % of the validation part's
    (m, 4) keep. None where either part holds no tile with a colour."""
    train, validation = (part[np.isfinite(part).all(axis=1)] for part in (train, validation))
    if not len(train) or not len(validation):
        return None
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    std = np.maximum(std, LEAST_SPREAD)
    limit = float(np.quantile(_distance(validation, mean, std), QUANTILE))
    return ColourStatistics.model_validate(
        {
            "mean": tuple(mean.tolist()),
            "std": tuple(std.tolist()),
            "limit": max(limit, 1e-6),
            "quantile": QUANTILE,
            "n": len(train),
        }
    )


def colour_distance(colours: NDArray[np.floating], known: ColourStatistics) -> NDArray[np.float32]:
    """How far colours (n, 4) lie from those of training, in standard deviations between tiles: float32 (n,).

    About 1 for tiles like those of training; NaN for a tile without a colour.
    """
    return _distance(colours, np.asarray(known.mean), np.asarray(known.std)).astype(np.float32)


def _distance(colours: NDArray, mean: NDArray[np.float64], std: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((((colours - mean) / std) ** 2).mean(axis=1))
